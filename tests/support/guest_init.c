/* The whole userland of a test guest: process 1, one region of memory, and a line protocol on the first serial port.
 *
 * The page-exact tests need a guest in which only the test changes memory. So the guest has neither a shell nor
 * other processes nor files: the region is allocated and locked once, and every command overwrites it in place.
 *
 *   ping WORD                         -> pong WORD
 *   fill FIRST COUNT SEED DISTINCT    -> ok      page FIRST+i gets content (SEED, i mod DISTINCT); DISTINCT 0: zeros
 *   clock                             -> clock SECONDS NANOSECONDS     CLOCK_REALTIME
 *   drop FIRST COUNT                  -> ok      MADV_DONTNEED, as a balloon does on the host
 *   dirty RATE                        -> ok      from now on, overwrite RATE random pages a second (0: none)
 *   hot FIRST COUNT                   -> ok      the pages that `dirty` draws from (default: the whole region)
 */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u

static uint64_t *region;
static size_t pages;
static size_t hot_first, hot_count;
static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static void write_page(size_t page, uint64_t seed, uint64_t number) {
    uint64_t *words = region + page * (PAGE / sizeof *words);
    for (size_t k = 0; k < PAGE / sizeof *words; k++)
        words[k] = mix(seed * 0x100000001B3u + number * 512 + k);
}

static size_t region_pages(void) {
    char line[4096] = "";
    int fd = open("/proc/cmdline", O_RDONLY);
    if (fd >= 0 && read(fd, line, sizeof line - 1) < 0)
        line[0] = 0;
    const char *at = strstr(line, "region=");
    return (at ? strtoul(at + 7, NULL, 10) : 16) * 256;
}

static void raw(int fd) {
    struct termios t;
    if (tcgetattr(fd, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(fd, TCSANOW, &t);
    }
}

static const char *obey(char *line, double *rate) {
    unsigned long long a, b, c, d;
    if (strncmp(line, "ping", 4) == 0) {
        line[1] = 'o';
        strcat(line, "\n");
        return line;
    }
    if (strncmp(line, "clock", 5) == 0) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        sprintf(line, "clock %lld %ld\n", (long long)t.tv_sec, t.tv_nsec);
        return line;
    }
    if (sscanf(line, "fill %llu %llu %llu %llu", &a, &b, &c, &d) == 4 && a <= pages && b <= pages - a) {
        for (size_t i = 0; i < b; i++) {
            if (d)
                write_page(a + i, c, i % d);
            else
                memset((char *)region + (a + i) * PAGE, 0, PAGE);
        }
        return "ok\n";
    }
    if (sscanf(line, "drop %llu %llu", &a, &b) == 2 && a <= pages && b <= pages - a) {
        munlock((char *)region + a * PAGE, b * PAGE);
        return madvise((char *)region + a * PAGE, b * PAGE, MADV_DONTNEED) ? "error\n" : "ok\n";
    }
    if (sscanf(line, "hot %llu %llu", &a, &b) == 2 && a <= pages && b && b <= pages - a) {
        hot_first = a;
        hot_count = b;
        return "ok\n";
    }
    if (sscanf(line, "dirty %llu", &a) == 1) {
        *rate = (double)a;
        return "ok\n";
    }
    return "error\n";
}

static void dirty(double *owed, double rate, double seconds) {
    for (*owed += rate * seconds; *owed >= 1; *owed -= 1) {
        random_state = mix(random_state);
        write_page(hot_first + random_state % hot_count, random_state, 0);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(void) {
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    int port = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    raw(port);
    pages = region_pages();
    hot_count = pages;
    region = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (port < 0 || region == MAP_FAILED)
        reboot(RB_POWER_OFF);
    madvise(region, pages * PAGE, MADV_NOHUGEPAGE);
    mlock(region, pages * PAGE);

    char line[256]; /* the last two bytes are reserved for a newline and the terminator */
    size_t used = 0;
    double rate = 0, owed = 0, last = now();
    for (;;) {
        struct pollfd p = {.fd = port, .events = POLLIN};
        int ready = poll(&p, 1, rate > 0 ? 5 : -1);
        double t = now();
        if (rate > 0)
            dirty(&owed, rate, t - last);
        last = t;
        char c;
        if (ready <= 0 || read(port, &c, 1) != 1)
            continue;
        if (c != '\n' && used < sizeof line - 2) {
            line[used++] = c;
            continue;
        }
        line[used] = 0;
        used = 0;
        const char *answer = obey(line, &rate);
        if (write(port, answer, strlen(answer)) < 0)
            continue;
    }
}

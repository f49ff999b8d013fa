/* Process 1 of a guest that reports the owners of its own pages. It starts the commands in /tenants (one per line). For
 * each "truth" on the second serial port, it prints the owners of all pages as JSON lines (PAGEMAP(5), the kernel's
 * Documentation/admin-guide/mm/pagemap.rst). tests/support/attribution/truth.py reads them.
 *
 * As "guest_owners once", in other guests, it prints one report and exits.
 *
 * The report must not change the reported memory: no heap, no stdio, all buffers touched beforehand, and a first report
 * that is discarded.
 */
#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096u
#define PRESENT (1ull << 63)
#define FILE_OR_SHARED (1ull << 61)
#define FRAME ((1ull << 55) - 1)
#define BATCH 4096u

static char out[1 << 18], text[1 << 18], listing[1 << 16];
static uint64_t entries[BATCH];
static size_t used;
static int port = -1, silent;

static void flush(void) {
    for (size_t at = 0; !silent && at < used;) {
        ssize_t n = write(port, out + at, used - at);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    used = 0;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list list;
    if (sizeof out - used < 1024)
        flush();
    va_start(list, format);
    used += (size_t)vsnprintf(out + used, sizeof out - used, format, list);
    va_end(list);
}

static void say_string(const char *s) {
    say("\"");
    for (; *s; s++)
        say(*s == '"' || *s == '\\' ? "\\%c" : (unsigned char)*s < 32 ? "\\u%04x" : "%c", (unsigned char)*s);
    say("\"");
}

static size_t slurp(const char *path, char *into, size_t most) {
    size_t got = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && got < most - 1 && (n = read(fd, into + got, most - 1 - got)) > 0)
        got += (size_t)n;
    into[got] = 0;
    if (fd >= 0)
        close(fd);
    return got;
}

/* One run of pages, as an array of numbers. */
static void say_run(const char **comma, int n, const uint64_t *numbers) {
    say("%s[", *comma);
    for (int k = 0; k < n; k++)
        say(k ? ",%llu" : "%llu", (unsigned long long)numbers[k]);
    say("]");
    *comma = ",";
}

/* "runs" of present pages: [index in the mapping, frame number, count, file page or shared]. */
static void say_runs(int pagemap, uint64_t start, uint64_t end) {
    uint64_t run[4] = {0}, pages = (end - start) / PAGE;
    const char *comma = "";
    say("\"runs\":[");
    for (uint64_t at = 0; at < pages; at += BATCH) {
        uint64_t want = pages - at < BATCH ? pages - at : BATCH;
        ssize_t got = pread(pagemap, entries, want * 8, (off_t)((start / PAGE + at) * 8));
        for (uint64_t k = 0; got > 0 && k < (uint64_t)got / 8; k++) {
            uint64_t e = entries[k], shared = !!(e & FILE_OR_SHARED);
            if (run[2] && (e & PRESENT) && (e & FRAME) == run[1] + run[2] && at + k == run[0] + run[2] &&
                shared == run[3]) {
                run[2]++;
                continue;
            }
            if (run[2])
                say_run(&comma, 4, run);
            run[0] = at + k;
            run[1] = e & FRAME;
            run[2] = e & PRESENT ? 1 : 0;
            run[3] = shared;
        }
    }
    if (run[2])
        say_run(&comma, 4, run);
    say("]");
}

/* The page faults of a process. With faults between two reports, a mapping in both may have been absent meanwhile. */
static unsigned long long faults(const char *pid) {
    static char stat[1024];
    char path[64];
    unsigned long long count = 0;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    slurp(path, stat, sizeof stat);
    char *name = strrchr(stat, ')');
    return name && sscanf(name, ") %*c %*d %*d %*d %*d %*d %*u %llu", &count) == 1 ? count : 0;
}

static void say_process(const char *pid) {
    char path[64], comm[64];
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    size_t n = slurp(path, comm, sizeof comm);
    if (n)
        comm[n - 1] = 0;
    snprintf(path, sizeof path, "/proc/%s/maps", pid);
    if (!slurp(path, text, sizeof text))
        return; /* kernel thread, or exited */
    say("{\"type\":\"process\",\"pid\":%s,\"faults\":%llu}\n", pid, faults(pid));
    snprintf(path, sizeof path, "/proc/%s/pagemap", pid);
    int pagemap = open(path, O_RDONLY | O_CLOEXEC);
    for (char *line = text, *end; pagemap >= 0 && *line; line = end + 1) {
        unsigned long long start, stop, offset;
        char mode[8] = "", device[16] = "";
        int name = 0;
        end = strchr(line, '\n');
        if (!end)
            break;
        *end = 0;
        if (sscanf(line, "%llx-%llx %7s %llx %15s %*u%n", &start, &stop, mode, &offset, device, &name) != 5)
            continue;
        for (; line[name] == ' '; name++)
            ;
        say("{\"type\":\"mapping\",\"pid\":%s,\"comm\":", pid);
        say_string(comm);
        say(",\"start\":%llu,\"end\":%llu,\"mode\":\"%s\",\"offset\":%llu,\"device\":\"%s\",\"path\":", start, stop, mode,
            offset, device);
        say_string(line + name);
        say(",");
        /* vsyscall is not in the process's page tables; a database reserves terabytes without any pages. */
        if (start >> 63 || (mode[0] == '-' && stop - start > 1ull << 36))
            say("\"runs\":[]");
        else
            say_runs(pagemap, start, stop);
        say("}\n");
    }
    if (pagemap >= 0)
        close(pagemap);
}

static void say_processes(void) {
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (long n; (n = syscall(SYS_getdents64, proc, listing, sizeof listing)) > 0;)
        for (long at = 0; at < n; at += *(unsigned short *)(listing + at + 16))
            if (isdigit((unsigned char)listing[at + 19]))
                say_process(listing + at + 19);
    close(proc);
}

/* Page cache pages of the files in /files, which are mapped here briefly to get the pages' frames. */
static void say_files(void) {
    static char names[1 << 18];
    static unsigned char resident[1 << 16];
    slurp("/files", names, sizeof names);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (char *name = strtok(names, "\n"); name; name = strtok(NULL, "\n")) {
        struct stat st;
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        size_t size = fstat(fd, &st) ? 0 : ((size_t)st.st_size + PAGE - 1) / PAGE * PAGE;
        if (!size || size / PAGE > sizeof resident) {
            close(fd);
            continue;
        }
        volatile char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED && mincore((void *)map, size, resident) == 0) {
            for (size_t at = 0; at < size; at += PAGE)
                if (resident[at / PAGE] & 1)
                    (void)map[at];
            say("{\"type\":\"file\",\"path\":");
            say_string(name);
            say(",");
            say_runs(pagemap, (uint64_t)map, (uint64_t)map + size);
            say("}\n");
            munmap((void *)map, size);
        }
        close(fd);
    }
    close(pagemap);
}

/* Page flags of all pages, from the kernel: [first frame, count, flags (include/uapi/linux/kernel-page-flags.h)]. */
static void say_flags(void) {
    int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    uint64_t run[3] = {0}, frame = 0;
    const char *comma = "";
    ssize_t got;
    say("{\"type\":\"flags\",\"runs\":[");
    while (fd >= 0 && (got = read(fd, entries, sizeof entries)) > 0)
        for (ssize_t k = 0; k < got / 8; k++, frame++) {
            if (run[1] && entries[k] == run[2]) {
                run[1]++;
                continue;
            }
            if (run[1])
                say_run(&comma, 3, run);
            run[0] = frame;
            run[1] = 1;
            run[2] = entries[k];
        }
    if (run[1])
        say_run(&comma, 3, run);
    say("]}\n");
    if (fd >= 0)
        close(fd);
}

static void say_text(const char *path) {
    slurp(path, text, sizeof text);
    say("{\"type\":\"text\",\"path\":\"%s\",\"lines\":[", path);
    for (char *line = strtok(text, "\n"), *comma = ""; line; line = strtok(NULL, "\n"), comma = ",") {
        say("%s", comma);
        say_string(line);
    }
    say("]}\n");
}

static void tell(int to_nobody) {
    silent = to_nobody;
    say_files();
    say_text("/proc/sys/kernel/osrelease");
    say_text("/proc/self/mountinfo");
    say_text("/proc/iomem");
    say_text("/proc/modules");
    say_text("/proc/slabinfo");
    say_text("/proc/vmallocinfo");
    say_processes();
    say_flags();
    say("{\"type\":\"end\"}\n");
    flush();
}

static void set(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, value, strlen(value)) < 0)
            value = "";
        close(fd);
    }
}

static void start(char *line) {
    char *words[32];
    int n = 0;
    for (char *word = strtok(line, " "); word && n < 31; word = strtok(NULL, " "))
        words[n++] = word;
    words[n] = NULL;
    if (n && fork() == 0) {
        execv(words[0], words);
        _exit(127);
    }
}

int main(int words, char **argument) {
    static char tenants[1 << 14];
    char c, word[32] = "", *rest = NULL;
    size_t length = 0;
    if (words > 1 && strcmp(argument[1], "once") == 0) {
        port = STDOUT_FILENO;
        tell(0);
        return 0;
    }
    for (const char *const *p = (const char *const[]){"/dev", "/proc", "/sys", "/tmp", "/dev/shm", NULL}; *p; p++) {
        const char *kind = strcmp(*p, "/dev") == 0 ? "devtmpfs" : strcmp(*p, "/proc") == 0 ? "proc" : "tmpfs";
        mkdir(*p, 0755);
        mount(kind, *p, strcmp(*p, "/sys") == 0 ? "sysfs" : kind, 0, NULL);
    }
    set("/sys/kernel/mm/transparent_hugepage/enabled", "always"); /* off by default in such a small guest */
    set("/proc/sys/kernel/kptr_restrict", "1"); /* real addresses for root, not hashed */
    port = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios t;
    if (port < 0 || tcgetattr(port, &t))
        reboot(RB_POWER_OFF);
    cfmakeraw(&t);
    cfsetspeed(&t, B115200);
    tcsetattr(port, TCSANOW, &t);
    memset(out, 1, sizeof out);
    memset(text, 1, sizeof text);
    memset(listing, 1, sizeof listing);
    memset(entries, 1, sizeof entries);
    slurp("/tenants", tenants, sizeof tenants);
    for (char *line = strtok_r(tenants, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        start(line);
    for (;;) {
        if (read(port, &c, 1) != 1)
            continue;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (c != '\n' && length < sizeof word - 1) {
            word[length++] = c;
            continue;
        }
        word[length] = 0;
        length = 0;
        if (strcmp(word, "truth") == 0) {
            tell(1);
            tell(0);
        } else if (strncmp(word, "ping", 4) == 0) {
            silent = 0;
            say("pong%s\n", word + 4);
            flush();
        }
    }
}

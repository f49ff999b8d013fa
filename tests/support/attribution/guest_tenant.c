/* A tenant of the guest of guest_owners.c: a process with one of each kind of memory, or a busy one.
 *
 *   tenant variety MIB   heap, threads' stacks, anonymous memory of MIB (and of huge pages, if there are any), shared
 *                        memory of each kind, files mapped for reading, for writing and privately, a deleted one
 *   tenant busy          forks, maps, unmaps and writes, forever
 *   tenant planted FILE  maps FILE as the dynamic linker would, reads all of it, and sleeps
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

static uint64_t state = 88172645463325252u;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void fill(volatile char *at, size_t size) {
    for (size_t k = 0; k < size; k += PAGE)
        *(volatile uint64_t *)(at + k) = next();
}

static char *map(size_t size, int flags, int fd) {
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED)
        _exit(1);
    return at;
}

static int file(const char *path, size_t size) {
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)size))
        _exit(2);
    for (size_t k = 0; k < size; k += PAGE) {
        uint64_t words[PAGE / 8];
        for (size_t w = 0; w < PAGE / 8; w++)
            words[w] = next();
        if (write(fd, words, PAGE) != PAGE)
            _exit(3);
    }
    return fd;
}

static void *thread(void *nothing) {
    char room[8 * PAGE];
    fill(room, sizeof room);
    free(malloc(200)); /* a separate arena */
    for (;;)
        pause();
    return nothing;
}

static void rest(void) {
    for (;;)
        pause();
}

static void variety(size_t mib) {
    size_t huge = 2u << 20;
    char *anonymous = map(mib << 20, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise(anonymous, mib << 20, MADV_NOHUGEPAGE);
    fill(anonymous, (mib << 20) / 2);
    char *big = map(3 * huge, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    big += huge - (uintptr_t)big % huge;
    madvise(big, 2 * huge, MADV_HUGEPAGE);
    fill(big, 2 * huge);
    madvise(big + huge / 2, 64 * PAGE, MADV_DONTNEED); /* splits the huge page */
    for (int k = 0; k < 40; k++)
        fill(malloc(20000), 20000);
    fill(map(16 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1), 16 * PAGE);
    int fd = memfd_create("samepaged-memfd", 0);
    if (ftruncate(fd, 24 * PAGE))
        _exit(4);
    fill(map(24 * PAGE, MAP_SHARED, fd), 24 * PAGE);
    fill(map(12 * PAGE, MAP_SHARED, file("/dev/shm/samepaged shm", 12 * PAGE)), 12 * PAGE);
    fill(map(20 * PAGE, MAP_SHARED, file("/tmp/on-tmpfs", 20 * PAGE)), 10 * PAGE);
    int key = shmget(IPC_PRIVATE, 8 * PAGE, IPC_CREAT | 0600);
    char *segment = shmat(key, NULL, 0);
    if (key >= 0 && segment != (char *)-1)
        fill(segment, 8 * PAGE);
    int plain = file("/srv/data/plain file", 40 * PAGE);
    char *shared = map(40 * PAGE, MAP_SHARED, plain);
    fill(shared, 4 * PAGE);
    char *copied = map(32 * PAGE, MAP_PRIVATE, plain);
    (void)*(volatile char *)(copied + 9 * PAGE);
    for (size_t k = 0; k < 32; k += 3)
        copied[k * PAGE] = 1;
    int gone = file("/srv/data/gone", 10 * PAGE);
    unlink("/srv/data/gone");
    fill(map(10 * PAGE, MAP_SHARED, gone), 10 * PAGE);
    char *zeros = map(64 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise(zeros, 64 * PAGE, MADV_NOHUGEPAGE);
    for (size_t k = 0; k < 64; k++)
        (void)*(volatile char *)(zeros + k * PAGE); /* all of them the zero page */
    mprotect(anonymous, 16 * PAGE, PROT_READ);
    mprotect(anonymous + 64 * PAGE, 16 * PAGE, PROT_NONE);
    madvise(anonymous + 128 * PAGE, 64 * PAGE, MADV_DONTFORK);
    for (int k = 0; k < 3; k++) {
        pthread_t id;
        pthread_create(&id, NULL, thread, NULL);
    }
    usleep(200000);
    if (fork() == 0) { /* shares all pages, copies some */
        prctl(PR_SET_NAME, "child \"of\" it");
        for (size_t k = 0; k < 64; k += 2)
            if (k < 16 * 4 && k >= 16)
                anonymous[k * PAGE] = 2;
        rest();
    }
    rest();
}

static void busy(void) {
    prctl(PR_SET_NAME, "busy");
    for (uint64_t turn = 0;; turn++) {
        size_t size = (1 + next() % 400) * PAGE;
        char *at = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        fill(at, size);
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_NAME, turn & 1 ? "busy-odd" : "busy-even");
            fill(at, size / 2);
            char *more = map(32 * PAGE, MAP_SHARED, file("/tmp/busy", 32 * PAGE));
            fill(more, 32 * PAGE);
            _exit(0);
        }
        munmap(at, size / 2 / PAGE * PAGE);
        for (int k = 0; k < 100; k++)
            free(memset(malloc(next() % 300000 + 8), 7, 8));
        waitpid(child, NULL, 0);
        munmap(at, size);
    }
}

static void planted(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st))
        _exit(5);
    volatile char *at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    for (off_t k = 0; at != MAP_FAILED && k < st.st_size; k += PAGE)
        (void)at[k];
    rest();
}

int main(int words, char **word) {
    if (words > 2 && strcmp(word[1], "variety") == 0)
        variety((size_t)atoi(word[2]));
    if (words > 2 && strcmp(word[1], "planted") == 0)
        planted(word[2]);
    if (words > 1 && strcmp(word[1], "busy") == 0)
        busy();
    return 64;
}

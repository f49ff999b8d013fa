/* Makes one call fail: the fail_at-th of its kind since the test armed it, in process `pid`, or in the children of process
 * `-pid`. The control block is the file that SAMEPAGED_CHAOS_INJECT names, mapped by the test and by every process that is
 * started with this library. Calls inside of libc (its own mmap for malloc) do not pass through here. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind { OPEN, SOCKET, MMAP, DESCRIPTOR, THREAD, DIRECTORY, KINDS };

struct control {
    _Atomic int64_t pid;
    _Atomic int64_t kind;
    _Atomic int64_t fail_at; /* 0: none fails */
    _Atomic int64_t failed;
    _Atomic int64_t calls[KINDS];
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SAMEPAGED_CHAOS_INJECT");
    long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    void *at = MAP_FAILED;
    if (fd >= 0) {
        at = (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
    }
    if (at != MAP_FAILED)
        control = at;
}

/* Whether this call is to fail; then errno says why. */
static int fails(enum kind kind, int why) {
    if (!control || (control->pid != syscall(SYS_getpid) && control->pid != -syscall(SYS_getppid)))
        return 0;
    int64_t number = atomic_fetch_add(&control->calls[kind], 1) + 1;
    if (control->kind != kind || control->fail_at != number)
        return 0;
    atomic_fetch_add(&control->failed, 1);
    errno = why;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return fails(OPEN, EMFILE) ? -1 : NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return fails(OPEN, EMFILE) ? -1 : NEXT(open64)(path, flags, mode);
}

/* What open(2) is called in programs that are built with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags) { return fails(OPEN, EMFILE) ? -1 : NEXT(open)(path, flags); }

int __open64_2(const char *path, int flags) { return fails(OPEN, EMFILE) ? -1 : NEXT(open64)(path, flags); }

int openat(int directory, const char *path, int flags, ...) {
    MODE(flags)
    return fails(OPEN, EMFILE) ? -1 : NEXT(openat)(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
    MODE(flags)
    return fails(OPEN, EMFILE) ? -1 : NEXT(openat64)(directory, path, flags, mode);
}

FILE *fopen(const char *path, const char *how) { return fails(OPEN, EMFILE) ? NULL : NEXT(fopen)(path, how); }

FILE *fopen64(const char *path, const char *how) { return fails(OPEN, EMFILE) ? NULL : NEXT(fopen64)(path, how); }

DIR *opendir(const char *path) { return fails(OPEN, EMFILE) ? NULL : NEXT(opendir)(path); }

int socket(int domain, int type, int protocol) {
    return fails(SOCKET, EMFILE) ? -1 : NEXT(socket)(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int ends[2]) {
    return fails(SOCKET, EMFILE) ? -1 : NEXT(socketpair)(domain, type, protocol, ends);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return fails(MMAP, ENOMEM) ? MAP_FAILED : NEXT(mmap)(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    return fails(MMAP, ENOMEM) ? MAP_FAILED : NEXT(mmap64)(at, length, protection, flags, fd, offset);
}

int pipe(int ends[2]) { return fails(DESCRIPTOR, EMFILE) ? -1 : NEXT(pipe)(ends); }

int pipe2(int ends[2], int flags) { return fails(DESCRIPTOR, EMFILE) ? -1 : NEXT(pipe2)(ends, flags); }

int memfd_create(const char *name, unsigned flags) {
    return fails(DESCRIPTOR, EMFILE) ? -1 : NEXT(memfd_create)(name, flags);
}

int dup(int fd) { return fails(DESCRIPTOR, EMFILE) ? -1 : NEXT(dup)(fd); }

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *argument) {
    return fails(THREAD, EAGAIN) ? EAGAIN : NEXT(pthread_create)(thread, how, run, argument);
}

int mkdir(const char *path, mode_t mode) { return fails(DIRECTORY, ENOSPC) ? -1 : NEXT(mkdir)(path, mode); }

int mkfifo(const char *path, mode_t mode) { return fails(DIRECTORY, ENOSPC) ? -1 : NEXT(mkfifo)(path, mode); }

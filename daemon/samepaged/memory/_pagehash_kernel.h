/*
 * Page hashes at the speed of a memory copy: process_vm_readv in chunks, each hashed while it is still in the cache.
 * This file does not depend on Python. The caller checks the arguments.
 */
#ifndef SAMEPAGED_PAGEHASH_KERNEL_H
#define SAMEPAGED_PAGEHASH_KERNEL_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#define XXH_STATIC_LINKING_ONLY /* XXH3_generateSecret_fromSeed */
#include <xxhash.h>

#if defined(__x86_64__)
#include "_pagehash_avx512.h"
/* xxHash selects the vector instructions at run time only through these functions. They are weak symbols, because a
 * build of libxxhash for x86-64 may lack them. */
extern XXH64_hash_t XXH3_64bits_withSeed_dispatch(const void *, size_t, XXH64_hash_t) __attribute__((weak));
static bool avx512;
#endif

#define HOST_PAGE 4096
#define SMALLEST_PAGE 512
/* Limit for one system call. It is below IOV_MAX (1024), so that the number of ranges never exceeds that. Measured from
 * 64 KiB to 8 MiB: a call costs microseconds, even for a small read. The kernel's `rep movsb` is slower if the core's
 * own caches still contain the destination from the previous chunk, so a chunk must exceed these caches. From 4 MiB on,
 * several threads evict each other's chunks from the shared cache. */
#define CHUNK_PAGES 512

/* samepaged.sharing.digest */
#define ZERO 2
#define FIRST_HASH 3

static XXH64_hash_t (*hash_of_any)(const void *, size_t, XXH64_hash_t) = XXH3_64bits_withSeed;

struct hashing {
    size_t page_size;
    uint64_t seed;
#if defined(__x86_64__)
    struct avx512_secret secret;
#endif
};

static void
prepare(struct hashing *hashing, size_t page_size, uint64_t seed)
{
    hashing->page_size = page_size;
    hashing->seed = seed;
#if defined(__x86_64__)
    unsigned char secret[SECRET_BYTES];
    XXH3_generateSecret_fromSeed(secret, seed);
    avx512_spread_secret(&hashing->secret, secret);
#endif
}

static inline uint64_t
hash_of(const unsigned char *page, const struct hashing *hashing)
{
#if defined(__x86_64__)
    if (avx512)
        return avx512_hash(page, hashing->page_size, &hashing->secret);
#endif
    return hash_of_any(page, hashing->page_size, hashing->seed);
}

/* A page is zero if its first eight bytes are zero and repeat. For other pages the comparison ends early. */
static inline bool
is_zero(const unsigned char *page, size_t size)
{
    uint64_t first;
    memcpy(&first, page, sizeof first);
    return first == 0 && memcmp(page, page + sizeof first, size - sizeof first) == 0;
}

static void
hash_pages(const unsigned char *page, uint64_t *out, size_t pages, const struct hashing *hashing)
{
    for (size_t i = 0; i < pages; i++, page += hashing->page_size) {
        if (is_zero(page, hashing->page_size)) {
            out[i] = ZERO;
            continue;
        }
        uint64_t hash = hash_of(page, hashing);
        out[i] = hash < FIRST_HASH ? hash + FIRST_HASH : hash;
    }
}

/*
 * Read and hash `count` host pages. Returns the number of hashed pages: all of them, or those before the first page
 * that could not be read, with errno set.
 */
static size_t
read_and_hash(pid_t pid, const uint64_t *addresses, size_t count, uint64_t *out, unsigned char *scratch,
              size_t scratch_size, const struct hashing *hashing)
{
    size_t scratch_pages = scratch_size / HOST_PAGE, pages_at_most, done = 0;
    size_t hashes_per_page = HOST_PAGE / hashing->page_size;
    struct iovec ranges[CHUNK_PAGES];

    pages_at_most = scratch_pages < CHUNK_PAGES ? scratch_pages : CHUNK_PAGES;
    while (done < count) {
        size_t wanted = count - done < pages_at_most ? count - done : pages_at_most, pages = 0, used = 0;
        while (pages < wanted) {
            const uint64_t *first = addresses + done + pages;
            size_t run = 1;
            while (pages + run < wanted && first[run] == first[run - 1] + HOST_PAGE)
                run++;
            ranges[used].iov_base = (void *)(uintptr_t)*first;
            ranges[used++].iov_len = run * HOST_PAGE;
            pages += run;
        }
        struct iovec local = {scratch, pages * HOST_PAGE};
        ssize_t got = process_vm_readv(pid, &local, 1, ranges, used, 0);
        if (got < 0)
            return done;
        /* A short read ends at a page that cannot be read: the next call starts there, and returns the error. */
        pages = (size_t)got / HOST_PAGE;
        if (pages == 0) {
            errno = EFAULT;
            return done;
        }
        hash_pages(scratch, out + done * hashes_per_page, pages * hashes_per_page, hashing);
        done += pages;
    }
    return done;
}

/* Select the instructions while only one thread runs: xxHash selects its own at the first call, without a lock. */
static void
choose_instructions(void)
{
    unsigned char page[HOST_PAGE];
    for (size_t i = 0; i < sizeof page; i++)
        page[i] = (unsigned char)(i * i + i / 7);
#if defined(__x86_64__)
    if (XXH3_64bits_withSeed_dispatch)
        hash_of_any = XXH3_64bits_withSeed_dispatch;
    avx512 = __builtin_cpu_supports("avx512f");
    for (size_t size = SMALLEST_PAGE; size <= sizeof page; size *= 2) {
        struct hashing hashing;
        prepare(&hashing, size, size);
        /* If the results differ from the library's XXH3, use the library. */
        if (avx512 && hash_of(page, &hashing) != hash_of_any(page, size, size))
            avx512 = false;
    }
#endif
    (void)hash_of_any(page, sizeof page, 0);
}

#endif

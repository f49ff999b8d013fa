/*
 * A fuzz target for the hashing kernel. For any content, sizes and addresses, both of its hash implementations must
 * agree with xxHash, and must not access memory outside of their arguments. It is built for libFuzzer, or as a program:
 * `fuzz_kernel SECONDS [SEED]` runs it with random inputs.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "_pagehash_kernel.h"

#define REGION_PAGES 700
#define HOLE_EVERY 97 /* pages of the region that cannot be read */

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint64_t
oracle(const unsigned char *page, size_t size, uint64_t seed)
{
    bool zero = true;
    for (size_t i = 0; i < size; i++)
        zero = zero && page[i] == 0;
    uint64_t hash = XXH3_64bits_withSeed(page, size, seed);
    return zero ? ZERO : hash < FIRST_HASH ? hash + FIRST_HASH : hash;
}

static bool
is_hole(size_t page)
{
    return page % HOLE_EVERY == HOLE_EVERY - 1;
}

static unsigned char *
region(void)
{
    static unsigned char *start;
    if (start)
        return start;
    size_t size = (size_t)REGION_PAGES * HOST_PAGE;
    start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(start != MAP_FAILED);
    for (size_t i = 0; i < size; i += sizeof(uint32_t)) {
        uint32_t word = i / HOST_PAGE % 5 == 0 ? 0 : (uint32_t)((i + 1) * 2654435761U);
        memcpy(start + i, &word, sizeof word);
    }
    for (size_t page = 0; page < REGION_PAGES; page++)
        MUST(!is_hole(page) || mprotect(start + page * HOST_PAGE, HOST_PAGE, PROT_NONE) == 0);
    return start;
}

/* Hashes the content at any alignment. The buffers end with the content, so that AddressSanitizer detects overruns. */
static void
fuzz_buffer(const unsigned char *data, size_t length, size_t page_size, uint64_t seed, size_t offset)
{
    size_t pages = 1 + length / page_size;
    unsigned char *buffer = calloc(1, offset + pages * page_size), *content = buffer + offset;
    uint64_t *out = calloc(pages, sizeof *out);
    struct hashing hashing;
    MUST(buffer && out);
    memcpy(content + (pages * page_size - length), data, length);
    prepare(&hashing, page_size, seed);
    hash_pages(content, out, pages, &hashing);
    for (size_t i = 0; i < pages; i++)
        MUST(out[i] == oracle(content + i * page_size, page_size, seed));
    free(out);
    free(buffer);
}

/* The input's bytes are page numbers of the region: pages before the first hole are hashed, the hole is reported. */
static void
fuzz_read(const unsigned char *data, size_t length, size_t page_size, uint64_t seed, size_t scratch_size)
{
    size_t count = length, readable = 0, parts = HOST_PAGE / page_size, page = 0;
    uint64_t *addresses = calloc(count + 1, sizeof *addresses), *out = calloc(count * parts + 1, sizeof *out);
    unsigned char *scratch = malloc(scratch_size);
    struct hashing hashing;
    MUST(addresses && out && scratch);
    for (size_t i = 0; i < count; i++) {
        /* Half of the bytes select the next page, so that ranges occur as well as single pages. */
        page = (page + (data[i] & 1 ? 1 : data[i])) % REGION_PAGES;
        if (is_hole(page) && data[i] % 64 != 1)
            page = (page + 1) % REGION_PAGES;
        addresses[i] = (uint64_t)(uintptr_t)(region() + page * HOST_PAGE);
        if (readable == i && !is_hole(page))
            readable++;
    }
    prepare(&hashing, page_size, seed);
    size_t done = read_and_hash(getpid(), addresses, count, out, scratch, scratch_size, &hashing);
    MUST(done == readable);
    MUST(done == count || errno == EFAULT);
    for (size_t i = 0; i < done * parts; i++) {
        const unsigned char *part = (const unsigned char *)(uintptr_t)addresses[i / parts] + i % parts * page_size;
        MUST(out[i] == oracle(part, page_size, seed));
    }
    MUST(out[count * parts] == 0);
    free(scratch);
    free(out);
    free(addresses);
}

int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t length)
{
    static bool chosen;
    uint64_t seed;
    if (!chosen)
        choose_instructions();
    chosen = true;
    if (length < 4 + sizeof seed)
        return 0;
#if defined(__x86_64__)
    /* AVX-512 is disabled if it differs from xxHash. This is a bug here, but only makes it slower for users. */
    static int able = -1;
    if (able < 0)
        able = avx512;
    MUST(able == (__builtin_cpu_supports("avx512f") != 0));
    avx512 = able && data[2] & 1;
#endif
    size_t page_size = (size_t)SMALLEST_PAGE << data[0] % 4, scratch_size = HOST_PAGE + data[1] * 10007U;
    memcpy(&seed, data + 4, sizeof seed);
    data += 4 + sizeof seed;
    length -= 4 + sizeof seed;
    fuzz_buffer(data, length, page_size << data[-1] % 3, seed, data[-2]);
    fuzz_read(data, length, page_size, seed, scratch_size);
    return 0;
}

#ifndef LIBFUZZER
/* xorshift64*, so that a seed reproduces its inputs. */
static uint64_t
following(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

int
main(int argc, char **argv)
{
    static unsigned char data[4096];
    long seconds = argc > 1 ? atol(argv[1]) : 10;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL), state = seed * 2 + 1;
    unsigned long inputs = 0;
    printf("fuzz_kernel: %ld s, seed %llu\n", seconds, (unsigned long long)seed);
    fflush(stdout);
    for (time_t end = time(NULL) + seconds; time(NULL) < end; inputs++) {
        size_t length = following(&state) % (following(&state) % 8 ? 300 : sizeof data);
        /* In some inputs, only a few bytes are not zero. */
        unsigned sparse = following(&state) % 3 == 0 ? 64 : 1;
        for (size_t i = 0; i < length; i++)
            data[i] = i < 12 || following(&state) % sparse == 0 ? (unsigned char)following(&state) : 0;
        LLVMFuzzerTestOneInput(data, length);
    }
    printf("fuzz_kernel: %lu inputs\n", inputs);
    return inputs == 0;
}
#endif

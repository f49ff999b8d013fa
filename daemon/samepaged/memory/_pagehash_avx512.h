/*
 * XXH3-64 of whole pages with AVX-512: the same values as XXH3_64bits_withSeed (specification:
 * doc/xxhash_spec.md of xxHash), only for lengths that are a power of two of at least 512 bytes.
 *
 * libxxhash supports any length and any secret. A page hash allows three optimizations: the secret is laid out in
 * aligned cache lines once per call (unaligned loads straddle two lines); the number of stripes in a block is known at
 * compile time; and the words are swapped in the sum of a block instead of in each stripe, which removes one of six
 * vector operations from the inner loop. With huge pages the copy is so fast that hashing slows the read by a fifth
 * with these optimizations, and by a third without.
 */
#ifndef SAMEPAGED_PAGEHASH_AVX512_H
#define SAMEPAGED_PAGEHASH_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define STRIPE 64
#define STRIPES_PER_BLOCK 16
#define BLOCK (STRIPE * STRIPES_PER_BLOCK)
#define SECRET_BYTES 192

#define PRIME32_1 0x9E3779B1U
#define PRIME32_2 0x85EBCA77U
#define PRIME32_3 0xC2B2AE3DU
#define PRIME64_1 0x9E3779B185EBCA87ULL
#define PRIME64_2 0xC2B2AE3D27D4EB4FULL
#define PRIME64_3 0x165667B19E3779F9ULL
#define PRIME64_4 0x85EBCA77C2B2AE63ULL
#define PRIME64_5 0x27D4EB2F165667C5ULL
#define AVALANCHE 0x165667919E3779F9ULL

/* The secret of a seed, laid out for the reads of the algorithm. */
struct avx512_secret {
    uint64_t stripe[STRIPES_PER_BLOCK][8];
    uint64_t scramble[8];
    uint64_t last[8];
    uint64_t merge[8];
} __attribute__((aligned(64)));

static void
avx512_spread_secret(struct avx512_secret *spread, const unsigned char secret[SECRET_BYTES])
{
    for (int i = 0; i < STRIPES_PER_BLOCK; i++)
        memcpy(spread->stripe[i], secret + 8 * i, STRIPE);
    memcpy(spread->scramble, secret + SECRET_BYTES - STRIPE, STRIPE);
    memcpy(spread->last, secret + SECRET_BYTES - STRIPE - 7, STRIPE);
    memcpy(spread->merge, secret + 11, STRIPE);
}

static inline uint64_t
avx512_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* One stripe: `words` sums the data, swapped once per block; `products` sums the keyed 32x32 multiplications. */
#define AVX512_STRIPE(data, secret)                                                                        \
    do {                                                                                                   \
        __m512i word_ = _mm512_loadu_si512(data);                                                          \
        __m512i keyed_ = _mm512_xor_si512(word_, _mm512_load_si512(secret));                               \
        words = _mm512_add_epi64(words, word_);                                                            \
        products = _mm512_add_epi64(products, _mm512_mul_epu32(keyed_, _mm512_srli_epi64(keyed_, 32)));    \
    } while (0)

#define AVX512_GATHER()                                                                                    \
    do {                                                                                                   \
        words = _mm512_shuffle_epi32(words, _MM_PERM_BADC);                                                \
        sums = _mm512_add_epi64(sums, _mm512_add_epi64(words, products));                                  \
    } while (0)

__attribute__((target("avx512f"))) static uint64_t
avx512_hash(const unsigned char *page, size_t length, const struct avx512_secret *secret)
{
    const __m512i prime = _mm512_set1_epi64(PRIME32_1);
    const unsigned char *last = page + length - STRIPE;
    __m512i sums = _mm512_set_epi64((long long)PRIME32_1, (long long)PRIME64_5, (long long)PRIME32_2,
                                    (long long)PRIME64_4, (long long)PRIME64_3, (long long)PRIME64_2,
                                    (long long)PRIME64_1, (long long)PRIME32_3);
    __m512i words, products;

    for (; last - page >= BLOCK; page += BLOCK) {
        words = products = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int i = 0; i < STRIPES_PER_BLOCK; i++)
            AVX512_STRIPE(page + STRIPE * i, secret->stripe[i]);
        AVX512_GATHER();
        sums = _mm512_xor_si512(_mm512_xor_si512(sums, _mm512_srli_epi64(sums, 47)),
                                _mm512_load_si512(secret->scramble));
        __m512i high = _mm512_mul_epu32(_mm512_srli_epi64(sums, 32), prime);
        sums = _mm512_add_epi64(_mm512_mul_epu32(sums, prime), _mm512_slli_epi64(high, 32));
    }

    words = products = _mm512_setzero_si512();
    for (int i = 0; page < last; page += STRIPE, i++)
        AVX512_STRIPE(page, secret->stripe[i]);
    AVX512_STRIPE(last, secret->last);
    AVX512_GATHER();

    uint64_t sum[8];
    _mm512_storeu_si512(sum, sums);
    uint64_t hash = length * PRIME64_1;
    for (int i = 0; i < 8; i += 2)
        hash += avx512_fold(sum[i] ^ secret->merge[i], sum[i + 1] ^ secret->merge[i + 1]);
    hash = (hash ^ (hash >> 37)) * AVALANCHE;
    return hash ^ (hash >> 32);
}

#endif

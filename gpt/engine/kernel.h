#pragma once

/* What the decode steps of several model families share. */

#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden"))) /* not exported by the library, so that calls may be inlined */
#define INLINE static inline __attribute__((always_inline))

enum { BLOCK_SIZE = 16 }; /* sequences per block: their activations stay in the L1 and L2 caches */

/* y (rows, outs) = or += x (rows, n) @ w (outs, n)^T. Each sum is computed in the same order for any number of rows. */
HIDDEN void matmul(float *y, const float *x, const float *w, int64_t rows, int64_t n, int64_t outs, int add);

HIDDEN void softmax(float *x, int64_t n);

/* exp(x) as 2^k times a polynomial of the remainder (Cephes' expf). Compilers vectorize it, unlike the C library's. */
INLINE float fast_exp(float x) {
    union {
        float value;
        uint32_t bits;
    } power;
    x = x > 88 ? 88 : x < -87 ? -87 : x;
    power.value = x * 1.44269504f + 12582912; /* adding 1.5 * 2^23 rounds x / ln 2 to an integer k in the low bits */
    float k = power.value - 12582912;
    power.bits = (power.bits + 127) << 23; /* 2^k: the biased exponent, in [1, 254] */
    x = x - k * 0.693359375f + k * 2.12194440e-4f; /* ln 2 in two parts */
    float y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    return (y * x * x + x + 1) * power.value;
}

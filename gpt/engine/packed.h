#pragma once

/* Matrix products with packed weights. A matrix (outs, n) is stored in panels of LANES outputs, (ceil(outs / LANES), n, LANES):
   one load reads the weights of LANES outputs for one input, and no sum crosses lanes. Weights are float32, or float16 where they
   are exact in it: reading them dominates the cost of a step, and half the bytes give the same results to the last bit.

   Each output is summed over the inputs in order, for any number of rows and threads. */

#include "kernel.h"

#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
enum { READS_HALF = 1 };
#else
enum { READS_HALF = 0 };
#endif

/* PyTorch aligns its tensors, but rows within them start anywhere, hence aligned(4). */
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* one SIMD register */

typedef struct {
    const void *panels;
    int64_t is_half;
} Matrix;

enum { PANELS_PER_TILE = LANES == 16 ? 4 : 2 }; /* with 6 rows, the sums fill 24 of 32 or 12 of 16 registers */

INLINE Vec load(const float *x) { return *(const Vec *)x; }

/* LANES weights from index `i` on. */
INLINE Vec load_weights(const void *w, int64_t i, int is_half) {
#if defined(__AVX512F__)
    if (is_half) return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)w + i)));
#elif defined(__F16C__)
    if (is_half) return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)w + i)));
#endif
    (void)is_half;
    return load((const float *)w + i);
}

/* y (R, P * LANES) = or += sums, of which the first `outs` columns are stored. */
static __attribute__((noinline)) void store_tile(float *y, int64_t y_stride, const Vec *sums, int R, int P, int64_t outs,
                                                 int add) {
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) {
            float *to = y + r * y_stride + p * LANES;
            const int64_t columns = outs - p * LANES < LANES ? outs - p * LANES : LANES;
            if (columns < LANES) {
                const float *from = (const float *)(sums + r * P + p);
                for (int64_t o = 0; o < columns; o++) to[o] = (add ? to[o] : 0) + from[o];
            } else {
                Vec sum = sums[r * P + p];
                if (add) sum += load(to);
                *(Vec *)to = sum;
            }
        }
}

/* y (R, P * LANES) = or += x (R, n) @ w (P, n, LANES)^T, of which the first `outs` columns are stored. The strides are of rows of
   y and x in floats, and of panels of w in inputs. */
INLINE void tile(int R, int P, int is_half, float *y, int64_t y_stride, const float *x, int64_t x_stride, const void *w,
                 int64_t w_stride, int64_t n, int64_t outs, int add) {
    Vec sums[24]; /* of which R * P are used */
#pragma GCC unroll 24
    for (int s = 0; s < R * P; s++) sums[s] = (Vec){0};
    for (int64_t i = 0; i < n; i++) {
        Vec weights[8];
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) weights[p] = load_weights(w, (p * w_stride + i) * LANES, is_half);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const float value = x[r * x_stride + i];
#pragma GCC unroll 8
            for (int p = 0; p < P; p++) sums[r * P + p] += value * weights[p];
        }
    }
    Vec results[24];
#pragma GCC unroll 24
    for (int s = 0; s < R * P; s++) results[s] = sums[s];
    store_tile(y, y_stride, results, R, P, outs, add);
}

typedef void Tile(float *y, int64_t y_stride, const float *x, int64_t x_stride, const void *w, int64_t w_stride, int64_t n,
                  int64_t outs, int add);

/* Compilers take minutes for the tiles if they inline them into one function. */
#define DEFINE_TILE(name, R, P, is_half)                                                                                  \
    static __attribute__((noinline)) void name(float *y, int64_t y_stride, const float *x, int64_t x_stride, const void *w, \
                                               int64_t w_stride, int64_t n, int64_t outs, int add) {                       \
        tile(R, P, is_half, y, y_stride, x, x_stride, w, w_stride, n, outs, add);                                          \
    }
#define DEFINE_TILES(name, P, is_half)   \
    DEFINE_TILE(name##_1, 1, P, is_half) \
    DEFINE_TILE(name##_2, 2, P, is_half) \
    DEFINE_TILE(name##_4, 4, P, is_half) \
    DEFINE_TILE(name##_6, 6, P, is_half)
DEFINE_TILES(narrow_float, 1, 0)
DEFINE_TILES(narrow_half, 1, READS_HALF)
DEFINE_TILES(wide_float, PANELS_PER_TILE, 0)
DEFINE_TILES(wide_half, PANELS_PER_TILE, READS_HALF)
DEFINE_TILE(row_float, 1, 2 * PANELS_PER_TILE, 0)
DEFINE_TILE(row_half, 1, 2 * PANELS_PER_TILE, READS_HALF)

/* For each number of rows; 0 where there is no tile of that size. */
static Tile *const NARROW[2][7] = {{0, narrow_float_1, narrow_float_2, 0, narrow_float_4, 0, narrow_float_6},
                                   {0, narrow_half_1, narrow_half_2, 0, narrow_half_4, 0, narrow_half_6}};
static Tile *const WIDE[2][7] = {{0, wide_float_1, wide_float_2, 0, wide_float_4, 0, wide_float_6},
                                 {0, wide_half_1, wide_half_2, 0, wide_half_4, 0, wide_half_6}};
static Tile *const ROW[2] = {row_float, row_half};

/* y (rows, outs) = or += x (rows, n) @ w (outs, n)^T; the strides are those of `tile`. */
static void matmul_strided(float *y, int64_t y_stride, const float *x, int64_t x_stride, Matrix w, int64_t w_stride, int64_t rows,
                           int64_t n, int64_t outs, int add) {
    const int64_t panels = (outs + LANES - 1) / LANES, panel_bytes = w_stride * LANES * (w.is_half ? 2 : 4);
    for (int64_t p = 0, width; p < panels; p += width) {
        const char *weights = (const char *)w.panels + p * panel_bytes;
        float *to = y + p * LANES;
        /* With one row, more sums, so that additions do not wait for one another. */
        if (rows == 1 && p + 2 * PANELS_PER_TILE <= panels) {
            width = 2 * PANELS_PER_TILE;
            ROW[w.is_half](to, y_stride, x, x_stride, weights, w_stride, n, outs - p * LANES, add);
            continue;
        }
        width = p + PANELS_PER_TILE <= panels ? PANELS_PER_TILE : 1;
        Tile *const *const tiles = width == 1 ? NARROW[w.is_half] : WIDE[w.is_half];
        for (int64_t r = 0, count; r < rows; r += count) {
            const int64_t left = rows - r;
            count = left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            tiles[count](to + r * y_stride, y_stride, x + r * x_stride, x_stride, weights, w_stride, n, outs - p * LANES, add);
        }
    }
}

/* y (rows, outs) = or += x (rows, n) @ w (outs, n)^T */
static void matmul_packed(float *y, const float *x, Matrix w, int64_t rows, int64_t n, int64_t outs, int add) {
    matmul_strided(y, outs, x, n, w, n, rows, n, outs, add);
}

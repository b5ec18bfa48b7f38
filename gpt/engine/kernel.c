/* One decode step of the GPT in gpt/models/transformer.py: reads one token of each sequence and returns the logits of the
   next, in float32. Compiled and called by binding.py.

   Weights and KV caches are used in PyTorch's memory. Reading the weights dominates the cost of a step, so sequences are
   processed in blocks that read each weight once. Every sum is computed in the same order for any number of sequences:
   results do not depend on the other sequences in the batch.

   Shapes: B sequences, L layers, C channels (hidden_size), F intermediate_size, V vocabulary, nh query heads,
   nkv key/value heads, hs head size, W sliding window. Arrays are row-major. */

#include "kernel.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
/* PyTorch aligns its tensors, but rows within them start anywhere, hence aligned(4). */
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* one SIMD register */
typedef float Vec4 __attribute__((vector_size(16), aligned(4), may_alias));

/* GCC would reload the value from memory at each use. */
#if defined(__x86_64__) && defined(__AVX__)
#define KEEP_IN_REG(x) __asm__("" : "+v"(x))
#else
#define KEEP_IN_REG(x)
#endif

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif

enum {
    MIN_PER_THREAD = 4, /* sequences: fewer are not worth the start of a thread, about 20 us */
    MAX_THREADS = 64,
};

typedef struct {
    const float *input_norm, *q, *k, *v, *q_norm, *k_norm, *o, *mlp_norm, *gate, *up, *down;
} Layer;

typedef struct {
    int64_t num_layers, vocab_size, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, window;
    float eps;
    const float *inverse_frequencies, *embed_tokens, *norm, *lm_head; /* (hs/2), (V, C), (C), (V, C) */
    const Layer *layers;
} Model;

typedef struct {
    int64_t token;
    int64_t *length;      /* number of tokens read so far; `step` increments it */
    float *keys, *values; /* (L, nkv, W, hs) with a layer every `layer_stride` floats; position p is in slot p % W */
    int64_t layer_stride;
} Sequence;

INLINE Vec load(const float *x) { return *(const Vec *)x; }

/* Sums lanes i, i + 4, i + 8 ... into lane i. */
INLINE Vec4 fold(const Vec *x) {
    const Vec4 *parts = (const Vec4 *)x;
    Vec4 sum = parts[0];
    for (int i = 1; i < LANES / 4; i++) sum += parts[i];
    return sum;
}

/* The sum of all lanes. */
INLINE float reduce_sum(Vec x) {
    Vec4 a = fold(&x);
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* The sums of all lanes of 4 vectors. */
INLINE Vec4 reduce_sum4(const Vec *x) {
    Vec4 a = fold(x), b = fold(x + 1), c = fold(x + 2), d = fold(x + 3);
    Vec4 ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    Vec4 cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
}

INLINE float dot(const float *x, const float *w, int64_t n) {
    Vec sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(x + i) * load(w + i);
    float sum = reduce_sum(sums);
    for (; i < n; i++) sum += x[i] * w[i];
    return sum;
}

/* sum (4) += x (n) @ w (4, n)^T from column i on. Never inlined: one compiled loop for all callers fuses the same
   multiplications and additions, whose rounding the results depend on. */
static __attribute__((noinline)) Vec4 add_remainder(Vec4 sum, const float *x, const float *w, int64_t n, int64_t i) {
    for (; i < n; i++)
        for (int o = 0; o < 4; o++) sum[o] += x[i] * w[o * n + i];
    return sum;
}

/* y (4) = or += the lane sums of `sums` (4) plus the remainder of x (n) @ w (4, n)^T from column i on. */
INLINE void store_sums(float *y, const Vec *sums, const float *x, const float *w, int64_t n, int64_t i, int add) {
    Vec4 sum = reduce_sum4(sums);
    if (i < n) sum = add_remainder(sum, x, w, n, i);
    if (add) sum += *(Vec4 *)y;
    *(Vec4 *)y = sum;
}

/* y (8) = or += x (n) @ w (8, n)^T */
INLINE void matmul_1x8(float *y, const float *x, const float *w, int64_t n, int add) {
    Vec sums[8] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int o = 0; o < 8; o++) sums[o] += load(x + i) * load(w + o * n + i);
    store_sums(y, sums, x, w, n, i, add);
    store_sums(y + 4, sums + 4, x, w + 4 * n, n, i, add);
}

/* y (2, 4) = or += x (2, n) @ w (4, n)^T; the rows of y are `stride` floats apart. */
INLINE void matmul_2x4(float *y, int64_t stride, const float *x, const float *w, int64_t n, int add) {
    Vec first[4] = {0}, second[4] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Vec a = load(x + i), b = load(x + n + i);
        KEEP_IN_REG(a);
        KEEP_IN_REG(b);
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++) {
            Vec weights = load(w + o * n + i);
            KEEP_IN_REG(weights);
            first[o] += a * weights;
            second[o] += b * weights;
        }
    }
    store_sums(y, first, x, w, n, i, add);
    store_sums(y + stride, second, x + n, w, n, i, add);
}

void matmul(float *y, const float *x, const float *w, int64_t rows, int64_t n, int64_t outs, int add) {
    int64_t o = 0;
    for (; o + 8 <= outs; o += 8) {
        int64_t r = 0;
        for (; r + 2 <= rows; r += 2)
            for (int64_t i = o; i < o + 8; i += 4) matmul_2x4(y + r * outs + i, outs, x + r * n, w + i * n, n, add);
        if (r < rows) matmul_1x8(y + r * outs + o, x + r * n, w + o * n, n, add);
    }
    for (; o < outs; o++)
        for (int64_t r = 0; r < rows; r++) y[r * outs + o] = (add ? y[r * outs + o] : 0) + dot(x + r * n, w + o * n, n);
}

/* Computes columns of y = p (count) @ v (count, n) from `column` on, R vectors at a time; returns the first column left. */
INLINE int64_t weighted_sum_columns(int R, int64_t column, float *y, const float *p, const float *v, int64_t count,
                                    int64_t n) {
    for (; column + R * LANES <= n; column += R * LANES) {
        Vec even[4] = {0}, odd[4] = {0}; /* two accumulators each, so that additions do not wait for one another */
        int64_t i = 0;
        for (; i + 2 <= count; i += 2)
            for (int r = 0; r < R; r++) {
                even[r] += p[i] * load(v + i * n + column + r * LANES);
                odd[r] += p[i + 1] * load(v + (i + 1) * n + column + r * LANES);
            }
        for (int r = 0; r < R; r++) {
            if (i < count) even[r] += p[i] * load(v + i * n + column + r * LANES);
            *(Vec *)(y + column + r * LANES) = even[r] + odd[r];
        }
    }
    return column;
}

/* y (n) = p (count) @ v (count, n) */
static void weighted_sum(float *y, const float *p, const float *v, int64_t count, int64_t n) {
    int64_t column = weighted_sum_columns(4, 0, y, p, v, count, n);
    for (column = weighted_sum_columns(1, column, y, p, v, count, n); column < n; column++) {
        y[column] = 0;
        for (int64_t i = 0; i < count; i++) y[column] += p[i] * v[i * n + column];
    }
}

void softmax(float *x, int64_t n) {
    float max = x[0], sum = 0, maxes[LANES], sums[LANES] = {0};
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) maxes[j] = max;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) maxes[j] = x[i + j] > maxes[j] ? x[i + j] : maxes[j];
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int j = 0; j < LANES; j++) max = maxes[j] > max ? maxes[j] : max;
    for (i = 0; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += x[i + j] = fast_exp(x[i + j] - max);
    for (; i < n; i++) sum += x[i] = fast_exp(x[i] - max);
    for (int j = 0; j < LANES; j++) sum += sums[j];
    for (i = 0; i < n; i++) x[i] /= sum;
}

/* y (n) = w (n) * x (n) / root mean square of x */
static void rms_norm(float *y, const float *x, const float *w, int64_t n, float eps) {
    float scale = 1 / sqrtf(dot(x, x, n) / n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

/* y (hs) = one head x (hs) after RMSNorm and RoPE, times `scale`; y may be x. */
static void norm_and_rope(float *y, const float *x, const float *w, const float *rope, const Model *m, float scale) {
    const int64_t half = m->head_dim / 2;
    const float *cosine = rope, *sine = rope + half;
    rms_norm(y, x, w, m->head_dim, m->eps);
    for (int64_t i = 0; i < half; i++) {
        float a = y[i], b = y[i + half];
        y[i] = (a * cosine[i] - b * sine[i]) * scale;
        y[i + half] = (b * cosine[i] + a * sine[i]) * scale;
    }
}

/* out (nh, hs) = attention of q (nh, hs) in one layer, after k and v (nkv, hs) are stored in the cache. */
static void attention(float *out, float *q, const float *k, const float *v, const float *rope, float *scores,
                      const Sequence *sequence, int64_t layer, const Model *m) {
    const Layer *w = m->layers + layer;
    const int64_t hs = m->head_dim, W = m->window, group = m->num_heads / m->num_kv_heads, position = *sequence->length;
    const int64_t slot = position % W, count = position < W ? position + 1 : W;
    for (int64_t h = 0; h < m->num_heads; h++) norm_and_rope(q + h * hs, q + h * hs, w->q_norm, rope, m, 1 / sqrtf(hs));
    for (int64_t h = 0; h < m->num_kv_heads; h++) {
        const int64_t offset = layer * sequence->layer_stride + h * W * hs;
        float *keys = sequence->keys + offset, *values = sequence->values + offset;
        norm_and_rope(keys + slot * hs, k + h * hs, w->k_norm, rope, m, 1);
        memcpy(values + slot * hs, v + h * hs, sizeof(float) * hs);
        matmul(scores, q + h * group * hs, keys, group, hs, count, 0);
        for (int64_t i = 0; i < group; i++) {
            softmax(scores + i * count, count);
            weighted_sum(out + (h * group + i) * hs, scores + i * count, values, count, hs);
        }
    }
}

/* One step for n <= BLOCK_SIZE sequences. Returns 1 if an allocation fails, else 0. */
static int decode_block(const Model *m, const Sequence *sequences, int64_t n, float *logits) {
    const int64_t C = m->hidden_size, F = m->intermediate_size, V = m->vocab_size, hs = m->head_dim;
    const int64_t Q = m->num_heads * hs, K = m->num_kv_heads * hs, group = m->num_heads / m->num_kv_heads;
    float *scratch = malloc(sizeof(float) * (n * (2 * C + 2 * Q + 2 * K + 2 * F + hs) + group * m->window));
    if (!scratch) return 1;
    float *x = scratch, *y = x + n * C, *q = y + n * C, *a = q + n * Q, *k = a + n * Q, *v = k + n * K;
    float *gate = v + n * K, *up = gate + n * F, *rope = up + n * F, *scores = rope + n * hs;
    for (int64_t r = 0; r < n; r++) {
        memcpy(x + r * C, m->embed_tokens + sequences[r].token * C, sizeof(float) * C);
        for (int64_t i = 0; i < hs / 2; i++) {
            float angle = (float)*sequences[r].length * m->inverse_frequencies[i];
            rope[r * hs + i] = cosf(angle);
            rope[r * hs + hs / 2 + i] = sinf(angle);
        }
    }
    for (int64_t l = 0; l < m->num_layers; l++) {
        const Layer *w = m->layers + l;
        for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, w->input_norm, C, m->eps);
        matmul(q, y, w->q, n, C, Q, 0);
        matmul(k, y, w->k, n, C, K, 0);
        matmul(v, y, w->v, n, C, K, 0);
        for (int64_t r = 0; r < n; r++)
            attention(a + r * Q, q + r * Q, k + r * K, v + r * K, rope + r * hs, scores, sequences + r, l, m);
        matmul(x, a, w->o, n, Q, C, 1);
        for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, w->mlp_norm, C, m->eps);
        matmul(gate, y, w->gate, n, C, F, 0);
        matmul(up, y, w->up, n, C, F, 0);
        for (int64_t i = 0; i < n * F; i++) up[i] *= gate[i] / (1 + fast_exp(-gate[i])); /* SwiGLU */
        matmul(x, up, w->down, n, F, C, 1);
    }
    for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, m->norm, C, m->eps);
    matmul(logits, y, m->lm_head, n, C, V, 0);
    for (int64_t r = 0; r < n; r++) ++*sequences[r].length;
    free(scratch);
    return 0;
}

typedef struct {
    const Model *model;
    const Sequence *sequences;
    int64_t count;
    float *logits;
    pthread_t thread;
    int inline_run, failed; /* inline_run: run by the calling thread */
} Task;

static void *worker(void *arg) {
    Task *task = arg;
    for (int64_t r = 0; r < task->count; r += BLOCK_SIZE) {
        int64_t n = task->count - r < BLOCK_SIZE ? task->count - r : BLOCK_SIZE;
        task->failed |= decode_block(task->model, task->sequences + r, n, task->logits + r * task->model->vocab_size);
    }
    return NULL;
}

/* Writes logits (B, V) after the token of each of `count` sequences and stores the token in its cache. Uses at most `threads`
   threads, and never more than MAX_THREADS. Returns 1 if an allocation fails, else 0.

   Threads live for one step: there is no pool to share among callers, to wake, or to lose in a fork. */
int step(const Model *model, const Sequence *sequences, int64_t count, float *logits, int64_t threads) {
    Task tasks[MAX_THREADS];
    int64_t n = 0;
    int failed = 0;
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    int64_t each = (count + threads - 1) / threads;
    each = (each + MIN_PER_THREAD - 1) / MIN_PER_THREAD * MIN_PER_THREAD;
    for (int64_t r = 0; r < count; r += each, n++) {
        int64_t size = count - r < each ? count - r : each;
        tasks[n] = (Task){model, sequences + r, size, logits + r * model->vocab_size, .inline_run = 1};
        if (r + each < count) tasks[n].inline_run = pthread_create(&tasks[n].thread, NULL, worker, tasks + n) != 0;
        if (tasks[n].inline_run) worker(tasks + n);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!tasks[i].inline_run) pthread_join(tasks[i].thread, NULL);
        failed |= tasks[i].failed;
    }
    return failed;
}

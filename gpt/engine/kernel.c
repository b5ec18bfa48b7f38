/* The GPT in gpt/models/transformer.py in float32: reads a prompt, and generates tokens for several sequences at once. Compiled
   and called by binding.py.

   Embedding, norms and KV caches are used in PyTorch's memory; matrices are packed (packed.h). Sequences are processed in blocks
   that read each weight once. Every sum is computed in the same order for any number of sequences and threads: results do not
   depend on the other sequences in the batch.

   Shapes: B sequences, L layers, C channels (hidden_size), F intermediate_size, V vocabulary, nh query heads,
   nkv key/value heads, hs head size, W sliding window. Arrays are row-major. */

#include "kernel.h"
#include "packed.h"
#include "sampling.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

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
    MIN_PER_THREAD = 4,  /* sequences: fewer are not worth the start of a thread, about 20 us */
    MAX_THREADS = 64,
    CHUNK_SIZE = 128,    /* tokens of a prompt that are read at once */
    ROWS_PER_THREAD = 32, /* of a chunk, at least */
    ROWS_PER_TILE = 12,  /* of a chunk, whose attention is computed at once */
};

typedef struct {
    const float *input_norm, *q_norm, *k_norm, *mlp_norm;
    Matrix qkv, o, gate_up, down; /* (Q + 2K, C), (C, Q), (2F, C), (C, F), where Q = nh * hs and K = nkv * hs */
} Layer;

typedef struct {
    int64_t num_layers, vocab_size, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, window, eos_token_id;
    float eps;
    const float *inverse_frequencies, *embed_tokens, *norm; /* (hs/2), (V, C), (C) */
    Matrix lm_head;                                         /* (V, C) */
    const Layer *layers;
} Model;

typedef struct {
    int64_t token;        /* the last one, which the model has yet to read unless `has_logits` */
    int64_t *length;      /* number of tokens read so far; a step increments it */
    float *keys, *values; /* (L, nkv, W, hs) with a layer every `layer_stride` floats; position p is in slot p % W */
    int64_t layer_stride;
    float *logits;      /* (steps, V), out */
    int64_t has_logits; /* whether the first row of `logits` is given */
    int64_t *tokens;    /* (steps): in, the forced token or -1; out, the token. NULL to sample none */
    double *logprobs;   /* (steps), out: of the model's own distribution */
    const double *uniforms; /* (steps) numbers in [0, 1) */
    Sampling sampling;
} Sequence;

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

/* cos and sin (hs/2 each) of the angles of RoPE at a position. */
static void compute_rope(float *rope, int64_t position, const Model *m) {
    const int64_t half = m->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        float angle = (float)position * m->inverse_frequencies[i];
        rope[i] = cosf(angle);
        rope[half + i] = sinf(angle);
    }
}

/* x (n, C) += the MLP of a layer; y (n, C) and gate_up (n, 2F) are scratch. */
static void mlp(float *x, float *y, float *gate_up, const Layer *w, int64_t n, const Model *m) {
    const int64_t C = m->hidden_size, F = m->intermediate_size;
    for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, w->mlp_norm, C, m->eps);
    matmul_packed(gate_up, y, w->gate_up, n, C, 2 * F, 0);
    for (int64_t r = 0; r < n; r++) { /* SwiGLU; row r of the result is written over rows that were read */
        const float *gate = gate_up + 2 * r * F, *up = gate + F;
        for (int64_t i = 0; i < F; i++) gate_up[r * F + i] = up[i] * (gate[i] / (1 + fast_exp(-gate[i])));
    }
    matmul_packed(x, gate_up, w->down, n, F, C, 1);
}

/* Reads the token of n <= BLOCK_SIZE sequences; writes row `step` of their logits. Returns OK or NO_MEMORY. */
static int decode_block(const Model *m, const Sequence *sequences, int64_t n, int64_t step) {
    const int64_t C = m->hidden_size, F = m->intermediate_size, V = m->vocab_size, hs = m->head_dim;
    const int64_t Q = m->num_heads * hs, K = m->num_kv_heads * hs, group = m->num_heads / m->num_kv_heads, S = Q + 2 * K;
    float *scratch = malloc(sizeof(float) * (n * (2 * C + Q + S + 2 * F + hs + V) + group * m->window));
    if (!scratch) return NO_MEMORY;
    float *x = scratch, *y = x + n * C, *a = y + n * C, *qkv = a + n * Q, *gate_up = qkv + n * S, *rope = gate_up + n * 2 * F;
    float *logits = rope + n * hs, *scores = logits + n * V;
    for (int64_t r = 0; r < n; r++) {
        memcpy(x + r * C, m->embed_tokens + sequences[r].token * C, sizeof(float) * C);
        compute_rope(rope + r * hs, *sequences[r].length, m);
    }
    for (int64_t l = 0; l < m->num_layers; l++) {
        const Layer *w = m->layers + l;
        for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, w->input_norm, C, m->eps);
        matmul_packed(qkv, y, w->qkv, n, C, S, 0);
        for (int64_t r = 0; r < n; r++) {
            float *q = qkv + r * S;
            attention(a + r * Q, q, q + Q, q + Q + K, rope + r * hs, scores, sequences + r, l, m);
        }
        matmul_packed(x, a, w->o, n, Q, C, 1);
        mlp(x, y, gate_up, w, n, m);
    }
    for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, m->norm, C, m->eps);
    matmul_packed(logits, y, m->lm_head, n, C, V, 0);
    for (int64_t r = 0; r < n; r++) {
        memcpy(sequences[r].logits + step * V, logits + r * V, sizeof(float) * V);
        ++*sequences[r].length;
    }
    free(scratch);
    return OK;
}

/* Generates `steps` tokens for n <= BLOCK_SIZE sequences. Returns what `generate` returns. */
static int generate_block(const Model *m, Sequence *sequences, int64_t n, int64_t steps) {
    const int64_t V = m->vocab_size;
    for (int64_t step = 0; step < steps; step++) {
        int64_t given = 0;
        for (int64_t r = 0; r < n && !step; r++) given += sequences[r].has_logits != 0;
        int status = given ? OK : decode_block(m, sequences, n, step);
        for (int64_t r = 0; r < n && given && status == OK; r++)
            if (!sequences[r].has_logits) status = decode_block(m, sequences + r, 1, step);
        for (int64_t r = 0; r < n && status == OK; r++) {
            Sequence *s = sequences + r;
            if (!s->tokens) continue;
            status = sample(1, V, s->logits + step * V, &s->sampling, s->uniforms + step, s->tokens + step, s->logprobs + step);
            s->token = s->tokens[step];
            if (s->token == m->eos_token_id) *s->length = 0; /* the next document starts with it */
        }
        if (status != OK) return status;
    }
    return OK;
}

typedef struct {
    const Model *model;
    Sequence *sequences;
    int64_t count, steps;
    pthread_t thread;
    int inline_run, status; /* inline_run: run by the calling thread */
} Task;

static void *worker(void *arg) {
    Task *task = arg;
    for (int64_t r = 0; r < task->count && task->status == OK; r += BLOCK_SIZE) {
        int64_t n = task->count - r < BLOCK_SIZE ? task->count - r : BLOCK_SIZE;
        task->status = generate_block(task->model, task->sequences + r, n, task->steps);
    }
    return NULL;
}

/* Generates `steps` tokens for each of `count` sequences; a sequence reads its last token, then samples the next. Uses at most
   `threads` threads, and never more than MAX_THREADS. Returns OK, NO_MEMORY or NOT_FINITE.

   Threads live for one call: there is no pool to share among callers, to wake, or to lose in a fork. */
int generate(const Model *model, Sequence *sequences, int64_t count, int64_t steps, int64_t threads) {
    Task tasks[MAX_THREADS];
    int64_t n = 0;
    int status = OK;
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    int64_t each = (count + threads - 1) / threads;
    each = (each + MIN_PER_THREAD - 1) / MIN_PER_THREAD * MIN_PER_THREAD;
    for (int64_t r = 0; r < count; r += each, n++) {
        int64_t size = count - r < each ? count - r : each;
        tasks[n] = (Task){model, sequences + r, size, steps, .inline_run = 1};
        if (r + each < count) tasks[n].inline_run = pthread_create(&tasks[n].thread, NULL, worker, tasks + n) != 0;
        if (tasks[n].inline_run) worker(tasks + n);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!tasks[i].inline_run) pthread_join(tasks[i].thread, NULL);
        status = status == OK ? tasks[i].status : status;
    }
    return status;
}

/* A chunk of a prompt, which several threads read layer by layer, each a part of its rows.

   The keys of the window before the chunk and of the chunk are packed as weights of matrix products: index i is position
   length - old + i. Layers use two buffers in turn, so one barrier for each layer is enough. */
typedef struct {
    const Model *model;
    const Sequence *sequence;
    const int64_t *tokens; /* (rows) */
    int64_t rows, old, capacity, threads, waiting, layers_done;
    float *x;                    /* (rows, C) */
    float *keys[2], *values[2]; /* (nkv, capacity / LANES, hs, LANES), (nkv, ceil(hs / LANES), capacity, LANES) */
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    int status;
} Chunk;

typedef struct {
    Chunk *chunk;
    int64_t index;
    pthread_t thread;
} Reader;

/* Waits until all threads are here. Returns the status of the chunk. */
static int barrier(Chunk *c) {
    pthread_mutex_lock(&c->mutex);
    int64_t layer = c->layers_done;
    if (++c->waiting == c->threads) {
        c->waiting = 0, c->layers_done++;
        pthread_cond_broadcast(&c->arrived);
    }
    while (layer == c->layers_done) pthread_cond_wait(&c->arrived, &c->mutex);
    int status = c->status;
    pthread_mutex_unlock(&c->mutex);
    return status;
}

/* Stores a key and a value (hs each) of head h under index i. */
INLINE void pack_key_value(Chunk *c, int64_t layer, int64_t h, int64_t i, const float *key, const float *value) {
    const int64_t hs = c->model->head_dim, panels = (hs + LANES - 1) / LANES;
    float *keys = c->keys[layer % 2] + (h * c->capacity + i / LANES * LANES) * hs + i % LANES;
    float *values = c->values[layer % 2] + (h * panels * c->capacity + i) * LANES;
    for (int64_t d = 0; d < hs; d++) {
        keys[d * LANES] = key[d];
        values[d / LANES * c->capacity * LANES + d % LANES] = value[d];
    }
}

/* out (rows, Q) = attention of q (rows, S) for `rows` <= ROWS_PER_TILE rows of the chunk from `first` on. */
static void tile_attention(float *out, const float *q, float *scores, const Chunk *c, int64_t layer, int64_t first, int64_t rows) {
    const Model *m = c->model;
    const int64_t hs = m->head_dim, Q = m->num_heads * hs, S = Q + 2 * m->num_kv_heads * hs, W = m->window;
    const int64_t group = m->num_heads / m->num_kv_heads, panels = (hs + LANES - 1) / LANES, end = c->old + first + rows;
    int64_t start = c->old + first + 1 - W;
    start = start < 0 ? 0 : start / LANES * LANES;
    const int64_t count = end - start;
    for (int64_t h = 0; h < m->num_heads; h++) {
        const float *keys = c->keys[layer % 2] + (h / group * c->capacity + start) * hs;
        const float *values = c->values[layer % 2] + (h / group * panels * c->capacity + start) * LANES;
        matmul_strided(scores, count, q + h * hs, S, (Matrix){keys, 0}, hs, rows, hs, count, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *row = scores + r * count;
            const int64_t stop = c->old + first + r + 1 - start, from = stop - W < 0 ? 0 : stop - W;
            softmax(row + from, stop - from);
            memset(row, 0, sizeof(float) * from);
            memset(row + stop, 0, sizeof(float) * (count - stop));
        }
        matmul_strided(out + h * hs, Q, scores, count, (Matrix){values, 0}, c->capacity, rows, count, hs, 0);
    }
}

/* Reads rows [begin, end) of a chunk together with the other threads. */
static void read_rows(Chunk *c, int64_t begin, int64_t end, int64_t index) {
    const Model *m = c->model;
    const Sequence *s = c->sequence;
    const int64_t C = m->hidden_size, F = m->intermediate_size, hs = m->head_dim, W = m->window, n = end - begin;
    const int64_t Q = m->num_heads * hs, K = m->num_kv_heads * hs, S = Q + 2 * K, length = *s->length;
    float *x = c->x + begin * C;
    float *scratch = malloc(sizeof(float) * (n * (C + Q + S + 2 * F + hs) + ROWS_PER_TILE * c->capacity));
    float *y = scratch, *a = y + n * C, *qkv = a + n * Q, *gate_up = qkv + n * S, *rope = gate_up + n * 2 * F;
    float *scores = rope + n * hs;
    if (!scratch) {
        pthread_mutex_lock(&c->mutex);
        c->status = NO_MEMORY;
        pthread_mutex_unlock(&c->mutex);
    }
    if (barrier(c) != OK) {
        free(scratch);
        return;
    }
    for (int64_t r = 0; r < n; r++) {
        memcpy(x + r * C, m->embed_tokens + c->tokens[begin + r] * C, sizeof(float) * C);
        compute_rope(rope + r * hs, length + begin + r, m);
    }
    for (int64_t l = 0; l < m->num_layers; l++) {
        const Layer *w = m->layers + l;
        for (int64_t r = 0; r < n; r++) rms_norm(y + r * C, x + r * C, w->input_norm, C, m->eps);
        matmul_packed(qkv, y, w->qkv, n, C, S, 0);
        for (int64_t h = 0; h < m->num_kv_heads; h++) {
            const int64_t offset = l * s->layer_stride + h * W * hs;
            for (int64_t i = index; i < c->old; i += c->threads) {
                const int64_t slot = (length - c->old + i) % W;
                pack_key_value(c, l, h, i, s->keys + offset + slot * hs, s->values + offset + slot * hs);
            }
            for (int64_t r = 0; r < n; r++) {
                float *k = qkv + r * S + Q + h * hs;
                norm_and_rope(k, k, w->k_norm, rope + r * hs, m, 1);
                pack_key_value(c, l, h, c->old + begin + r, k, k + K);
            }
        }
        for (int64_t r = 0; r < n; r++)
            for (int64_t h = 0; h < m->num_heads; h++) {
                float *q = qkv + r * S + h * hs;
                norm_and_rope(q, q, w->q_norm, rope + r * hs, m, 1 / sqrtf(hs));
            }
        barrier(c);
        for (int64_t r = 0; r < n; r++) {
            if (c->rows - begin - r > W) continue; /* a later row takes its slot */
            for (int64_t h = 0; h < m->num_kv_heads; h++) {
                const int64_t to = l * s->layer_stride + (h * W + (length + begin + r) % W) * hs;
                const float *k = qkv + r * S + Q + h * hs;
                memcpy(s->keys + to, k, sizeof(float) * hs);
                memcpy(s->values + to, k + K, sizeof(float) * hs);
            }
        }
        for (int64_t r = 0; r < n; r += ROWS_PER_TILE)
            tile_attention(a + r * Q, qkv + r * S, scores, c, l, begin + r, n - r < ROWS_PER_TILE ? n - r : ROWS_PER_TILE);
        matmul_packed(x, a, w->o, n, Q, C, 1);
        mlp(x, y, gate_up, w, n, m);
    }
    free(scratch);
}

static void *reader(void *arg) {
    Reader *r = arg;
    Chunk *c = r->chunk;
    pthread_mutex_lock(&c->mutex); /* until it is known how many threads there are */
    pthread_mutex_unlock(&c->mutex);
    read_rows(c, c->rows * r->index / c->threads, c->rows * (r->index + 1) / c->threads, r->index);
    return NULL;
}

/* Reads `count` tokens of one sequence; writes the logits (V) after the last. `tokens` and the other fields of the sequence that
   belong to sampling are not used. Uses at most `threads` threads. Returns OK or NO_MEMORY. */
int prefill(const Model *m, const Sequence *sequence, const int64_t *tokens, int64_t count, int64_t threads) {
    const int64_t C = m->hidden_size, hs = m->head_dim, W = m->window, panels = (hs + LANES - 1) / LANES;
    const int64_t most = count < CHUNK_SIZE ? count : CHUNK_SIZE, capacity = (W + most + LANES - 1) / LANES * LANES;
    const int64_t key_floats = m->num_kv_heads * capacity * hs, value_floats = m->num_kv_heads * panels * LANES * capacity;
    float *scratch = calloc(most * C + C + 2 * (key_floats + value_floats), sizeof(float));
    if (!scratch) return NO_MEMORY;
    Chunk c = {m, sequence, .capacity = capacity, .x = scratch, .status = OK};
    for (int i = 0; i < 2; i++) {
        c.keys[i] = scratch + (most + 1) * C + i * (key_floats + value_floats);
        c.values[i] = c.keys[i] + key_floats;
    }
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.arrived, NULL);
    for (int64_t done = 0; done < count && c.status == OK; done += c.rows, *sequence->length += c.rows) {
        Reader readers[MAX_THREADS];
        c.tokens = tokens + done;
        c.rows = count - done < CHUNK_SIZE ? count - done : CHUNK_SIZE;
        c.old = *sequence->length < W ? *sequence->length : W;
        int64_t wanted = c.rows / ROWS_PER_THREAD < threads ? c.rows / ROWS_PER_THREAD : threads;
        pthread_mutex_lock(&c.mutex);
        for (c.threads = 1; c.threads < wanted && c.threads < MAX_THREADS; c.threads++) {
            Reader *r = readers + c.threads;
            *r = (Reader){.chunk = &c, .index = c.threads};
            if (pthread_create(&r->thread, NULL, reader, r)) break;
        }
        pthread_mutex_unlock(&c.mutex);
        read_rows(&c, 0, c.rows / c.threads, 0);
        for (int64_t i = 1; i < c.threads; i++) pthread_join(readers[i].thread, NULL);
    }
    if (c.status == OK) {
        float *y = c.x + most * C;
        rms_norm(y, c.x + (c.rows - 1) * C, m->norm, C, m->eps);
        matmul_packed(sequence->logits, y, m->lm_head, 1, C, m->vocab_size, 0);
    }
    pthread_cond_destroy(&c.arrived);
    pthread_mutex_destroy(&c.mutex);
    free(scratch);
    return c.status;
}

/* Number of outputs in a panel of packed weights, and whether they may be float16. */
int64_t panel_width(void) { return LANES; }
int64_t reads_half(void) { return READS_HALF; }

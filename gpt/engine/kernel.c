/* One step of decoding for the GPT of transformer.py: a token for each of several rows, in float32.

   Weights and caches are used where PyTorch keeps them. A step costs what reading the weights costs, so rows are
   computed in blocks, for which each weight is read once. Every sum is made in the same order whatever the number of
   rows: what a row gets does not depend on its company. Compiled and called by engine.py.

   Shapes: C width, F hidden, V vocab, nh heads, nkv kv_heads, hs head, W window. Every array is row by row. */

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* one register of the CPU */
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

/* A value that is used often belongs in a register; GCC would read it from memory for each use. */
#if defined(__x86_64__) && defined(__AVX__)
#define HOLD(x) __asm__("" : "+v"(x))
#else
#define HOLD(x)
#endif

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif

enum {
    BLOCK = 16,       /* rows at once: what is computed of them stays in the caches nearest to the core */
    SHARE = 4,        /* rows below which a thread is not worth its start, about 20 us */
    MAX_THREADS = 64,
};

typedef struct {
    const float *norm, *q, *k, *v, *q_norm, *k_norm, *o, *mlp_norm, *gate, *up, *down;
} Layer;

typedef struct {
    int64_t layers, vocab, width, hidden, heads, kv_heads, head, window;
    float eps;
    const float *frequencies, *embed, *norm, *out; /* (hs/2), (V, C), (C), (V, C) */
    const Layer *layer;
} Model;

typedef struct {
    int64_t token;
    int64_t *length;      /* tokens read so far, which the step counts on */
    float *keys, *values; /* (layers, nkv, W, hs), a layer every `stride` numbers; position p is in slot p % W */
    int64_t stride;
} Row;

#define INLINE static inline __attribute__((always_inline))

INLINE Lanes load(const float *x) { return *(const Lanes *)x; }

/* Lanes i, i + 4, i + 8 ... together. */
INLINE Four folded(const Lanes *x) {
    const Four *parts = (const Four *)x;
    Four sum = parts[0];
    for (int i = 1; i < LANES / 4; i++) sum += parts[i];
    return sum;
}

INLINE float total(Lanes x) {
    Four a = folded(&x);
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* The totals of 4 vectors. */
INLINE Four totals(const Lanes *x) {
    Four a = folded(x), b = folded(x + 1), c = folded(x + 2), d = folded(x + 3);
    Four ab = PICK(a, b, 0, 4, 1, 5) + PICK(a, b, 2, 6, 3, 7), cd = PICK(c, d, 0, 4, 1, 5) + PICK(c, d, 2, 6, 3, 7);
    return PICK(ab, cd, 0, 1, 4, 5) + PICK(ab, cd, 2, 3, 6, 7);
}

INLINE float dot(const float *x, const float *w, int64_t n) {
    Lanes sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(x + i) * load(w + i);
    float sum = total(sums);
    for (; i < n; i++) sum += x[i] * w[i];
    return sum;
}

/* y (4) = or += the totals of sums (4), and what is left of x (n) @ w (4, n)^T from column i on. */
INLINE void finish(float *y, const Lanes *sums, const float *x, const float *w, int64_t n, int64_t i, int add) {
    Four sum = totals(sums);
    for (; i < n; i++)
        for (int o = 0; o < 4; o++) sum[o] += x[i] * w[o * n + i];
    if (add) sum += *(Four *)y;
    *(Four *)y = sum;
}

/* y (8) = or += x (n) @ w (8, n)^T */
INLINE void one_row(float *y, const float *x, const float *w, int64_t n, int add) {
    Lanes sums[8] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int o = 0; o < 8; o++) sums[o] += load(x + i) * load(w + o * n + i);
    finish(y, sums, x, w, n, i, add);
    finish(y + 4, sums + 4, x, w + 4 * n, n, i, add);
}

/* y (2, 4) = or += x (2, n) @ w (4, n)^T; a row of y is `stride` long. */
INLINE void two_rows(float *y, int64_t stride, const float *x, const float *w, int64_t n, int add) {
    Lanes first[4] = {0}, second[4] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Lanes a = load(x + i), b = load(x + n + i);
        HOLD(a);
        HOLD(b);
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++) {
            Lanes weights = load(w + o * n + i);
            HOLD(weights);
            first[o] += a * weights;
            second[o] += b * weights;
        }
    }
    finish(y, first, x, w, n, i, add);
    finish(y + stride, second, x + n, w, n, i, add);
}

/* y (rows, outs) = or += x (rows, n) @ w (outs, n)^T */
static void matmul(float *y, const float *x, const float *w, int64_t rows, int64_t n, int64_t outs, int add) {
    int64_t o = 0;
    for (; o + 8 <= outs; o += 8) {
        int64_t r = 0;
        for (; r + 2 <= rows; r += 2)
            for (int64_t i = o; i < o + 8; i += 4) two_rows(y + r * outs + i, outs, x + r * n, w + i * n, n, add);
        if (r < rows) one_row(y + r * outs + o, x + r * n, w + o * n, n, add);
    }
    for (; o < outs; o++)
        for (int64_t r = 0; r < rows; r++) y[r * outs + o] = (add ? y[r * outs + o] : 0) + dot(x + r * n, w + o * n, n);
}

/* Columns of y = p (count) @ v (count, n) from `column` on, R registers of them at once; returns the first left over. */
INLINE int64_t mix_columns(int R, int64_t column, float *y, const float *p, const float *v, int64_t count, int64_t n) {
    for (; column + R * LANES <= n; column += R * LANES) {
        Lanes even[4] = {0}, odd[4] = {0}; /* twice as many sums, or each would wait for the last addition */
        int64_t i = 0;
        for (; i + 2 <= count; i += 2)
            for (int r = 0; r < R; r++) {
                even[r] += p[i] * load(v + i * n + column + r * LANES);
                odd[r] += p[i + 1] * load(v + (i + 1) * n + column + r * LANES);
            }
        for (int r = 0; r < R; r++) {
            if (i < count) even[r] += p[i] * load(v + i * n + column + r * LANES);
            *(Lanes *)(y + column + r * LANES) = even[r] + odd[r];
        }
    }
    return column;
}

/* y (n) = p (count) @ v (count, n) */
static void mix(float *y, const float *p, const float *v, int64_t count, int64_t n) {
    int64_t column = mix_columns(4, 0, y, p, v, count, n);
    for (column = mix_columns(1, column, y, p, v, count, n); column < n; column++) {
        y[column] = 0;
        for (int64_t i = 0; i < count; i++) y[column] += p[i] * v[i * n + column];
    }
}

/* e to the power of x: a power of 2, times a polynomial of what is left (Cephes' expf). Unlike the C library's,
   compilers can do several at once. */
INLINE float exponential(float x) {
    union {
        float real;
        uint32_t bits;
    } two;
    x = x > 88 ? 88 : x < -87 ? -87 : x;
    two.real = x * 1.44269504f + 12582912; /* adding 1.5 * 2^23 rounds to a whole number, in the lowest bits */
    float whole = two.real - 12582912;
    two.bits = (two.bits + 127) << 23;
    x = x - whole * 0.693359375f + whole * 2.12194440e-4f; /* ln 2 in two parts */
    float y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    return (y * x * x + x + 1) * two.real;
}

static void softmax(float *x, int64_t n) {
    float most = x[0], sum = 0, mosts[LANES], sums[LANES] = {0};
    int64_t i = 0;
    for (int j = 0; j < LANES; j++) mosts[j] = most;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) mosts[j] = x[i + j] > mosts[j] ? x[i + j] : mosts[j];
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int j = 0; j < LANES; j++) most = mosts[j] > most ? mosts[j] : most;
    for (i = 0; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += x[i + j] = exponential(x[i + j] - most);
    for (; i < n; i++) sum += x[i] = exponential(x[i] - most);
    for (int j = 0; j < LANES; j++) sum += sums[j];
    for (i = 0; i < n; i++) x[i] /= sum;
}

/* RMSNorm: y (n) = w (n) times x (n) over its root mean square. */
static void norm(float *y, const float *x, const float *w, int64_t n, float eps) {
    float scale = 1 / sqrtf(dot(x, x, n) / n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

/* y (hs) = a head x (hs) normed, its number i turned together with number i + hs/2 (RoPE), and scaled. */
static void turn(float *y, const float *x, const float *w, const float *angles, const Model *m, float scale) {
    const float *cosine = angles, *sine = angles + m->head / 2;
    float *other = y + m->head / 2;
    norm(y, x, w, m->head, m->eps);
    for (int64_t i = 0; i < m->head / 2; i++) {
        float a = y[i], b = other[i];
        y[i] = (a * cosine[i] - b * sine[i]) * scale;
        other[i] = (b * cosine[i] + a * sine[i]) * scale;
    }
}

/* a (nh, hs) = attention of q (nh, hs) over a row's window in layer l, which k and v (nkv, hs) enter first. */
static void attend(float *a, float *q, const float *k, const float *v, const float *angles, float *scores, const Row *row,
                   int64_t l, const Model *m) {
    const Layer *w = m->layer + l;
    const int64_t hs = m->head, W = m->window, group = m->heads / m->kv_heads, at = *row->length;
    const int64_t slot = at % W, seen = at < W ? at + 1 : W;
    for (int64_t h = 0; h < m->heads; h++) turn(q + h * hs, q + h * hs, w->q_norm, angles, m, 1 / sqrtf(hs));
    for (int64_t h = 0; h < m->kv_heads; h++) {
        float *keys = row->keys + l * row->stride + h * W * hs, *values = row->values + l * row->stride + h * W * hs;
        turn(keys + slot * hs, k + h * hs, w->k_norm, angles, m, 1);
        memcpy(values + slot * hs, v + h * hs, sizeof(float) * hs);
        matmul(scores, q + h * group * hs, keys, group, hs, seen, 0);
        for (int64_t i = 0; i < group; i++) {
            softmax(scores + i * seen, seen);
            mix(a + (h * group + i) * hs, scores + i * seen, values, seen, hs);
        }
    }
}

/* The step for up to BLOCK rows; 1 for want of memory, else 0. */
static int block(const Model *m, const Row *rows, int64_t n, float *logits) {
    const int64_t C = m->width, F = m->hidden, hs = m->head, Q = m->heads * hs, K = m->kv_heads * hs;
    float *room = malloc(sizeof(float) * (n * (2 * C + 2 * Q + 2 * K + 2 * F + hs) + m->heads / m->kv_heads * m->window));
    if (!room) return 1;
    float *x = room, *y = x + n * C, *q = y + n * C, *a = q + n * Q, *k = a + n * Q, *v = k + n * K;
    float *gate = v + n * K, *up = gate + n * F, *angles = up + n * F, *scores = angles + n * hs;
    for (int64_t r = 0; r < n; r++) {
        memcpy(x + r * C, m->embed + rows[r].token * C, sizeof(float) * C);
        for (int64_t i = 0; i < hs / 2; i++) {
            float angle = (float)*rows[r].length * m->frequencies[i];
            angles[r * hs + i] = cosf(angle);
            angles[r * hs + hs / 2 + i] = sinf(angle);
        }
    }
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *w = m->layer + l;
        for (int64_t r = 0; r < n; r++) norm(y + r * C, x + r * C, w->norm, C, m->eps);
        matmul(q, y, w->q, n, C, Q, 0);
        matmul(k, y, w->k, n, C, K, 0);
        matmul(v, y, w->v, n, C, K, 0);
        for (int64_t r = 0; r < n; r++)
            attend(a + r * Q, q + r * Q, k + r * K, v + r * K, angles + r * hs, scores, rows + r, l, m);
        matmul(x, a, w->o, n, Q, C, 1);
        for (int64_t r = 0; r < n; r++) norm(y + r * C, x + r * C, w->mlp_norm, C, m->eps);
        matmul(gate, y, w->gate, n, C, F, 0);
        matmul(up, y, w->up, n, C, F, 0);
        for (int64_t i = 0; i < n * F; i++) up[i] *= gate[i] / (1 + exponential(-gate[i])); /* SwiGLU */
        matmul(x, up, w->down, n, F, C, 1);
    }
    for (int64_t r = 0; r < n; r++) norm(y + r * C, x + r * C, m->norm, C, m->eps);
    matmul(logits, y, m->out, n, C, m->vocab, 0);
    for (int64_t r = 0; r < n; r++) ++*rows[r].length;
    free(room);
    return 0;
}

typedef struct {
    const Model *model;
    const Row *rows;
    int64_t count;
    float *logits;
    pthread_t thread;
    int is_here, failed;
} Share;

static void *work(void *given) {
    Share *share = given;
    for (int64_t r = 0; r < share->count; r += BLOCK) {
        int64_t n = share->count - r < BLOCK ? share->count - r : BLOCK;
        share->failed |= block(share->model, share->rows + r, n, share->logits + r * share->model->vocab);
    }
    return NULL;
}

/* logits (count, V) after each row's token, which its cache then remembers. Returns 1 for want of memory, else 0.

   Threads live for one step: there is no pool to share among callers, to wake, or to lose in a fork. */
int step(const Model *model, const Row *rows, int64_t count, float *logits, int64_t threads) {
    Share shares[MAX_THREADS];
    int64_t n = 0, each = (count + threads - 1) / threads;
    int failed = 0;
    each = (each + SHARE - 1) / SHARE * SHARE;
    for (int64_t r = 0; r < count; r += each, n++) {
        shares[n] = (Share){model, rows + r, count - r < each ? count - r : each, logits + r * model->vocab, .is_here = 1};
        if (r + each < count) shares[n].is_here = pthread_create(&shares[n].thread, NULL, work, shares + n) != 0;
        if (shares[n].is_here) work(shares + n);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!shares[i].is_here) pthread_join(shares[i].thread, NULL);
        failed |= shares[i].failed;
    }
    return failed;
}

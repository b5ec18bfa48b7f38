/* One decode step of the n-gram in gpt/models/ngram.py: looks up what followed the last tokens of each sequence, and writes
   the log-probabilities of the next. Compiled and called by ngram.py. */

#include "kernel.h"

#include <math.h>
#include <string.h>

enum { MAX_ORDER = 8 }; /* as in gpt/models/ngram.py */

typedef struct {
    int64_t vocab_size, order, num_entries;
    const int64_t *ngram_ids; /* (num_entries), sorted */
    const uint16_t *probs;    /* (num_entries) float16, in [0, 1) */
} Model;

typedef struct {
    int64_t token;
    int64_t *ids; /* (order - 1) the last tokens, -1 where fewer were read; updated */
} Sequence;

/* A float16 in [0, 1) as float32. */
INLINE float half_to_float(uint16_t half) {
    union {
        uint32_t bits;
        float value;
    } power;
    uint32_t exponent = half >> 10, mantissa = half & 1023;
    power.bits = ((exponent ? exponent : 1) + 102) << 23; /* the value of the mantissa's last bit: 2^(exponent - 25) */
    return (float)(exponent ? mantissa + 1024 : mantissa) * power.value;
}

/* The first entry whose id is `id` or higher. */
static int64_t lower_bound(const Model *m, int64_t id) {
    const int64_t *ids = m->ngram_ids;
    int64_t first = 0, count = m->num_entries;
    while (count > 0) {
        int64_t half = count / 2;
        int is_below = ids[first + half] < id;
        first = is_below ? first + half + 1 : first;
        count = is_below ? count - half - 1 : half;
    }
    return first;
}

/* Writes log-probabilities (V) after `ids`, the last order - 1 tokens. */
static void predict(const Model *m, const int64_t *ids, float *logits) {
    const int64_t V = m->vocab_size, N = m->order;
    int64_t first[MAX_ORDER], last[MAX_ORDER], next[MAX_ORDER]; /* entries of the context of n tokens; its first continuation */
    float backoff[MAX_ORDER], weight[MAX_ORDER + 1];
    int64_t context = 0, digit = 1, n = 0;
    do { /* the n-gram id of a longer context, from the last token back */
        next[n] = context * V + 1;
        first[n] = last[n] = lower_bound(m, next[n]);
        backoff[n] = 1;
        for (; last[n] < m->num_entries && m->ngram_ids[last[n]] < next[n] + V; last[n]++)
            backoff[n] -= half_to_float(m->probs[last[n]]); /* exact: multiples of 2^-24 */
        n++;
        if (n < N) context += (ids[N - 1 - n] + 1) * digit;
        digit *= V;
    } while (n < N && ids[N - 1 - n] >= 0);
    weight[n] = 1;
    for (int64_t i = n; i-- > 0;) weight[i] = weight[i + 1] * backoff[i];
    for (int64_t i = 0; i < V; i++) logits[i] = weight[0] / V; /* the empty context backs off to uniform */
    for (int64_t i = 0; i < n; i++)
        for (int64_t entry = first[i]; entry < last[i]; entry++)
            logits[m->ngram_ids[entry] - next[i]] += half_to_float(m->probs[entry]) * weight[i + 1];
    for (int64_t i = 0; i < V; i++) logits[i] = logf(logits[i]);
}

/* Writes log-probabilities (B, V) after the token of each of `count` sequences and updates its state. */
void ngram_step(const Model *model, const Sequence *sequences, int64_t count, float *logits) {
    const int64_t size = model->order - 1;
    for (int64_t r = 0; r < count; r++) {
        int64_t *ids = sequences[r].ids;
        if (size) {
            memmove(ids, ids + 1, sizeof(int64_t) * (size - 1));
            ids[size - 1] = sequences[r].token;
        }
        predict(model, ids, logits + r * model->vocab_size);
    }
}

/* Samples tokens from logits as gpt/sampling.py does, in double precision: temperature, top-k, top-p, min-p, and the inverse of
   the cumulative distribution at a uniform number. */

#include "sampling.h"

#include <math.h>
#include <stdlib.h>

/* exp(x) for x <= 0 as 2^k times the Taylor series of the remainder, whose error is below the rounding of a double.
   Compilers vectorize it, unlike the C library's. */
static inline double exp_of_negative(double x) {
    union {
        double value;
        uint64_t bits;
    } power;
    const int underflows = x < -708;
    x = underflows ? 0 : x;
    power.value = x * 1.4426950408889634 + 6755399441055744; /* adding 1.5 * 2^52 rounds x / ln 2 to an integer k */
    double k = power.value - 6755399441055744;
    power.bits = (power.bits + 1023) << 52; /* 2^k: the biased exponent */
    x = x - k * 0.693145751953125 - k * 1.42860682030941723212e-6; /* ln 2 in two parts, the first exact in 21 bits */
    double y = 1. / 6227020800;
    y = y * x + 1. / 479001600;
    y = y * x + 1. / 39916800;
    y = y * x + 1. / 3628800;
    y = y * x + 1. / 362880;
    y = y * x + 1. / 40320;
    y = y * x + 1. / 5040;
    y = y * x + 1. / 720;
    y = y * x + 1. / 120;
    y = y * x + 1. / 24;
    y = y * x + 1. / 6;
    y = y * x + 1. / 2;
    return underflows ? 0 : (y * x * x + x + 1) * power.value;
}

/* Whether token a comes before b in the order of descending logits; of equal ones, the lower id is first. */
static int comes_before(const double *logits, int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Restores the order of a heap of `size` token ids below `root`. */
static void sift_down(int64_t *heap, int64_t size, int64_t root, const double *logits) {
    for (int64_t child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && comes_before(logits, heap[child + 1], heap[child])) child++;
        if (comes_before(logits, heap[root], heap[child])) return;
        int64_t id = heap[root];
        heap[root] = heap[child];
        heap[child] = id;
    }
}

/* Makes a heap of the tokens that have a probability, and returns their number: the first few in order need no sort of all. */
static int64_t heapify(int64_t *heap, const double *probs, const double *logits, int64_t V) {
    int64_t size = 0;
    for (int64_t i = 0; i < V; i++)
        if (probs[i] > 0) heap[size++] = i;
    for (int64_t i = size / 2; i-- > 0;) sift_down(heap, size, i, logits);
    return size;
}

static int64_t pop(int64_t *heap, int64_t *size, const double *logits) {
    int64_t first = heap[0];
    heap[0] = heap[--*size];
    sift_down(heap, *size, 0, logits);
    return first;
}

/* Keeps the k highest logits, and those equal to the lowest of them. */
static void apply_top_k(double *probs, int64_t *heap, const double *logits, int64_t V, int64_t k) {
    int64_t size = heapify(heap, probs, logits, V), lowest = 0;
    for (int64_t i = 0; i < k && size; i++) lowest = pop(heap, &size, logits);
    for (int64_t i = 0; i < V; i++)
        if (logits[i] < logits[lowest]) probs[i] = 0;
}

/* Keeps the most probable tokens until together they have probability p or more. */
static void apply_top_p(double *probs, int64_t *heap, const double *logits, int64_t V, double p) {
    int64_t size = heapify(heap, probs, logits, V);
    double total = 0, sum = 0;
    for (int64_t i = 0; i < V; i++) total += probs[i];
    while (size && sum < p) sum += probs[pop(heap, &size, logits)] / total;
    for (int64_t i = 0; i < size; i++) probs[heap[i]] = 0;
}

/* Keeps tokens that have at least p times the highest probability. */
static void apply_min_p(double *probs, int64_t V, double p) {
    double total = 0, max = 0;
    for (int64_t i = 0; i < V; i++) {
        total += probs[i];
        max = probs[i] > max ? probs[i] : max;
    }
    for (int64_t i = 0; i < V; i++)
        if (probs[i] / total < p * (max / total)) probs[i] = 0;
}

/* One row of `sample`; probs, scaled and heap are scratch (V). Returns the token, or -1 for logits that are not finite. */
static int64_t sample_token(int64_t V, const float *logits, const Sampling *params, double uniform, int64_t forced,
                            double *logprob, double *probs, double *scaled, int64_t *heap) {
    int64_t best = 0;
    for (int64_t i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    const double max = logits[best];
    double total = 0, sum = 0;
    for (int64_t i = 0; i < V; i++) scaled[i] = logits[i] - max;
    for (int64_t i = 0; i < V; i++) probs[i] = exp_of_negative(scaled[i]);
    for (int64_t i = 0; i < V; i++) total += probs[i];
    if (!isfinite(max) || isnan(total)) return -1;
    int64_t token = forced;
    if (token < 0 && params->temperature == 0) token = best;
    if (token < 0) {
        if (params->temperature != 1) {
            for (int64_t i = 0; i < V; i++) scaled[i] /= params->temperature;
            for (int64_t i = 0; i < V; i++) probs[i] = exp_of_negative(scaled[i]);
        }
        if (params->top_k > 0 && params->top_k < V) apply_top_k(probs, heap, scaled, V, params->top_k);
        if (params->top_p < 1) apply_top_p(probs, heap, scaled, V, params->top_p);
        if (params->min_p > 0) apply_min_p(probs, V, params->min_p);
        double rest = 0;
        for (int64_t i = 0; i < V; i++) rest += probs[i];
        for (token = 0; token < V - 1; token++)
            if ((sum += probs[token]) / rest > uniform) break;
    }
    *logprob = logits[token] - max - log(total);
    return token;
}

int sample(int64_t count, int64_t V, const float *logits, const Sampling *params, const double *uniforms, int64_t *tokens,
           double *logprobs) {
    double *scratch = malloc((2 * sizeof(double) + sizeof(int64_t)) * V);
    if (!scratch) return NO_MEMORY;
    int status = OK;
    for (int64_t r = 0; r < count && status == OK; r++) {
        tokens[r] = sample_token(V, logits + r * V, params + r, uniforms[r], tokens[r], logprobs + r, scratch, scratch + V,
                                 (int64_t *)(scratch + 2 * V));
        if (tokens[r] < 0) status = NOT_FINITE;
    }
    free(scratch);
    return status;
}

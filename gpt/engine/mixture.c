/* The weighted mean of two predictions, for the mixture in gpt/models/mixture.py. Compiled and called by mixture.py. */

#include "kernel.h"

#include <math.h>

/* first (B, V) = the log-probabilities of `weight` of the first prediction and 1 - `weight` of the second, from their logits.
   Both are overwritten. */
void mix(float *first, float *second, int64_t count, int64_t vocab_size, float weight) {
    for (int64_t r = 0; r < count; r++, first += vocab_size, second += vocab_size) {
        softmax(first, vocab_size);
        softmax(second, vocab_size);
        for (int64_t i = 0; i < vocab_size; i++) first[i] = logf(weight * first[i] + (1 - weight) * second[i]);
    }
}

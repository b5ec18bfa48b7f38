#pragma once

#include <stdint.h>

/* The fields of SamplingParams in gpt/sampling.py. */
typedef struct {
    double temperature, top_p, min_p;
    int64_t top_k;
} Sampling;

enum { OK = 0, NO_MEMORY = 1, NOT_FINITE = 2 };

/* Samples a token for each of `count` rows of logits (count, V) with one of the uniform numbers (count) in [0, 1).
   tokens: in, the forced token or -1; out, the token. logprobs: out, the natural logarithm of the model's own probability for it.
   Returns OK, NO_MEMORY, or NOT_FINITE if the highest logit of a row is infinite or a logit is NaN. */
int sample(int64_t count, int64_t V, const float *logits, const Sampling *params, const double *uniforms, int64_t *tokens,
           double *logprobs);

/* One decode step of an LSTM between an embedding and a linear head: the model in gpt/models/lstm.py, and the decoder of
   lines in gpt/models/vae.py, which reads a latent vector with each token. Compiled and called by lstm.py.

   oneDNN would copy the weights into a layout of its own at each call, which takes longer than the step. Results do not
   depend on the other sequences in the batch.

   Shapes: B sequences, L layers, C channels (hidden_size), E embedding_size, Z latent_size, V vocabulary. Arrays are
   row-major. The gates are in PyTorch's order: input, forget, candidate, output. */

#include "kernel.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const float *weight_ih, *weight_hh, *bias_ih, *bias_hh; /* (4C, E + Z or C), (4C, C), (4C), (4C) */
} Layer;

typedef struct {
    int64_t num_layers, vocab_size, hidden_size, embedding_size, latent_size;
    const float *embed_tokens, *head, *head_bias; /* (V, E), (V, C), (V) */
    const Layer *layers;
} Model;

typedef struct {
    int64_t token;
    float *h, *c; /* (L, C) with a layer every `h_stride` and `c_stride` floats; updated */
    int64_t h_stride, c_stride;
    const float *z; /* (Z) */
} Sequence;

INLINE float sigmoid(float x) { return 1 / (1 + fast_exp(-x)); }

INLINE float tangent(float x) { return 1 - 2 / (1 + fast_exp(2 * x)); }

/* Updates h and c (C) of one sequence from its gates (4C), and copies h to y (C). */
static void update(float *y, float *h, float *c, const float *gates, int64_t C) {
    for (int64_t i = 0; i < C; i++) {
        c[i] = sigmoid(gates[C + i]) * c[i] + sigmoid(gates[i]) * tangent(gates[2 * C + i]);
        y[i] = h[i] = sigmoid(gates[3 * C + i]) * tangent(c[i]);
    }
}

/* One step for n <= BLOCK_SIZE sequences. Returns 1 if an allocation fails, else 0. */
static int decode_block(const Model *m, const Sequence *sequences, int64_t n, float *logits) {
    const int64_t V = m->vocab_size, C = m->hidden_size, E = m->embedding_size, Z = m->latent_size;
    float *scratch = malloc(sizeof(float) * n * (E + Z + 6 * C));
    if (!scratch) return 1;
    float *input = scratch, *x = input + n * (E + Z), *h = x + n * C, *gates = h + n * C;
    for (int64_t r = 0; r < n; r++) {
        memcpy(input + r * (E + Z), m->embed_tokens + sequences[r].token * E, sizeof(float) * E);
        if (Z) memcpy(input + r * (E + Z) + E, sequences[r].z, sizeof(float) * Z);
    }
    for (int64_t l = 0; l < m->num_layers; l++) {
        const Layer *w = m->layers + l;
        for (int64_t r = 0; r < n; r++) {
            memcpy(h + r * C, sequences[r].h + l * sequences[r].h_stride, sizeof(float) * C);
            for (int64_t i = 0; i < 4 * C; i++) gates[r * 4 * C + i] = w->bias_ih[i] + w->bias_hh[i];
        }
        matmul(gates, l ? x : input, w->weight_ih, n, l ? C : E + Z, 4 * C, 1);
        matmul(gates, h, w->weight_hh, n, C, 4 * C, 1);
        for (int64_t r = 0; r < n; r++) {
            const Sequence *s = sequences + r;
            update(x + r * C, s->h + l * s->h_stride, s->c + l * s->c_stride, gates + r * 4 * C, C);
        }
    }
    for (int64_t r = 0; r < n; r++) memcpy(logits + r * V, m->head_bias, sizeof(float) * V);
    matmul(logits, x, m->head, n, C, V, 1);
    free(scratch);
    return 0;
}

/* Writes logits (B, V) after the token of each of `count` sequences and updates its state. Returns 1 if an allocation
   fails, else 0. */
int lstm_step(const Model *model, const Sequence *sequences, int64_t count, float *logits) {
    int failed = 0;
    for (int64_t r = 0; r < count; r += BLOCK_SIZE) {
        int64_t n = count - r < BLOCK_SIZE ? count - r : BLOCK_SIZE;
        failed |= decode_block(model, sequences + r, n, logits + r * model->vocab_size);
    }
    return failed;
}

/** Temperature, top-k, top-p and min-p in the browser: the same arithmetic as gpt/sampling.py, on the same test vectors. */

/**
 * How to choose a token; see `SamplingParams` in gpt/sampling.py.
 * @typedef {{temperature: number, topK: number, topP: number, minP: number}} Params
 */

/** The model's own distribution. */
export const NEUTRAL = Object.freeze({ temperature: 1, topK: 0, topP: 1, minP: 0 });

/** Softmax of logits, of which at least one is finite. */
function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const probs = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = probs.reduce((a, b) => a + b);
  return probs.map((p) => p / sum);
}

/**
 * Apply temperature and filters.
 * @param {ArrayLike<number>} bits -log2 of the probability of each token.
 * @param {Params} params
 * @returns {{probs: Float64Array, removedBy: (string | null)[]}} The distribution that a token is sampled from, and for each
 *   token what removed it ("temperature 0", "top-k", "top-p", "min-p"), or null.
 */
export function applyFilters(bits, { temperature, topK, topP, minP }) {
  const removedBy = new Array(bits.length).fill(null);
  let logits = Float64Array.from(bits, (value) => -value * Math.LN2);
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const remove = (filter, isRemoved) => {
    logits = logits.map((logit, i) => {
      if (!isRemoved(i)) return logit;
      removedBy[i] ??= filter;
      return Number.NEGATIVE_INFINITY;
    });
  };

  logits = logits.map((logit) => logit - highest);
  if (temperature === 0) {
    const best = logits.indexOf(0); // of equal ones the first
    remove("temperature 0", (i) => i !== best);
  } else {
    logits = logits.map((logit) => logit / temperature);
  }
  if (topK > 0 && topK < logits.length) {
    const lowest = logits.slice().sort()[logits.length - topK];
    remove("top-k", (i) => logits[i] < lowest); // ties with the lowest are kept
  }
  if (topP < 1) {
    const probs = softmax(logits);
    const before = new Float64Array(logits.length); // probability of the tokens that are likelier, or equal with a lower id
    let sum = 0;
    for (const i of likeliestFirst(logits)) {
      sum += probs[i];
      before[i] = sum - probs[i];
    }
    const first = logits.indexOf(0);
    remove("top-p", (i) => i !== first && before[i] >= topP);
  }
  if (minP > 0) {
    const probs = softmax(logits);
    const threshold = minP * probs.reduce((a, b) => Math.max(a, b));
    remove("min-p", (i) => probs[i] < threshold);
  }
  return { probs: softmax(logits), removedBy };
}

/** Indexes of the highest value to the lowest; of equal ones, the lowest index first. */
export function likeliestFirst(logits) {
  return Array.from(logits, (_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
}

/**
 * Apply temperature and filters to a distribution of a large vocabulary, of which only the likeliest tokens are known.
 *
 * The others count as equally likely. So they are exact as long as temperature is 1 or top-k removes them; at a higher
 * temperature their share is an upper bound, at a lower one a lower bound. A filter can keep a part of them.
 * @param {ArrayLike<number>} bits -log2 of the probability of each known token.
 * @param {number} rest -log2 of the probability of all others together.
 * @param {number} vocabSize Number of tokens, known and others.
 * @param {Params} params
 * @returns {{probs: Float64Array, removedBy: (string | null)[]}} As `applyFilters`; the last entry is for all others together.
 */
export function applyFiltersToTop(bits, rest, vocabSize, params) {
  const others = vocabSize - bits.length;
  const expanded = new Float64Array(vocabSize).fill(rest + Math.log2(others));
  expanded.set(bits);
  const { probs, removedBy } = applyFilters(expanded, params);
  const sum = probs.subarray(bits.length).reduce((a, b) => a + b, 0);
  return {
    probs: Float64Array.of(...probs.subarray(0, bits.length), sum),
    removedBy: [...removedBy.slice(0, bits.length), removedBy[bits.length]],
  };
}

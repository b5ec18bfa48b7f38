/** Reads the distributions that gpt/distribution.py encodes; it describes their format and error. */

const STEPS_PER_BIT = 1024;
const MAX_STEPS = 65535; // 64 bits or more: taken as impossible
const MAX_COMPLETE = 256;
const TOP_N = 64;

/**
 * The distribution of a token.
 * @typedef {object} Distribution
 * @property {Uint32Array | null} ids Token ids, the likeliest first; null if `bits` has the whole vocabulary in order.
 * @property {Float32Array} bits -log2 of their probabilities.
 * @property {number | null} rest -log2 of the probability of all other tokens together; null if there are none.
 */

/**
 * Decode the distributions of consecutive tokens.
 * @param {string} base64
 * @param {number} count Number of tokens.
 * @param {number} vocabSize
 * @returns {Distribution[]}
 */
export function decodeSteps(base64, count, vocabSize) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const isComplete = vocabSize <= MAX_COMPLETE;
  const n = isComplete ? vocabSize : TOP_N;
  const size = isComplete ? 2 * n : 6 * n + 2;
  if (bytes.length !== count * size)
    throw new Error(`${bytes.length} bytes are not ${count} distributions of ${vocabSize} tokens`);
  const bitsAt = (offset) => {
    const steps = view.getUint16(offset, true);
    return steps === MAX_STEPS ? Number.POSITIVE_INFINITY : steps / STEPS_PER_BIT;
  };
  const list = (Type, read) => Type.from({ length: n }, (_, i) => read(i));
  return Array.from({ length: count }, (_, step) => {
    const start = step * size;
    if (isComplete) return { ids: null, bits: list(Float32Array, (i) => bitsAt(start + 2 * i)), rest: null };
    return {
      ids: list(Uint32Array, (i) => view.getUint32(start + 4 * i, true)),
      bits: list(Float32Array, (i) => bitsAt(start + 4 * n + 2 * i)),
      rest: bitsAt(start + 6 * n),
    };
  });
}

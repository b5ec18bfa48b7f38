/**
 * The entropy of a text, estimated from how many guesses somebody needs for each character (C. E. Shannon, "Prediction and
 * Entropy of Printed English", 1951).
 */

/**
 * How often each number of guesses occurred, smoothed so that a higher number is never more frequent than a lower one, as it
 * is for an ideal guesser, for whom the bounds hold: a number that is more frequent than the one before it is averaged with it
 * (pool adjacent violators).
 * @param {number[]} guesses The number of guesses for each character, 1 for the first.
 * @returns {number[]} The shares of 1, 2, ... guesses.
 */
export function guessDistribution(guesses) {
  const counts = Array.from({ length: Math.max(...guesses) }, (_, i) => guesses.filter((guess) => guess === i + 1).length);
  const pools = [];
  for (const count of counts) {
    let pool = { sum: count, size: 1 };
    while (pools.length && pools.at(-1).sum / pools.at(-1).size < pool.sum / pool.size) {
      const last = pools.pop();
      pool = { sum: last.sum + pool.sum, size: last.size + pool.size };
    }
    pools.push(pool);
  }
  return pools.flatMap(({ sum, size }) => Array(size).fill(sum / size / guesses.length));
}

/**
 * Shannon's bounds of the bits per character.
 * @param {number[]} guesses The number of guesses for each character, 1 for the first; one or more characters.
 * @returns {{lower: number, upper: number}}
 */
export function estimateBits(guesses) {
  const shares = guessDistribution(guesses);
  const lower = shares.reduce((sum, q, i) => sum + (i + 1) * (q - (shares[i + 1] ?? 0)) * Math.log2(i + 1), 0);
  const upper = shares.reduce((sum, q) => (q > 0 ? sum - q * Math.log2(q) : sum), 0);
  return { lower, upper };
}

/** The number of guesses of somebody who gives up after `tried` wrong ones: as many as trying the others in any order takes. */
export function guessesOnGivingUp(tried, alphabetSize) {
  return tried + Math.round((alphabetSize - tried + 1) / 2);
}

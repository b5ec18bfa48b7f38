/**
 * A bigram that learns by gradient descent: the whole of backpropagation for a table of V x V numbers, without a library.
 *
 * The model. Row `last` of the table holds a number (a logit) z_j for each next token j. Softmax turns a row into probabilities:
 *
 *     p_j = exp(z_j) / sum_k exp(z_k)
 *
 * The loss. For a pair (last, next) of the text it is the surprise at `next`, in nats: L = -ln p_next. The loss of a batch is
 * the mean over its pairs. A table of zeros gives every token 1/V, so it starts at ln V.
 *
 * The gradient. L = -z_next + ln sum_k exp(z_k). Its derivative with respect to z_j has two parts. The first is -1 if j is the
 * token that came, else 0. The second is exp(z_j) / sum_k exp(z_k), which is p_j again:
 *
 *     dL/dz_j = p_j - [j = next]
 *
 * All other rows played no part in the guess: their derivatives are 0. In a batch, pairs with the same `last` share a row. If
 * n_j of them went on with j, n in all, their derivatives add up to n p_j - n_j. They vanish where p_j = n_j / n, which is the
 * share that counting finds: the counted table is the minimum of the loss.
 *
 * The update. Each number moves a small step against its derivative: z_j -= learningRate * dL/dz_j.
 */

/** The natural logarithms of the softmax of `logits`. The maximum is subtracted first, so that no exponential overflows. */
export function logSoftmax(logits) {
  let max = -Infinity;
  for (const logit of logits) max = Math.max(max, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  const logSum = max + Math.log(sum);
  return logits.map((logit) => logit - logSum);
}

const sumOf = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

/**
 * The mean loss of a batch, and its gradient.
 *
 * @param {Float64Array[]} logits The table: V rows of V numbers.
 * @param {ArrayLike<number>[]} batch How often each pair is in the batch: `batch[last][next]`.
 * @returns {{loss: number, gradient: (Float64Array | null)[]}} The loss in nats; a row that the batch lacks has no gradient.
 */
export function lossAndGradient(logits, batch) {
  const rowTotals = batch.map(sumOf);
  const pairs = sumOf(rowTotals);
  let loss = 0;
  const gradient = logits.map((row, last) => {
    if (rowTotals[last] === 0) return null;
    const logProbs = logSoftmax(row); // forward: the guess
    return logProbs.map((logProb, next) => {
      loss -= (batch[last][next] * logProb) / pairs;
      return (rowTotals[last] * Math.exp(logProb) - batch[last][next]) / pairs; // backward: n p_j - n_j
    });
  });
  return { loss, gradient };
}

/** A function that returns uniform numbers in [0, 1) from a seed (mulberry32, public domain, Tommy Ettinger). */
function uniformNumbers(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Trains a table by gradient descent on the pairs of a text, from all zeros.
 *
 * A batch is drawn from the counts. That is the same as taking random positions of the text: a pair that occurs twice as often
 * is taken twice as often.
 */
export class BigramTrainer {
  /**
   * @param {number[][]} counts How often each pair is in the text: `counts[last][next]`.
   * @param {object} options
   * @param {number} options.batchSize Pairs of a batch; Infinity takes every pair of the text once.
   * @param {number} options.learningRate The length of a step.
   * @param {number} options.seed Of the random batches.
   */
  constructor(counts, { batchSize = Infinity, learningRate = 1, seed = 1 } = {}) {
    Object.assign(this, { counts, batchSize, learningRate, seed });
    this.size = counts.length;
    this.rowTotals = counts.map(sumOf);
    this.pairs = sumOf(this.rowTotals);
    /** `cumulative[i]`: pairs in the first i + 1 cells of the table, row by row. */
    this.cumulative = new Float64Array(counts.flat());
    for (let i = 1; i < this.cumulative.length; i++) this.cumulative[i] += this.cumulative[i - 1];
    /** The shares of the counts, the best table there is. A token that nothing follows has a uniform row. */
    this.countedProbs = counts.map((row, last) =>
      Float64Array.from(row, (count) => (this.rowTotals[last] ? count / this.rowTotals[last] : 1 / this.size)),
    );
    this.reset();
  }

  /** Back to a table of zeros and the first random numbers. */
  reset() {
    this.logits = this.counts.map(() => new Float64Array(this.size));
    this.steps = 0;
    this.random = uniformNumbers(this.seed);
  }

  /** One step of training: guess, measure, blame, correct. Returns the loss of the batch, in nats, before the step. */
  step() {
    const { loss, gradient } = lossAndGradient(this.logits, this.drawBatch());
    gradient.forEach((row, last) => {
      row?.forEach((derivative, next) => {
        this.logits[last][next] -= this.learningRate * derivative;
      });
    });
    this.steps += 1;
    return loss;
  }

  /** How often each pair is in the next batch. */
  drawBatch() {
    if (this.batchSize === Infinity) return this.counts;
    const batch = this.counts.map(() => new Float64Array(this.size));
    for (let i = 0; i < this.batchSize; i++) {
      const cell = this.cellAt(Math.floor(this.random() * this.pairs));
      batch[Math.floor(cell / this.size)][cell % this.size] += 1;
    }
    return batch;
  }

  /** The cell of the pair at a position, if the pairs are sorted by cell: the first whose cumulative count is above it. */
  cellAt(position) {
    let [low, high] = [0, this.cumulative.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle] > position) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The probabilities in the table as it is now: V rows of V. */
  probs() {
    return this.logits.map((row) => logSoftmax(row).map(Math.exp));
  }

  /** The loss over all pairs of the text, in nats. */
  loss() {
    return lossAndGradient(this.logits, this.counts).loss;
  }

  /** The loss of the counted table: no table is better on this text. */
  countedLoss() {
    let loss = 0;
    this.counts.forEach((row, last) => {
      row.forEach((count, next) => {
        if (count > 0) loss -= (count * Math.log(this.countedProbs[last][next])) / this.pairs;
      });
    });
    return loss;
  }

  /**
   * The cell where the table errs most often: `pairs` is how many pairs of the text it expects too many or too few. A row that
   * is rare in the text counts little, in the loss as well.
   */
  largestDifference(probs = this.probs()) {
    let largest = { last: 0, next: 0, pairs: 0 };
    probs.forEach((row, last) => {
      row.forEach((prob, next) => {
        const pairs = this.rowTotals[last] * Math.abs(prob - this.countedProbs[last][next]);
        if (pairs > largest.pairs) largest = { last, next, pairs };
      });
    });
    return largest;
  }
}

/** What the panel "Inside a bigram" says in words. */
import { formatPercent, nameToken } from "./text.js";

export const count = (number) => number.toLocaleString("en-US");
export const nats = (loss) => `${loss.toFixed(2)} nats`; // as every loss here, for each character
export const bits = (loss) => `${(loss / Math.LN2).toFixed(2)} bits`;
/** At most 3 digits that count; what is below a millionth is 0. */
const short = (number) =>
  (Math.abs(number) < 1e-6 ? 0 : number).toLocaleString("en-US", { maximumSignificantDigits: 3 }).replace("-", "−");
const signed = (number) => (number < 0 ? short(number) : `+${short(number)}`);

/** "92 of 100 times" */
export function per100(part, whole) {
  const share = (100 * part) / whole;
  if (part > 0 && share < 0.5) return "less than 1 of 100 times";
  if (part < whole && share >= 99.5) return "more than 99 of 100 times";
  return `${Math.round(share)} of 100 times`;
}

/**
 * What the training text has in a cell: "After q: u, 92 of 100 times (613 of 667)."
 * @param {string[]} tokens
 * @param {number[]} row How often each token followed.
 * @param {{last: number, next: number}} cell
 */
export function describeCell(tokens, row, { last, next }) {
  const whole = row.reduce((a, b) => a + b, 0);
  const after = `After ${nameToken(tokens[last])}: ${nameToken(tokens[next])}`;
  if (whole === 0) return `${after}. The text never goes on after ${nameToken(tokens[last])}, so nothing can be counted.`;
  if (row[next] === 0) return `${after}, never (0 of ${count(whole)}).`;
  return `${after}, ${per100(row[next], whole)} (${count(row[next])} of ${count(whole)}).`;
}

/** The tokens that follow most often: "Most often: u 92 %, space 3 %." */
export function describeRow(tokens, row, most = 4) {
  const whole = row.reduce((a, b) => a + b, 0);
  const best = Array.from(row.keys())
    .filter((next) => row[next] > 0)
    .sort((a, b) => row[b] - row[a])
    .slice(0, most);
  return best.map((next) => `${nameToken(tokens[next])} ${formatPercent(row[next] / whole)}`).join(", ");
}

/** What happens in one step of training, in the order of `describeStep`. */
export const STEP_TITLES = ["Guess (forward pass)", "Surprise (loss)", "Blame (backward pass)", "Correct (update)"];

/**
 * One step of training, for one cell.
 * @param {object} cell
 * @param {string} cell.last Name of the row.
 * @param {string} cell.next Name of the column.
 * @param {number} cell.prob Its probability in the learned table.
 * @param {number} cell.countedProb Its probability in the counted table.
 * @param {number} cell.share The share of the row in all pairs of the text.
 * @param {number} cell.learningRate
 */
export function describeStep({ last, next, prob, countedProb, share, learningRate }) {
  const difference = prob - countedProb;
  const gradient = share * difference; // the mean of n p_j - n_j over batches (bigram-training.js), for each pair of a batch
  return [
    `After ${last}, the learned table gives ${next} ${formatPercent(prob)}.`,
    `When ${next} does come, the surprise is −ln ${short(prob)} = ${prob > 0 ? nats(-Math.log(prob)) : "more than 700 nats"}. The loss of a batch is ` +
      "the mean surprise of its pairs.",
    `A cell is to blame for its guess minus the share that was counted: ${short(prob)} − ` +
      `${short(countedProb)} = ${signed(difference)}. But only ${formatPercent(share)} of all pairs begin with ${last}. So the ` +
      `derivative of the loss with respect to this cell, its gradient, is ${signed(gradient)} on average.`,
    `The number behind the cell moves against its gradient, times the learning rate: by ${signed(-learningRate * gradient)} in ` +
      "the next step, on average. Softmax turns the numbers of a row into probabilities again.",
  ];
}

/** Questions that beginners ask, with answers. */
export function answers({ size, pairs, uniform, goal, k }) {
  return {
    "What does the loss mean?":
      `It is the mean surprise at a character that comes, −ln of the probability that it had. A table that gives all ${size} ` +
      `characters the same chance has a loss of ln ${size} = ${nats(uniform)}, or ${bits(uniform)}: so many yes/no questions does ` +
      `it take to guess a character. The counted table needs ${bits(goal)}. No table can do better on this text: one character before ` +
      "says no more about the next. On a text that it was not counted on, it needs a little more.",
    "What is a batch, and how large should it be?":
      `The text has ${count(pairs)} pairs. To look at all of them before each step is exact, but slow for a large model. So each step ` +
      "looks at a few random ones: a batch. A batch of 1 points only roughly in the right direction, and the learned table trembles. " +
      "Larger batches tremble less, and so does a lower learning rate, which takes longer. Try a batch of 1 with a learning rate of 30; " +
      "then lower the rate.",
    "Which rows are learned last?":
      "The rare ones. A step corrects only the rows of its batch, and a character that comes once in a million is hardly ever in one. " +
      "Its row stays almost even for a long time; that costs little, because it is rarely needed.",
    "What is padding?":
      "Lines of different length are padded to the same length, to fit into one batch; the padding does not count in the loss. " +
      "Here a batch is a list of pairs, and needs none.",
    "Why learn what can be counted?":
      "A GPT has nothing to count: the 256 characters before the next one hardly ever occur twice. Guess, surprise, blame and correction " +
      "work for it in the same way, through all its layers. That is backpropagation.",
    "Is this the bigram that writes?": `Yes: it is the counted table, with ${k} added to each count, so that no pair is impossible.`,
  };
}

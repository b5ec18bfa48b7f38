/** What the tab Train yours says about texts, losses and runs, in sentences. */

export const MAX_BYTES = 2_000_000; // of a text (MAX_TEXT_BYTES in ui/training.py)

const KINDS = { gpt: "GPT", lstm: "LSTM", bigram: "Bigram, trained" };

export const count = (n) => n.toLocaleString("en-US");

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** Among how many equally likely characters a choice is as uncertain as a loss says. */
export const equalChoices = (nats) => Math.exp(nats);

/** "2.00 nats a character (2.89 bits): as unsure as choosing among 7.4 equally likely characters." */
export const describeLoss = (nats) => {
  const choices = equalChoices(nats);
  const among = choices < 100 ? choices.toFixed(1) : count(Math.round(choices));
  const bits = (nats / Math.LN2).toFixed(2);
  return `${nats.toFixed(2)} nats a character (${bits} bits): as unsure as choosing among ${among} equally likely characters.`;
};

/** "1 before you, about 40 s." */
export const describeQueue = ({ before, seconds }) =>
  before > 0
    ? `Somebody else is training now: ${before} before you, about ${Math.ceil(seconds)} s.`
    : "It is your turn. Starting…";

/** "12 s left · 31,000 tokens a second · step 210"; without the time after the end. */
export const describeProgress = ({ seconds_left: left, tokens_per_second: speed, step }, hasEnded = false) =>
  `${hasEnded ? "" : `${Math.max(0, Math.ceil(left))} s left · `}${count(Number(speed.toPrecision(2)))} tokens a second · step ${count(step)}`;

/** The names of the two sizes and tokenizers come with the run; a bigram has neither. */
export const titleOf = ({ kind, size, tokenizer, seconds }) => {
  const parts = [KINDS[kind]];
  if (kind !== "bigram") parts.push(size);
  if (tokenizer !== "char") parts.push("sub-words");
  return `${parts.join(", ")}, ${seconds} s`;
};

/** Why a file cannot be taken, before it is sent; "" if it can. */
export const whyNot = (files) => {
  if (files.length !== 1) return `These are ${files.length} files. Give one text at a time.`;
  const { size } = files[0];
  if (size > MAX_BYTES)
    return `This file has ${megabytes(size)}; a text here has up to ${MAX_BYTES / 1e6} MB. Take a part of it, for instance one chapter.`;
  return "";
};

/** What a plot shows, for those who cannot see it. */
export const describePlot = (runs) => {
  const sentences = runs.map(({ choices, evaluations, budget }) => {
    const title = titleOf(choices);
    if (evaluations.length === 0) return `${title}: nothing measured yet.`;
    const [first, last] = [evaluations[0], evaluations.at(-1)];
    const best = Math.min(...evaluations.map((each) => each.held_out));
    return (
      `${title}: in ${Math.round(last.seconds)} of ${budget} seconds, the loss on unseen text went from ${first.held_out.toFixed(2)} ` +
      `to ${last.held_out.toFixed(2)} nats a character; the best was ${best.toFixed(2)}.`
    );
  });
  const { baselines } = runs[0];
  if (baselines)
    sentences.push(
      `A uniform guess has ${baselines.uniform.toFixed(2)}, a counted bigram ${baselines.bigram.toFixed(2)}, ` +
        `a counted n-gram ${baselines.ngram.toFixed(2)}.`,
    );
  return sentences.join(" ");
};

/** Rows for `drawBars`: all models of a run from worst to best, with the uniform guess as the reference. */
export const barsOf = ({ models, winner }, uniform) => [
  { name: "Uniform guess", value: uniform, text: uniform.toFixed(2), isReference: true },
  ...[...models]
    .sort((a, b) => b.held_out - a.held_out)
    .map(({ name, title, held_out: nats }) => ({
      name: title[0].toUpperCase() + title.slice(1),
      value: nats,
      text: `${nats.toFixed(2)}${name === winner ? " best" : ""}`,
    })),
];

/** Sentences about a text and about the choice of one of its tokens. */
import { fromQuery, paramsOf, parseBranch, SETTINGS } from "./link.js";
import { applyFilters, applyFiltersToTop } from "./sampling.js";
import { describeBits, nameToken, showWhitespace } from "./text.js";

const MAX_LABEL_CHARS = 24;
const CONTEXT_CHARS = 12;
const MANY_NEW_LINES = 8;

/**
 * @typedef {object} Text
 * @property {object} model What `page/models` says of it.
 * @property {string} query Its link.
 * @property {string} prompt As the model reads it.
 * @property {object[]} tokens See `streamText` in api.js.
 */

/** "300 characters", "1 piece of a word" */
export const count = (number, { unit }) => {
  const units = unit === "character" ? ["character", "characters"] : ["piece of a word", "pieces of words"];
  return `${number.toLocaleString("en-US")} ${units[number === 1 ? 0 : 1]}`;
};

const settingsOf = (values) => {
  const { temperature, topK, topP, minP } = paramsOf(values);
  const filters = [
    [topK !== SETTINGS.top_k, `top-k ${topK}`],
    [topP !== SETTINGS.top_p, `top-p ${topP}`],
    [minP !== SETTINGS.min_p, `min-p ${minP}`],
  ];
  return [`temperature ${temperature}`, ...filters.filter(([isOn]) => isOn).map(([, words]) => words)];
};

/** Who wrote a text, and how. @param {Text} text */
export const caption = ({ model, query, tokens }) => {
  const { seed, ...settings } = fromQuery(query);
  return [model.name, ...settingsOf(settings), `seed ${seed}`, count(tokens.length, model)].join(" · ");
};

/**
 * How well a model predicts text that it has not seen.
 * @param {object} model
 * @param {object[]} models All of them; one that reads single characters tells how many there are.
 */
export const heldOut = ({ bits_per_character: bits, dataset, likelihood, is_own: isOwn }, models) => {
  if (!bits) return "";
  const figure = `${likelihood === "bound" ? "at most " : ""}${bits.toFixed(2)}`;
  const isOfText = (other) => other.dataset === dataset && other.is_own === isOwn && other.unit === "character";
  const alphabet = models.find(isOfText)?.vocabulary;
  const guess = alphabet ? `; guessing needs ${Math.log2(alphabet.length).toFixed(2)}` : "";
  const sentence = `${figure} bits per character on unseen text: ${bits.toFixed(2)} yes/no questions per letter${guess}.`;
  return sentence[0].toUpperCase() + sentence.slice(1);
};

/** Whether new lines must be shown, because there is nothing else to see, or many of them. */
export const hasManyNewLines = (tokens) => {
  const text = tokens.map((token) => token.text).join("");
  return text !== "" && (text.trim() === "" || text.includes("\n".repeat(MANY_NEW_LINES)));
};

/** Why a text ends in new lines, if that can be said. @param {Text} text */
export const newLinesSentence = ({ query, tokens }) => {
  const endsSo = tokens.length >= MANY_NEW_LINES && tokens.slice(-MANY_NEW_LINES).every(({ text }) => text === "\n");
  return endsSo && paramsOf(fromQuery(query)).temperature === 0 ? "Always the likeliest: after a new line, a new line." : "";
};

/** The end of what stands before a token; undefined at the very beginning. @param {Text} text */
export const contextOf = ({ prompt, tokens }, index) => {
  const before = Array.from(
    prompt +
      tokens
        .slice(Math.max(0, index - CONTEXT_CHARS), index)
        .map(({ text }) => text)
        .join(""),
  );
  if (before.length === 0) return undefined;
  return before.length > CONTEXT_CHARS ? `…${before.slice(-CONTEXT_CHARS).join("")}` : before.join("");
};

/** Index of the token with the highest surprisal. */
export const mostSurprising = (tokens) => tokens.reduce((best, { bits }, i) => (bits > tokens[best].bits ? i : best), 0);

/** How many tokens were left to choose from. */
const countCandidates = ({ bits, rest = null }, vocabularySize, params) => {
  const { probs, removedBy } = rest === null ? applyFilters(bits, params) : applyFiltersToTop(bits, rest, vocabularySize, params);
  const isLeft = (_, i) => removedBy[i] === null && probs[i] > 0;
  const others = rest !== null && isLeft(null, bits.length) ? vocabularySize - bits.length : 0;
  return Array.from(bits).filter(isLeft).length + others;
};

/**
 * How a token was chosen, and how surprising it is.
 * @param {Text} text
 * @param {number} index
 */
export const choiceSentences = ({ model, query, tokens }, index) => {
  const { bits, distribution } = tokens[index];
  const link = fromQuery(query);
  const surprisal = `Its surprisal is ${describeBits(bits)}.`;
  if (parseBranch(link.branch).some(([at]) => at === index)) return `You chose it. ${surprisal}`;
  const size = model.vocabulary.length;
  const left = countCandidates(distribution, size, paramsOf(link));
  if (left === 1) return `The settings of this text left nothing else to choose from. ${surprisal}`;
  return `It was chosen from ${left === size ? "all " : ""}${count(left, model)}. ${surprisal}`;
};

/** That the distribution is shown for other settings than the text's; "" if it is not. */
export const otherSettings = ({ query }, values) => {
  const [own, shown] = [settingsOf(fromQuery(query)), settingsOf(values)].map((settings) => settings.join(", "));
  return own === shown ? "" : `This text was written with ${own}. The bars show ${shown}.`;
};

const shorten = (text) => {
  const characters = Array.from(text);
  return showWhitespace(characters.length > MAX_LABEL_CHARS ? `${characters.slice(0, MAX_LABEL_CHARS).join("")}…` : text);
};

/** What to call a text in the list of this visit. @param {Text} text */
export const rootLabel = ({ model, query }) => {
  const { prompt, seed } = fromQuery(query);
  return `${model.name}, ${prompt ? `“${shorten(prompt)}”` : "no prompt"}, seed ${seed}`;
};

/** What to call a branch: "13: h instead of e". */
export const branchLabel = (index, token, instead) => `${index + 1}: ${nameToken(token)} instead of ${nameToken(instead)}`;

/** Arithmetic and words of the tab "All at once": texts of which some places are hidden. */
import { quote } from "./text.js";

/** The steps that a visitor can choose. */
export const STEPS = [4, 8, 16, 32, 64, 128];
export const HIDDEN = "·";
export const END = "⏎"; // of a line, and what stands after it
export const DOUBTFUL_BITS = 8; // from which on a character is marked: expected in fewer than 1 of 256 cases
const CONTEXT_CHARS = 8;
const CHOSEN_GAP = "___"; // the model chooses the length

/**
 * A place of a text.
 * @typedef {object} Place
 * @property {number | null} id The token; null while it is hidden.
 * @property {number} step The number of the step that revealed it, 1 for the first; 0 for a given place, NaN for a hidden one.
 * @property {object} [distribution] From which it was drawn; see codec.js.
 */

/**
 * A text after some of its steps.
 * @param {(number | null)[]} canvas The token ids before the first step, null at each hidden place.
 * @param {{positions: number[], ids: number[], distributions: object[]}[]} steps
 * @param {number} count Of the steps.
 * @returns {Place[]}
 */
export const placesAfter = (canvas, steps, count) => {
  const places = canvas.map((id) => ({ id, step: id === null ? Number.NaN : 0 }));
  for (const [i, { positions, ids, distributions }] of steps.slice(0, count).entries())
    positions.forEach((position, j) => {
      places[position] = { id: ids[j], step: i + 1, distribution: distributions[j] };
    });
  return places;
};

/**
 * The canvas of a prompt and hidden places after it, as the server would make it.
 * @param {{vocabulary: string[], writes_lines: boolean, context_length: number}} model
 * @param {string} prompt Characters that the model does not know are left out.
 * @param {number} length Number of hidden places; a line has as many as there is room for.
 * @returns {(number | null)[]}
 */
export const hiddenCanvas = ({ vocabulary, writes_lines: writesLines, context_length: room }, prompt, length) => {
  const ids = Array.from(prompt, (character) => vocabulary.indexOf(character)).filter((id) => id >= 0);
  const given = writesLines ? [vocabulary.indexOf("\n"), ...ids] : ids;
  return [...given, ...Array(writesLines ? room - given.length : length).fill(null)];
};

/** What a model calls the places of a text, and which of them the page shows. */
export const createSpelling = ({ vocabulary, writes_lines: writesLines }) => {
  const end = writesLines ? vocabulary.indexOf("\n") : -1;
  return {
    /** The text of a place. @param {number | null} id */
    of: (id) => (id === null ? HIDDEN : id === end ? END : vocabulary[id]),

    /** The range of the places that are shown: a line without its start token and without the given places after its end. */
    range: (canvas) => {
      if (!writesLines) return [0, canvas.length];
      const last = canvas.findLastIndex((id) => id !== end);
      return [1, Math.max(last + 1, 2)];
    },

    /** The finished text: of a line, what stands before its end. */
    text: (ids) => {
      const stop = writesLines ? ids.indexOf(end, 1) : -1;
      return ids
        .slice(writesLines ? 1 : 0, stop < 0 ? undefined : stop)
        .map((id) => vocabulary[id])
        .join("");
    },
  };
};

/** -log2 of the probability of a token in a distribution. */
export const bitsOf = ({ ids, bits, rest }, id) => (ids === null ? bits[id] : (bits[ids.indexOf(id)] ?? rest));

/** "Between “wha” and “ ligh·” the model": the beginning of a sentence about a place. @param {string[]} texts Of all places. */
export const describePlace = (texts, index) => {
  const before = texts.slice(Math.max(0, index - CONTEXT_CHARS), index).join("");
  const after = texts.slice(index + 1, index + 1 + CONTEXT_CHARS).join("");
  if (before && after) return `Between ${quote(before)} and ${quote(after)} the model`;
  if (before) return `After ${quote(before)} the model`;
  return after ? `Before ${quote(after)} the model` : "Without any context the model";
};

/**
 * Hide a passage of a text: as many underscores as characters, or, for a short one, a gap whose length the model chooses.
 * @param {string} text
 * @param {number} start Of the passage, as a text area counts.
 * @param {number} end
 */
export const hidePassage = (text, start, end) => {
  const length = Array.from(text.slice(start, end)).length;
  return text.slice(0, start) + (length > CHOSEN_GAP.length ? "_".repeat(length) : CHOSEN_GAP) + text.slice(end);
};

/** Indexes of the characters that a model finds unlikely, the most unlikely first. @param {number[]} bits */
export const doubtfulPlaces = (bits) =>
  bits
    .map((_, i) => i)
    .filter((i) => bits[i] >= DOUBTFUL_BITS)
    .sort((a, b) => bits[b] - bits[a] || a - b);

/** What a proofreading found, in a sentence. */
export const proofreadingSentence = (count, length) => {
  if (count === 0) return `None of the ${length.toLocaleString("en-US")} characters is unlikely in its place.`;
  const places = count === 1 ? "1 character is" : `${count.toLocaleString("en-US")} characters are`;
  return `${places} unlikely here, of ${length.toLocaleString("en-US")}. The model may be right, or surprised by a rare word.`;
};

const formatShare = (share) => `${Math.round(100 * share)}\u00a0%`;
const formatSeconds = (value) => (value < 1 ? `${Math.max(1, Math.round(1000 * value))} ms` : `${value.toFixed(1)} s`);

/**
 * Who was quicker and who writes better, in sentences.
 * @param {{name: string, steps: number, seconds: number, bits: number, known_words: number, unique_words: number}[]} racers
 * @param {string} judge Its name.
 */
export const raceSentences = (racers, judge) => {
  const [quick, slow] = [...racers].sort((a, b) => a.seconds - b.seconds);
  const [good, poor] = [...racers].sort((a, b) => a.bits - b.bits);
  const time = `${quick.name} was quicker: ${formatSeconds(quick.seconds)} for ${quick.steps} steps; ${slow.name} took ${formatSeconds(slow.seconds)} for ${slow.steps}.`;
  const difference = poor.bits - good.bits;
  const verdict =
    difference < 0.1
      ? `To ${judge}, which took no part, both texts are equally likely.`
      : `${judge}, which took no part, finds the text of ${good.name} more likely: ${good.bits.toFixed(2)} bits per character against ${poor.bits.toFixed(2)}.`;
  const isDull = difference >= 0.1 && good.unique_words < poor.unique_words - 0.1;
  return [time, verdict, isDull && `But ${good.name} repeats itself more, and dull text is easy to expect.`]
    .filter(Boolean)
    .join(" ");
};

/** What is known of a racer: names and values. */
export const describeRacer = ({ steps, seconds: time, bits, known_words: known, unique_words: unique }) => [
  ["Steps", steps.toLocaleString("en-US")],
  ["Time on this server", formatSeconds(time)],
  ["Bits per character to the judge", bits.toFixed(2)],
  ["Words that are in the plays", formatShare(known)],
  ["Words that differ from each other", formatShare(unique)],
];

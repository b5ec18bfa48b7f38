/**
 * Arithmetic on the surprisal of one text under several models, as the endpoint page/score sends it.
 * @typedef {object} Score
 * @property {string} id The model.
 * @property {number[]} bits The surprisal of each token.
 * @property {number[][] | null} spans For each token the index of its first character and of the one after it; null if token i
 *   is character i.
 */

/** From how many bits more than each of the others a model counts as much more surprised. */
export const THRESHOLD_BITS = 3;
const APART = 8; // characters between two of the most or least expected places

/**
 * What a model reads as one: a token, or the tokens that are parts of the same character.
 * @typedef {{start: number, end: number, bits: number}} Piece
 */

/**
 * The pieces of a text in order. Unknown characters are in none.
 * @param {Score} score
 * @returns {Piece[]}
 */
export const toPieces = ({ bits, spans }) => {
  const pieces = [];
  bits.forEach((value, i) => {
    const [start, end] = spans ? spans[i] : [i, i + 1];
    const last = pieces.at(-1);
    if (last && start < last.end) {
      last.bits += value;
      last.end = Math.max(last.end, end);
    } else pieces.push({ start, end, bits: value });
  });
  return pieces;
};

/**
 * The surprisal of each character; the bits of a longer piece count evenly for its characters.
 * @param {Score} score
 * @param {number} length Number of characters of the text.
 * @returns {number[]} NaN for a character that the model does not know.
 */
export const perCharacter = (score, length) => {
  const bits = new Array(length).fill(Number.NaN);
  for (const piece of toPieces(score)) bits.fill(piece.bits / (piece.end - piece.start), piece.start, piece.end);
  return bits;
};

/** Bits per character of those from `start` to before `end` that the model knows; NaN if it knows none. */
export const bitsPerCharacter = (bits, start = 0, end = bits.length) => {
  const known = bits.slice(start, end).filter((value) => !Number.isNaN(value));
  return known.reduce((sum, value) => sum + value, 0) / known.length;
};

/**
 * Which model is much more surprised by a character than the others: by at least THRESHOLD_BITS more than each of them.
 * @param {number[]} bits Of each model; NaN if it does not know the character.
 * @returns {number} Its index; -1 if there is none.
 */
export const muchMoreSurprised = (bits) => {
  const order = bits.map((_, i) => i).filter((i) => !Number.isNaN(bits[i]));
  const [highest, next] = order.sort((a, b) => bits[b] - bits[a]);
  return next !== undefined && bits[highest] - bits[next] >= THRESHOLD_BITS ? highest : -1;
};

/**
 * Indexes of the pieces that surprise most and least, the most extreme first and not close to each other.
 * @param {Piece[]} pieces
 * @param {number} [count] At most so many of each.
 * @returns {{most: number[], least: number[]}}
 */
export const extremePlaces = (pieces, count = 5) => {
  const order = pieces.map((_, i) => i).sort((a, b) => pieces[b].bits - pieces[a].bits || a - b);
  const most = apart(pieces, order, count);
  const least = apart(pieces, order.filter((i) => !most.includes(i)).reverse(), count);
  return { most, least };
};

const apart = (pieces, order, count) => {
  const chosen = [];
  for (const i of order) {
    if (chosen.length === count) break;
    if (chosen.every((j) => Math.abs(pieces[i].start - pieces[j].start) > APART)) chosen.push(i);
  }
  return chosen;
};

/**
 * Where a piece is: what a character at an index belongs to.
 * @param {Piece[]} pieces
 * @param {number} at Index of the character.
 * @returns {Piece | undefined}
 */
export const pieceAt = (pieces, at) => pieces.find(({ start, end }) => start <= at && at < end);

import assert from "node:assert/strict";
import { test } from "node:test";
import { matrix, samePlace } from "../../ui/static/js/compare.js";
import { differenceSentence, summary, withUnknown } from "../../ui/static/js/score.js";
import {
  bitsPerCharacter,
  extremePlaces,
  muchMoreSurprised,
  perCharacter,
  pieceAt,
  toPieces,
} from "../../ui/static/js/surprisal.js";

const nan = Number.NaN;

test("pieces of a text of characters, of pieces of words, and of parts of a character", () => {
  assert.deepEqual(toPieces({ bits: [1, 2], spans: null }), [
    { start: 0, end: 1, bits: 1 },
    { start: 1, end: 2, bits: 2 },
  ]);
  const spans = [
    [0, 3],
    [3, 4],
    [3, 4],
    [5, 6],
  ];
  assert.deepEqual(toPieces({ bits: [6, 1, 2, 4], spans }), [
    { start: 0, end: 3, bits: 6 },
    { start: 3, end: 4, bits: 3 },
    { start: 5, end: 6, bits: 4 },
  ]);
  assert.deepEqual(perCharacter({ bits: [6, 1, 2, 4], spans }, 6), [2, 2, 2, 3, nan, 4]);
});

test("bits per character leave out unknown characters", () => {
  assert.equal(bitsPerCharacter([2, 2, 2, 3, nan, 4]), 13 / 5);
  assert.equal(bitsPerCharacter([2, 2, 2, 3, nan, 4], 3, 6), 3.5);
  assert.ok(Number.isNaN(bitsPerCharacter([nan])));
});

test("a model is much more surprised if it needs 3 bits more than each other one", () => {
  assert.equal(muchMoreSurprised([1, 4, 0.5]), 1); // 4 - 1 = 3
  assert.equal(muchMoreSurprised([1, 3.99, 0.5]), -1);
  assert.equal(muchMoreSurprised([7.5, 3.2, 8.7]), -1); // two are surprised
  assert.equal(muchMoreSurprised([9, 1]), 0);
  assert.equal(muchMoreSurprised([9, nan, 1]), 0);
  assert.equal(muchMoreSurprised([9, nan]), -1); // nothing to compare with
  assert.equal(muchMoreSurprised([nan, nan]), -1);
});

test("the most and the least expected places are apart", () => {
  const bits = new Array(40).fill(1);
  Object.assign(bits, { 3: 9, 4: 8, 12: 7, 13: 0.5, 30: 0.1, 31: 0.2 });
  const pieces = toPieces({ bits, spans: null });
  // 4 is next to 3; 12 is 9 characters from it
  assert.deepEqual(extremePlaces(pieces, 2), { most: [3, 12], least: [30, 13] });
  assert.deepEqual(extremePlaces(pieces.slice(0, 2)), { most: [0], least: [1] });
  assert.deepEqual(extremePlaces([]), { most: [], least: [] });
});

test("the piece at a character", () => {
  const pieces = toPieces({ bits: [6, 4], spans: [[0, 3], [4, 5]] }); // biome-ignore format: short
  assert.deepEqual(pieceAt(pieces, 2), { start: 0, end: 3, bits: 6 });
  assert.equal(pieceAt(pieces, 3), undefined);
  assert.deepEqual(withUnknown(pieces, ["a", "b", "c", "é", "d", "ö"]), [
    pieces[0],
    { start: 3, end: 4 },
    pieces[1],
    { start: 5, end: 6 },
  ]);
});

test("the matrix has the prompt and the text of each column for each reader", () => {
  const columns = [
    { promptLength: 2, readers: [[1, 3, 2, 2], [2, 2, 4, 6]] }, // biome-ignore format: a table
    { promptLength: 2, readers: [[1, 3, 8, 0], [2, 2, 1, nan]] }, // biome-ignore format: a table
  ];
  assert.deepEqual(matrix(columns), [
    [2, 2, 4],
    [2, 5, 1],
  ]);
});

test("columns are at the same place as long as prompt and text are equal", () => {
  const column = (prompt, ...texts) => ({ prompt, tokens: texts.map((text) => ({ text })) });
  const columns = [
    column("ab", "c", "d", "e"),
    column("ab", "cd", "f"), // pieces of words
    column("ab", "c", "x", "e"),
    column("AB", "c", "d"),
  ];
  const at = (c, index) => samePlace(columns, c, index).map((place) => [place.column, place.index]);
  assert.deepEqual(at(0, 0), [
    [0, 0],
    [1, 0],
    [2, 0],
  ]);
  assert.deepEqual(at(0, 1), [
    [0, 1],
    [2, 1],
  ]);
  assert.deepEqual(at(0, 2), [
    [0, 2],
    [1, 1],
  ]);
  assert.deepEqual(at(3, 1), [[3, 1]]);
});

const model = (name, size = 65, likelihood = "exact") => ({
  name,
  likelihood,
  unit: "character",
  vocabulary: new Array(size),
});

test("sentences compare models", () => {
  const gpt = { model: model("gpt"), bits_per_character: 2.08, piece: { start: 0, end: 1, bits: 0.4 } };
  const bigram = { model: model("bigram"), bits_per_character: 3.61, piece: { start: 0, end: 1, bits: 6.1 } };
  assert.equal(
    summary([gpt, bigram]),
    "gpt needs 2.1 yes/no questions per character for this text; bigram needs 3.6; guessing blindly would need 6.0.",
  );
  assert.match(summary([{ ...gpt, bits_per_character: 7 }]), /Even the best of them expected something very different\.$/);
  assert.match(summary([{ model: model("vae", 27, "bound"), bits_per_character: 3 }]), /^vae needs at most 3\.0 .* need 4\.8\.$/);
  assert.equal(differenceSentence([gpt, bigram]), "Here bigram needs 6.1 bits, gpt 0.4 bits.");
  assert.equal(differenceSentence([gpt, gpt]), "Here the models agree.");
  assert.equal(differenceSentence([gpt, { model: model("names") }]), "");
});

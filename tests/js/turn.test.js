import assert from "node:assert/strict";
import { test } from "node:test";
import { createGame, describeAnswer } from "../../ui/static/js/turn.js";

const passage = (answer, guesses) => ({
  answer,
  models: [
    { title: "a bigram", bits: [2, 4], guesses: ["e", "e"] },
    { title: "a GPT", bits: [1, 0], guesses },
  ],
});

test("a right guess ends a character, a wrong one does not, the case does not matter", () => {
  const game = createGame([passage("Hi", ["h", "o"])]);
  assert.equal(game.results(), null);
  assert.equal(game.guess("t"), null);
  assert.deepEqual(game.wrong, ["t"]);
  const answer = game.guess("h");
  assert.deepEqual(answer, { character: "H", guesses: 2, isRevealed: false, guess: "h" });
  assert.deepEqual(game.wrong, []);
  assert.equal(game.isOver, false);
  game.guess("i");
  assert.equal(game.isOver, true);
});

test("what is no guess does not count", () => {
  const game = createGame([passage("ab", ["a", "b"])]);
  assert.equal(game.guess("é"), undefined);
  assert.equal(game.guess("x"), null);
  assert.equal(game.guess("x"), undefined); // again
  assert.deepEqual(game.wrong, ["x"]);
  game.guess("a");
  game.guess("b");
  assert.equal(game.guess("c"), undefined); // it is over
  assert.equal(game.reveal(), undefined);
  assert.equal(game.results().characters, 2);
});

test("all are measured on the same characters", () => {
  const game = createGame([passage("ab", ["a", "b"]), passage("cd", ["c", "d"])]);
  game.guess("a");
  assert.deepEqual(game.results(), {
    characters: 1,
    visitor: { lower: 0, upper: 0 },
    models: [
      { title: "a bigram", bits: 2 },
      { title: "a GPT", bits: 1 },
    ],
  });
  game.guess("b");
  game.next();
  assert.equal(game.isOver, false);
  game.guess("x");
  game.guess("c");
  const { characters, visitor, models } = game.results();
  assert.equal(characters, 3); // 1, 1 and 2 guesses: q = 2/3, 1/3
  assert.ok(Math.abs(visitor.lower - 2 / 3) < 1e-9);
  assert.ok(Math.abs(models[0].bits - 8 / 3) < 1e-9);
});

test("giving up counts as half of the characters that are left", () => {
  const game = createGame([passage("ab", ["a", "b"])]);
  game.guess("x");
  const { guesses, isRevealed } = game.reveal();
  assert.equal(isRevealed, true);
  assert.equal(guesses, 19); // 1 wrong of 36; 35 are left: 18 in the mean
});

test("a game without models", () => {
  const game = createGame([{ answer: "a", models: [] }]);
  assert.equal(game.guess("a").guess, undefined);
  assert.deepEqual(game.results().models, []);
});

test("what is said of an answer", () => {
  assert.equal(describeAnswer("T", 0, false, "t"), "Yes: T, with guess 1. The GPT would have guessed the same.");
  assert.equal(describeAnswer(" ", 2, false, "\n"), "Yes: space, with guess 3. The GPT would have guessed new line first.");
  assert.equal(describeAnswer("\n", 2, true, undefined), "It was: new line.");
});

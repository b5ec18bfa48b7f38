// The parts of the panel "Inside a bigram" that need no browser
import assert from "node:assert/strict";
import { test } from "node:test";
import { describeCell, describeRow, describeStep, per100 } from "../../ui/static/js/bigram-words.js";
import { moveCell, shade } from "../../ui/static/js/heat-map.js";

const TOKENS = ["\n", " ", "a", "q", "u"];
const ROW = [0, 3, 0, 0, 97];

test("a cell is described in words, with whitespace by its name", () => {
  assert.equal(describeCell(TOKENS, ROW, { last: 3, next: 4 }), "After q: u, 97 of 100 times (97 of 100).");
  assert.equal(describeCell(TOKENS, ROW, { last: 0, next: 1 }), "After new line: space, 3 of 100 times (3 of 100).");
  assert.equal(describeCell(TOKENS, ROW, { last: 3, next: 0 }), "After q: new line, never (0 of 100).");
  assert.equal(
    describeCell(TOKENS, [1500, 0, 500, 0, 0], { last: 2, next: 0 }),
    "After a: new line, 75 of 100 times (1,500 of 2,000).",
  );
  assert.match(describeCell(TOKENS, [0, 0, 0, 0, 0], { last: 2, next: 0 }), /^After a: new line\. The text never goes on/);
});

test("shares near 0 and 1 are not rounded to never and always", () => {
  assert.equal(per100(1, 1000), "less than 1 of 100 times");
  assert.equal(per100(5, 1000), "1 of 100 times");
  assert.equal(per100(999, 1000), "more than 99 of 100 times");
  assert.equal(per100(1000, 1000), "100 of 100 times");
});

test("a row is described by what follows most often", () => {
  assert.equal(describeRow(TOKENS, ROW), "u 97.0\u00a0%, space 3.0\u00a0%");
  assert.equal(describeRow(TOKENS, [1, 5, 2, 4, 3], 2), "space 33.3\u00a0%, q 26.7\u00a0%");
  assert.equal(describeRow(TOKENS, [0, 0, 0, 0, 0]), "");
});

test("a step of training is described with the numbers of the cell", () => {
  // 1/4 - 3/4 = -1/2, for a tenth of the pairs: a gradient of -1/20, and a step of 20 times that.
  const cell = { last: "q", next: "u", prob: 0.25, countedProb: 0.75, share: 0.1, learningRate: 20 };
  const [guess, surprise, blame, update] = describeStep(cell);
  assert.match(guess, /^After q, the learned table gives u 25\.0\u00a0%\.$/);
  assert.match(surprise, /−ln 0\.25 = 1\.39 nats/);
  assert.match(blame, /0\.25 − 0\.75 = −0\.5\. But only 10\.0\u00a0% of all pairs begin with q\..* is −0\.05 on average/);
  assert.match(update, /by \+1 in the next step/);
  const lost = describeStep({ ...cell, prob: 0, countedProb: 1, share: 1e-6 / 3 });
  assert.match(lost[1], /−ln 0 = more than 700 nats/);
  assert.match(lost[2], /0 − 1 = −1\. But only <\u00a00\.01\u00a0%.* is 0 on average/);
  assert.match(lost[3], /by \+0\.00000667 in/);
});

test("keys move the cell, and stop at the edges", () => {
  const move = (key, last = 1, next = 2) => Object.values(moveCell(key, { last, next }, TOKENS) ?? {});
  assert.deepEqual(move("ArrowRight"), [1, 3]);
  assert.deepEqual(move("ArrowLeft"), [1, 1]);
  assert.deepEqual(move("ArrowUp"), [0, 2]);
  assert.deepEqual(move("ArrowDown"), [2, 2]);
  assert.deepEqual(move("ArrowUp", 0), [0, 2]);
  assert.deepEqual(move("ArrowDown", 4), [4, 2]);
  assert.deepEqual(move("ArrowLeft", 0, 0), [0, 0]);
  assert.deepEqual(move("ArrowRight", 0, 4), [0, 4]);
  assert.deepEqual([move("Home"), move("End")].flat(), [1, 0, 1, 4]);
  assert.deepEqual([move("PageUp"), move("PageDown")].flat(), [0, 2, 4, 2]);
});

test("a character of the vocabulary goes to its row; other keys do nothing", () => {
  const move = (key) => moveCell(key, { last: 1, next: 2 }, TOKENS);
  assert.deepEqual(move("q"), { last: 3, next: 2 });
  assert.deepEqual(move(" "), { last: 1, next: 2 });
  assert.deepEqual(move("Enter"), { last: 0, next: 2 });
  for (const key of ["z", "Tab", "Escape", "F5"]) assert.equal(move(key), null);
});

test("shades grow from 0 to 1, the more quickly the rarer", () => {
  assert.deepEqual([0, 0.01, 0.25, 1].map(shade), [0, 0.1, 0.5, 1]);
});

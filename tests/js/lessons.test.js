import assert from "node:assert/strict";
import { test } from "node:test";
import { feedback, formatPlace, parsePlace } from "../../ui/static/js/lesson-panel.js";
import { describeLength } from "../../ui/static/js/lessons.js";

test("a place is a lesson and a step, and the introduction without a step", () => {
  for (const [text, place] of [
    ["3", { number: 3, step: 0 }],
    ["3.2", { number: 3, step: 2 }],
    ["12.10", { number: 12, step: 10 }],
  ]) {
    assert.deepEqual(parsePlace(text), place);
    assert.equal(formatPlace(place), text);
  }
  for (const text of [undefined, "", "x", "3.", ".2", "3.2.1", "-1", "3.x"]) assert.equal(parsePlace(text), null);
});

test("feedback is in words and names the answer", () => {
  const options = ["one", "two", "Why not?"];
  assert.equal(feedback(options, 1, 1), "Right.");
  assert.equal(feedback(options, 1, 0), "Not quite. The answer: two.");
  assert.equal(feedback(options, 1), "The answer: two.");
  assert.equal(feedback(options, 2, 0), "Not quite. The answer: Why not?");
});

test("the length of a lesson", () => {
  assert.equal(describeLength({ steps: [1, 2], minutes: 5 }), "2 steps, about 5 minutes");
  assert.equal(describeLength({ steps: [1], minutes: 1 }), "1 step, about 1 minute");
});

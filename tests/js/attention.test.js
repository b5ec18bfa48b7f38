import assert from "node:assert/strict";
import { test } from "node:test";
import { barsPath, decodeAttention, meanAttention, strongest } from "../../ui/static/js/attention.js";

const encode = (...bytes) => Buffer.from(bytes).toString("base64");
const numbers = (weights) => Array.from(weights, (weight) => Math.round(weight * 1000) / 1000);

test("weights are decoded by layer and head", () => {
  const weights = decodeAttention(encode(255, 0, 0, 255, 51, 102, 0, 0), 2, 2);
  assert.deepEqual(
    weights.map((heads) => heads.map(numbers)),
    [
      [
        [1, 0],
        [0, 1],
      ],
      [
        [0.04, 0.16],
        [0, 0],
      ],
    ],
  );
});

test("the mean is taken over all heads", () => {
  assert.deepEqual(numbers(meanAttention([[[1, 0]], [[0.5, 0.5]]])), [0.75, 0.25]);
});

test("the strongest places come first, and places without weight not at all", () => {
  assert.deepEqual(
    strongest([0.25, 0, 0.5, 0.125], 2).map(({ index }) => index),
    [2, 0],
  );
  assert.equal(strongest([0.25, 0, 0.5, 0.125], 5).length, 3);
});

test("a bar has the largest of its weights", () => {
  assert.equal(barsPath([0, 0.25, 1, 0], 2), "M0 1v-0.5h1V1zM1 1v-1h1V1z");
  assert.equal(barsPath([1], 3), "M0 1v-1h1V1z");
  assert.equal(barsPath([0], 1), "");
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { logTicks, rangeOf, thin, ticks } from "../../ui/static/js/loss-curve.js";

test("a long line is thinned to every other point, with its first and last", () => {
  const points = Array.from({ length: 7 }, (_, step) => [step, 1]);
  assert.equal(thin(points, 7), points);
  assert.deepEqual(
    thin([...points, [7, 1]], 7).map(([step]) => step),
    [0, 2, 4, 6, 7],
  );
});

test("ticks are round numbers that enclose the range", () => {
  assert.deepEqual(ticks(2.2, 4.17, 5), [2, 2.5, 3, 3.5, 4, 4.5]);
  assert.deepEqual(ticks(0, 60, 5), [0, 20, 40, 60]);
  assert.deepEqual(ticks(0, 0.3, 3), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(ticks(0, 1, 10), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]);
  assert.deepEqual(ticks(3, 3, 2), [3, 3.5]); // all losses are equal: there is still an axis
});

test("logTicks are 0 and powers of ten", () => {
  assert.deepEqual(logTicks(0), [0, 1]);
  assert.deepEqual(logTicks(999), [0, 1, 10, 100]);
  assert.deepEqual(logTicks(1000), [0, 1, 10, 100, 1000]);
});

test("rangeOf leaves room below, but has no losses below 0", () => {
  assert.deepEqual(rangeOf([2, 3, 2.5]), [1.88, 3]);
  assert.deepEqual(rangeOf([0.01, 1]), [0, 1]);
});

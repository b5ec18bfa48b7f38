// ui/static/js/sampling.js against gpt/sampling.py: tests/sampling_vectors.py writes the numbers
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { applyFilters, applyFiltersToTop, NEUTRAL } from "../../ui/static/js/sampling.js";

const vectors = JSON.parse(readFileSync(new URL("../data/sampling_vectors.json", import.meta.url)));

function assertClose(actual, expected, tolerance = 1e-9) {
  assert.equal(actual.length, expected.length);
  for (const [i, value] of expected.entries())
    assert.ok(Math.abs(actual[i] - value) <= tolerance, `${i}: ${actual[i]}, ${value}`);
}

test("temperature and filters agree with gpt/sampling.py", () => {
  assert.ok(vectors.length > 100);
  for (const { bits, params, probs: expected } of vectors) {
    const { probs: actual, removedBy } = applyFilters(bits, params);
    assertClose(actual, expected);
    removedBy.forEach((filter, i) => {
      if (filter) assert.equal(expected[i], 0);
    });
  }
});

test("removedBy names the filter that removed a token", () => {
  // 8 4 2 1 1 of 16: top-k 4 keeps the tie (5 tokens), top-p 0.8 keeps 8 4 2 of 16 (8 + 4 = 0.75), min-p 0.3 drops 2 (0.25 of 8)
  const params = { temperature: 1, topK: 4, topP: 0.8, minP: 0.3 };
  const { probs: actual, removedBy } = applyFilters([1, 2, 3, 4, 4], params);
  assert.deepEqual(removedBy, [null, null, "min-p", "top-p", "top-p"]);
  assertClose(actual, [8 / 12, 4 / 12, 0, 0, 0]);
  assert.deepEqual(applyFilters([1, 2, 3, 4, 4], { ...params, topK: 3 }).removedBy.slice(3), ["top-k", "top-k"]);
  assert.deepEqual(applyFilters([2, 1, 1], { ...NEUTRAL, temperature: 0 }).removedBy, ["temperature 0", null, "temperature 0"]);
});

test("impossible tokens stay impossible", () => {
  assertClose(applyFilters([1, Number.POSITIVE_INFINITY, 1], { ...NEUTRAL, temperature: 5, topP: 0.9 }).probs, [0.5, 0, 0.5]);
});

test("probs add up to 1 after rounding", () => {
  assertClose(applyFilters([1.001, 1.001], NEUTRAL).probs, [0.5, 0.5]);
});

test("the rest of a large vocabulary counts as equally likely tokens", () => {
  // 1/2, 1/4 and four others that share 1/4
  const filtered = (params) => applyFiltersToTop([1, 2], 2, 6, { ...NEUTRAL, ...params });
  assertClose(filtered({}).probs, [0.5, 0.25, 0.25]);
  // temperature 0.5 squares: 1/4, 1/16 and four times 1/256, of 21/64
  assertClose(filtered({ temperature: 0.5 }).probs, [16 / 21, 4 / 21, 1 / 21]);
  assert.deepEqual(filtered({ topK: 2 }).removedBy, [null, null, "top-k"]);
  assertClose(filtered({ topK: 2 }).probs, [2 / 3, 1 / 3, 0]);
  // top-p 0.8 keeps one of the four: 8 4 1 of 13
  assert.deepEqual(filtered({ topP: 0.8 }).removedBy, [null, null, null]);
  assertClose(filtered({ topP: 0.8 }).probs, [8 / 13, 4 / 13, 1 / 13]);
  assert.deepEqual(filtered({ minP: 0.2 }).removedBy, [null, null, "min-p"]);
  assert.deepEqual(filtered({ temperature: 0 }).removedBy, [null, "temperature 0", "temperature 0"]);
});

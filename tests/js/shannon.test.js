import assert from "node:assert/strict";
import { test } from "node:test";
import { estimateBits, guessDistribution, guessesOnGivingUp } from "../../ui/static/js/shannon.js";

const close = (actual, expected) => assert.ok(Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);

test("always right at the first guess is 0 bits", () => {
  assert.deepEqual(estimateBits([1, 1, 1]), { lower: 0, upper: 0 });
});

test("three first guesses and one second guess", () => {
  // q = 3/4, 1/4. Upper: 3/4 log2 4/3 + 1/4 log2 4 = 0.8113. Lower: 2 * 1/4 * log2 2 = 0.5.
  const { lower, upper } = estimateBits([1, 2, 1, 1]);
  close(lower, 0.5);
  close(upper, 0.75 * Math.log2(4 / 3) + 0.5);
});

test("four equally frequent numbers of guesses are 2 bits, by both bounds", () => {
  const { lower, upper } = estimateBits([4, 2, 3, 1]);
  close(lower, 2);
  close(upper, 2);
});

test("one of 1/2, 1/4 and two of 1/8", () => {
  // Upper: 1/2 + 1/2 + 3/8 + 3/8 = 1.75. Lower: 2 * 1/8 * 1 + 4 * 1/8 * 2 = 1.25.
  const { lower, upper } = estimateBits([1, 1, 1, 1, 2, 2, 3, 4]);
  close(lower, 1.25);
  close(upper, 1.75);
});

test("a number that is more frequent than the one before it is averaged with it", () => {
  assert.deepEqual(guessDistribution([2, 2]), [0.5, 0.5]);
  // Counts 2, 1, 3: the last two become 2 and 2, as frequent as the first.
  assert.deepEqual(guessDistribution([1, 1, 2, 3, 3, 3]), [1 / 3, 1 / 3, 1 / 3]);
  // Counts 5, 0, 0, 3: the last three become 1 each.
  assert.deepEqual(guessDistribution([1, 1, 1, 1, 1, 4, 4, 4]), [5 / 8, 1 / 8, 1 / 8, 1 / 8]);
  // Always the fifth guess is no better than one of five.
  close(estimateBits([5, 5, 5]).upper, Math.log2(5));
  close(estimateBits([5]).lower, Math.log2(5));
});

test("the lower bound is never above the upper one, and the shares add up to 1", () => {
  let seed = 1;
  for (let round = 0; round < 200; round++) {
    const guesses = Array.from({ length: 1 + (round % 30) }, () => {
      seed = (seed * 48271) % 2147483647;
      return 1 + (seed % (1 + (round % 12)));
    });
    const { lower, upper } = estimateBits(guesses);
    assert.ok(lower >= 0 && lower <= upper + 1e-9, `${lower} > ${upper} for ${guesses}`);
    const shares = guessDistribution(guesses);
    close(
      shares.reduce((sum, q) => sum + q),
      1,
    );
    assert.ok(shares.every((q, i) => i === 0 || q <= shares[i - 1]));
  }
});

test("giving up counts as trying the rest in any order", () => {
  assert.equal(guessesOnGivingUp(0, 3), 2);
  assert.equal(guessesOnGivingUp(35, 36), 36);
  assert.equal(guessesOnGivingUp(4, 36), 21); // 32 are left: 16.5 guesses in the mean
});

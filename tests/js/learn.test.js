import assert from "node:assert/strict";
import { test } from "node:test";
import { describeLoss, describeMoment, mergeCurve } from "../../ui/static/js/learn.js";

test("describeMoment says how much the model has read", () => {
  assert.equal(describeMoment({ step: 0, tokens: 0 }), "before training");
  assert.equal(describeMoment({ step: 10, tokens: 20480 }), "after 10 steps, 20,480 characters read");
  assert.equal(describeMoment({ step: 3000, tokens: 12288000 }), "after 3,000 steps, 12.3\u00a0million characters read");
});

test("describeLoss compares with guessing and with a bigram", () => {
  const describe = (heldOut) => describeLoss({ held_out: heldOut }, { uniform: 6.02, bigram: 3.58 });
  assert.equal(describe(6.02), "6.02 bits per character on unseen text: no better than guessing.");
  assert.equal(describe(4), "4.00 bits per character on unseen text: not yet as good as a counted bigram.");
  assert.equal(describe(2.05), "2.05 bits per character on unseen text: better than a counted bigram.");
});

test("mergeCurve prefers evaluations, which use all of the unseen text", () => {
  const points = [0, 10, 30].map((step) => ({ step, held_out: 5 }));
  const curve = [40, 10].map((step) => ({ step, held_out: 4 }));
  const merged = mergeCurve(points, curve).map(({ step, held_out: heldOut }) => [step, heldOut]);
  assert.deepEqual(merged, [
    [0, 5],
    [10, 4],
    [30, 5],
    [40, 4],
  ]);
});

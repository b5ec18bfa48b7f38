import assert from "node:assert/strict";
import { test } from "node:test";
import { toRequest } from "../../ui/static/js/train-choices.js";
import { sampleLink } from "../../ui/static/js/train-results.js";
import { apply, bestOf, newRun } from "../../ui/static/js/train-run.js";
import {
  barsOf,
  describeLoss,
  describePlot,
  describeProgress,
  describeQueue,
  equalChoices,
  titleOf,
  whyNot,
} from "../../ui/static/js/train-words.js";

const CHOICES = { kind: "gpt", size: "small", tokenizer: "char", dropout: null, seconds: 15 };
const BASELINES = { event: "baselines", uniform: Math.log(65), bigram: 2.5, ngram: 1.7, order: 6 };

/** A run after some events. */
const after = (...events) => events.reduce(apply, newRun(CHOICES, 1));

const evaluation = (seconds, train, heldOut, memorizing = false) => ({
  event: "evaluation",
  step: 10 * seconds,
  seconds,
  train,
  held_out: heldOut,
  best: true,
  memorizing,
});

test("a loss is a number of equally likely characters", () => {
  assert.ok(Math.abs(equalChoices(Math.log(65)) - 65) < 1e-9);
  assert.equal(describeLoss(2), "2.00 nats a character (2.89 bits): as unsure as choosing among 7.4 equally likely characters.");
  assert.match(describeLoss(0), /among 1\.0 equally/);
  assert.match(describeLoss(Math.log(5000)), /among 5,000 equally/);
});

test("the queue says how many and how long", () => {
  assert.equal(describeQueue({ before: 1, seconds: 39.2 }), "Somebody else is training now: 1 before you, about 40 s.");
  assert.equal(describeQueue({ before: 0, seconds: 0 }), "It is your turn. Starting…");
});

test("the clock says time, speed and steps, and never less than no time", () => {
  assert.equal(
    describeProgress({ seconds_left: 11.2, tokens_per_second: 31_234, step: 1210 }),
    "12 s left · 31,000 tokens a second · step 1,210",
  );
  assert.equal(describeProgress({ seconds_left: 0, tokens_per_second: 5, step: 1 }, true), "5 tokens a second · step 1");
  assert.match(describeProgress({ seconds_left: -0.4, tokens_per_second: 5, step: 1 }), /^0 s left · 5 tokens/);
});

test("a run is named by what was chosen for it", () => {
  assert.equal(titleOf(CHOICES), "GPT, small, 15 s");
  assert.equal(titleOf({ ...CHOICES, kind: "lstm", tokenizer: "bpe:512" }), "LSTM, small, sub-words, 15 s");
  assert.equal(titleOf({ ...CHOICES, kind: "bigram" }), "Bigram, trained, 15 s");
});

test("files are refused before they are sent", () => {
  assert.equal(whyNot([{ size: 1_999_999 }]), "");
  assert.equal(
    whyNot([{ size: 50_000_000 }]),
    "This file has 50.0 MB; a text here has up to 2 MB. Take a part of it, for instance one chapter.",
  );
  assert.equal(whyNot([{ size: 1 }, { size: 1 }]), "These are 2 files. Give one text at a time.");
});

test("a choice becomes what the server expects", () => {
  const values = { seconds: "30", kind: "gpt", size: "medium", tokenizer: "char", dropout: "auto" };
  assert.deepEqual(toRequest(values), { seconds: 30, kind: "gpt", size: "medium", tokenizer: "char", dropout: null });
  assert.equal(toRequest({ ...values, dropout: "0.2" }).dropout, 0.2);
  assert.equal(toRequest({ ...values, dropout: "0" }).dropout, 0);
  assert.equal(toRequest({ ...values, dropout: "0.2", kind: "bigram" }).dropout, null);
  assert.equal(toRequest({ ...values, tokenizer: "sub-words" }, "bpe:1024").tokenizer, "bpe:1024");
});

test("events become a run", () => {
  let run = after({ event: "queue", before: 2, seconds: 60 });
  assert.deepEqual([run.phase, run.queue.before], ["waiting", 2]);
  run = [
    BASELINES,
    { event: "start", parameters: 5, config: {}, command: "", reason: "Because." },
    { event: "step", step: 3, progress: 0.2, loss: 3, tokens_per_second: 9, seconds_left: 12 },
    evaluation(3, 2.9, 3),
    { event: "sample", step: 3, text: "<b>" },
  ].reduce(apply, run);
  assert.deepEqual([run.phase, run.queue], ["running", null]);
  assert.deepEqual(
    run.steps.map(({ seconds, train }) => [seconds.toFixed(6), train]),
    [["3.000000", 3]],
  );
  assert.equal(run.sample.text, "<b>");
  assert.equal(run.isMemorizing, false);
  run = apply(run, { event: "end", stopped: true, models: [], winner: "gpt", verdict: "It won." });
  assert.equal(run.phase, "ended");
  assert.deepEqual(apply(run, { event: "of a later version" }), run);
});

test("a run that has memorized has done so until its end, and its best point is kept", () => {
  const run = after(BASELINES, evaluation(1, 3, 3.1), evaluation(2, 2, 2.5), evaluation(3, 1, 2.9, true), evaluation(4, 1, 2.6));
  assert.equal(run.isMemorizing, true);
  assert.equal(bestOf(run).seconds, 2);
  assert.equal(bestOf(after()), null);
});

test("the plot in words has the first, the last and the best loss", () => {
  const run = after(BASELINES, evaluation(1, 3, 3.1), evaluation(2, 2, 2.5), evaluation(3, 1, 2.9));
  assert.equal(
    describePlot([run]),
    "GPT, small, 15 s: in 3 of 15 seconds, the loss on unseen text went from 3.10 to 2.90 nats a character; the best was 2.50. " +
      "A uniform guess has 4.17, a counted bigram 2.50, a counted n-gram 1.70.",
  );
  assert.equal(describePlot([after()]), "GPT, small, 15 s: nothing measured yet.");
});

test("bars go from the worst model to the best, and name it", () => {
  const models = [
    { name: "gpt", title: "GPT", held_out: 1.9 },
    { name: "bigram", title: "Bigram", held_out: 2.5 },
    { name: "mixture", title: "mixture", held_out: 1.8 },
  ];
  const rows = barsOf({ models, winner: "mixture" }, 4.17);
  assert.deepEqual(
    rows.map(({ name, text }) => [name, text]),
    [
      ["Uniform guess", "4.17"],
      ["Bigram", "2.50"],
      ["GPT", "1.90"],
      ["Mixture", "1.80 best"],
    ],
  );
});

test("links show the sample of a model, and look into it", () => {
  const sample = { prompt: "A\n", text: "b".repeat(400), temperature: 0.8, top_p: 1, max_new_tokens: 400, seed: 7 };
  const model = { id: "my-gpt-0a1b2c", sample };
  const link = new URLSearchParams(sampleLink(model, "write"));
  assert.deepEqual([link.get("model"), link.get("prompt"), link.get("length"), link.get("seed")], [model.id, "A\n", "400", "7"]);
  const inside = new URLSearchParams(sampleLink(model, "inside"));
  assert.deepEqual([inside.get("tab"), inside.get("length"), inside.get("prompt").length], ["inside", "0", 300]);
});

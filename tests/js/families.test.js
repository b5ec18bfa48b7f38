import assert from "node:assert/strict";
import { test } from "node:test";
import { createScore, describeChoice } from "../../ui/static/js/families-game.js";
import { describeMoment, plotsOf, pointsOf } from "../../ui/static/js/families-replay.js";
import { rowsOf } from "../../ui/static/js/families-stage.js";
import { changes, describeWalk } from "../../ui/static/js/families-walk.js";
import { describeMet } from "../../ui/static/js/families-wishes.js";

const round = (real, critic, model = "gan-names") => ({
  names: ["emily", "jorin"],
  real,
  critic,
  model,
  percentiles: [0.714, 0.4],
});

test("visitor and critic are scored on the same names", () => {
  const score = createScore();
  assert.deepEqual(score.add(round(0, 0), 0), { isRight: true, criticIsRight: true, model: "gan-names" });
  score.add(round(1, 0), 0);
  score.add(round(1, 1, "vae-names"), 1);
  assert.equal(score.rounds, 3);
  assert.deepEqual(score.right, { visitor: 2, critic: 2 });
  assert.deepEqual(score.fooled, [
    ["gan-names", 1, 2],
    ["vae-names", 0, 1],
  ]);
});

test("a choice is described with who made the other name up", () => {
  const played = round(1, 0);
  const result = createScore().add(played, 1);
  const words = describeChoice(played, result, "GAN");
  assert.ok(words.startsWith("Yes: jorin is real, and emily was made up (GAN). The critic was wrong"));
  assert.ok(words.endsWith("jorin looks more real than 40\u00a0% of all real names, and emily than 71\u00a0%."));
});

test("the letters that a step changed are marked", () => {
  const marked = (line, before) =>
    changes(line, before)
      .filter(([, isNew]) => isNew)
      .map(([character]) => character)
      .join("");
  assert.equal(marked("marie", "maria"), "e");
  assert.equal(marked("mariella", "maria"), "ella");
  assert.equal(marked("mar", "maria"), "");
  assert.equal(marked("é👍", "é🙂"), "👍");
});

test("equal names of a walk count once", () => {
  assert.equal(describeWalk(["ana", "ana", "anna"]), "2 different names in 3 steps");
});

test("a moment of the training", () => {
  assert.deepEqual(
    [0, 1, 2000].map((step) => describeMoment({ step })),
    ["before training", "after 1 step", "after 2,000 steps"],
  );
});

test("figures that a moment lacks are left out of its plots", () => {
  const moments = [
    { step: 0, distance: 0.9 },
    { step: 5, distance: 0.5, discriminator: 0.7, generator: null },
  ];
  assert.deepEqual(
    pointsOf(moments, ({ discriminator }) => discriminator),
    [[5, 0.7]],
  );
  const { losses, quality } = plotsOf(moments, moments[0]);
  assert.deepEqual(quality.lines[0].points, [
    [0, 0.9],
    [5, 0.5],
  ]);
  assert.deepEqual(quality.mark, [0, 0.9]);
  assert.equal(losses, null); // it takes both networks
  const both = moments.map((moment) => ({ ...moment, discriminator: 0.7, generator: 0.8 }));
  assert.deepEqual(plotsOf(both, both[1]).losses.mark, [5, 0.7]);
});

test("only models that were measured have a bar", () => {
  const models = [
    { label: "GPT", measures: { unique: 0.97 } },
    { label: "VAE", measures: null },
    { label: "GAN", measures: { unique: null } },
  ];
  const rows = rowsOf({ value: ({ unique }) => unique, format: (value) => value.toFixed(1) }, models);
  assert.deepEqual(
    rows.map(({ name, text }) => [name, text]),
    [
      ["GPT", "1.0"],
      ["GAN", "–"],
    ],
  );
});

test("a wish is met by some lines", () => {
  assert.equal(describeMet([true, false, true]), "2 of 3 meet the wish.");
});

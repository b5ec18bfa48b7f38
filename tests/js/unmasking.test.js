import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bitsOf,
  createSpelling,
  describePlace,
  describeRacer,
  doubtfulPlaces,
  hiddenCanvas,
  hidePassage,
  placesAfter,
  proofreadingSentence,
  raceSentences,
} from "../../ui/static/js/unmasking.js";

const STEPS = [
  { positions: [3, 1], ids: [7, 5], distributions: ["d3", "d1"] },
  { positions: [2], ids: [6], distributions: ["d2"] },
];

test("hiddenCanvas hides what follows a prompt, and the rest of a line", () => {
  const text = { vocabulary: ["\n", "a", "b"], writes_lines: false, context_length: 9 };
  assert.deepEqual(hiddenCanvas(text, "ab?a", 2), [1, 2, 1, null, null]);
  assert.deepEqual(hiddenCanvas({ ...text, writes_lines: true, context_length: 4 }, "b", 200), [0, 2, null, null]);
});

test("placesAfter reveals the places of the first steps, and keeps what is given", () => {
  const canvas = [4, null, null, null];
  assert.deepEqual(
    placesAfter(canvas, STEPS, 0).map(({ id }) => id),
    canvas,
  );
  assert.deepEqual(placesAfter(canvas, STEPS, 1), [
    { id: 4, step: 0 },
    { id: 5, step: 1, distribution: "d1" },
    { id: null, step: Number.NaN },
    { id: 7, step: 1, distribution: "d3" },
  ]);
  assert.deepEqual(
    placesAfter(canvas, STEPS, 2).map(({ step }) => step),
    [0, 1, 2, 1],
  );
});

test("a running text is spelled as it is", () => {
  const spelling = createSpelling({ vocabulary: ["\n", "a", "b"], writes_lines: false });
  assert.deepEqual([null, 0, 1].map(spelling.of), ["·", "\n", "a"]);
  assert.deepEqual(spelling.range([0, 1, null, 0, 0]), [0, 5]);
  assert.equal(spelling.text([0, 1, 2, 0]), "\nab\n");
});

test("a line has no start token, and ends at its first new line", () => {
  const spelling = createSpelling({ vocabulary: ["\n", "a", "b"], writes_lines: true });
  assert.deepEqual([null, 0, 1].map(spelling.of), ["·", "⏎", "a"]);
  assert.deepEqual(spelling.range([0, 1, null, 0, 0]), [1, 3]);
  assert.deepEqual(spelling.range([0, null, null, null, null]), [1, 5]);
  assert.equal(spelling.text([0, 1, 2, 0, 2]), "ab");
  assert.equal(spelling.text([0, 1, 2, 2, 2]), "abbb");
});

test("bitsOf reads a whole vocabulary, and a part of one", () => {
  assert.equal(bitsOf({ ids: null, bits: [1, 2, 3], rest: null }, 2), 3);
  assert.equal(bitsOf({ ids: [9, 4], bits: [1, 2], rest: 5 }, 4), 2);
  assert.equal(bitsOf({ ids: [9, 4], bits: [1, 2], rest: 5 }, 3), 5);
});

test("describePlace names what stands on both sides", () => {
  const texts = [..."to be··"];
  assert.equal(describePlace(texts, 2), "Between “to” and “be··” the model");
  assert.equal(describePlace(texts, 0), "Before “o be··” the model");
  assert.equal(describePlace(texts, 6), "After “to be·” the model");
  assert.equal(describePlace(["·"], 0), "Without any context the model");
});

test("hidePassage hides a long passage character by character, and lets the model choose a short one", () => {
  assert.equal(hidePassage("so it goes", 3, 10), "so _______");
  assert.equal(hidePassage("so it goes", 3, 5), "so ___ goes");
  assert.equal(hidePassage("so 𝒊𝒕 𝒊𝒔 go", 3, 12), "so _____ go");
});

test("doubtfulPlaces lists the characters of 8 bits or more, the most unlikely first", () => {
  assert.deepEqual(doubtfulPlaces([1, 8, 7.99, 9, 8]), [3, 1, 4]);
  assert.equal(proofreadingSentence(0, 1200), "None of the 1,200 characters is unlikely in its place.");
  assert.match(proofreadingSentence(1, 9), /^1 character is unlikely here, of 9\./);
  assert.match(proofreadingSentence(12, 90), /^12 characters are unlikely here, of 90\./);
});

const racer = (name, seconds, bits, unique = 0.9) => ({ name, steps: 64, seconds, bits, known_words: 0.8, unique_words: unique });

test("raceSentences says who was quicker and who writes better, whoever that is", () => {
  assert.equal(
    raceSentences([racer("D", 1.64, 2.5), racer("G", 0.05, 2)], "J"),
    "G was quicker: 50 ms for 64 steps; D took 1.6 s for 64. " +
      "J, which took no part, finds the text of G more likely: 2.00 bits per character against 2.50.",
  );
  assert.match(raceSentences([racer("D", 0.2, 1.5), racer("G", 2, 2)], "J"), /^D was quicker: .* text of D more likely: 1\.50/);
  assert.match(raceSentences([racer("D", 1, 2.04), racer("G", 2, 2)], "J"), /both texts are equally likely\.$/);
});

test("raceSentences warns of a dull text", () => {
  assert.match(raceSentences([racer("D", 1, 1.5, 0.4), racer("G", 2, 2, 0.9)], "J"), /But D repeats itself more/);
  assert.doesNotMatch(raceSentences([racer("D", 1, 1.5, 0.9), racer("G", 2, 2, 0.4)], "J"), /repeats/);
});

test("describeRacer lists steps, time, cost and words", () => {
  assert.deepEqual(
    describeRacer(racer("D", 1.64, 2.5)).map(([, value]) => value),
    ["64", "1.6 s", "2.50", "80\u00a0%", "90\u00a0%"],
  );
});

import assert from "node:assert/strict";
import { test } from "node:test";
import * as sentences from "../../ui/static/js/caption.js";
import { correct } from "../../ui/static/js/controls.js";

const gpt = {
  name: "gpt-shakespeare",
  dataset: "shakespeare",
  unit: "character",
  likelihood: "exact",
  bits_per_character: 2.0536,
  vocabulary: Array(65).fill("x"),
};
const query = "model=gpt-shakespeare&prompt=ROMEO%3A&seed=1337&length=2&temperature=0.8";
const distribution = { ids: null, bits: [1, 2, 3, 3], rest: null };
const tokens = Array.from("what light", (text) => ({ id: 0, text, bits: 1, distribution }));
const text = { model: { ...gpt, vocabulary: ["a", "b", "c", "d"] }, query, prompt: "ROMEO:", tokens };

test("caption names the model, what differs from the defaults, the seed and the length", () => {
  assert.equal(sentences.caption(text), "gpt-shakespeare · temperature 0.8 · seed 1337 · 10 characters");
  const other = { ...text, query: `${query}&top_k=5&top_p=0.9&min_p=0.1`, tokens: tokens.slice(0, 1) };
  const expected = "gpt-shakespeare · temperature 0.8 · top-k 5 · top-p 0.9 · min-p 0.1 · seed 1337 · 1 character";
  assert.equal(sentences.caption(other), expected);
  assert.match(sentences.caption({ ...text, model: { ...gpt, unit: "token" } }), /10 pieces of words$/);
});

test("heldOut compares with a blind guess, and says where it is a bound", () => {
  const exact = "2.05 bits per character on unseen text: 2.05 yes/no questions per letter; guessing needs 6.02.";
  assert.equal(sentences.heldOut(gpt, [gpt]), exact); // log2(65) = 6.02
  const vae = { ...gpt, likelihood: "bound", bits_per_character: 3.2994, dataset: "names" };
  assert.equal(
    sentences.heldOut(vae, [gpt]),
    "At most 3.30 bits per character on unseen text: 3.30 yes/no questions per letter.",
  );
  assert.equal(sentences.heldOut({ ...gpt, bits_per_character: null }, [gpt]), "");
});

test("new lines are shown where they are all there is, and explained only if it is true", () => {
  const lines = (count, before = "") => Array.from(before + "\n".repeat(count), (text) => ({ text }));
  assert.deepEqual(
    [[], lines(1), lines(2, "abc"), lines(8, "abc")].map((tokens) => sentences.hasManyNewLines(tokens)),
    [false, true, false, true],
  );
  const greedy = query.replace("0.8", "0");
  assert.equal(
    sentences.newLinesSentence({ query: greedy, tokens: lines(300, "a") }),
    "Always the likeliest: after a new line, a new line.",
  );
  assert.equal(sentences.newLinesSentence({ query, tokens: lines(300) }), "");
  assert.equal(sentences.newLinesSentence({ query: greedy, tokens: [...lines(300), { text: "a" }] }), "");
});

test("contextOf is the end of what stands before", () => {
  assert.equal(sentences.contextOf(text, 4), "ROMEO:what");
  assert.equal(sentences.contextOf({ ...text, prompt: "👩 ROMEO and JULIET:" }, 3), "…d JULIET:wha");
  assert.equal(sentences.contextOf({ ...text, prompt: "" }, 0), undefined);
});

test("choiceSentences count what the settings of the text left, and know what a visitor chose", () => {
  const at = (settings) => sentences.choiceSentences({ ...text, query: query + settings }, 0);
  const surprisal = "Its surprisal is 1.0 bits: expected in 1 of 2 cases.";
  assert.equal(at(""), `It was chosen from all 4 characters. ${surprisal}`);
  assert.equal(at("&top_k=2"), `It was chosen from 2 characters. ${surprisal}`);
  assert.equal(at("&top_k=1"), `The settings of this text left nothing else to choose from. ${surprisal}`);
  assert.equal(at("&branch=0.0"), `You chose it. ${surprisal}`);
  assert.equal(at("&branch=1.0"), `It was chosen from all 4 characters. ${surprisal}`);
});

test("choiceSentences count the others of a large vocabulary", () => {
  const large = { ids: [3, 1], bits: [1, 2], rest: 2 }; // six tokens
  const model = { ...gpt, unit: "token", vocabulary: Array(6).fill("x") };
  const at = (settings) =>
    sentences.choiceSentences({ model, query: query + settings, tokens: [{ ...tokens[0], distribution: large }] }, 0);
  assert.match(at(""), /^It was chosen from all 6 pieces of words\./);
  assert.match(at("&top_k=2"), /^It was chosen from 2 pieces of words\./);
});

test("otherSettings speaks up only when the bars show other settings", () => {
  assert.equal(sentences.otherSettings(text, { temperature: 0.8, top_k: 0 }), "");
  assert.equal(
    sentences.otherSettings(text, { temperature: 1.2, top_k: 3 }),
    "This text was written with temperature 0.8. The bars show temperature 1.2, top-k 3.",
  );
});

test("labels name a text and a branch", () => {
  assert.equal(sentences.rootLabel(text), "gpt-shakespeare, “ROMEO:”, seed 1337");
  assert.equal(sentences.rootLabel({ ...text, query: "prompt=&seed=5" }), "gpt-shakespeare, no prompt, seed 5");
  assert.equal(sentences.branchLabel(11, "h", "\n"), "12: h instead of new line");
});

test("mostSurprising is the first of the highest", () => {
  assert.equal(sentences.mostSurprising([{ bits: 1 }, { bits: 3 }, { bits: 3 }]), 1);
});

test("correct restores an empty field, and keeps a number in its range", () => {
  const field = { min: "0", max: "2", step: "0.05" };
  const at = (value, changed = {}) => correct("Temperature", { ...field, value, ...changed }, 0.8);
  assert.deepEqual(at(""), { value: 0.8, message: "Temperature needs a number, so it is 0.8 again." });
  assert.deepEqual(at("7"), { value: 2, message: "Temperature goes from 0 to 2, so it is 2 now." });
  assert.deepEqual(at("-1").value, 0);
  assert.equal(at("1.2"), null);
  assert.deepEqual(at("1.6", { step: "1" }), { value: 2, message: "Temperature is a whole number, so it is 2 now." });
});

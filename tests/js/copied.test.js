import assert from "node:assert/strict";
import { test } from "node:test";
import { describeSpan, summarize, tokensOfSpans } from "../../ui/static/js/copied.js";

test("a token of one character is in a span or not", () => {
  assert.deepEqual(tokensOfSpans([..."abcdef"], [{ start: 1, end: 3 }]), [[1, 2]]);
});

test("overlapping spans, and spans at both ends", () => {
  const spans = [
    { start: 0, end: 3 },
    { start: 2, end: 4 },
  ];
  assert.deepEqual(tokensOfSpans([..."abcd"], spans), [
    [0, 1, 2],
    [2, 3],
  ]);
});

test("a piece of a word belongs to a span if a part of it does", () => {
  // "the| lamp|s| and": characters 4 to 9 are "amps ".
  assert.deepEqual(tokensOfSpans(["the", " lamp", "s", " and"], [{ start: 5, end: 9 }]), [[1, 2]]);
  assert.deepEqual(tokensOfSpans(["the", " lamp", "s", " and"], [{ start: 5, end: 10 }]), [[1, 2, 3]]);
});

test("a character outside the basic plane counts once, and an incomplete token has none", () => {
  // The two bytes-level tokens of an emoji: the text comes with the second one.
  assert.deepEqual(tokensOfSpans(["a", "", "👍", "b"], [{ start: 1, end: 2 }]), [[2]]);
  assert.deepEqual(tokensOfSpans(["👍👍", "bc"], [{ start: 2, end: 4 }]), [[1]]);
});

test("no spans", () => {
  assert.deepEqual(tokensOfSpans(["a"], []), []);
});

test("how much of a running text is copied, in one sentence", () => {
  const sentence = (copied) => summarize({ spans: [], characters: 300, min_length: 20, copied }).replaceAll("\u00a0", " ");
  assert.equal(sentence(36), "12 % of this text occurs word for word in the training text (spans of 20 characters or more).");
  assert.equal(sentence(2).slice(0, 26), "Less than 1 % of this text");
  assert.equal(sentence(0), "Nothing of 20 characters or more in this text occurs word for word in the training text.");
});

test("it is said when most spans are headings of speeches", () => {
  const answer = { characters: 100, min_length: 20, copied: 50 };
  const sentence = (...headings) => summarize({ ...answer, spans: headings.map((has) => ({ has_heading: has })) });
  assert.match(sentence(true, true, false), /Most of these spans contain the name of a speaker between two speeches\.$/);
  assert.match(sentence(true, false), /characters or more\)\.$/);
});

test("how many names are known, in one sentence", () => {
  const sentence = (...origins) => summarize({ noun: "names", lines: origins.map((origin) => ({ origin })) });
  assert.equal(sentence("training", null, "training"), "2 of 3 names are in the training list.");
  assert.equal(
    sentence("training", "held_out"),
    "1 of 2 names is in the training list; 1 more is real, but was kept from the model (dotted).",
  );
  assert.equal(sentence(), "There are no finished names to look up yet.");
});

test("where a span comes from", () => {
  const span = { start: 10, end: 44, play: "Romeo and Juliet", speaker: "ROMEO", occurrences: 1 };
  assert.equal(describeSpan(span), "34 characters, from Romeo and Juliet, ROMEO");
  assert.equal(describeSpan({ ...span, occurrences: 2 }), "34 characters, from Romeo and Juliet, ROMEO (and 1 other place)");
  assert.equal(describeSpan({ ...span, occurrences: 3 }), "34 characters, from Romeo and Juliet, ROMEO (and 2 other places)");
});

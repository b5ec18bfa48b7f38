import assert from "node:assert/strict";
import { test } from "node:test";
import { describeBits, formatBits, formatPercent, nameToken, quote } from "../../ui/static/js/text.js";
import { tintLevel } from "../../ui/static/js/tokens.js";

test("nameToken names whitespace and shows it in longer tokens", () => {
  const names = ["e", " ", "\n", "\t", " the", "a\n", "", "\ufffd", "&lt;", "👩"].map(nameToken);
  const part = "part of a character";
  assert.deepEqual(names, ["e", "space", "new line", "tab", "␣the", "a⏎", part, part, "&lt;", "👩"]);
});

test("quote shows whitespace that one would not see", () => {
  assert.equal(quote(" my lord,\nI am "), "“␣my lord,⏎I am␣”");
});

test("describeBits gives the odds", () => {
  assert.equal(describeBits(0), "0.0 bits: expected in 100 of 100 cases");
  assert.equal(describeBits(0.3), "0.3 bits: expected in 81 of 100 cases");
  assert.equal(describeBits(1), "1.0 bits: expected in 1 of 2 cases");
  assert.equal(describeBits(3.2), "3.2 bits: expected in 1 of 9 cases");
  assert.equal(describeBits(13.3), "13.3 bits: expected in 1 of 10,100 cases");
  assert.equal(describeBits(40), "40.0 bits: expected in fewer than 1 of a billion cases");
  assert.equal(formatBits(Number.POSITIVE_INFINITY), "64 bits or more");
});

test("formatPercent keeps numbers short and never rounds to nothing or to everything", () => {
  const texts = [0, 1e-9, 0.0001, 0.00994, 0.00996, 0.341, 0.9994, 0.9996, 1].map(formatPercent);
  assert.deepEqual(
    texts.map((text) => text.replaceAll("\u00a0", " ")),
    ["0 %", "< 0.01 %", "0.01 %", "0.99 %", "1.0 %", "34.1 %", "99.9 %", "> 99.9 %", "100 %"],
  );
});

test("tintLevel has five steps", () => {
  assert.deepEqual([0, 0.99, 1, 1.99, 2, 3.99, 4, 5.99, 6, 64].map(tintLevel), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
});

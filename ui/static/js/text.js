/** Words and glyphs for tokens, bits, probabilities and counts. */

const NAMES = new Map([
  ["", "part of a character"],
  [" ", "space"],
  ["\n", "new line"],
  ["\r", "carriage return"],
  ["\t", "tab"],
  ["\u00a0", "no-break space"],
  ["\ufffd", "part of a character"],
]);
const GLYPHS = new Map([
  [" ", "␣"],
  ["\n", "⏎"],
  ["\r", "␍"],
  ["\t", "⇥"],
  ["\u00a0", "⍽"],
]);
const MOST_CASES = 1e9;

/** What to call a token: "e", "space", "new line"; in a longer one whitespace is a glyph: "␣the". */
export function nameToken(text) {
  return NAMES.get(text) ?? showWhitespace(text);
}

/** The text with a visible glyph for each whitespace character. */
export function showWhitespace(text) {
  return Array.from(text, (character) => GLYPHS.get(character) ?? character).join("");
}

/** A quoted part of a text: with glyphs for new lines, and for spaces at its ends. */
export function quote(text) {
  return `“${text.replace(/^ +| +$|\s(?<! )/g, showWhitespace)}”`;
}

/** "1 character", "1,280 characters" */
export function plural(number, noun) {
  return `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;
}

/** "895,233", "2.7 million" */
export function formatCount(number) {
  return number < 1e6 ? number.toLocaleString("en-US") : `${(number / 1e6).toFixed(1)}\u00a0million`;
}

/** "3.2 bits" */
export function formatBits(bits) {
  if (bits === Number.POSITIVE_INFINITY) return "64 bits or more";
  return `${bits.toFixed(1)} bits`;
}

/** "3.2 bits: expected in 1 of 9 cases" */
export function describeBits(bits) {
  const cases = 2 ** bits;
  let odds = "fewer than 1 of a billion";
  if (cases < 2) odds = `${Math.round(100 / cases)} of 100`;
  else if (cases < MOST_CASES)
    odds = `1 of ${Number(cases.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 0 })}`;
  return `${formatBits(bits)}: expected in ${odds} cases`;
}

/** "34.1 %", "< 0.01 %" */
export function formatPercent(p) {
  const percent = 100 * p;
  if (percent === 0 || percent === 100) return `${percent}\u00a0%`;
  if (percent < 0.01) return "<\u00a00.01\u00a0%";
  if (percent < 0.995) return `${percent.toFixed(2)}\u00a0%`;
  return percent < 99.95 ? `${percent.toFixed(1)}\u00a0%` : ">\u00a099.9\u00a0%";
}

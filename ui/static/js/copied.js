/** "Copied or new?": underlines what of a text occurs word for word in the text that its model learned from (ui/copied.py). */
import { fetchJson, VisitorError } from "./api.js";
import { create } from "./dom.js";
import { plural } from "./text.js";

const LABEL = "Copied or new?";
const MAX_LISTED = 5; // spans that are listed; the longest ones
const COPIED = "copied";
const UNSEEN = "copied-unseen"; // lines of the held-out part
const CLASSES = { training: COPIED, held_out: UNSEEN };

/**
 * The tokens that have a character in a span. A piece of a word counts if a part of it does.
 * @param {string[]} texts The text of each token.
 * @param {{start: number, end: number}[]} spans In code points, as Python counts.
 * @returns {number[][]} The indices of the tokens of each span.
 */
export const tokensOfSpans = (texts, spans) => {
  const ends = [];
  let length = 0;
  for (const text of texts) {
    length += Array.from(text).length;
    ends.push(length);
  }
  return spans.map(({ start, end }) =>
    ends.map((_, i) => i).filter((i) => ends[i] > start && (ends[i - 1] ?? 0) < end && texts[i] !== ""),
  );
};

const percent = (part, all) => {
  const share = (100 * part) / all;
  return share > 0 && share < 1 ? "Less than 1\u00a0%" : `${Math.round(share)}\u00a0%`;
};

/** One sentence on how much is copied. */
export const summarize = (answer) => {
  if (answer.lines) {
    const { lines, noun } = answer;
    if (!lines.length) return `There are no finished ${noun} to look up yet.`;
    const count = (origin) => lines.filter((line) => line.origin === origin).length;
    const known = `${count("training")} of ${lines.length} ${noun} ${count("training") === 1 ? "is" : "are"} in the training list`;
    const unseen = count("held_out");
    if (!unseen) return `${known}.`;
    return `${known}; ${unseen} more ${unseen === 1 ? "is" : "are"} real, but ${unseen === 1 ? "was" : "were"} kept from the model (dotted).`;
  }
  const { spans, copied, characters, min_length: least } = answer;
  if (!copied) return `Nothing of ${least} characters or more in this text occurs word for word in the training text.`;
  const share = `${percent(copied, characters)} of this text occurs word for word in the training text (spans of ${least} characters or more).`;
  const headings = spans.filter(({ has_heading: hasHeading }) => hasHeading).length;
  return 2 * headings > spans.length ? `${share} Most of these spans contain the name of a speaker between two speeches.` : share;
};

/** "34 characters, from Romeo and Juliet, ROMEO (and 2 other places)" */
export const describeSpan = ({ start, end, play, speaker, occurrences }) => {
  const others = occurrences - 1;
  const also = others ? ` (and ${plural(others, "other place")})` : "";
  return `${end - start} characters, from ${play}, ${speaker}${also}`;
};

const listItem = (span, text) => {
  const copied = create("mark", {}, Array.from(text).slice(span.start, span.end).join(""));
  const quote = create("blockquote", {}, span.before, copied, span.after);
  return create("li", {}, create("p", {}, describeSpan(span)), quote);
};

/**
 * Fill an element with the switch and what it finds.
 * @param {HTMLElement} element
 * @param {object} tokens The text, from `createTokens`, in which spans are underlined.
 */
export const createCopied = (element, tokens) => {
  const toggle = create("input", { type: "checkbox" });
  const label = create("label", { title: "Looks the text up in the text that the model learned from" }, toggle, LABEL);
  const summary = create("p", { class: "copied-summary", role: "status" });
  const list = create("ol", { class: "copied-list" });
  element.classList.add("copied-panel");
  element.hidden = true;
  element.replaceChildren(label, summary, list);

  let lastText; // {model, prompt, texts}
  let answers = 0; // only the answer to the last request is shown

  const clear = () => {
    answers++;
    summary.textContent = "";
    list.replaceChildren();
    for (const name of [COPIED, UNSEEN]) tokens.unmark(name);
    tokens.element.classList.remove("show-copied");
  };

  const show = (answer) => {
    const { texts } = lastText;
    summary.textContent = summarize(answer);
    tokens.element.classList.add("show-copied");
    const spans = answer.spans ?? answer.lines.filter(({ origin }) => origin);
    for (const [i, indices] of tokensOfSpans(texts, spans).entries()) {
      const { origin = "training" } = spans[i];
      for (const index of indices) tokens.mark(index, CLASSES[origin], answer.spans ? describeSpan(spans[i]) : undefined);
    }
    if (!answer.spans) return;
    const longest = [...spans].sort((a, b) => b.end - b.start - (a.end - a.start)).slice(0, MAX_LISTED);
    list.append(...longest.map((span) => listItem(span, texts.join(""))));
    const rest = spans.length - longest.length;
    if (!rest) return;
    list.append(
      create("li", {}, rest === 1 ? "One more span, no longer than these." : `${rest} more spans, no longer than these.`),
    );
  };

  const request = async () => {
    clear();
    if (!lastText || !toggle.checked) return;
    const current = answers;
    const { model, prompt, texts } = lastText;
    try {
      const answer = await fetchJson("copied", { model, prompt, text: texts.join("") });
      if (current === answers) show(answer);
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      if (current === answers) summary.textContent = error.message;
    }
  };
  toggle.addEventListener("change", request);

  return {
    /**
     * A text is finished: look it up, if the switch is on.
     * @param {object} text
     * @param {string} text.model The id of the model.
     * @param {string} [text.prompt] What it continues.
     * @param {string[]} text.texts The text of each token.
     */
    check({ model, prompt = "", texts }) {
      lastText = { model, prompt, texts };
      element.hidden = !texts.length;
      return request();
    },

    /** Another text begins: forget this one. */
    clear() {
      lastText = undefined;
      element.hidden = true;
      clear();
    },
  };
};

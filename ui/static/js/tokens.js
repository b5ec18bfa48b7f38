/**
 * A text whose tokens can be selected with the mouse, a finger or the keyboard, tinted by how surprising each is.
 *
 * A token is a bare <span>, so that a screen reader reads the text as text. Only the current token has a role (button), a name
 * ("t, 0.3 bits") and the Tab stop; they move with the arrow keys. A list box would need a role and, for a space, a name on each
 * of a thousand tokens, and would no longer be read as text.
 */

import { create } from "./dom.js";
import { formatBits, nameToken } from "./text.js";

/** Bits from which on a token has the next stronger tint: rarer than 1 of 2, 4, 16 and 64 cases. */
const TINT_BITS = Object.freeze([1, 2, 4, 6]);
const AT_END_PX = 24; // a text counts as scrolled to its end within this distance

/** The strength of the tint, 0 to 4. */
export function tintLevel(bits) {
  return TINT_BITS.filter((limit) => bits >= limit).length;
}

/**
 * @typedef {object} Token
 * @property {string} text What it adds to the text; "" while a multi-byte character is incomplete.
 * @property {number} [bits] Its surprisal.
 */

/**
 * Fill an element with an empty text.
 * @param {HTMLElement} element
 * @param {object} [options]
 * @param {string} [options.label] The name of the text for screen readers.
 * @param {(index: number) => void} [options.onSelect] Called when a visitor selects a token, not by `select`.
 */
export function createTokens(element, { label = "Text", onSelect = () => {} } = {}) {
  const prompt = create("span", { class: "prompt" });
  const content = create("div", { class: "tokens-content" }, prompt);
  element.classList.add("tokens", "show-confidence");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", label);
  element.tabIndex = 0; // an element that scrolls must be in reach of the keyboard, even without tokens
  element.replaceChildren(content);

  let tokens = [];
  let spans = [];
  let current = 0; // the token with the Tab stop
  let selected = null;

  /** Give the Tab stop and the role to a token. */
  function setCurrent(index) {
    const old = spans[current];
    for (const name of ["role", "tabindex", "aria-label", "aria-pressed"]) old?.removeAttribute(name);
    current = index;
    const span = spans[index];
    element.tabIndex = span ? -1 : 0;
    if (!span) return;
    const { text, bits } = tokens[index];
    span.setAttribute("role", "button");
    span.tabIndex = 0;
    span.setAttribute("aria-label", bits === undefined ? nameToken(text) : `${nameToken(text)}, ${formatBits(bits)}`);
    span.setAttribute("aria-pressed", String(index === selected));
  }

  function select(index) {
    spans[selected]?.classList.remove("selected");
    selected = index;
    spans[selected]?.classList.add("selected");
    setCurrent(index ?? current);
  }

  /** Select a token as the visitor asked for it. */
  function choose(index) {
    select(index);
    spans[index].focus();
    onSelect(index);
  }

  /** The token in the next line (direction 1) or the one before (-1) that is the closest to the current one. */
  function verticalNeighbor(direction) {
    const from = spans[current].getBoundingClientRect();
    let [best, line] = [current, null];
    for (let i = current + direction; i >= 0 && i < spans.length; i += direction) {
      const rect = spans[i].getBoundingClientRect();
      if (direction * (rect.top - from.top) < from.height / 2) continue; // the same line
      line ??= rect;
      if (Math.abs(rect.top - line.top) > rect.height / 2) break; // a line further
      const distance = (at) => Math.abs(at.left - from.left);
      if (best === current || distance(rect) < distance(spans[best].getBoundingClientRect())) best = i;
    }
    return best;
  }

  const last = () => spans.length - 1;
  const keys = {
    ArrowLeft: () => Math.max(current - 1, 0),
    ArrowRight: () => Math.min(current + 1, last()),
    ArrowUp: () => verticalNeighbor(-1),
    ArrowDown: () => verticalNeighbor(1),
    Home: () => 0,
    End: last,
    Enter: () => current,
    " ": () => current,
  };
  element.addEventListener("keydown", (event) => {
    const key = keys[event.key];
    if (!key || spans.length === 0 || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault();
    choose(key());
  });
  element.addEventListener("click", (event) => {
    const index = spans.indexOf(event.target.closest(".token"));
    if (index >= 0 && index !== selected && getSelection().isCollapsed) choose(index); // selecting text ends in a click, too
  });
  element.addEventListener("focusin", (event) => {
    const index = spans.indexOf(event.target);
    if (index >= 0 && index !== selected) choose(index); // reached with Tab
  });

  // A text that grows stays at its end, unless the visitor scrolled up.
  let isAtEnd = true;
  let lastTop = 0;
  let frame = 0;
  element.addEventListener("scroll", () => {
    if (element.scrollHeight - element.scrollTop - element.clientHeight < AT_END_PX) isAtEnd = true;
    else if (element.scrollTop < lastTop) isAtEnd = false;
    lastTop = element.scrollTop;
  });
  function stayAtEnd() {
    if (!isAtEnd || frame) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      element.scrollTop = element.scrollHeight;
    });
  }

  function fillSpan(span, { text, bits }) {
    span.textContent = text;
    if (bits === undefined) delete span.dataset.tint;
    else span.dataset.tint = tintLevel(bits);
    span.classList.toggle("newline", /^\n+$/.test(text));
    span.classList.toggle("incomplete", text === "");
    return span;
  }

  return {
    element,
    get length() {
      return spans.length;
    },
    get selected() {
      return selected;
    },

    /**
     * Show a text before the tokens.
     * @param {string} text
     * @param {string} [unknownChars] Characters to strike through, because the model does not know them.
     */
    setPrompt(text, unknownChars = "") {
      const unknown = new Set(unknownChars);
      const parts = [];
      for (const character of text) {
        const isUnknown = unknown.has(character);
        if (parts.at(-1)?.isUnknown === isUnknown) parts.at(-1).text += character;
        else parts.push({ isUnknown, text: character });
      }
      prompt.replaceChildren(
        ...parts.map((part) => {
          if (!part.isUnknown) return part.text;
          return create("s", { title: "The model does not know this character and skips it" }, part.text);
        }),
      );
    },

    /** @param {Token[]} newTokens */
    append(newTokens) {
      const first = spans.length === 0;
      const added = newTokens.map((token) => fillSpan(create("span", { class: "token" }), token));
      const fragment = document.createDocumentFragment();
      fragment.append(...added);
      tokens.push(...newTokens);
      spans.push(...added);
      content.append(fragment);
      if (first) setCurrent(0);
      stayAtEnd();
    },

    /** Put another token in place of one. @param {number} index @param {Token} token */
    replace(index, token) {
      tokens[index] = token;
      fillSpan(spans[index], token);
      if (index === current) setCurrent(index);
    },

    /** Remove the prompt and all tokens. */
    clear() {
      const hadFocus = spans.includes(document.activeElement);
      prompt.replaceChildren();
      content.replaceChildren(prompt);
      [tokens, spans] = [[], []];
      selected = null;
      setCurrent(0);
      if (hadFocus) element.focus();
      isAtEnd = true;
    },

    /**
     * Select a token, or none. The focus stays where it is.
     * @param {number | null} index
     */
    select,

    /** Tint the tokens by their surprisal, or not. */
    setConfidence(isOn) {
      element.classList.toggle("show-confidence", isOn);
    },

    /** Show a sign for each new line, for a text that has nothing else. */
    setShowNewlines(isOn) {
      element.classList.toggle("show-newlines", isOn);
    },

    /** Show a caret at the end. */
    setRunning(isOn) {
      element.classList.toggle("running", isOn);
    },

    /** Name the text for screen readers. */
    setLabel(text) {
      element.setAttribute("aria-label", text);
    },

    /** Add a class and a tooltip to a token. */
    mark(index, className, title) {
      spans[index].classList.add(className);
      if (title) spans[index].title = title;
    },

    /** Remove a class, and the tooltip with it, from all tokens. */
    unmark(className) {
      for (const span of spans) {
        if (!span.classList.contains(className)) continue;
        span.classList.remove(className);
        span.removeAttribute("title");
      }
    },
  };
}

/** Fill an element with the meaning of the tints. */
export function createLegend(element) {
  const steps = [0, ...TINT_BITS].map((from, level) => {
    const to = TINT_BITS[level];
    const range = to === undefined ? `${from} or more` : level === 0 ? `below ${to}` : `${from} to ${to}`;
    const cases = to === undefined ? `fewer than 1 of ${2 ** from}` : `at least 1 of ${2 ** to}`;
    return create("li", { class: "tint-sample", "data-tint": level, title: `The model expected it in ${cases} cases` }, range);
  });
  element.classList.add("tokens-legend");
  element.replaceChildren(create("span", {}, "Surprise in bits:"), create("ul", {}, ...steps));
}

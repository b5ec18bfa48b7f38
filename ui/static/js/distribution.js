/**
 * The distribution of one token: a row for each candidate, with the model's own probability and the one after temperature and
 * filters. Rows are created once and changed in place, without reading the layout, so that it can follow a text being written.
 */

import { create, setText } from "./dom.js";
import { applyFilters, applyFiltersToTop, likeliestFirst, NEUTRAL } from "./sampling.js";
import { formatPercent, nameToken, quote, showWhitespace } from "./text.js";

const ORDERS = ["probability", "alphabet"];
const SHORT_ROWS = 15; // in a narrow column, until the visitor asks for all; distribution.css has the same number
const NARROW_PX = 480; // not a container query, which Gradio drops from style sheets
const collator = new Intl.Collator("en");
let order = ORDERS[0]; // of all distributions of the page; the choice lasts until the page is left

/**
 * @typedef {object} Shown
 * @property {string[]} names The text of each token of the vocabulary.
 * @property {ArrayLike<number>} bits -log2 p of all tokens, or of those in `ids`.
 * @property {ArrayLike<number> | null} [ids] Token ids of `bits`; null for the whole vocabulary.
 * @property {number | null} [rest] -log2 p of all other tokens together.
 * @property {import("./sampling.js").Params} params `NEUTRAL` shows the model's own distribution only.
 * @property {number} [chosen] The token that the text goes on with.
 * @property {string} [context] The text before it, or its end; quoted in the sentence above.
 * @property {string} [subject] The beginning of that sentence, "… the model", in place of the context.
 */

/**
 * Fill an element with an empty distribution.
 * @param {HTMLElement} element
 * @param {object} [options]
 * @param {(tokenId: number) => void} [options.onPick] Called when a visitor picks a candidate; without it rows are no buttons.
 * @param {string} [options.label] The name of the list for screen readers.
 */
export function createDistribution(element, { onPick, label = "Candidates for the next character" } = {}) {
  const [before, token, after] = [create("span"), create("b"), create("span")];
  const sentence = create("p", { class: "distribution-sentence" }, before, token, after);
  const legend = create(
    "span",
    { class: "distribution-legend" },
    create("span", { class: "own-key" }, "the model"),
    create("span", { class: "shaped-key" }, "with your settings"),
  );
  const sorting = create("span", { class: "distribution-sorting", role: "group" }, "Sort by ");
  const toolbar = create("div", { class: "distribution-toolbar" }, legend, sorting);
  const list = create("div", { class: "distribution-rows", role: "group", "aria-label": label });
  const showAll = create("button", { type: "button", class: "chip distribution-show-all" });
  showAll.addEventListener("click", expand);
  element.classList.add("distribution", "short");
  element.replaceChildren(sentence, toolbar, list, showAll);

  new ResizeObserver(([{ contentRect }]) => element.classList.toggle("narrow", contentRect.width <= NARROW_PX)).observe(element);

  const rows = [];
  let shown = null; // what `show` was called with
  let indexes = []; // of the candidate in each row
  let current = 0; // the row with the Tab stop

  const orderButtons = ORDERS.map((name) => {
    const button = create("button", { type: "button", class: "chip" }, name);
    button.addEventListener("click", () => {
      order = name;
      if (name === "alphabet") expand(); // the first letters say nothing
      if (shown) draw();
    });
    return button;
  });
  sorting.append(...orderButtons);

  function addRow() {
    const span = (className, ...children) => create("span", { class: className }, ...children);
    const [ownBar, shapedBar] = [span("own-bar"), span("shaped-bar")];
    const [name, own, shaped, state] = ["name", "own", "shaped", "visually-hidden"].map((className) => span(className));
    const row = create(onPick ? "button" : "div", { class: "candidate" });
    row.append(name, span("bars", ownBar, shapedBar), own, shaped, state);
    if (onPick) {
      row.type = "button";
      row.tabIndex = -1;
    }
    list.append(row);
    rows.push({ row, name, own, shaped, state, ownBar, shapedBar });
  }

  /** Show all rows in a narrow column, too. */
  function expand() {
    element.classList.remove("short");
  }

  function setCurrent(index) {
    if (!onPick || rows.length === 0) return;
    rows[current].row.tabIndex = -1;
    current = index;
    rows[current].row.tabIndex = 0;
  }

  /** Indexes of the candidates in the order of the visitor. */
  function sorted() {
    const { bits, ids, names } = shown;
    if (order === "probability") return ids ? Array.from(ids, (_, i) => i) : likeliestFirst(Array.from(bits, (value) => -value));
    const name = (i) => names[ids ? ids[i] : i];
    return Array.from(bits, (_, i) => i).sort((a, b) => collator.compare(name(a), name(b)) || a - b);
  }

  function filtered(params) {
    const { bits, rest = null, names } = shown;
    return rest === null ? applyFilters(bits, params) : applyFiltersToTop(bits, rest, names.length, params);
  }

  function draw() {
    const { bits, ids = null, rest = null, names, params, chosen } = shown;
    const own = filtered(NEUTRAL).probs;
    const { probs, removedBy } = filtered(params);
    const idOf = (i) => (ids ? ids[i] : i);
    indexes = sorted();
    if (rest !== null) indexes.push(bits.length);
    while (rows.length < indexes.length) addRow();
    rows.forEach(({ row }, i) => {
      row.hidden = i >= indexes.length;
    });
    indexes.forEach((index, i) => {
      const isRest = index === bits.length;
      const { row, name, ownBar, shapedBar, ...cells } = rows[i];
      const isChosen = isRest ? chosen !== undefined && !ids.includes(chosen) : idOf(index) === chosen;
      const text = isRest ? `${names.length - bits.length} others` : names[idOf(index)];
      setText(name, isRest ? text : nameToken(text));
      name.classList.toggle("is-named", isRest || nameToken(text) !== showWhitespace(text));
      setText(cells.own, formatPercent(own[index]));
      setText(cells.shaped, removedBy[index]?.replace("temperature", "temp.") ?? formatPercent(probs[index]));
      setText(cells.state, [removedBy[index] && "removed", isChosen && "chosen"].filter(Boolean).join(", "));
      ownBar.style.transform = `scaleX(${own[index]})`;
      shapedBar.style.transform = `scaleX(${probs[index]})`;
      row.classList.toggle("removed", removedBy[index] !== null);
      row.classList.toggle("chosen", isChosen);
      row.classList.toggle("rest", isRest);
      row.title = removedBy[index] ? `removed by ${removedBy[index]}` : "";
      if (onPick) row.disabled = isRest;
    });
    orderButtons.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(ORDERS[i] === order));
    });
    setCurrent(Math.min(current, bits.length - 1));
    setText(showAll, `Show all ${indexes.length}`);
    showAll.hidden = indexes.length <= SHORT_ROWS;
    describe(own, probs, removedBy);
    element.classList.toggle("without-settings", params === NEUTRAL);
    element.classList.toggle("has-pieces", ids !== null); // their names are longer
    element.classList.remove("empty");
  }

  /** Write the sentence above: what the model gives the chosen token, or else the likeliest. */
  function describe(own, probs, removedBy) {
    const { bits, ids, names, chosen, context } = shown;
    const { subject = context ? `After ${quote(context)} the model` : "At the start the model" } = shown;
    let index = likeliestFirst(Array.from(bits, (value) => -value))[0];
    if (chosen !== undefined) index = ids ? ids.indexOf(chosen) : chosen;
    const verb = index < 0 ? "gives less than to each of the pieces below to" : "gives";
    setText(before, `${subject} ${verb} `);
    setText(token, nameToken(names[index < 0 ? chosen : ids ? ids[index] : index]));
    const shaped = removedBy[index] ? `${removedBy[index]} removes it` : `it has ${formatPercent(probs[index] ?? 0)}`;
    const withSettings = shown.params === NEUTRAL ? "" : `; with your settings ${shaped}`;
    setText(after, index < 0 ? "." : ` ${formatPercent(own[index])}${withSettings}.`);
  }

  list.addEventListener("click", (event) => {
    const i = rows.findIndex(({ row }) => row.contains(event.target));
    const index = indexes[i];
    if (!onPick || i < 0 || index === shown.bits.length) return;
    setCurrent(i);
    onPick(shown.ids ? shown.ids[index] : index);
  });
  list.addEventListener("keydown", (event) => {
    const last = shown ? shown.bits.length - 1 : 0;
    const to = {
      ArrowUp: current - 1,
      ArrowLeft: current - 1,
      ArrowDown: current + 1,
      ArrowRight: current + 1,
      Home: 0,
      End: last,
    };
    if (!onPick || !(event.key in to)) return;
    event.preventDefault();
    expand();
    setCurrent(Math.max(0, Math.min(to[event.key], last)));
    rows[current].row.focus();
  });

  const component = {
    element,

    /** @param {Shown} distribution */
    show(distribution) {
      shown = { ids: null, rest: null, ...distribution };
      draw();
    },

    /** Show what other settings would do to the same distribution. */
    setParams(params) {
      if (!shown) return;
      shown.params = params;
      draw();
    },

    /** Show a message in place of a distribution. */
    clear(message = "") {
      shown = null;
      setText(before, message);
      setText(token, "");
      setText(after, "");
      element.classList.add("empty");
    },
  };
  component.clear();
  return component;
}

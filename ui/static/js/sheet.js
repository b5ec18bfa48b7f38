/** The elements of the tab Write: the caption, the text, its pace, the explanation of one token, the texts of this visit. */
import { createCopyButton } from "./clipboard.js";
import { createCopied } from "./copied.js";
import { createDistribution } from "./distribution.js";
import { create, createButton, setText } from "./dom.js";
import { PACES } from "./pace.js";
import { createLegend, createTokens } from "./tokens.js";

/** A button that does nothing while it is switched off with `setEnabled`. */
const createAction = (label, name, onClick) => {
  const button = createButton(label, () => isEnabled(button) && onClick(), `button small ${name}`);
  return button;
};

/** Whether pressing a button makes sense. It keeps the focus if not, so it is never `disabled`. */
const isEnabled = (button) => button?.getAttribute("aria-disabled") !== "true";

export const setEnabled = (button, isOn) => button?.setAttribute("aria-disabled", String(!isOn));

/**
 * Fill the element of the tab.
 * @param {HTMLElement} element
 * @param {object} actions What to do: onSelect(index), onPick(tokenId), onPace(name), onStep(), readLink(), onInside(), onBefore(), onAfter().
 * @param {string} pace The first one.
 */
export function createSheet(element, actions, pace) {
  const caption = create("p", { class: "caption" });
  const heldOut = create("p", { class: "held-out" });
  const otherModel = create("p", { class: "other-model", hidden: "" });
  const text = create("div");

  const radios = PACES.map((name) => create("input", { type: "radio", name: "pace", value: name }));
  for (const radio of radios) radio.checked = radio.value === pace;
  const paceField = create("fieldset", { class: "pace" }, create("legend", {}, "Pace"));
  paceField.append(...radios.map((radio) => create("label", {}, radio, radio.value)));
  const next = createAction("Next character", "next", actions.onStep);
  const confidence = create("input", { type: "checkbox", checked: "" });
  const legend = create("div");
  const copyLink = createCopyButton("Copy link", actions.readLink, "button small copy-link");
  const bar = create("div", { class: "bar" }, paceField, next, copyLink);
  const surprise = create("div", { class: "bar" }, create("label", {}, confidence, "Show surprise"), legend);
  const status = create("p", { class: "status", role: "status" });

  const title = create("h2");
  const choice = create("p", { class: "choice" });
  const note = create("p", { class: "note" });
  const candidates = create("div");
  const inside = createAction("Look inside", "inside", actions.onInside);
  const label = { class: "explanation", "aria-label": "Why this character" };
  const explanation = create("section", label, title, candidates, inside);

  const before = createAction("Undo", "undo", actions.onBefore);
  const after = createAction("Redo", "redo", actions.onAfter);
  const tree = create("div", { class: "tree" });
  const heading = create("div", { class: "texts-head" }, create("h2", {}, "Texts of this visit"), before, after);
  const texts = create("section", { class: "texts", hidden: "" }, heading, tree);

  const comparison = create("div");
  element.replaceChildren(caption, heldOut, otherModel, text, bar, surprise, status, explanation, comparison, texts);
  const tokens = createTokens(text, { label: "Text", onSelect: actions.onSelect });
  const copied = createCopied(comparison, tokens);
  const distribution = createDistribution(candidates, { onPick: actions.onPick });
  candidates.querySelector(".distribution-sentence").after(choice, note);
  createLegend(legend);
  next.hidden = pace !== "step";

  paceField.addEventListener("change", ({ target }) => {
    next.hidden = target.value !== "step";
    actions.onPace(target.value);
  });
  confidence.addEventListener("change", () => {
    tokens.setConfidence(confidence.checked);
    legend.classList.toggle("off", !confidence.checked);
  });
  // At the end of the text, the right arrow goes on. In the capture phase: before the tokens take the key.
  element.addEventListener(
    "keydown",
    (event) => {
      const isAtEnd = tokens.length === 0 || tokens.selected === tokens.length - 1;
      if (event.key !== "ArrowRight" || next.hidden || !isAtEnd || !text.contains(event.target)) return;
      event.preventDefault();
      event.stopPropagation();
      actions.onStep();
    },
    true,
  );

  return {
    tokens,
    distribution,
    copied,
    tree,

    /** Whether the focus is in the text. */
    get hasFocus() {
      return text.contains(document.activeElement);
    },

    setCaption(words, figure) {
      setText(caption, words);
      setText(heldOut, figure);
    },

    /** Say that Continue goes on with another model than the chosen one; "" if it does not. */
    setOtherModel(sentence) {
      setText(otherModel, sentence);
      otherModel.hidden = sentence === "";
    },

    setStatus(sentence) {
      setText(status, sentence);
    },

    setExplanation(words, sentences) {
      setText(title, words);
      setText(choice, sentences);
      inside.hidden = words === "";
    },

    setNote(sentence) {
      setText(note, sentence);
    },

    setTexts({ hasSeveral, hasBefore, hasAfter }) {
      texts.hidden = !hasSeveral;
      setEnabled(before, hasBefore);
      setEnabled(after, hasAfter);
    },

    /** Move the focus to the selected token. */
    focusSelected() {
      text.querySelector("[tabindex='0']")?.focus();
    },

    /** Scroll the text to its end, where it stays. */
    scrollToEnd() {
      text.scrollTop = text.scrollHeight;
    },

    /** Scroll the text, not the page, to the selected token. */
    scrollToSelected() {
      const token = text.querySelector(".selected");
      if (token) text.scrollTop = token.offsetTop - text.clientHeight / 2;
    },
  };
}

/**
 * The model picker: first the text that a model learned from, then the models of that text as a ladder from worst to best.
 *
 * The ladders of all texts lie on top of each other and only one is visible, so that choosing another text moves nothing.
 */
import { fetchModels, onModels, openModel, VisitorError } from "./api.js";
import { create } from "./dom.js";
import { createSegments } from "./segments.js";
import { formatCount } from "./text.js";

/** What the texts are called, by the name of the data set. Models of other texts are listed together. */
export const TEXTS = { shakespeare: "Shakespeare's plays", names: "Names", own: "Your text", other: "Other" };

const OWN_PREFIX = "my-"; // of the ids of models that visitors trained (ui/model_registry.py)

const listeners = new Set();
let current; // id of the chosen model
let element;

/** The text that a model learned from: a key of TEXTS. */
export const textOf = ({ dataset, is_own: isOwn }) => {
  if (isOwn) return "own";
  return dataset in TEXTS && dataset !== "own" ? dataset : "other";
};

/** The id of the chosen model; undefined until the models are known. */
export const chosenModel = () => current;

/**
 * Call a function whenever another model is chosen: with the model (see `describe` in ui/routes.py), and the one before if
 * the visitor chose it here.
 */
export const onChoose = (listener) => listeners.add(listener);

/**
 * Choose a model.
 * @param {string} id
 * @returns {Promise<object>} The model. Raises VisitorError if there is none of this id.
 */
export const choose = async (id) => change(id);

const change = async (id, before) => {
  const { models } = await fetchModels();
  const model = models.find((candidate) => candidate.id === id);
  if (!model) throw new VisitorError(`There is no model called ${id.slice(0, 60)} here.`);
  if (id !== current) {
    current = id;
    show(models);
    for (const listener of listeners) listener(model, before);
  }
  return model;
};

/** The visitor chose a model. */
const pick = async (id) => {
  const { models } = await fetchModels();
  await change(
    id,
    models.find((model) => model.id === current),
  );
};

/** A model was opened from the Hub. */
export const modelOpened = async (id) => {
  if (!id) return;
  await fetchModels(true);
  await pick(id);
};

/**
 * Find the model of a link; if it is not open, open it from the Hub.
 * @param {string} [id] In the link; without it, the link is about the model that the page opens with.
 * @param {(message: string) => void} onProgress Called with sentences.
 * @returns {Promise<string>} The id. Raises VisitorError if there is none of this id.
 */
export const findLinkedModel = async (id, onProgress) => {
  for (const again of [false, true]) {
    const answer = await fetchModels(again);
    if (id === undefined) return answer.default;
    if (answer.models.some((model) => model.id === id)) return id;
  }
  if (id.startsWith(OWN_PREFIX))
    throw new VisitorError(`The model “${id.slice(0, 60)}” belongs to another visit, or to one that is over. Train it again.`);
  if (!id.includes("/")) throw new VisitorError(`There is no model called “${id.slice(0, 60)}” here.`);
  const opened = await openModel(id, onProgress);
  await modelOpened(opened);
  return opened;
};

/** Draw the picker. */
export const mount = async (target) => {
  element = target;
  const { models, default: first } = await fetchModels();
  draw(models);
  onModels((offered) => {
    if (!offered.some(({ id }) => id === current)) pick(first); // it was deleted
    draw(offered);
  });
  if (current === undefined) await choose(first);
};

const draw = (models) => {
  const texts = Object.keys(TEXTS).filter((text) => models.some((model) => textOf(model) === text));
  const toggle = create("button", { type: "button", class: "option picker-toggle", "aria-expanded": "false" });
  toggle.addEventListener("click", () => open(toggle.ariaExpanded !== "true"));
  const scale = create(
    "p",
    { class: "picker-scale" },
    term("bit", "Bits per character"),
    " on ",
    term("held-out", "unseen text"),
    ": fewer is better.",
  );
  const ladders = create("div", { class: "picker-ladders" }, ...texts.map((text) => drawLadder(text, models)));
  ladders.addEventListener("click", ({ detail, target }) => {
    if (detail && target.closest("label")) open(false); // by mouse or finger, not by the arrow keys
  });
  const about = create("div", { class: "picker-about" }, ...models.map(drawAbout));
  element.classList.add("picker");
  element.replaceChildren(toggle, create("div", { class: "picker-body" }, drawTexts(texts, models), scale, ladders, about));
  show(models);
};

/** Open the list on a phone, or close it; elsewhere it is always open. */
const open = (opened) => {
  element.classList.toggle("open", opened);
  element.querySelector(".picker-toggle").ariaExpanded = String(opened);
};

/** A word that the glossary explains. */
const term = (name, text) => create("a", { href: `#term-${name}`, class: "term" }, text);

const drawTexts = (texts, models) => {
  const options = texts.map((text) => [text, TEXTS[text]]);
  return createSegments("Models of", "text", options, { onChange: (text) => pick(counterpart(text, models).id) });
};

/** The model of a text to go to from the current one: of the same family if there is one. */
const counterpart = (text, models) => {
  const { family, unit } = models.find((model) => model.id === current);
  const candidates = models.filter((model) => textOf(model) === text);
  return (
    candidates.find((model) => model.family === family && model.unit === unit) ??
    candidates.findLast((model) => model.family === family) ??
    candidates.at(-1)
  );
};

const drawLadder = (text, models) => {
  const mine = models.filter((model) => textOf(model) === text);
  const exact = mine.filter(({ likelihood, bits_per_character: bits }) => bits && likelihood === "exact");
  const bounds = mine.filter(({ likelihood, bits_per_character: bits }) => bits && likelihood !== "exact");
  const unknown = mine.filter(({ bits_per_character: bits }) => !bits);
  const characters = Math.max(...mine.filter(({ unit }) => unit === "character").map(({ vocabulary }) => vocabulary.length));
  const guess = characters > 0 && text !== "other" ? Math.log2(characters) : null;
  const most = guess ?? Math.max(...mine.map(({ bits_per_character: bits }) => bits ?? 0));
  const ladder = create("div", {
    class: "ladder",
    role: "radiogroup",
    "aria-label": `Model of ${TEXTS[text]}`,
    "data-text": text,
  });
  if (guess) {
    const name = create("span", { class: "rung-name" }, `Blind guess: log\u2082\u00a0${characters}`);
    ladder.append(
      create("div", { class: "rung guess" }, name, drawBar(1), create("span", { class: "rung-bits" }, guess.toFixed(2))),
    );
  }
  for (const model of [...exact].sort((a, b) => b.bits_per_character - a.bits_per_character))
    ladder.append(drawRung(model, most));
  if (bounds.length)
    ladder.append(
      create("p", { class: "ladder-heading" }, "At most so many: only a ", term("bound", "bound"), " is known"),
      ...bounds.map((model) => drawRung(model, most)),
    );
  if (unknown.length)
    ladder.append(create("p", { class: "ladder-heading" }, "Not measured"), ...unknown.map((model) => drawRung(model, most)));
  return ladder;
};

const drawRung = (model, most) => {
  const { id, label, memory, parameters, bits_per_character: bits, likelihood } = model;
  const input = create("input", { type: "radio", name: `model-${textOf(model)}`, value: id });
  input.addEventListener("change", () => pick(id));
  const rung = create("label", { class: "rung" }, input, create("span", { class: "rung-name" }, label));
  if (bits) {
    const atMost = likelihood === "exact" ? "" : create("span", { "aria-label": "at most", role: "img" }, "≤\u00a0");
    const unit = create("span", { class: "visually-hidden" }, " bits per character on unseen text");
    rung.append(drawBar(bits / most), create("span", { class: "rung-bits" }, atMost, bits.toFixed(2), unit));
  }
  rung.append(create("span", { class: "rung-facts" }, `${memory} · ${formatCount(parameters)}\u00a0parameters`));
  return rung;
};

const drawBar = (share) => {
  const bar = create("span", { class: "rung-bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", share);
  return bar;
};

const drawAbout = ({ id, label, explanation, card }) => {
  const about = create("p", { "data-model": id }, `${explanation} `);
  if (card) about.append(create("a", { href: card, target: "_blank", "aria-label": `Model card of ${label}` }, "Model card"));
  return about;
};

/** Show the chosen model, without drawing anything anew: the focus stays. */
const show = (models) => {
  const model = models.find(({ id }) => id === current);
  if (!element?.firstChild || !model) return;
  const text = textOf(model);
  for (const input of element.querySelectorAll("input")) {
    if (input.name === "text" ? input.value === text : input.value === current) input.checked = true;
  }
  for (const ladder of element.querySelectorAll(".ladder")) ladder.classList.toggle("shown", ladder.dataset.text === text);
  for (const about of element.querySelectorAll(".picker-about p"))
    about.classList.toggle("shown", about.dataset.model === current);
  const bits = model.bits_per_character ? `${model.bits_per_character.toFixed(2)} bits per character` : "not measured";
  element
    .querySelector(".picker-toggle")
    .replaceChildren(create("b", {}, model.label), create("span", {}, `${TEXTS[text]} · ${bits}`));
};

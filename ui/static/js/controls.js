/** The values of Gradio's controls: their names, how the page's scripts set them, and what a visitor may type. */

/** The controls of the tab Write, in the order of its events (CONTROLS in ui/tabs/write.py). */
const NAMES = ["prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed", "locked"];
const TITLES = {
  length: "Length",
  temperature: "Temperature",
  "top-k": "Top-k",
  "top-p": "Top-p",
  "min-p": "Min-p",
  seed: "The seed",
};
const NUMBER_FIELDS = Object.keys(TITLES)
  .map((id) => `#${id} input[type=number]`)
  .join();

const valid = {}; // the last valid value of each number, by name

/** The inputs of an event as an object by name. An empty number field counts as its last value. */
export const byName = (inputs) => {
  const values = Object.fromEntries(NAMES.map((name, i) => [name, inputs[i]]));
  for (const name of NAMES.slice(1, -1)) {
    if (Number.isFinite(values[name])) valid[name] = values[name];
    else values[name] = valid[name];
  }
  return values;
};

/** The prompt as it is typed. */
export const currentPrompt = () => document.querySelector("#prompt textarea")?.value ?? "";

let restore;
const ready = new Promise((resolve) => {
  restore = resolve;
});
let changes = {};

/** Gradio drew the element whose event sets the controls. */
export const mount = (_element, trigger, event) => {
  restore(() => trigger(event));
};

/**
 * Set controls.
 * @param {object} changed Their values by name; the others stay.
 */
export const setControls = async (changed) => {
  changes = { ...changes, ...changed };
  (await ready)();
};

/** What the event gets: the new values, in order; the others stay as they are. */
export const takeValues = () => {
  const values = NAMES.map((name) => (name in changes ? changes[name] : { __type__: "update" }));
  changes = {};
  return values;
};

/**
 * What to do about a number that was typed.
 * @param {string} title Of the field.
 * @param {{value: string, min: string, max: string, step: string}} field As in the document.
 * @param {number} last Its last valid value.
 * @returns {{value: number, message: string} | null} A value to take instead, and why; null if it is fine.
 */
export const correct = (title, { value, min, max, step }, last) => {
  if (value.trim() === "" || Number.isNaN(Number(value)))
    return { value: last, message: `${title} needs a number, so it is ${last} again.` };
  const [lowest, highest] = [Number(min), max === "" ? Number.POSITIVE_INFINITY : Number(max)];
  let number = Math.min(Math.max(Number(value), lowest), highest);
  if (number !== Number(value))
    return { value: number, message: `${title} goes from ${lowest} to ${highest}, so it is ${number} now.` };
  if (step !== "1" || Number.isInteger(number)) return null;
  number = Math.round(number);
  return { value: number, message: `${title} is a whole number, so it is ${number} now.` };
};

/**
 * Correct numbers that a visitor leaves empty or out of range, and keep a seed that a visitor typed.
 * @param {(message: string) => void} onCorrect Called with a sentence.
 */
export const watchFields = (onCorrect) => {
  // In the capture phase: before Gradio, which would take an empty field for 0.
  const listen = (type, selector, listener) =>
    document.addEventListener(type, ({ target, isTrusted }) => isTrusted && target.matches?.(selector) && listener(target), true);
  listen("change", NUMBER_FIELDS, (field) => {
    const { id } = field.closest(
      Object.keys(TITLES)
        .map((name) => `#${name}`)
        .join(),
    );
    const correction = correct(TITLES[id], field, valid[id.replace("-", "_")]);
    if (!correction) return;
    field.value = correction.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    onCorrect(correction.message);
  });
  listen("input", "#seed input", (field) => field.value !== "" && setControls({ locked: true }));
};

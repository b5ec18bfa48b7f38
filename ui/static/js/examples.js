/** Example prompts for the chosen model: a line of a play says nothing to a model of names. */
import { fetchModel } from "./api.js";
import { currentPrompt, setControls } from "./controls.js";
import { create } from "./dom.js";
import { chosenModel, onChoose, textOf } from "./picker.js";

/**
 * Draw the examples as buttons.
 * @param {HTMLElement} element
 * @param {Function} _trigger
 * @param {Object<string, string[]>} examples By text. The first one is what the prompt becomes with the text; "" is no button.
 */
export const mount = async (element, _trigger, examples) => {
  const rows = Object.entries(examples).map(([text, prompts]) => drawRow(text, prompts));
  element.classList.add("examples");
  element.replaceChildren(...rows);
  const show = (model) => {
    for (const row of rows) row.classList.toggle("shown", row.dataset.text === textOf(model));
  };
  onChoose((model, before) => {
    show(model);
    const others = examples[textOf(model)];
    if (!before || !others || textOf(before) === textOf(model)) return;
    if (examples[textOf(before)]?.includes(currentPrompt())) setControls({ prompt: others[0] }); // what the visitor typed stays
  });
  const model = await fetchModel(chosenModel());
  if (model) show(model);
};

const drawRow = (text, prompts) => {
  const row = create("div", { class: "examples-row", role: "group", "aria-label": "Example prompts", "data-text": text });
  for (const prompt of prompts.filter(Boolean)) {
    const button = create("button", { type: "button", class: "chip" }, prompt);
    button.addEventListener("click", () => setControls({ prompt }));
    row.append(button);
  }
  return row;
};

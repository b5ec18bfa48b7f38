/** Check boxes of models, by the text that they learned from. */
import { create } from "./dom.js";

const TITLES = { shakespeare: "Shakespeare's plays", names: "Names" };

/** What to call a model. */
export const nameOf = ({ label, name, dataset }) => {
  const text = { shakespeare: "Shakespeare", names: "names" }[dataset];
  return label && text ? `${label} (${text})` : name;
};

/** A sensible ladder for a text: the exact models of a data set that make no piece of a word. */
export const ladder = (models, dataset) =>
  models.filter((model) => model.dataset === dataset && model.likelihood === "exact").map(({ id }) => id);

/**
 * Fill an element with the check boxes.
 * @param {HTMLElement} element
 * @param {object[]} models See `describe` in ui/routes.py.
 * @param {(ids: string[]) => void} [onChange]
 */
export const createChooser = (element, models, onChange = () => {}) => {
  const groups = Map.groupBy(models, ({ dataset }) => TITLES[dataset] ?? "Other");
  const inputs = [];
  for (const [title, members] of groups) {
    const fieldset = create("fieldset", { class: "chooser" }, create("legend", {}, title));
    for (const model of members) {
      const input = create("input", { type: "checkbox", value: model.id });
      inputs.push(input);
      fieldset.append(create("label", {}, input, model.label ?? model.name));
    }
    element.append(fieldset);
  }
  const chosen = () => inputs.filter((input) => input.checked).map((input) => input.value);
  element.addEventListener("change", () => onChange(chosen()));
  return {
    get chosen() {
      return chosen();
    },

    /** Check the boxes of some models only. */
    choose(ids) {
      for (const input of inputs) input.checked = ids.includes(input.value);
    },
  };
};

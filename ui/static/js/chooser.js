/** Check boxes of models, by the text that they learned from. */
import { create } from "./dom.js";
import { TEXTS, textOf } from "./picker.js";

const SHORT = { shakespeare: "Shakespeare", names: "names", own: "your text" };

/** What to call a model. */
export const nameOf = (model) => {
  const text = SHORT[textOf(model)];
  return model.label && text ? `${model.label} (${text})` : model.name;
};

/** A sensible ladder for a text: the exact models of a data set that make no piece of a word. */
export const ladder = (models, dataset) =>
  models.filter((model) => model.dataset === dataset && !model.is_own && model.likelihood === "exact").map(({ id }) => id);

/**
 * Fill an element with the check boxes.
 * @param {HTMLElement} element
 * @param {object[]} models See `describe` in ui/routes.py.
 * @param {(ids: string[]) => void} [onChange]
 */
export const createChooser = (element, models, onChange = () => {}) => {
  let inputs = [];
  const chosen = () => inputs.filter((input) => input.checked).map((input) => input.value);
  const choose = (ids) => {
    for (const input of inputs) input.checked = ids.includes(input.value);
  };
  const draw = (offered) => {
    inputs = [];
    element.replaceChildren();
    const groups = Map.groupBy(offered, (model) => TEXTS[textOf(model)]);
    for (const [title, members] of groups) {
      const fieldset = create("fieldset", { class: "chooser" }, create("legend", {}, title));
      for (const model of members) {
        const input = create("input", { type: "checkbox", value: model.id });
        inputs.push(input);
        fieldset.append(create("label", { class: "chip" }, input, model.label ?? model.name));
      }
      element.append(fieldset);
    }
  };
  draw(models);
  element.addEventListener("change", () => onChange(chosen()));
  return {
    get chosen() {
      return chosen();
    },

    /** Check the boxes of some models only. */
    choose,

    /** Offer other models; those that were chosen stay chosen. */
    setModels(offered) {
      const before = chosen();
      draw(offered);
      choose(before);
    },
  };
};

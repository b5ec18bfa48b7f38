/** One choice of a few, side by side: radio buttons that look like chips (segments.css). */
import { create } from "./dom.js";

/**
 * Create the radio buttons.
 * @param {string} legend
 * @param {string} name Of the radio buttons.
 * @param {[value: string | number | boolean, text: string][]} options
 * @param {object} [settings]
 * @param {string | number | boolean} [settings.value] That of the chosen option; without it none is chosen.
 * @param {(value: string | number | boolean) => void} [settings.onChange] Called when a visitor chooses.
 * @returns {HTMLFieldSetElement}
 */
export function createSegments(legend, name, options, { value, onChange = () => {} } = {}) {
  const labels = options.map(([option, text]) => {
    const input = create("input", { type: "radio", name, value: option });
    input.checked = option === value;
    input.addEventListener("change", () => onChange(option));
    return create("label", {}, input, create("span", { class: "chip" }, text));
  });
  return create("fieldset", { class: "segments" }, create("legend", {}, legend), ...labels);
}

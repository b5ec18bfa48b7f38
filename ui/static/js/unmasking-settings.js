/** How a masked diffusion model reveals a text: the controls of the tab "All at once". */
import { create } from "./dom.js";
import { createSegments } from "./segments.js";
import { STEPS } from "./unmasking.js";

const ORDERS = [
  ["confident", "most certain first"],
  ["random", "random"],
  ["blocks", "left to right"],
];
const MAX_TEMPERATURE = 1.5;

const slider = (label, attributes, format) => {
  const input = create("input", { type: "range", ...attributes });
  const output = create("output");
  const show = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", show);
  return {
    element: create("label", { class: "unmasking-slider" }, create("span", {}, label, " ", output), input),
    get: () => Number(input.value),
    set: (value) => {
      input.value = value;
      show();
    },
  };
};

/** Create the controls. */
export const createSettings = () => {
  const steps = slider("Steps:", { min: 0, max: STEPS.length - 1, step: 1 }, (i) => String(STEPS[i]));
  const temperature = slider("Temperature:", { min: 0, max: MAX_TEMPERATURE, step: 0.05 }, (value) => value.toFixed(2));
  const seed = create("input", { type: "number", min: 0, max: 2 ** 32 - 1, step: 1, placeholder: "new each time" });
  const orders = createSegments("Order:", "unmasking-order", ORDERS);
  const hint = "Few steps reveal many characters at once, and those cannot see each other.";
  const element = create(
    "div",
    { class: "unmasking-settings" },
    steps.element,
    temperature.element,
    orders,
    create("label", { class: "unmasking-seed" }, "Seed", seed),
    create("p", { class: "hint" }, hint),
  );
  return {
    element,

    /** What the server gets. */
    get values() {
      const order = orders.querySelector("input:checked").value;
      return {
        steps: STEPS[steps.get()],
        temperature: temperature.get(),
        order,
        seed: seed.value === "" ? null : Number(seed.value),
      };
    },

    /** Set some of them; the others stay. */
    set(values) {
      if (values.steps !== undefined) steps.set(STEPS.findLastIndex((step) => step <= Number(values.steps)));
      if (values.temperature !== undefined) temperature.set(values.temperature);
      if (values.seed !== undefined) seed.value = values.seed ?? "";
      const input = [...orders.querySelectorAll("input")].find(({ value }) => value === values.order);
      if (input) input.checked = true;
    },
  };
};

/** "64 steps, temperature 1, most certain first, seed 7" */
export const describeSettings = ({ steps, temperature, order }, seed) =>
  `${steps} steps, temperature ${temperature}, ${ORDERS.find(([name]) => name === order)[1]}, seed ${seed}`;

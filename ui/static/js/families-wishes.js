/** Wishes: lines that a latent diffusion model draws under conditions, from the same noise until a visitor asks for other noise. */
import { fetchJson, VisitorError } from "./api.js";
import { create, createButton, whenVisible } from "./dom.js";
import { randomSeed } from "./families-stage.js";
import { TEXTS } from "./picker.js";
import { createSegments } from "./segments.js";

const ABOUT =
  "The latent diffusion model has learned to remove noise both with and without knowing, say, the first letter. When it draws, the " +
  "difference between the two shows the way to what you wish for. Going farther that way than it has learned is called guidance.";
const FIRST_SEED = 1;

/** What to call a condition (`line_traits` in gpt/models/latent_diffusion.py). */
const TITLES = { "first letter": "First letter", length: "Characters", "length range": "Characters", kind: "Kind of line" };

/** How strongly a wish is followed. */
const GUIDANCE = [
  [0, "ignored"],
  [1, "as learned"],
  [2, "more"],
  [4, "far too much"],
];

/** "11 of 12 meet the wish." */
export const describeMet = (met) => `${met.filter(Boolean).length} of ${met.length} meet the wish.`;

/**
 * Create the section; lines are requested when it is seen.
 * @param {{id: string, dataset: string, noun: string, conditions: Object<string, string[]>}[]} models
 */
export const createWishes = (models) => {
  const selects = create("div", { class: "families-controls" });
  const list = create("ul", { class: "families-lines families-wished" });
  const status = create("p", { class: "status", role: "status" });
  const again = createButton("Other noise", () => {
    seed = randomSeed();
    draw();
  });
  let [model] = models;
  let condition = {};
  let guidance = 2;
  let seed = FIRST_SEED;
  let requests = 0;

  const draw = async () => {
    requests += 1;
    const request = requests;
    status.textContent = "Drawing …";
    try {
      const { lines, met } = await fetchJson("families/wish", { model: model.id, condition, guidance, seed });
      if (request !== requests) return; // the visitor has chosen something else since
      const items = lines.map((line, i) => create("li", met[i] ? {} : { class: "unmet" }, line || create("i", {}, "(nothing)")));
      list.replaceChildren(...items);
      status.textContent = Object.keys(condition).length ? describeMet(met) : `No wish: any ${model.noun} is fine.`;
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      if (request === requests) status.textContent = error.message;
    }
  };
  const createSelect = ([name, values]) => {
    const options = [create("option", { value: "" }, "any"), ...values.map((value) => create("option", { value }, value))];
    const select = create("select", {}, ...options);
    select.addEventListener("change", () => {
      const { [name]: _, ...others } = condition;
      condition = select.value ? { ...others, [name]: select.value } : others;
      draw();
    });
    return create("label", {}, TITLES[name], select);
  };
  const open = (id) => {
    model = models.find((candidate) => candidate.id === id);
    condition = {};
    list.classList.toggle("long", model.noun === "line");
    selects.replaceChildren(...Object.entries(model.conditions).map(createSelect));
    draw();
  };
  const choice = createSegments(
    "Text",
    "families-wishes",
    models.map(({ id, dataset }) => [id, TEXTS[dataset]]),
    { value: model.id, onChange: open },
  );
  choice.hidden = models.length < 2;
  const strength = createSegments("The wish is followed", "families-guidance", GUIDANCE, {
    value: guidance,
    onChange(value) {
      guidance = value;
      draw();
    },
  });
  const element = create(
    "div",
    { class: "families-wishes" },
    create("p", {}, ABOUT),
    choice,
    selects,
    strength,
    create("div", { class: "families-controls" }, again, status),
    list,
  );
  whenVisible(element, () => open(model.id));
  return element;
};

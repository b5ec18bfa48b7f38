/** A walk between two names, through the latent space of a GAN and through that of a VAE. */
import { fetchJson, VisitorError } from "./api.js";
import { create, createButton, whenVisible } from "./dom.js";
import { randomSeed } from "./families-stage.js";

const ABOUT =
  "Both models make a name out of numbers. The GAN draws two names; the VAE, which can also turn a name into numbers, is given the " +
  "same two. Then both walk from one to the other in equal steps. Letters that changed in a step are marked.";

/**
 * The characters of a line, and whether each differs from the line before it, counted from the start.
 * @param {string} line
 * @param {string} before
 * @returns {[string, boolean][]}
 */
export const changes = (line, before) => Array.from(line, (character, i) => [character, Array.from(before)[i] !== character]);

/** "11 different names in 15 steps" */
export const describeWalk = (lines) => {
  const different = new Set(lines).size;
  return `${different} different names in ${lines.length} steps`;
};

/** Create the walk; it is requested when it is seen. */
export const createWalk = () => {
  const sides = Object.fromEntries(
    [
      ["gan", "GAN"],
      ["vae", "VAE"],
    ].map(([name, title]) => [name, createSide(title)]),
  );
  const slider = create("input", { type: "range", min: 0, max: 1, value: 0, step: 1 });
  const status = create("p", { class: "status", role: "status" });

  const show = () => {
    for (const side of Object.values(sides)) side.select(Number(slider.value));
    const [gan, vae] = [sides.gan.selected, sides.vae.selected];
    slider.setAttribute("aria-valuetext", `Step ${Number(slider.value) + 1}: GAN ${gan}, VAE ${vae}`);
  };
  const walk = async () => {
    status.textContent = "Walking …";
    try {
      const walks = await fetchJson("families/walk", { seed: randomSeed() });
      for (const [name, side] of Object.entries(sides)) side.draw(walks[name]);
      slider.max = walks.gan.length - 1;
      slider.value = 0;
      show();
      status.textContent = "";
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      status.textContent = error.message;
    }
  };
  slider.addEventListener("input", show);
  const element = create(
    "div",
    { class: "families-walk" },
    create("p", {}, ABOUT),
    create(
      "div",
      { class: "families-controls" },
      create("label", { class: "families-slider" }, "From the first name to the second", slider),
      createButton("Two other names", walk),
      status,
    ),
    create("div", { class: "families-pair" }, sides.gan.element, sides.vae.element),
  );
  whenVisible(element, walk);
  return element;
};

const createSide = (title) => {
  const list = create("ol", { class: "families-path" });
  const current = create("p", { class: "families-current" });
  const count = create("p", { class: "hint" });
  let lines = [];
  let index = 0;
  return {
    element: create("article", { "aria-label": title }, create("h3", {}, title), current, list, count),
    draw(walked) {
      lines = walked;
      list.replaceChildren(
        ...lines.map((line, i) => {
          const characters = changes(line, lines[i - 1] ?? line);
          const marked = characters.map(([character, isNew]) => (isNew ? create("b", {}, character) : character));
          return create("li", {}, ...(marked.length ? marked : [create("i", {}, "(nothing)")]));
        }),
      );
      count.textContent = describeWalk(lines);
    },
    select(step) {
      index = step;
      current.textContent = lines[step];
      for (const [i, item] of [...list.children].entries()) item.classList.toggle("selected", i === step);
    },
    get selected() {
      return lines[index];
    },
  };
};

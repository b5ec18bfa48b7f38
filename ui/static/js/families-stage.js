/** The stage of the tab Three families: the same number of lines drawn by each model, and what was measured of many. */
import { fetchJson, VisitorError } from "./api.js";
import { drawBars } from "./bars.js";
import { create, createButton, whenVisible } from "./dom.js";
import { explainMeasures, HOW, MEASURES } from "./families-words.js";
import { TEXTS } from "./picker.js";
import { createSegments } from "./segments.js";

const FIRST_SEED = 1; // every visitor's first lines are the same, so the server has them already
export const randomSeed = () => Math.floor(Math.random() * 2 ** 32);

/**
 * Create the stage.
 * @param {object} answer See `list_families` in ui/families.py.
 */
export const createStage = ({ texts, run }) => {
  const title = create("h2");
  const columns = create("div", { class: "families-columns" });
  const status = create("p", { class: "status", role: "status" });
  const measures = create("div", { class: "families-measured" });
  let text = texts[0];
  let seed = FIRST_SEED;

  const draw = async () => {
    const models = text.models.map((model) => ({ model, list: create("ul", { class: "families-lines" }) }));
    const drawn = seed;
    columns.replaceChildren(...models.map(({ model, list }) => drawColumn(model, list)));
    columns.classList.toggle("wide", text.name !== "names");
    status.textContent = "Drawing …";
    await Promise.all(models.map(({ model, list }) => fill(list, model, drawn)));
    if (columns.contains(models[0].list)) status.textContent = `${text.count} ${text.noun}s of each model.`;
  };
  const again = createButton(
    "Draw others",
    () => {
      seed = randomSeed();
      draw();
    },
    "button primary",
  );
  const show = (name) => {
    text = texts.find((candidate) => candidate.name === name);
    title.textContent = `The same text, ${text.models.length} models`;
    drawMeasures(measures, text, run);
    draw();
  };
  const choice = createSegments(
    "Text",
    "families-text",
    texts.map(({ name }) => [name, TEXTS[name]]),
    { value: text.name, onChange: show },
  );
  whenVisible(columns, () => show(text.name));
  return create(
    "section",
    { class: "families-stage" },
    title,
    create("div", { class: "families-controls" }, choice, again, status),
    columns,
    measures,
  );
};

const drawColumn = ({ label, family, card }, list) => {
  const column = create(
    "article",
    { "aria-label": label },
    create("h3", {}, label),
    create("p", { class: "hint" }, HOW[family]),
    list,
  );
  if (card) column.append(create("a", { href: card, target: "_blank", "aria-label": `Model card of ${label}` }, "Model card"));
  return column;
};

const fill = async (list, { id }, seed) => {
  try {
    const { lines } = await fetchJson("families/draw", { model: id, seed });
    list.replaceChildren(...lines.map((line) => create("li", {}, line || create("i", {}, "(nothing)"))));
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    list.replaceChildren(create("li", { class: "hint" }, error.message));
  }
};

/** The rows of one measure: the models that were measured. */
export const rowsOf = ({ value, format }, models) =>
  models
    .filter(({ measures }) => measures)
    .map(({ label, measures }) => {
      const figure = value(measures) ?? Number.NaN;
      return { name: label, value: figure, text: Number.isNaN(figure) ? "–" : format(figure) };
    });

const drawMeasures = (element, { noun, models, floor }, run) => {
  const unmeasured = models.filter(({ measures }) => !measures).map(({ label }) => label);
  const blocks = MEASURES.map((measure) => {
    const bars = create("div");
    const mark = measure.hasNoMark || !floor ? undefined : (measure.value(floor) ?? undefined);
    drawBars(bars, rowsOf(measure, models), measure.title, mark);
    return create(
      "div",
      { class: "families-measure" },
      create("h4", {}, measure.title, create("span", { class: "families-best" }, ` ${measure.best}`)),
      bars,
    );
  });
  element.replaceChildren(
    create("h3", {}, `How good are their ${noun}s?`),
    create("div", { class: "families-measures" }, ...blocks),
    ...(unmeasured.length ? [create("p", { class: "hint" }, `Not measured: ${unmeasured.join(", ")}.`)] : []),
    ...(floor ? explainMeasures(noun, floor.lines, run) : []).map((paragraph) => create("p", { class: "hint" }, paragraph)),
  );
};

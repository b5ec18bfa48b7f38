/** The tab Compare: one prompt and one seed, continued by several models, or by one model at five temperatures. */
import { fetchJson, fetchModels, onModels, streamText, VisitorError } from "./api.js";
import { drawBars } from "./bars.js";
import { createChooser, ladder, nameOf } from "./chooser.js";
import { createColumn, letterOf } from "./column.js";
import { createDistribution } from "./distribution.js";
import { create } from "./dom.js";
import { describesComparison, fromQuery, paramsOf, toQuery, updateAddress } from "./link.js";
import { createPacer } from "./pace.js";
import { createSegments } from "./segments.js";
import { bitsPerCharacter, muchMoreSurprised, perCharacter, THRESHOLD_BITS } from "./surprisal.js";
import { onOpen } from "./tabs.js";
import { formatBits, nameToken, quote } from "./text.js";
import { createLegend } from "./tokens.js";

const TEMPERATURES = [0, 0.4, 0.8, 1.2, 1.6];
const [FEWEST, MOST] = [2, 4];
const NUMBERS = ["no", "one", "two", "three", "four", "five"];
const DEFAULTS = { prompt: "ROMEO:", seed: 7, length: 200, temperature: 0.8 };
const MAX_CHARS = 500; // of a column: five are read side by side
const MAX_SCORED_CHARS = 5000; // MAX_PROMPT_CHARS in ui/schema.py
const CONTEXT_CHARS = 16;

let models = [];
let form;
let view;
let run = null; // AbortController, while texts are written
let comparison = null; // {values: those of the link, columns, isScored}

/** Gradio drew the tab. */
export const mount = async (element) => {
  const answer = await fetchModels();
  models = answer.models;
  form = createForm();
  view = createView();
  element.classList.add("reading-tab", "compare");
  element.replaceChildren(form.element, view.status, view.results);
  const { dataset } = models.find(({ id }) => id === answer.default);
  form.set({ ...DEFAULTS, models: defaultModels(dataset).join(","), model: answer.default });
  onModels((offered) => {
    models = offered;
    form.setModels();
  });
  onOpen("compare", () => comparison && updateAddress(comparison.values));
  addEventListener("popstate", showAddress);
  showAddress();
};

/** Three models of a data set that differ much: the simplest, one in the middle, and the best that is no mixture. */
const defaultModels = (dataset) => {
  const candidates = models.filter(({ id, family }) => ladder(models, dataset).includes(id) && family !== "mixture");
  return [candidates[0], candidates.find(({ family }) => family === "ngram") ?? candidates[1], candidates.at(-1)]
    .filter(Boolean)
    .map(({ id }) => id);
};

/** Show what the address describes, if it is a comparison. */
const showAddress = () => {
  if (!describesComparison(location.search)) return;
  const link = fromQuery(location.search);
  if (comparison && toQuery({ ...link, tab: undefined }) === toQuery({ ...comparison.values, tab: undefined })) return;
  form.set({ ...DEFAULTS, ...link });
  const values = form.values();
  // As they are in the link: the form has no box for an unknown model.
  start({ ...values, ...(values.temperatures ? { model: link.model ?? values.model } : { models: link.models }) });
};

/** Write and compare what the form describes. */
const start = async (values = form.values()) => {
  stop();
  let columns;
  try {
    columns = describeColumns(values);
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    view.say(error.message);
    return;
  }
  comparison = { values, columns, isScored: false };
  updateAddress(values);
  view.show(columns, Boolean(values.temperatures));
  const controller = new AbortController();
  run = controller;
  form.setRunning(true);
  view.say("Writing…");
  await write(comparison, controller);
};

/** What each column writes. Raises VisitorError with a sentence if the form asks for something else. */
const describeColumns = ({ models: ids, temperatures, model: id, prompt, seed, length, temperature }) => {
  const chosen = temperatures ? [id] : ids.split(",").filter(Boolean);
  if (!temperatures && (chosen.length < FEWEST || chosen.length > MOST))
    throw new VisitorError(
      `Choose ${NUMBERS[FEWEST]} to ${NUMBERS[MOST]} models; you chose ${NUMBERS[chosen.length] ?? chosen.length}.`,
    );
  if (!/^\d+$/.test(length) || Number(length) < 1 || Number(length) > MAX_CHARS)
    throw new VisitorError(`The length must be a whole number from 1 to ${MAX_CHARS}.`);
  if (Array.from(prompt).length + Number(length) > MAX_SCORED_CHARS)
    throw new VisitorError(`Prompt and text may have ${MAX_SCORED_CHARS.toLocaleString("en-US")} characters together.`);
  const found = chosen.map((name) => {
    const model = models.find((candidate) => candidate.id === name);
    if (!model) throw new VisitorError(`There is no model called “${name.slice(0, 60)}” here.`);
    return model;
  });
  const column = (model, at) => ({
    model,
    temperature: at,
    query: toQuery({ model: model.id, prompt, seed, length, temperature: at }),
    tokens: [], // that arrived
    shown: 0, // tokens on the screen
    characters: 0, // on the screen
    hasEnded: false,
  });
  return temperatures ? TEMPERATURES.map((at) => column(found[0], at)) : found.map((model) => column(model, temperature));
};

/** Write all columns, in step: character k appears in all of them at the same time. */
const write = async (own, controller) => {
  const { columns } = own;
  const length = Number(own.values.length);
  let released = 0; // characters that the pacer has of each column
  const pacer = createPacer({ show: (steps) => reveal(columns, steps), onEnd: () => finish(own, controller), pace: view.pace });
  own.pacer = pacer;

  /** Hand over the characters that all columns have. */
  const release = () => {
    const ready = Math.min(...columns.map(({ received = 0, hasEnded }) => (hasEnded ? length : received)), length);
    const steps = Array.from({ length: ready - released }, (_, i) => released + i + 1);
    released = ready;
    if (steps.length > 0) pacer.push(steps);
    if (released === length) pacer.end();
  };

  const readColumn = async (column) => {
    const parts = streamText(column.query, 0, length, column.model.vocabulary.length, controller.signal);
    for await (const part of parts) {
      if (!part.tokens) {
        Object.assign(column, { prompt: part.prompt, query: part.query });
        column.sheet.showHead(part);
        continue;
      }
      column.tokens.push(...part.tokens);
      column.received = (column.received ?? 0) + part.tokens.reduce((sum, { text }) => sum + Array.from(text).length, 0);
      column.speed = (part.tokens_per_second * column.received) / column.tokens.length;
      release();
      if (column.received >= length) break; // a piece of a word has several characters
    }
    column.hasEnded = true;
    column.sheet.showSpeed(column.speed);
    release();
  };

  try {
    await Promise.all(columns.map(readColumn));
  } catch (error) {
    if (error.name === "AbortError") return; // it was stopped
    controller.abort(); // the others
    end(controller);
    if (!(error instanceof VisitorError)) throw error;
    view.say(error.message);
  }
};

/** Show the texts up to a number of characters. */
const reveal = (columns, steps) => {
  const target = steps.at(-1);
  for (const column of columns) {
    const first = column.shown;
    while (column.shown < column.tokens.length && column.characters < target)
      column.characters += Array.from(column.tokens[column.shown++].text).length;
    column.sheet.tokens.append(column.tokens.slice(first, column.shown));
  }
};

/** End the texts here. */
const stop = () => {
  if (!run) return;
  const controller = run;
  controller.abort();
  comparison.pacer?.stop();
  finish(comparison, controller, true);
};

const end = (controller) => {
  if (run !== controller) return;
  run = null;
  comparison.pacer?.stop();
  form.setRunning(false);
  for (const { sheet } of comparison.columns) sheet.tokens.setRunning(false);
};

/** All texts are written, or stopped: compare them. */
const finish = async (own, controller, wasStopped = false) => {
  end(controller);
  for (const column of own.columns) column.tokens.length = column.shown;
  const all = own.columns.length === 2 ? "Both" : `All ${NUMBERS[own.columns.length]}`;
  view.say(wasStopped ? "Stopped." : `${all} texts are finished.`);
  for (const column of own.columns) column.sheet.showSurprisal(ownSurprisal(column.tokens));
  if (own.values.temperatures || own.columns.every(({ shown }) => shown === 0)) return;
  try {
    await scoreTexts(own);
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    view.say(`The texts could not be compared: ${error.message}`);
  }
};

/** Bits per character of a text for the model that wrote it. */
const ownSurprisal = (tokens) => {
  const characters = tokens.reduce((sum, { text }) => sum + Array.from(text).length, 0);
  return tokens.reduce((sum, { bits }) => sum + bits, 0) / characters;
};

const textOf = ({ tokens }) => tokens.map(({ text }) => text).join("");

/** Let each model read each text. */
const scoreTexts = async (own) => {
  const { columns } = own;
  const ids = columns.map(({ model }) => model.id);
  const prompt = own.values.prompt;
  const promptLength = Array.from(prompt).length;
  const answers = [];
  for (const column of columns) answers.push(await fetchJson("score", { models: ids, text: prompt + textOf(column) }));
  if (own !== comparison) return;
  columns.forEach((column, c) => {
    const length = Array.from(answers[c].text).length;
    // readers[m]: the bits of each character of prompt and text for model m
    column.readers = answers[c].models.map((score) =>
      score.error ? new Array(length).fill(Number.NaN) : perCharacter(score, length),
    );
    column.promptLength = promptLength;
  });
  own.isScored = true;
  mark(columns);
  view.showMatrix(columns, matrix(columns));
};

/** Bits per character: for each model a row, of the prompt and of each text. */
export const matrix = (columns) =>
  columns.map((_, m) => [
    columns[0].promptLength ? bitsPerCharacter(columns[0].readers[m], 0, columns[0].promptLength) : Number.NaN,
    ...columns.map(({ readers, promptLength }) => bitsPerCharacter(readers[m], promptLength)),
  ]);

/** Mark the characters that one model found much more surprising than the others did. */
const mark = (columns) => {
  for (const { tokens, readers, promptLength, sheet } of columns) {
    let at = promptLength;
    tokens.forEach(({ text }, i) => {
      const length = Array.from(text).length;
      const bits = readers.map((reader) => sum(reader.slice(at, at + length)));
      const surprised = length === 0 ? -1 : muchMoreSurprised(bits);
      if (surprised >= 0) sheet.markSurprised(i, surprised, `${letterOf(surprised)} is much more surprised than the others`);
      at += length;
    });
  }
};

const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * Columns whose text is the same as that of one column up to a token, and the index of their token there.
 * @param {{prompt: string, tokens: {text: string}[]}[]} columns
 * @param {number} c Index of the column.
 * @param {number} index Of its token.
 * @returns {{column: number, index: number}[]}
 */
export const samePlace = (columns, c, index) => {
  const before = columns[c].prompt + textOf({ tokens: columns[c].tokens.slice(0, index) });
  const places = [];
  columns.forEach(({ prompt, tokens }, column) => {
    let text = prompt;
    for (let i = 0; i < tokens.length && text.length <= before.length; i++) {
      if (text === before && tokens[i].text !== "") {
        places.push({ column, index: column === c ? index : i });
        return;
      }
      text += tokens[i].text;
    }
  });
  return places;
};

/** A visitor selected a token: show what each column saw there. */
const explain = (c, index) => {
  const { columns, isScored } = comparison;
  columns.forEach(({ sheet }, i) => {
    if (i !== c) sheet.tokens.select(null);
  });
  const shown = columns.map(({ prompt = "", tokens, shown: count }) => ({ prompt, tokens: tokens.slice(0, count) }));
  const places = tokensAt(shown, c, index);
  const { tokens, prompt, readers, promptLength } = columns[c];
  const textBefore = prompt + textOf({ tokens: tokens.slice(0, index) });
  const before = Array.from(textBefore).slice(-CONTEXT_CHARS).join("");
  const parts = places.map(({ column, index: i }) => ({
    column: columns[column],
    letter: letterOf(column),
    token: columns[column].tokens[i],
  }));
  let bars = null;
  if (isScored) {
    const at = promptLength + Array.from(textOf({ tokens: tokens.slice(0, index) })).length;
    const length = Array.from(tokens[index].text).length;
    bars = columns.map(({ model }, m) => {
      const bits = sum(readers[m].slice(at, at + length));
      return {
        name: `${letterOf(m)} ${nameOf(model)}`,
        value: bits,
        text: Number.isNaN(bits) ? "unknown" : formatBits(Math.max(0, bits)),
      };
    });
  }
  view.explain({ token: tokens[index], letter: letterOf(c), before, parts, bars, total: columns.length });
};

/** The tokens at a place; without a common place, that of the column. */
const tokensAt = (columns, c, index) => {
  const places = samePlace(columns, c, index);
  return places.length > 0 ? places : [{ column: c, index }];
};

const createForm = () => {
  const modes = createSegments("Compare", "compare-mode", [
    ["models", "several models"],
    ["temperatures", "one model at five temperatures"],
  ]);
  const field = (label, input) => create("label", { class: "field" }, label, input);
  const prompt = create("textarea", { rows: 2, spellcheck: "false" });
  const number = (attributes) => create("input", { type: "number", ...attributes });
  const seed = number({ min: 0, step: 1 });
  const length = number({ min: 1, max: MAX_CHARS, step: 1 });
  const temperature = number({ min: 0, max: 2, step: 0.1 });
  const select = create("select", {});
  const drawOptions = () =>
    select.replaceChildren(...models.map((model) => create("option", { value: model.id }, nameOf(model))));
  drawOptions();
  const boxes = create("div", { class: "choosers", role: "group", "aria-label": "Two to four models" });
  const chooser = createChooser(boxes, models);
  const [temperatureField, modelField] = [field("Temperature", temperature), field("Model", select)];
  const write = create("button", { type: "submit", class: "button primary" }, "Write side by side");
  const stopButton = create("button", { type: "button", class: "button" }, "Stop");
  const fast = create("button", { type: "button", class: "button" }, "Skip to the end");
  const element = create(
    "form",
    { class: "compare-form" },
    modes,
    create(
      "div",
      { class: "prompt-row" },
      field("Prompt", prompt),
      create(
        "div",
        { class: "numbers" },
        modelField,
        field("Seed", seed),
        field("Length in characters", length),
        temperatureField,
      ),
    ),
    boxes,
    create("div", { class: "actions" }, write, stopButton, fast),
  );
  const isTemperatures = () => modes.querySelector("input:checked")?.value === "temperatures";
  const matchMode = () => {
    boxes.hidden = temperatureField.hidden = isTemperatures();
    modelField.hidden = !isTemperatures();
  };
  modes.addEventListener("change", matchMode);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
    view.results.scrollIntoView({ block: "nearest" });
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    element.requestSubmit();
  });
  stopButton.addEventListener("click", stop);
  fast.addEventListener("click", () => comparison?.pacer?.setPace("fast"));
  element.noValidate = true; // sentences below the form say what is wrong
  const setRunning = (isRunning) => {
    for (const button of [stopButton, fast]) button.disabled = !isRunning;
  };
  setRunning(false);
  return {
    element,
    setRunning,

    /** What the form says, by the names of a link. A seed that is missing is chosen. */
    values() {
      if (seed.value === "") seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
      const common = { tab: "compare", prompt: prompt.value, seed: seed.value, length: length.value };
      return isTemperatures()
        ? { ...common, model: select.value, temperatures: "1", models: undefined, temperature: undefined }
        : {
            ...common,
            models: chooser.chosen.join(","),
            temperature: temperature.value,
            model: undefined,
            temperatures: undefined,
          };
    },

    /** Offer other models. */
    setModels() {
      const before = select.value;
      drawOptions();
      if (models.some(({ id }) => id === before)) select.value = before;
      chooser.setModels(models);
    },

    /** Fill the form. */
    set(values) {
      const name = values.temperatures ? "temperatures" : "models";
      modes.querySelector(`[value=${name}]`).checked = true;
      prompt.value = values.prompt;
      seed.value = values.seed;
      length.value = values.length;
      temperature.value = values.temperature;
      if (values.models !== undefined) chooser.choose(values.models.split(","));
      if (values.model !== undefined) select.value = values.model;
      matchMode();
    },
  };
};

const createView = () => {
  const status = create("p", { class: "status", role: "status" });
  const results = create("div", { class: "compare-results" });
  const [legend, grid] = [create("div"), create("div", { class: "columns" })];
  const markLegend = create("p", { class: "mark-legend" });
  const explanation = create("section", { class: "place", "aria-label": "This place" });
  const comparisonTable = create("section", { class: "readers", "aria-label": "Who is surprised by whose text" });
  createLegend(legend);
  results.append(legend, markLegend, grid, explanation, comparisonTable);
  results.hidden = true;
  return {
    status,
    results,
    pace: matchMedia("(prefers-reduced-motion: reduce)").matches ? "fast" : "watch",

    say(sentence) {
      status.textContent = sentence;
    },

    /** Show empty columns. */
    show(columns, isTemperatures) {
      results.hidden = false;
      grid.replaceChildren();
      columns.forEach((column, i) => {
        column.sheet = createColumn(column, i, isTemperatures, (index) => explain(i, index));
        grid.append(column.sheet.element);
      });
      grid.style.setProperty("--columns", columns.length);
      markLegend.textContent = "";
      comparisonTable.replaceChildren();
      explanation.replaceChildren(
        create(
          "p",
          { class: "hint" },
          "Select a character to see what its model expected there, beside the other models as long as their texts are the same.",
        ),
      );
    },

    /** Show the distributions at a place. */
    explain({ token, letter, before, parts, bars, total }) {
      const title = create(
        "h3",
        {},
        nameToken(token.text),
        create("span", {}, ` in text ${letter}${before ? `, after ${quote(before)}` : ""}`),
      );
      explanation.replaceChildren(title);
      if (bars) {
        const list = create("div", { class: "place-bars" });
        drawBars(list, bars, "Surprise of each model here");
        explanation.append(list);
      }
      const why =
        parts.length === total
          ? "Up to here all texts are the same, so the distributions can be compared."
          : parts.length > 1
            ? `Up to here the texts ${parts.map((part) => part.letter).join(", ")} are the same, so their distributions can be compared.`
            : "From here on the other texts are different, so only this distribution is shown.";
      const distributions = create("div", { class: "distributions" });
      explanation.append(create("p", { class: "hint" }, why), distributions);
      for (const { column, letter: name, token: chosen } of parts) {
        const box = create("div");
        const settings = ` at temperature ${column.temperature}`;
        distributions.append(create("div", {}, create("h4", {}, `${name} ${nameOf(column.model)}${settings}`), box));
        createDistribution(box, { label: `Candidates of ${name}` }).show({
          ...chosen.distribution,
          names: column.model.vocabulary,
          params: paramsOf({ temperature: column.temperature }),
          context: before,
          chosen: chosen.id,
        });
      }
    },

    /** Show who is surprised by whose text. */
    showMatrix(columns, rows) {
      markLegend.replaceChildren(
        create("span", { class: "mark-sample" }, "A"),
        ` A letter above a character: this model found it at least ${THRESHOLD_BITS} bits more surprising than each of the others did.`,
      );
      const best = rows[0].map((_, i) => Math.min(...rows.map((row) => row[i]).filter((value) => !Number.isNaN(value))));
      const head = ["the prompt", ...columns.map((_, i) => `text ${letterOf(i)}`)];
      const hasPrompt = rows.some(([value]) => !Number.isNaN(value));
      const skip = hasPrompt ? 0 : 1;
      const table = create(
        "table",
        {},
        create("caption", {}, "Bits per character: how much each model (row) is surprised by each text (column)"),
        create(
          "thead",
          {},
          create("tr", {}, create("td"), ...head.slice(skip).map((name) => create("th", { scope: "col" }, name))),
        ),
        create(
          "tbody",
          {},
          ...rows.map((row, m) =>
            create(
              "tr",
              {},
              create("th", { scope: "row" }, `${letterOf(m)} ${nameOf(columns[m].model)}`),
              ...row.slice(skip).map((value, i) => {
                const isBest = value === best[i + skip];
                const atMost = columns[m].model.likelihood === "bound" ? "≤ " : "";
                const cell = create("td", { class: i + skip === m + 1 ? "own" : "" });
                cell.append(Number.isNaN(value) ? "–" : `${atMost}${value.toFixed(2)}`);
                if (isBest) cell.append(create("span", { class: "best" }, " least"));
                return cell;
              }),
            ),
          ),
        ),
      );
      comparisonTable.replaceChildren(
        create("h2", {}, "Who is surprised by whose text?"),
        create("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": "Table" }, table),
        create(
          "p",
          { class: "hint" },
          "Read down a column: all models read the same text there, the prompt or what one of them wrote. " +
            "A model finds its own text easy (framed), even when that text makes no sense to anybody else. " +
            "A good model is little surprised by what the others wrote. Characters that a model does not know are not counted.",
        ),
      );
    },
  };
};

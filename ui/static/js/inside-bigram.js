/** Inside a bigram: its table, counted and learned side by side, and gradient descent that leads from one to the other. */
import { fetchJson, fetchModels, onModels, VisitorError } from "./api.js";
import { BigramTrainer } from "./bigram-training.js";
import { answers, bits, count, describeCell, describeRow, describeStep, nats, STEP_TITLES } from "./bigram-words.js";
import { create } from "./dom.js";
import { createHeatMap } from "./heat-map.js";
import { fromQuery } from "./link.js";
import { createLossCurve, thin } from "./loss-curve.js";
import { formatPercent, nameToken } from "./text.js";

const BATCH_SIZES = [1, 8, 32, 128, 1024, Number.POSITIVE_INFINITY];
const LEARNING_RATES = [0.1, 0.3, 1, 3, 10, 30, 100, 300];
const STEPS_PER_SECOND = [10, 100, 1000];
const DEFAULTS = { batchSize: 1024, learningRate: 30, stepsPerSecond: 100 };
const UPDATES_PER_SECOND = 10;
const MAX_UPDATE_MS = 50; // a slow phone takes fewer steps, but answers to Pause
const REACHED_NATS = 0.01; // how close to the counted loss training stops
const SEED = 1337;

const select = (label, options, value) => {
  const element = create("select", {}, ...options.map(([text, each]) => create("option", { value: each }, text)));
  element.value = value;
  return { element, label: create("label", {}, create("span", {}, label), element) };
};

/** Draw everything, with a choice between the bigrams that the page offers; a link's `model` is the first choice. */
export async function mount(element) {
  const content = create("div", {}, create("p", { role: "status" }, "Opening the table…"));
  element.replaceChildren(create("section", { class: "inside-bigram" }, content));
  let stop = () => {};
  try {
    const bigramsOf = (models) => models.filter(({ family }) => family === "bigram");
    let bigrams = bigramsOf((await fetchModels()).models);
    if (bigrams.length === 0) throw new VisitorError("This page offers no bigram.");
    const model = select(
      "Table of",
      bigrams.map(({ id, name }) => [name, id]),
      bigrams.find(({ id }) => id === fromQuery(location.search).model)?.id ?? bigrams[0].id,
    );
    const open = async () => {
      stop();
      const id = model.element.value;
      try {
        const table = await fetchJson(`bigram/${encodeURIComponent(id)}`);
        if (model.element.value !== id) return; // another one was chosen meanwhile
        const panel = createPanel(table);
        stop = panel.stop;
        panel.settings.prepend(model.label);
        content.replaceChildren(...panel.elements);
        panel.show();
      } catch (error) {
        if (!(error instanceof VisitorError)) throw error;
        content.replaceChildren(model.label, create("p", { role: "alert" }, error.message));
      }
    };
    onModels((models) => {
      const { value } = model.element;
      bigrams = bigramsOf(models);
      model.element.replaceChildren(...bigrams.map(({ id, name }) => create("option", { value: id }, name)));
      if (bigrams.some(({ id }) => id === value)) model.element.value = value;
      else open();
    });
    addEventListener("popstate", () => {
      const { model: id } = fromQuery(location.search);
      if (id === model.element.value || !bigrams.some((bigram) => bigram.id === id)) return;
      model.element.value = id;
      open();
    });
    model.element.addEventListener("change", async () => {
      await open();
      model.element.focus();
    });
    await open();
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    content.replaceChildren(create("p", { role: "alert" }, error.message));
  }
}

/**
 * The parts of the panel of one table.
 * @param {{tokens: string[], counts: number[][], k: number}} table See `bigram_table` in ui/bigram_table.py.
 */
function createPanel({ tokens, counts, k }) {
  const trainer = new BigramTrainer(counts, { ...DEFAULTS, seed: SEED });
  const goal = trainer.countedLoss();
  const uniform = Math.log(tokens.length);
  const name = (token) => nameToken(tokens[token]);
  let probs = trainer.probs();
  let cell = { last: Math.max(tokens.indexOf("q"), 0), next: Math.max(tokens.indexOf("u"), 0) };
  let timer;
  let batchLoss;

  // Controls
  const run = create("button", { type: "button", class: "button primary" }, "Train");
  const step = create("button", { type: "button", class: "button" }, "One step");
  const reset = create("button", { type: "button", class: "button" }, "Start over");
  const batch = select(
    "Batch size",
    BATCH_SIZES.map((size) => [Number.isFinite(size) ? `${count(size)} pair${size > 1 ? "s" : ""}` : "all pairs", size]),
    DEFAULTS.batchSize,
  );
  const speed = select(
    "Speed",
    STEPS_PER_SECOND.map((steps) => [`${steps > 100 ? "up to " : ""}${count(steps)} steps a second`, steps]),
    DEFAULTS.stepsPerSecond,
  );
  const rate = create("input", { type: "range", min: 0, max: LEARNING_RATES.length - 1, step: 1 });
  rate.value = LEARNING_RATES.indexOf(DEFAULTS.learningRate);
  const rateValue = create("output");
  const status = create("p", { class: "state", role: "status" });
  const figures = create("dl", { class: "figures" });
  const figure = (term) => {
    const value = create("dd");
    figures.append(create("div", {}, create("dt", {}, term), value));
    return value;
  };
  const values = {
    steps: figure("Steps"),
    batch: figure("Loss, last batch"),
    loss: figure("Loss, whole text"),
    goal: figure("Loss, counted table"),
    difference: figure("Largest remaining difference"),
  };
  const curve = createLossCurve({ x: "steps of training", y: "Loss in nats" });
  let losses = []; // [step, loss on the whole text, loss on the last batch]
  const baselines = [
    { name: `uniform guess: ${uniform.toFixed(2)}`, loss: uniform },
    { name: `counted: ${goal.toFixed(2)}`, loss: goal },
  ];

  // Tables
  const moveTo = (to) => {
    cell = to;
    for (const map of maps) map.setCell(cell);
    sentence.textContent = describeCell(tokens, counts[cell.last], cell);
    following.textContent = `Most often after ${name(cell.last)}: ${describeRow(tokens, counts[cell.last]) || "nothing"}.`;
    showCell();
  };
  const [counted, learned] = ["Counted", "Learned"].map((title) => createHeatMap({ title, tokens, onMove: moveTo }));
  const maps = [counted, learned];
  for (const [map, other] of [maps, [learned, counted]]) {
    map.scroller.addEventListener("scroll", () => {
      other.scroller.scrollTo(map.scroller.scrollLeft, map.scroller.scrollTop);
    });
  }
  const sentence = create("p", { class: "sentence", "aria-live": "polite" });
  const following = create("span");
  const now = create("span");
  const zoom = select(
    "Zoom",
    [1, 2, 3].map((factor) => [`${factor} ×`, factor]),
    1,
  );
  const tables = create("div", { class: "heat-maps" }, ...maps.map((map) => map.element));
  const ramp = create("span", { class: "ramp", "aria-hidden": "true" });
  const legend = create("p", { class: "legend" }, "0 %", ramp, "100 %. Row: the character before. Column: the one that follows.");

  // What one step does, with the numbers of the cell in focus
  const lesson = STEP_TITLES.map((title) => {
    const text = create("span");
    return { item: create("li", {}, create("strong", {}, `${title}. `), text), text };
  });

  function showCell() {
    const { last, next } = cell;
    const prob = probs[last][next];
    now.textContent = `Learned so far: ${formatPercent(prob)} (counted: ${formatPercent(trainer.countedProbs[last][next])}).`;
    const texts = describeStep({
      last: name(last),
      next: name(next),
      prob,
      countedProb: trainer.countedProbs[last][next],
      share: trainer.rowTotals[last] / trainer.pairs,
      learningRate: trainer.learningRate,
    });
    for (const [i, { text }] of lesson.entries()) text.textContent = texts[i];
  }

  /** Show the state of the training. */
  function show() {
    probs = trainer.probs();
    const loss = trainer.loss();
    const { last, next, pairs } = trainer.largestDifference(probs);
    learned.draw(probs);
    values.steps.textContent = count(trainer.steps);
    values.batch.textContent = batchLoss === undefined ? "no batch yet" : nats(batchLoss);
    values.loss.textContent = `${nats(loss)} (${bits(loss)}) a character`;
    values.goal.textContent = `${nats(goal)} (${bits(goal)}) a character, ${nats(loss - goal)} to go`;
    values.difference.textContent =
      pairs < 1
        ? "none"
        : `after ${name(last)}, ${name(next)}: counted ${formatPercent(trainer.countedProbs[last][next])}, ` +
          `learned ${formatPercent(probs[last][next])}`;
    losses = thin([...losses, [trainer.steps, loss, batchLoss ?? loss]]);
    curve.draw({
      lines: [
        { name: "one batch", kind: "thin", points: losses.map(([step, , batch]) => [step, batch]) },
        { name: "whole text", kind: "thick", points: losses.map(([step, whole]) => [step, whole]) },
      ],
      baselines,
      summary: `Loss curve: after ${count(trainer.steps)} steps the loss on the whole text is ${nats(loss)}.`,
    });
    showCell();
    return loss;
  }

  // Training
  function pause(message) {
    clearInterval(timer);
    timer = undefined;
    run.textContent = "Train";
    status.textContent = message;
  }
  function update() {
    if (run.offsetParent === null) return; // another tab of the page is open
    const before = trainer.loss() - goal;
    const start = performance.now();
    const steps = speed.element.value / UPDATES_PER_SECOND;
    for (let i = 0; i < steps && performance.now() - start < MAX_UPDATE_MS; i++) batchLoss = trainer.step();
    const after = show() - goal;
    if (after < REACHED_NATS && before >= REACHED_NATS) {
      pause("Done: the learned table is as good as the counted one, to 0.01 nats a character. Only rare rows still differ.");
    }
  }
  run.addEventListener("click", () => {
    if (timer) {
      pause("Paused.");
      return;
    }
    run.textContent = "Pause";
    status.textContent = "Training…";
    timer = setInterval(update, 1000 / UPDATES_PER_SECOND);
  });
  step.addEventListener("click", () => {
    if (timer) pause("Paused.");
    batchLoss = trainer.step();
    show();
    status.textContent = `Step ${count(trainer.steps)}: the loss of the batch was ${nats(batchLoss)}.`;
  });
  reset.addEventListener("click", () => {
    trainer.reset();
    batchLoss = undefined;
    losses = [];
    pause("The learned table is empty again: every character is equally likely.");
    show();
  });
  const set = () => {
    trainer.batchSize = Number(batch.element.value);
    trainer.learningRate = LEARNING_RATES[rate.value];
    rateValue.textContent = trainer.learningRate;
    rate.setAttribute("aria-valuetext", trainer.learningRate);
    showCell();
  };
  batch.element.addEventListener("change", set);
  rate.addEventListener("input", set);
  zoom.element.addEventListener("change", () => {
    tables.style.setProperty("--zoom", zoom.element.value);
    for (const map of maps) map.setCell(cell);
  });
  const theme = new MutationObserver(() => {
    for (const map of maps) map.redraw();
  });

  const settings = create(
    "div",
    { class: "settings" },
    speed.label,
    batch.label,
    create("label", {}, create("span", {}, "Learning rate ", rateValue), rate),
    status,
  );
  return {
    settings,
    elements: [
      create(
        "p",
        {},
        "A bigram is a table: a row for the character before, a column for the one that follows, and in each cell how likely that is. ",
        "It can be filled in two ways. Count all pairs of the text. Or start without a clue, and learn from mistakes. ",
        "Press Train and watch the second way arrive at the first.",
      ),
      create("div", { class: "buttons" }, run, step, reset),
      create("div", { class: "training" }, settings, curve.element, figures),
      sentence,
      create("p", {}, now, " ", following),
      create("div", { class: "tools" }, legend, zoom.label),
      tables,
      create("h3", {}, "What one step of training does"),
      create("ol", {}, ...lesson.map(({ item }) => item)),
      ...Object.entries(answers({ size: tokens.length, pairs: trainer.pairs, uniform, goal, k })).map(([question, answer]) =>
        create("details", {}, create("summary", {}, question), create("p", {}, answer)),
      ),
    ],
    show() {
      set();
      counted.draw(trainer.countedProbs);
      show();
      moveTo(cell);
      theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
    },
    stop() {
      clearInterval(timer);
      theme.disconnect();
    },
  };
}

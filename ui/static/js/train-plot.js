/** The plot of a training run: its losses over time, with an earlier run drawn over it. */
import { create } from "./dom.js";
import { createLossCurve, thin } from "./loss-curve.js";
import { bestOf } from "./train-run.js";
import { count, describePlot, titleOf } from "./train-words.js";

/** The lines of a run: what it loses on unseen text, and on the text that it learns from. */
const linesOf = (run, prefix = "", kind = "") => [
  {
    name: `${prefix}text it learns from`,
    kind: `dotted${kind}`,
    points: thin(run.steps.map(({ seconds, train }) => [seconds, train])),
  },
  {
    name: `${prefix}unseen text`,
    kind: `thick${kind}`,
    points: run.evaluations.map(({ seconds, held_out: heldOut }) => [seconds, heldOut]),
  },
];

/** Horizontal lines of a run, once the text is counted. */
const baselinesOf = ({ baselines }) =>
  baselines
    ? Object.entries({ uniform: "uniform guess", bigram: "bigram", ngram: "n-gram" })
        .map(([key, name]) => ({ name: `${name}: ${baselines[key].toFixed(2)}`, loss: baselines[key] }))
        .sort((a, b) => b.loss - a.loss)
    : [];

/** Create the plot, with a choice of the earlier run, a legend, and the figures as a table. */
export const createRunPlot = () => {
  const plot = createLossCurve({ x: "seconds of training", y: "Nats per character" });
  const select = create("select");
  const choice = create("label", { class: "train-other", hidden: "" }, "Compare with ", select);
  const table = create("table");
  const details = create(
    "details",
    {},
    create("summary", {}, "The figures as a table"),
    create("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": "Table" }, table),
  );
  const hint = create("p", { class: "hint" }, "The dot is the best model so far, which is kept.");
  const element = create("div", { class: "train-curves" }, choice, plot.element, hint, details);
  let shown = null; // {run, others}
  let offered = []; // the options of `select`
  let frame = 0;

  const draw = () => {
    frame = 0;
    const { run, others } = shown;
    const other = others[select.value];
    const runs = other ? [run, other] : [run];
    const best = bestOf(run);
    plot.draw({
      lines: [...(other ? linesOf(other, "other run: ", " faint") : []), ...linesOf(run)],
      baselines: baselinesOf(run),
      summary: describePlot(runs),
      end: Math.max(...runs.map(({ budget }) => budget)),
      mark: best ? [best.seconds, best.held_out] : undefined,
    });
    if (details.open) drawTable(table, runs);
  };
  const soon = () => {
    if (frame === 0) frame = requestAnimationFrame(draw);
  };
  select.addEventListener("change", soon);
  details.addEventListener("toggle", soon);

  return {
    element,
    /**
     * Show a run.
     * @param {import("./train-run.js").Run} run
     * @param {import("./train-run.js").Run[]} others Earlier ones on the same text; the last one is drawn, too.
     */
    show(run, others) {
      if (others.length !== offered.length || others.some((other, i) => other !== offered[i])) {
        offered = others;
        const options = others.map((other, i) => create("option", { value: i }, `run ${i + 1}: ${titleOf(other.choices)}`));
        select.replaceChildren(create("option", { value: "" }, "no other run"), ...options);
        select.value = others.length > 0 ? String(others.length - 1) : "";
        choice.hidden = others.length === 0;
      }
      shown = { run, others };
      soon();
    },
  };
};

const drawTable = (table, runs) => {
  const head = ["Run", "Step", "Seconds", "Unseen text", "Training text"].map((title) => create("th", { scope: "col" }, title));
  const rows = runs.flatMap((run) =>
    run.evaluations.map(({ step, seconds, held_out: heldOut, train }) => {
      const cells = [count(step), seconds.toFixed(1), heldOut.toFixed(3), train?.toFixed(3) ?? "–"];
      return create(
        "tr",
        {},
        create("th", { scope: "row" }, titleOf(run.choices)),
        ...cells.map((text) => create("td", {}, text)),
      );
    }),
  );
  table.replaceChildren(
    create("caption", {}, "Nats per character"),
    create("thead", {}, create("tr", {}, ...head)),
    create("tbody", {}, ...rows),
  );
};

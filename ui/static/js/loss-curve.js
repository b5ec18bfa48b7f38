/** The loss of a training run as it goes on: a curve that follows the best loss there is. */
import { create } from "./dom.js";

const MOST_POINTS = 600;
const SVG = "http://www.w3.org/2000/svg";

/** Every other point of a curve that has become too long, with its first and its last. */
export function thin(points, most = MOST_POINTS) {
  if (points.length <= most) return points;
  return points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
}

/**
 * The coordinates of a polyline in a square of 100, with the highest value at the top.
 * @param {{step: number}[]} points
 * @param {string} key Which value of a point.
 * @param {{low: number, high: number}} range
 */
export function polyline(points, key, { low, high }) {
  const end = Math.max(points.at(-1)?.step ?? 0, 1);
  const y = (value) => 100 * (1 - Math.min(Math.max((value - low) / (high - low), 0), 1));
  return points.map((point) => `${((100 * point.step) / end).toFixed(2)},${y(point[key]).toFixed(2)}`).join(" ");
}

/**
 * Draw an empty curve.
 * @param {{start: number, goal: number}} losses Of a uniform guess and of the counted table, in nats: two dashed lines.
 */
export function createLossCurve({ start, goal }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  const line = (name) => {
    const element = document.createElementNS(SVG, "polyline");
    element.setAttribute("class", name);
    svg.append(element);
    return element;
  };
  const lines = { start: line("start"), goal: line("goal"), batch: line("batch"), loss: line("loss") };
  const label = (name, text) => create("span", { class: `loss-curve-label ${name}` }, text);
  const labels = {
    start: label("start", `uniform guess: ${start.toFixed(2)} nats`),
    goal: label("goal", `counted: ${goal.toFixed(2)} nats`),
  };
  const end = create("span", {}, "0");
  const element = create(
    "figure",
    { class: "loss-curve" },
    create("div", { class: "loss-curve-plot", "aria-hidden": "true" }, svg, labels.start, labels.goal),
    create("figcaption", {}, create("span", {}, "step 0"), create("span", {}, "thick: whole text · thin: batch"), end),
  );
  let points = [];

  function draw() {
    const highest = points.reduce((most, point) => Math.max(most, point.loss), start);
    const margin = 0.14 * (highest - goal);
    const range = { low: goal - margin, high: highest + margin };
    for (const key of ["batch", "loss"]) lines[key].setAttribute("points", polyline(points, key, range));
    for (const [key, value] of Object.entries({ start, goal })) {
      const ends = [0, 1].map((step) => ({ step, value }));
      lines[key].setAttribute("points", polyline(ends, "value", range));
      labels[key].style.top = `${100 * (1 - (value - range.low) / (range.high - range.low))}%`;
    }
    end.textContent = `step ${(points.at(-1)?.step ?? 0).toLocaleString("en-US")}`;
  }
  draw();

  return {
    element,
    /**
     * Add a point.
     * @param {{step: number, loss: number, batch: number}} point The loss on the whole text and on the last batch, in nats.
     */
    add(point) {
      points = thin([...points, point]);
      draw();
    },
    clear() {
      points = [];
      draw();
    },
  };
}

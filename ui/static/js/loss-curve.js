/**
 * A line plot of losses as an SVG, as wide as its place on the page and as high as its style sheet says (loss-curve.css).
 *
 * @typedef {[number, number]} Point x and y.
 * @typedef {object} Line
 * @property {string} name What the key calls it.
 * @property {string} kind How it is drawn: "thick", "thin" or "dotted", and "faint" after a space for a run that is only compared.
 * @property {Point[]} points Without gaps, in the order of x.
 * @typedef {{name: string, loss: number}} Baseline A loss to compare with: a horizontal line, named in the plot.
 * @typedef {object} Plot
 * @property {Line[]} lines Later ones are drawn over earlier ones. There may be none yet.
 * @property {Baseline[]} [baselines] The highest first.
 * @property {string} summary A sentence for those who cannot see it.
 * @property {number} [end] The x axis reaches this far at least.
 * @property {Point} [mark] A point to mark, with a vertical line.
 */
import { create, createSvg } from "./dom.js";

const MOST_POINTS = 600;
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 20, 10, 40]; // the margins around the plot, in pixels
const [X_TICK, Y_TICK] = [80, 32]; // the least distance of two labels on an axis, in pixels
const FONT_PX = 12; // loss-curve.css has the same number

/** Every other point of a line that has become too long for its plot, with its first and its last. */
export function thin(points, most = MOST_POINTS) {
  if (points.length <= most) return points;
  return points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
}

/** Round numbers at equal distances that enclose a range: at most `most` steps of 1, 2 or 5 times a power of ten. */
export function ticks(low, high, most) {
  const size = (high - low || 1) / Math.max(most, 2);
  const power = 10 ** Math.floor(Math.log10(size));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= size * (1 - 1e-9));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** 0 and the powers of ten up to a number. */
export const logTicks = (end) => [0, ...Array.from({ length: Math.floor(Math.log10(Math.max(1, end))) + 1 }, (_, i) => 10 ** i)];

/** The range of the y axis: all losses, with room below for the name of a baseline. */
export function rangeOf(losses) {
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  return [Math.max(0, low - 0.12 * (high - low)), high];
}

/**
 * Create an empty plot.
 * @param {object} axes
 * @param {string} axes.x What the x axis measures, such as "steps of training".
 * @param {string} axes.y The unit of the losses, such as "Bits per character".
 * @param {boolean} [axes.isLogarithmic] Whether the x axis is.
 * @returns {{element: HTMLElement, draw: (plot: Plot) => void}} `draw` replaces what was drawn.
 */
export function createLossCurve({ x: xLabel, y: yLabel, isLogarithmic = false }) {
  const key = create("figcaption");
  const image = createSvg("svg", { role: "img", "aria-label": `${yLabel} over ${xLabel}` });
  const element = create("figure", { class: "loss-curve" }, key, image);
  let plot = null;

  function draw() {
    const { width, height } = image.getBoundingClientRect();
    if (!plot || width === 0) return; // in a tab that is not open
    const { lines, baselines = [], end = 1, mark } = plot;
    const [right, bottom] = [width - RIGHT, height - BOTTOM];
    const points = lines.flatMap((line) => line.points);
    const last = points.reduce((most, [at]) => Math.max(most, at), end);
    const losses = [...points.map(([, loss]) => loss), ...baselines.map(({ loss }) => loss)];
    const yTicks = ticks(...rangeOf(losses.length ? losses : [0, 1]), Math.floor((bottom - TOP) / Y_TICK));
    const [low, high] = [yTicks[0], yTicks.at(-1)];
    const scale = isLogarithmic ? Math.log1p : Number;
    const x = (value) => LEFT + ((right - LEFT) * scale(value)) / scale(last);
    const y = (loss) => TOP + ((bottom - TOP) * (high - loss)) / (high - low);
    const xTicks = isLogarithmic
      ? logTicks(last)
      : ticks(0, last, Math.floor((right - LEFT) / X_TICK)).filter((at) => at <= last);
    const horizontal = (loss, kind) => createSvg("line", { class: kind, x1: LEFT, x2: right, y1: y(loss), y2: y(loss) });

    image.setAttribute("viewBox", `0 0 ${width} ${height}`);
    image.setAttribute("aria-label", plot.summary);
    image.replaceChildren(
      ...yTicks.flatMap((loss) => [
        horizontal(loss, "grid"),
        createSvg("text", { x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toLocaleString("en-US")),
      ]),
      ...xTicks.map((at) => createSvg("text", { x: x(at), y: bottom + 16, "text-anchor": "middle" }, at.toLocaleString("en-US"))),
      createSvg("text", { x: (LEFT + right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
      ...baselines.map(({ loss }) => horizontal(loss, "baseline")),
      ...lines.map((line) =>
        createSvg("polyline", {
          class: line.kind,
          points: line.points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" "),
        }),
      ),
      // Curves come down from the left: names are on the right, the lowest farthest from it, so that none covers another.
      ...baselines.map(({ name, loss }, i) =>
        createSvg(
          "text",
          {
            class: "baseline",
            x: right - (i * (right - LEFT)) / baselines.length,
            y: y(loss) + FONT_PX + 2,
            "text-anchor": "end",
          },
          name,
        ),
      ),
    );
    if (mark) {
      image.append(
        createSvg("line", { class: "mark", x1: x(mark[0]), x2: x(mark[0]), y1: TOP, y2: bottom }),
        createSvg("circle", { class: "mark", cx: x(mark[0]), cy: y(mark[1]), r: 5 }),
      );
    }
  }

  new ResizeObserver(draw).observe(image);
  return {
    element,
    draw(next) {
      plot = next;
      key.replaceChildren(`${yLabel}: `, ...plot.lines.map(({ name, kind }) => create("span", { class: `${kind} key` }, name)));
      draw();
    },
  };
}

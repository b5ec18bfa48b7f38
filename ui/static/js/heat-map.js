/**
 * A square table of probabilities as a heat map, with one cell in focus.
 *
 * It is a canvas of one pixel a cell, enlarged by CSS: thousands of elements would stall the page. A screen reader learns what
 * is in a cell from the sentence that the page shows for the one in focus.
 */
import { create } from "./dom.js";
import { showWhitespace } from "./text.js";

const MARGIN_PX = 4; // around the cell in focus

/** How dark a probability is drawn, from 0 to 1. The square root keeps rare pairs visible. */
export const shade = (prob) => Math.sqrt(prob);

/**
 * The cell that a key moves to.
 * @param {string} key As in a keyboard event; a character of the vocabulary goes to its row.
 * @param {{last: number, next: number}} cell Row and column.
 * @param {string[]} tokens
 * @returns {{last: number, next: number} | null} null if the key does not move.
 */
export function moveCell(key, { last, next }, tokens) {
  const end = tokens.length - 1;
  const moves = {
    ArrowLeft: [last, next - 1],
    ArrowRight: [last, next + 1],
    ArrowUp: [last - 1, next],
    ArrowDown: [last + 1, next],
    Home: [last, 0],
    End: [last, end],
    PageUp: [0, next],
    PageDown: [end, next],
  };
  const named = tokens.indexOf(key === "Enter" ? "\n" : key);
  const to = moves[key] ?? (named >= 0 ? [named, next] : null);
  if (!to) return null;
  const [row, column] = to.map((index) => Math.min(Math.max(index, 0), end));
  return { last: row, next: column };
}

/**
 * Draw an empty heat map.
 * @param {object} options
 * @param {string} options.title
 * @param {string[]} options.tokens Names of rows and columns.
 * @param {(cell: {last: number, next: number}) => void} options.onMove Called when a visitor moves to another cell.
 */
export function createHeatMap({ title, tokens, onMove }) {
  const size = tokens.length;
  const labels = tokens.map((token) => Array.from(showWhitespace(token))[0]).join("\n");
  const canvas = create("canvas", { width: size, height: size });
  const ring = create("div", { class: "heat-map-ring" });
  const plane = create(
    "div",
    {
      class: "heat-map-plane",
      role: "application",
      tabindex: 0,
      "aria-label": `${title}: a table of ${size} rows and columns`,
      "aria-description": "Arrow keys move to another cell; a character goes to its row.",
    },
    create("div", { class: "heat-map-columns", "aria-hidden": "true" }, labels),
    create("div", { class: "heat-map-rows", "aria-hidden": "true" }, labels),
    canvas,
    ring,
  );
  plane.style.setProperty("--size", size);
  const scroller = create("div", { class: "heat-map-scroller" }, plane);
  const element = create("figure", { class: "heat-map" }, create("figcaption", {}, title), scroller);
  let cell = { last: 0, next: 0 };
  let probs = [];

  /** Scroll the table, not the page, so that the cell is in view, right of and below the labels. */
  function reveal() {
    const [target, view, edge] = [ring, scroller, canvas].map((each) => each.getBoundingClientRect());
    const gutter = edge.left - plane.getBoundingClientRect().left;
    const distance = (low, high, from, to) => Math.min(low - from - gutter, 0) || Math.max(high - to, 0);
    scroller.scrollBy(
      distance(target.left - MARGIN_PX, target.right + MARGIN_PX, view.left, view.right),
      distance(target.top - MARGIN_PX, target.bottom + MARGIN_PX, view.top, view.bottom),
    );
  }

  const move = (to) => {
    if (to.last !== cell.last || to.next !== cell.next) onMove(to);
  };
  plane.addEventListener("keydown", (event) => {
    const to = event.ctrlKey || event.metaKey || event.altKey ? null : moveCell(event.key, cell, tokens);
    if (!to) return;
    event.preventDefault();
    move(to);
    scroller.scrollIntoView({ block: "nearest" });
  });
  canvas.addEventListener("click", (event) => {
    const index = (offset, length) => Math.min(Math.max(Math.floor((offset / length) * size), 0), size - 1);
    move({ last: index(event.offsetY, canvas.clientHeight), next: index(event.offsetX, canvas.clientWidth) });
  });

  return {
    element,
    scroller,

    /**
     * Show probabilities.
     * @param {ArrayLike<number>[]} rows
     */
    draw(rows) {
      probs = rows;
      const context = canvas.getContext("2d");
      const image = context.createImageData(size, size);
      rows.forEach((row, i) => {
        for (let j = 0; j < size; j++) image.data[4 * (size * i + j) + 3] = Math.round(255 * shade(row[j]));
      });
      context.putImageData(image, 0, 0);
      context.globalCompositeOperation = "source-in"; // keeps the opacity, changes the color
      context.fillStyle = getComputedStyle(canvas).color;
      context.fillRect(0, 0, size, size);
      context.globalCompositeOperation = "source-over";
    },

    /** Draw the same again, after the theme has changed. */
    redraw() {
      this.draw(probs);
    },

    /** Mark a cell. */
    setCell(to) {
      cell = to;
      ring.style.setProperty("--row", to.last);
      ring.style.setProperty("--column", to.next);
      reveal();
    },
  };
}

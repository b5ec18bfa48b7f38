/** Horizontal bars: a name, a bar and a number in each row. */
import { create } from "./dom.js";

/**
 * Fill an element with bars.
 * @param {HTMLElement} element
 * @param {{name: string, value: number, text: string, isReference?: boolean}[]} rows A value of NaN has no bar.
 * @param {string} label The name of the list for screen readers.
 * @param {number} [mark] A value that each bar is compared with: a line across them.
 */
export const drawBars = (element, rows, label, mark) => {
  const values = [...rows.map(({ value }) => value), mark ?? 0].filter((value) => !Number.isNaN(value));
  const most = Math.max(...values, 1e-9);
  const list = create("ul", { class: "model-bars", "aria-label": label });
  for (const { name, value, text, isReference } of rows) {
    const bar = create("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", Number.isNaN(value) ? 0 : Math.max(value, 0) / most);
    if (mark !== undefined) {
      bar.classList.add("marked");
      bar.style.setProperty("--mark", mark / most);
    }
    const row = create("li", {}, create("span", { class: "bar-name" }, name), bar, create("span", { class: "bar-value" }, text));
    row.classList.toggle("reference", isReference === true);
    list.append(row);
  }
  element.replaceChildren(list);
};

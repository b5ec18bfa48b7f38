/** Building elements without HTML in strings. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element.
 * @param {string} tag
 * @param {object} [attributes] Each value by its name; a `class`, `aria-...` or `data-...` as in HTML.
 * @param {...(Node | string)} children A string becomes text, never HTML.
 */
export const create = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** Create an element of an SVG: the same as `create` otherwise. */
export const createSvg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes = {}, children = []) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Create a button.
 * @param {string} label
 * @param {() => void} onClick
 * @param {string} [kind] Classes: how it looks (buttons.css), and its own name.
 */
export function createButton(label, onClick, kind = "button") {
  const button = create("button", { type: "button", class: kind }, label);
  button.addEventListener("click", onClick);
  return button;
}

/** Change the text of an element; equal text changes nothing, so that a selection in it stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Call a function once, when an element is seen for the first time. */
export function whenVisible(element, then) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    then();
  });
  observer.observe(element);
}

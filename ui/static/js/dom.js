/** Building elements without HTML in strings. */

/**
 * Create an element.
 * @param {string} tag
 * @param {object} [attributes] Each value by its name; a `class`, `aria-...` or `data-...` as in HTML.
 * @param {...(Node | string)} children A string becomes text, never HTML.
 */
export function create(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The texts of a visit as nested lists of buttons. */
import { create, createButton } from "./dom.js";

/**
 * Draw a history again.
 * @param {HTMLElement} element
 * @param {ReturnType<import("./history.js").createHistory>} history
 * @param {(node: import("./history.js").Node) => void} onSelect
 */
export function drawTree(element, history, onSelect) {
  const focused = element.contains(document.activeElement);
  let currentButton;

  const drawItem = (node) => {
    const button = createButton(node.label, () => onSelect(node), "tree-item");
    if (node === history.current) {
      button.setAttribute("aria-current", "true");
      currentButton = button;
    }
    return create("li", {}, button, ...(node.children.length > 0 ? [drawList(node.children)] : []));
  };
  const drawList = (nodes) => create("ul", {}, ...nodes.map(drawItem));

  element.replaceChildren(drawList(history.roots));
  if (focused) currentButton?.focus();
}

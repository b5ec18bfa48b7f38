/** The texts of a visit as nested lists of buttons. */

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
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = node.label;
    button.addEventListener("click", () => onSelect(node));
    if (node === history.current) {
      button.setAttribute("aria-current", "true");
      currentButton = button;
    }
    item.append(button);
    if (node.children.length > 0) item.append(drawList(node.children));
    return item;
  };
  const drawList = (nodes) => {
    const list = document.createElement("ul");
    list.append(...nodes.map(drawItem));
    return list;
  };

  element.replaceChildren(drawList(history.roots));
  if (focused) currentButton?.focus();
}

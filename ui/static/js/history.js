/**
 * The texts of this visit as a tree: those that Generate started are its roots, and a branch is a child of the text that it
 * left. "Before" and "after" are in the order in which they were written.
 */

const MAX_TEXTS = 50; // of 1,000 characters: 13 MB in all, if no two share a beginning

/**
 * @typedef {object} Node
 * @property {object} text What the visitor sees again.
 * @property {string} label What to call it.
 * @property {Node | null} parent
 * @property {Node[]} children
 */

export function createHistory(maxTexts = MAX_TEXTS) {
  let nodes = []; // the oldest first
  let current = null;

  /** Forget the oldest text without branches. */
  function dropOldest() {
    const leaf = nodes.find((node) => node !== current && node.children.length === 0);
    nodes = nodes.filter((node) => node !== leaf);
    if (leaf.parent) leaf.parent.children = leaf.parent.children.filter((node) => node !== leaf);
  }

  const neighbor = (offset) => nodes[nodes.indexOf(current) + offset] ?? null;

  return {
    get current() {
      return current;
    },
    get roots() {
      return nodes.filter((node) => !node.parent);
    },
    get length() {
      return nodes.length;
    },
    /** The text written before the current one; null if it is the first. */
    get before() {
      return neighbor(-1);
    },
    /** The text written after the current one; null if it is the last. */
    get after() {
      return neighbor(1);
    },

    /**
     * Add a text and make it the current one.
     * @param {object} text
     * @param {string} label
     * @param {Node | null} [parent] The text that it branches off.
     * @returns {Node}
     */
    add(text, label, parent = null) {
      const node = { text, label, parent, children: [] };
      parent?.children.push(node);
      nodes.push(node);
      current = node;
      while (nodes.length > maxTexts) dropOldest();
      return node;
    },

    /** Make a text the current one. */
    select(node) {
      current = node;
    },

    /** The last text for which a function is true, or undefined. */
    find(isWanted) {
      return nodes.findLast((node) => isWanted(node.text));
    },
  };
}

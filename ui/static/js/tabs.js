/** The tabs of the page, by the names that links use. */
import { updateAddress } from "./link.js";

const FIRST = "write";

/** Open a tab. */
export const openTab = (name) => document.getElementById(`tab-${name}-button`)?.click();

const listeners = new Map();
let current = FIRST;

/** Call a function whenever a tab is opened. */
export const onOpen = (name, listener) => listeners.set(name, listener);

/** A tab was opened: the address says so. */
export const selected = (name) => {
  if (name === current) return; // Gradio says so of the first tab when it draws the page
  current = name;
  updateAddress({
    tab: name === FIRST ? undefined : name,
    ...(name !== "score" && { passage: undefined }),
    ...(name !== "all-at-once" && { unmask: undefined }),
  });
  listeners.get(name)?.();
};

/** A button that puts a text on the clipboard and says so. */
import { VisitorError } from "./api.js";
import { createButton } from "./dom.js";

const COPIED_MS = 1500; // how long the button says so

/**
 * @param {string} label
 * @param {() => string | Promise<string>} read Gives the text.
 * @param {string} kind See `createButton`.
 */
export function createCopyButton(label, read, kind) {
  const onClick = async () => {
    try {
      await copy(await read());
      button.textContent = "Copied";
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      button.textContent = "The server does not answer";
    }
    setTimeout(() => {
      button.textContent = label;
    }, COPIED_MS);
  };
  const button = createButton(label, onClick, kind);
  return button;
}

/** Put text on the clipboard, or show it to be copied by hand: the clipboard needs https, and can be refused. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    prompt("Copy this:", text);
  }
}

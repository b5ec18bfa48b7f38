/** Links within the page, as lessons have them: shown without loading the page again. */
import { fetchModel } from "./api.js";
import { describesComparison, describesText, fromQuery, NO_TEXT, updateAddress } from "./link.js";
import { openTab } from "./tabs.js";

const NOTHING = { ...NO_TEXT, models: undefined, temperatures: undefined, passage: undefined, unmask: undefined, tab: undefined };
const ARRIVAL_MS = 10_000; // how long a tab may take to show something
const POLL_MS = 50;

/**
 * Open a link: it becomes the address, and each tab restores itself from there, as after Back.
 * @param {string} query
 */
export const openLink = (query) => {
  const link = fromQuery(query);
  const replaces = describesText(query) || describesComparison(query);
  updateAddress({ ...(replaces && NOTHING), ...link }, true);
  if (replaces || link.tab) openTab(link.tab ?? "write");
  dispatchEvent(new PopStateEvent("popstate"));
};

/** A selector of the element that shows what a link is about. */
const placeOf = async ({ tab = "write", at, model }) => {
  if (tab === "write") return at === undefined ? "#text" : "#text .explanation";
  if (tab === "compare" || tab === "score") return `#${tab} .${tab}-results`;
  if (tab === "all-at-once") return "#all-at-once";
  if (tab !== "inside") return "#tabs";
  return (await fetchModel(model))?.family === "bigram" ? "#inside-bigram" : "#inside-gpt";
};

/**
 * Scroll to what a link is about, once its tab is drawn. It stays in place while what is above it grows, until the visitor does something.
 * @param {string} query
 * @param {number} margin What to leave free above, in pixels.
 */
export const scrollToLink = async (query, margin) => {
  const ended = new AbortController();
  const end = () => ended.abort();
  for (const type of ["pointerdown", "wheel", "keydown"]) addEventListener(type, end, { signal: ended.signal, capture: true });
  setTimeout(end, ARRIVAL_MS);
  const selector = await placeOf(fromQuery(query));
  while (!document.querySelector(selector)?.checkVisibility()) {
    if (ended.signal.aborted) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  const element = document.querySelector(selector);
  element.style.scrollMarginTop = `${margin}px`;
  const observer = new ResizeObserver(() => element.scrollIntoView({ block: "start" }));
  observer.observe(document.body);
  ended.signal.addEventListener("abort", () => observer.disconnect());
};

/**
 * The page's state as a link. A link to a text has model, prompt, seed, length, temperature, top_k, top_p, min_p and branch
 * (ui/session.py: LINK); tab, at (the selected token) and lesson say what the page shows of it. A comparison has models (their
 * ids, with commas) or temperatures (1: those of the tab Compare, of one model), and prompt, seed, length and temperature.
 * A passage is a text that the tab Score scores; unmask is a query of its own, what the tab "All at once" does.
 */

/** The settings of a text, by their name in a link, with the values that a link leaves out. */
export const SETTINGS = { length: 300, temperature: 0.8, top_k: 0, top_p: 1, min_p: 0 };

/** The most tokens of a text (MAX_TEXT_TOKENS in ui/schema.py). */
export const MAX_TEXT_TOKENS = 5000;

/** The most tokens that one press of a button writes (MAX_RUN_TOKENS there). */
export const MAX_RUN_TOKENS = 1000;

const TEXT = ["model", "prompt", "seed", "length", "temperature", "top_k", "top_p", "min_p", "branch"];
const COMPARISON = ["models", "temperatures"];
const VIEW = ["tab", "at", "lesson", "passage", "unmask"];
const ALL = [...TEXT, ...COMPARISON, ...VIEW];

/** For `updateAddress`: the address describes no text. */
export const NO_TEXT = Object.freeze(Object.fromEntries([...TEXT, "at"].map((name) => [name, undefined])));

/** Whether a query describes a comparison. */
export const describesComparison = (query) => {
  const parameters = new URLSearchParams(query);
  return COMPARISON.some((name) => parameters.has(name));
};

/** Whether a query describes a text of the tab Write. */
export const describesText = (query) => {
  const parameters = new URLSearchParams(query);
  return TEXT.some((name) => parameters.has(name)) && !describesComparison(query);
};

/**
 * A query as an object of strings, of known names only.
 * @param {string} query
 * @returns {Object<string, string>}
 */
export const fromQuery = (query) => {
  const parameters = new URLSearchParams(query);
  return Object.fromEntries(ALL.filter((name) => parameters.has(name)).map((name) => [name, parameters.get(name)]));
};

/**
 * An object as a query; undefined, null and "" are left out, except an empty prompt.
 * @param {object} values
 */
export const toQuery = (values) => {
  const parameters = new URLSearchParams();
  for (const name of ALL) {
    const value = values[name];
    if (value !== undefined && value !== null && (value !== "" || name === "prompt")) parameters.set(name, value);
  }
  return parameters.toString();
};

/** A query without its length and what the page shows of the text: the same for a text and its continuation. */
export const textKey = (query) => {
  const link = fromQuery(query);
  for (const name of ["length", ...VIEW]) delete link[name];
  return toQuery(link);
};

/**
 * The sampling parameters in a link, or in the values of the controls.
 * @param {object} values By their names in a link.
 * @returns {import("./sampling.js").Params}
 */
export const paramsOf = (values) => {
  const [temperature, topK, topP, minP] = ["temperature", "top_k", "top_p", "min_p"].map((name) =>
    Number(values[name] ?? SETTINGS[name]),
  );
  return { temperature, topK, topP, minP };
};

/** The forced tokens of a branch, "12.45,40.3", as pairs [index, token id]. */
export const parseBranch = (text) =>
  (text ?? "")
    .split(",")
    .filter(Boolean)
    .map((pair) => pair.split(".").map(Number));

/** Inverse of `parseBranch`. */
export const formatBranch = (pairs) => pairs.map((pair) => pair.join(".")).join(",");

/** The page's address without its query and its last slash. */
export const address = () => location.origin + location.pathname.replace(/\/$/, "");

let text = {}; // the values of the text in the tab Write, while the address describes a comparison

/** The values of a link that become of `link` when `values` change: of the text while a comparison is shown, nothing. */
const change = (link, values) => {
  const own = (of) => Object.fromEntries([...TEXT, "at"].filter((name) => name in of).map((name) => [name, of[name]]));
  const isComparison = COMPARISON.some((name) => link[name]);
  if (COMPARISON.some((name) => values[name])) {
    if (!isComparison) text = own(link);
    return { ...link, at: undefined, ...values };
  }
  if (!isComparison) return { ...link, ...values };
  text = { ...text, ...own(values) };
  const lesson = "lesson" in values ? values.lesson : link.lesson;
  if (!("tab" in values) || values.tab === "compare") return { ...link, lesson };
  return { ...text, tab: values.tab, passage: values.passage, unmask: values.unmask, lesson }; // another tab is opened
};

/**
 * Describe the page in the address bar, keeping what the link says of other things.
 * @param {object} values Names of a link and their new values; undefined removes one.
 * @param {boolean} [push] Add a step to the browser's history, so that Back returns to the state before it.
 */
export const updateAddress = (values, push = false) => {
  const parameters = new URLSearchParams(location.search);
  const theme = parameters.get("__theme"); // Gradio's
  const query = new URLSearchParams(toQuery(change(fromQuery(location.search), values)));
  if (theme) query.set("__theme", theme);
  const search = query.size > 0 ? `?${query}` : "";
  history[push ? "pushState" : "replaceState"](null, "", location.pathname + search);
};

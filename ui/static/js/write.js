/** The tab Write: the text, and why each of its characters was chosen. */
import { fetchModels, streamText, VisitorError } from "./api.js";
import {
  branchLabel,
  caption,
  choiceSentences,
  contextOf,
  count,
  hasManyNewLines,
  heldOut,
  mostSurprising,
  newLinesSentence,
  otherSettings,
  rootLabel,
} from "./caption.js";
import { byName, setControls, watchFields } from "./controls.js";
import { createHistory } from "./history.js";
import {
  address,
  describesComparison,
  describesText,
  formatBranch,
  fromQuery,
  MAX_RUN_TOKENS,
  MAX_TEXT_TOKENS,
  NO_TEXT,
  paramsOf,
  parseBranch,
  SETTINGS,
  textKey,
  toQuery,
  updateAddress,
} from "./link.js";
import { createPacer } from "./pace.js";
import { choose, chosenModel, findLinkedModel, onChoose } from "./picker.js";
import { createSheet, setEnabled } from "./sheet.js";
import { openTab } from "./tabs.js";
import { nameToken } from "./text.js";
import { drawTree } from "./tree.js";

const SETTLE_MS = 300; // the address and the panels follow the text at this pace: browsers limit changes of the address
const STEP_HINT = "Press “Next character”, or the right arrow key at the end of the text.";
const FIRST = 60; // tokens, among which an example is found for a text that is shown from its start
const CUT_OFF = "The connection ended before the text did.";
const GO_ON = "Press Continue to go on from here.";

let view; // the elements, once Gradio drew the page
const whenDrawn = new Promise((resolve) => {
  view = resolve;
});
const visit = createHistory(); // its texts have model, query, prompt, unknownChars, remarks, tokens, and at: the selected token
const listeners = new Set();
let models = [];
let pace = matchMedia("(prefers-reduced-motion: reduce)").matches ? "fast" : "watch";
let pacer;
let run = null; // the text that is being written: see `write`
let explained = null; // index of the explained token
let controls = { ...SETTINGS }; // their values
let sample; // the text of the first visit, as a node
let settling = null;

const text = () => visit.current?.text;
const queryOf = ({ query, tokens }) => toQuery({ ...fromQuery(query), length: tokens.length });

/** The text on the screen: {model, query, prompt, tokens}; undefined before the first. */
export const currentText = () => {
  if (!text()) return undefined;
  const { model, prompt, tokens } = text();
  return { model, prompt, tokens: [...tokens], query: queryOf(text()) };
};

/** Call a function with `currentText()` when there is another text on the screen, and when it has grown. */
export const onText = (listener) => {
  listeners.add(listener);
  if (text()) listener(currentText());
};

/** Gradio drew the tab. */
export const mount = (element) => {
  const actions = { onSelect, onPick: branch, onPace: setPace, onStep: step, onInside: lookInside };
  actions.readLink = () => `${address()}/?${toQuery(linkOfText())}`;
  actions.onBefore = () => show(visit.before, true);
  actions.onAfter = () => show(visit.after, true);
  const resolve = view;
  view = createSheet(element, actions, pace);
  pacer = createPacer({ show: reveal, onEnd: () => finish(), pace });
  onChoose(drawOtherModel);
  watchFields((message) => view.setStatus(message));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest("#prompt")) return;
    event.preventDefault();
    document.getElementById("generate").click();
  });
  addEventListener("popstate", () => report(showAddress()));
  drawButtons();
  resolve(view);
};

/** The page has loaded: show the text of the link, or the sample of the model. */
export const start = async (...inputs) => {
  await whenDrawn;
  controls = byName(inputs);
  const { tab } = fromQuery(location.search);
  if (tab) openTab(tab);
  report(showAddress()); // not awaited: Gradio would swallow its errors
};

/** Start a new text. */
export const generate = (...inputs) => {
  controls = byName(inputs);
  const { locked, seed, ...settings } = controls;
  report(openText({ ...settings, model: chosenModel(), seed: locked ? seed : undefined }, { push: true }));
};

/** Write on. */
export const continueText = (...inputs) => {
  controls = byName(inputs);
  if (!run && text()) report(extend());
};

/** End the text here. */
export const stop = () => {
  if (!run) return;
  const { isAccepted } = run;
  endRun();
  if (!isAccepted) view.setStatus("Stopped.");
  else finish(`Stopped after ${count(text().tokens.length, text().model)}. Continue goes on from here.`);
};

/** A control was changed: re-shape the distribution. */
export const settingsChanged = async (...inputs) => {
  await whenDrawn;
  controls = byName(inputs);
  view.distribution.setParams(paramsOf(controls));
  if (text()) view.setNote(otherSettings(text(), controls));
};

/** Show the sentence of an error that a visitor should read about. */
const report = async (promise) => {
  try {
    await promise;
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    view.setStatus(error.message);
  }
};

/** Index of the token that a link selects; undefined if it selects none. */
const selectedIn = ({ at }) => (/^\d+$/.test(at ?? "") ? Number(at) : undefined);

/** A text of this visit by its link, of any length. */
const findNode = (query) => visit.find((candidate) => textKey(candidate.query) === textKey(query));

/** Show what the address describes: on arrival, and after Back and Forward. */
const showAddress = async () => {
  const { search } = location;
  const { tab = "write" } = fromQuery(search);
  if (text()) openTab(tab);
  if (text() && describesComparison(search)) return undefined;
  if (!describesText(search)) return showSample();
  const node = findNode(search);
  if (node) {
    node.text.at = selectedIn(fromQuery(search));
    show(node);
    return;
  }
  try {
    await openLinked(search);
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    const sentence = `This link cannot be shown: ${error.message}`;
    view.setStatus(sentence);
    if (!text()) await showSample(sentence);
  }
};

/** Show what a first visitor sees: the sample of the model that the page opens with. */
const showSample = async (status = "A saved example. Press Generate for a new one.") => {
  if (sample) {
    show(sample);
    return;
  }
  const answer = await fetchModels();
  const model = answer.models.find(({ id }) => id === answer.default);
  const { text: _, max_new_tokens: length = SETTINGS.length, ...settings } = model.sample ?? {};
  await openText(
    { prompt: "", ...settings, length, model: model.id },
    { isWhole: true, status, isSample: true, setsControls: true },
  );
};

/** Get the text of a link, once its model is open. */
const openLinked = async (query) => {
  const link = fromQuery(query);
  link.model = await findLinkedModel(link.model, view.setStatus);
  await openText(link, { isWhole: true, at: selectedIn(link), status: "", setsControls: true });
};

/**
 * Get a text from the server, and add it to those of this visit.
 * @param {object} link What describes it, by the names of a link.
 * @param {object} [options]
 * @param {boolean} [options.push] Back returns to the text before.
 * @param {boolean} [options.isWhole] Show it at once, and from its start.
 * @param {number} [options.at] The token to explain; the last one by default.
 * @param {string} [options.status] What to say at the end.
 * @param {boolean} [options.setsControls] The controls take its settings.
 * @param {boolean} [options.isSample] It is the sample of a first visit, which needs no link.
 * @param {object[]} [options.kept] Its first tokens, which are on the screen already: it is a branch.
 * @param {string} [options.label] What to call the branch.
 */
const openText = async (link, options = {}) => {
  const { push = false, at, setsControls = false, isSample = false, kept = [], label } = options;
  const length = Number(link.length ?? SETTINGS.length);
  const end = Number.isInteger(length) ? Math.min(Math.max(length, kept.length + 1), MAX_TEXT_TOKENS) : SETTINGS.length;
  models = (await fetchModels()).models;
  const model = models.find(({ id }) => id === link.model);
  await write(model, toQuery({ ...link, length: link.length ?? length }), kept.length, end, options, (head) => {
    const { query, prompt, unknown_chars: unknownChars, remarks } = head;
    const added = { model, query, prompt, unknownChars, remarks, tokens: kept, at, hasLink: !isSample };
    const node = visit.add(added, label ?? rootLabel(added), label ? visit.current : null);
    if (isSample) sample = node;
    draw();
    if (setsControls) matchControls(end);
    else setControls({ seed: Number(fromQuery(query).seed) });
    saveAddress(push, end);
  });
};

/** Let the text on the screen grow. */
const extend = () => {
  const { model, query, tokens } = text();
  const end = Math.max(Math.min(tokens.length + controls.length, MAX_TEXT_TOKENS), tokens.length + 1);
  return write(model, query, tokens.length, end, {}, (head) => {
    Object.assign(text(), { query: head.query, hasLink: true, at: undefined });
    view.scrollToEnd();
  });
};

/**
 * Show tokens from the server at a pace.
 * @param {object} model
 * @param {string} query
 * @param {number} start Index of the first token.
 * @param {number} end Index after the last.
 * @param {object} options isWhole and status: see `openText`.
 * @param {(head: object) => void} onAccept Called with what the server says of the text.
 */
const write = async (model, query, start, end, { isWhole = false, status = "Done." }, onAccept) => {
  endRun();
  view.copied.clear();
  const own = {
    controller: new AbortController(),
    pace: isWhole ? "fast" : pace,
    isWhole,
    status,
    isAccepted: false,
    failure: "",
  };
  run = own;
  drawButtons();
  let missing = end - start;
  try {
    const parts = streamText(query, start, end, model.vocabulary.length, own.controller.signal);
    const { value: head } = await parts.next();
    if (run !== own) return;
    own.isAccepted = true;
    onAccept(head);
    view.tokens.setRunning(true);
    view.setStatus(own.pace === "step" ? STEP_HINT : "Writing…");
    pacer.setPace(own.pace);
    for await (const { tokens } of parts) {
      if (run !== own) return;
      const isFirst = missing === end - start;
      missing -= tokens.length;
      pacer.push(tokens);
      if (isFirst && own.pace === "step") showNext();
    }
    if (run !== own) return;
    if (missing > 0) own.failure = `${CUT_OFF} ${GO_ON}`;
  } catch (error) {
    if (run !== own) return; // it was stopped
    if (!own.isAccepted || !(error instanceof VisitorError)) {
      endRun();
      throw error;
    }
    own.failure = `${error.message} ${GO_ON}`;
  }
  if (own.failure) view.setStatus(own.failure);
  pacer.end();
};

/** Stop writing; what is not on the screen yet is dropped. */
const endRun = () => {
  run?.controller.abort();
  run = null;
  pacer.stop();
  view.tokens.setRunning(false);
  drawButtons();
};

/** The text is written, or stopped. */
const finish = (sentence = run.failure || run.status) => {
  const fromStart = run?.isWhole;
  run = null;
  view.tokens.setRunning(false);
  drawButtons();
  const { tokens, at, remarks } = text();
  if (tokens.length > 0 && !(at < tokens.length)) select(fromStart ? mostSurprising(tokens.slice(0, FIRST)) : tokens.length - 1);
  if (at !== undefined || fromStart) requestAnimationFrame(() => view.scrollToSelected());
  view.setStatus([...remarks, newLinesSentence(text()), sentence].filter(Boolean).join(" "));
  lookUpCopied();
  settle();
};

/** Show what of the finished text is copied from the training text. */
const lookUpCopied = () => {
  const { model, prompt, tokens } = text();
  view.copied.check({ model: model.id, prompt, texts: tokens.map((token) => token.text) });
};

/** Show tokens at the end of the text. */
const reveal = (tokens) => {
  const own = text();
  const first = own.tokens.length;
  own.tokens.push(...tokens);
  view.tokens.append(tokens);
  view.tokens.setShowNewlines(hasManyNewLines(own.tokens));
  if (own.at >= first && own.at < own.tokens.length) select(own.at);
  else if (own.at === undefined && run?.pace !== "fast") select(own.tokens.length - 1);
  drawCaption();
  settle();
};

/** Show the next token; returns false if none waits. */
const showNext = () => {
  const { hasFocus } = view;
  text().at = undefined;
  const isShown = pacer.step();
  if (isShown && hasFocus) view.focusSelected();
  return isShown;
};

/** Step: show one more token, and get more from the server if none waits. */
const step = () => {
  if (text() && !showNext() && !run) report(extend());
};

const setPace = (name) => {
  pace = name;
  if (!run) return;
  run.pace = name;
  pacer.setPace(name);
  view.setStatus(name === "step" ? STEP_HINT : "Writing…");
};

/** Another token for the explained one: the text goes on differently from there. */
const branch = (tokenId) => {
  const { model, query, tokens } = text();
  const index = explained;
  if (tokens[index].id === tokenId) {
    view.setStatus("The text goes on with this one already.");
    return;
  }
  const link = fromQuery(query);
  const forced = parseBranch(link.branch);
  const earlier = forced.filter(([at]) => at < index);
  const { parent } = visit.current;
  const isUndone = forced.some(([at]) => at === index) && parent?.text.tokens[index]?.id === tokenId;
  link.branch = formatBranch([...earlier, [index, tokenId]]);
  const node = isUndone ? parent : findNode(toQuery(link));
  if (node) {
    node.text.at = index;
    show(node, true);
    return;
  }
  link.length = Math.min(index + controls.length, MAX_TEXT_TOKENS);
  const label = branchLabel(index, model.vocabulary[tokenId], tokens[index].text);
  report(openText(link, { push: true, at: index, kept: tokens.slice(0, index), label }));
};

/** Return to a text of this visit. */
const show = (node, push = false) => {
  endRun();
  visit.select(node);
  draw();
  view.setStatus([...node.text.remarks, newLinesSentence(node.text)].filter(Boolean).join(" "));
  lookUpCopied();
  matchControls();
  saveAddress(push);
  settle();
};

/**
 * Set the model and the controls to those of the text.
 * @param {number} [length] Without it, Length stays: it says how much to write next.
 */
const matchControls = (length = controls.length) => {
  const { model, query } = text();
  const { prompt, seed, temperature, top_k, top_p, min_p } = { ...SETTINGS, ...fromQuery(query) };
  if (models.some(({ id }) => id === model.id)) choose(model.id);
  const numbers = { seed, temperature, top_k, top_p, min_p, length: Math.min(length, MAX_RUN_TOKENS) };
  for (const name of Object.keys(numbers)) numbers[name] = Number(numbers[name]);
  setControls({ prompt, ...numbers });
};

const onSelect = (index) => {
  Object.assign(text(), { at: index, hasLink: true });
  explain(index);
  settle();
};

const select = (index) => {
  view.tokens.select(index);
  explain(index);
};

/** Explain the choice of a token. */
const explain = (index) => {
  explained = index;
  const own = text();
  const { id, text: characters, distribution } = own.tokens[index];
  const params = paramsOf(controls);
  view.distribution.show({ ...distribution, names: own.model.vocabulary, params, chosen: id, context: contextOf(own, index) });
  const unit = own.model.unit === "character" ? "Character" : "Piece";
  view.setExplanation(`${unit} ${index + 1}: why “${nameToken(characters)}”?`, choiceSentences(own, index));
  view.setNote(otherSettings(own, controls));
};

/** Draw the text on the screen and all that belongs to it. */
const draw = () => {
  const { prompt, unknownChars, tokens, at } = text();
  view.copied.clear();
  view.tokens.clear();
  view.tokens.setPrompt(prompt, unknownChars);
  view.tokens.append(tokens);
  view.tokens.setShowNewlines(hasManyNewLines(tokens));
  const index = at ?? tokens.length - 1;
  if (index < tokens.length && index >= 0) {
    select(index);
    requestAnimationFrame(() => view.scrollToSelected());
  } else if (at === undefined) {
    explained = null;
    view.distribution.clear();
    view.setExplanation("", "");
    view.setNote("");
  }
  drawCaption();
  drawOtherModel();
  drawButtons();
  drawTree(view.tree, visit, (node) => show(node, true));
  view.setTexts({ hasSeveral: visit.length > 1, hasBefore: visit.before !== null, hasAfter: visit.after !== null });
};

const drawCaption = () => view.setCaption(caption(text()), heldOut(text().model, models));

const drawOtherModel = () => {
  const isOther = text() && chosenModel() && text().model.id !== chosenModel();
  view.setOtherModel(isOther ? `Continue goes on with ${text().model.name}. Generate starts a text by the chosen model.` : "");
};

const drawButtons = () => {
  setEnabled(document.getElementById("stop"), run !== null);
  setEnabled(document.getElementById("continue"), run === null && text() !== undefined);
};

/** Let the address and the other panels follow the text, a moment after its last change. */
const settle = () => {
  if (settling !== null) return;
  settling = setTimeout(() => {
    settling = null;
    saveAddress();
    for (const listener of listeners) listener(currentText());
  }, SETTLE_MS);
};

/**
 * Describe the text in the address.
 * @param {boolean} [push] Back returns to the text before.
 * @param {number} [length] That it will have.
 */
const saveAddress = (push = false, length = text().tokens.length) => {
  if (text().hasLink) updateAddress({ ...NO_TEXT, ...linkOfText(length) }, push);
};

/** The link of the text with the selected token, as an object. */
const linkOfText = (length = text().tokens.length) => {
  const { query, at } = text();
  return { ...fromQuery(query), length, at: at < length ? at : undefined };
};

const lookInside = () => {
  Object.assign(text(), { at: explained, hasLink: true });
  saveAddress();
  openTab("inside");
};

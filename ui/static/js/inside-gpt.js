/**
 * Look inside the GPT: for one character of a text, where each attention head looked, and what the model would have said after
 * each layer (gpt/inspection.py).
 */
import { fetchJson, fetchModels, streamText, VisitorError } from "./api.js";
import { barsPath, decodeAttention, meanAttention, strongest } from "./attention.js";
import { create, createSvg } from "./dom.js";
import { describesText, fromQuery, SETTINGS, toQuery, updateAddress } from "./link.js";
import { formatPercent, nameToken, plural, showWhitespace } from "./text.js";
import { createTokens } from "./tokens.js";

const PLACES = 5; // in the list of the strongest
const BARS = 32; // of the drawing of one head
const AROUND = 10; // tokens on each side of a place in the list
const MAX_CHARS = 5000;
const MEAN = "mean";
const EXAMPLE = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.";
const EXAMPLE_LINE = "elizabeth";
const HINT =
  "Choose a character, by a click or with the arrow keys, to see where the model looked before it. The stronger the background, " +
  "the more attention; the five strongest places are underlined.";
const GLOSSARY = [
  ["Query", "made at the last character that the model has read: what this place looks for."],
  ["Key", "made at each character that it sees: what that place has to offer. The better it fits the query, the more attention."],
  ["Value", "made at each character, too: what that place hands over, in proportion to the attention that it gets."],
  ["Head", "one set of queries, keys and values. Each has learned to look for something else."],
];
const LENS_NOTE =
  "An intermediate reading, not a calibrated probability: the output layer, which was trained on the last layer, is applied to " +
  "each layer (the “logit lens”). Only the last row is what the model says.";

const quote = (text) => (/^\s?$/.test(text) ? `a ${nameToken(text)}` : `“${nameToken(text)}”`);
const percent = (share) => (share < 0.01 ? "<\u00a01\u00a0%" : `${Math.round(100 * share)}\u00a0%`);
const placeOf = (link) => toQuery({ ...link, tab: undefined, lesson: undefined }); // a text and its token

/** Fill an element with the panel, which shows its first text when it comes into view. */
export function mount(element) {
  let models = []; // those with attention
  let text = null; // what is looked into: {model, prompt, ids, whole, isLinked}; a model wrote the tokens `ids`
  let answer = null; // of page/inspect for this text
  let head = MEAN; // or "layer.head"
  let lastPlace = ""; // that the address described last
  let isAsking = false;
  let next = null; // the request to send when the current one is answered

  const select = create("select");
  const input = create("textarea", { rows: 3, maxlength: MAX_CHARS, spellcheck: "false" });
  const button = create("button", { type: "button", class: "button primary" }, "Look inside");
  const message = create("p", { class: "inside-note", role: "status" });
  const sheet = create("div");
  const sentence = create("p", { class: "inside-sentence", role: "status" });
  const limits = create("p", { class: "inside-note" });
  const heads = create("fieldset", { class: "inside-heads" });
  const places = create("ol", { class: "inside-places" });
  const placesTitle = create("h3");
  const lens = create("table", { class: "inside-lens" });
  const results = create(
    "div",
    { class: "inside-results", hidden: "" },
    create("section", {}, create("h3", {}, "Attention of each head"), heads),
    create("section", {}, placesTitle, places, create("h3", {}, "The guess after each layer"), createNote(LENS_NOTE), lens),
    createGlossary(),
  );
  const tokens = createTokens(sheet, { label: "The text", onSelect });
  const chosenModel = () => models.find(({ id }) => id === select.value);
  const countPrompt = () => answer.tokens.length - text.ids.length;

  element.classList.add("inside-gpt");
  element.replaceChildren(
    create(
      "div",
      { class: "inside-input" },
      create("label", {}, create("span", {}, "Model"), select),
      create("label", { class: "inside-text" }, create("span", {}, "Text"), input),
      button,
    ),
    message,
    createNote(HINT),
    sheet,
    sentence,
    limits,
    results,
  );
  button.addEventListener("click", showInput);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) showInput();
  });
  select.addEventListener("change", () => {
    if (chosenModel().dataset !== text?.model.dataset) input.value = exampleOf(chosenModel());
    showInput();
  });
  heads.addEventListener("change", (event) => {
    head = event.target.value;
    drawHead();
  });
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) guard(arrive);
  }).observe(element);
  addEventListener("popstate", () => element.checkVisibility() && guard(arrive));

  /** The visitor chose a token. */
  function onSelect(index) {
    if (!answer) return; // of the text before, while another one is on its way
    const at = index - countPrompt();
    if (text.isLinked) {
      updateAddress({ at: at < 0 ? undefined : at });
      lastPlace = placeOf(fromQuery(location.search));
    }
    guard(() => ask(at));
  }

  /** Run a function. An error that the visitor should read about becomes the message. */
  async function guard(task) {
    message.textContent = "";
    try {
      await task();
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      message.textContent = error.message;
      if (answer) return;
      tokens.clear();
      sentence.textContent = limits.textContent = "";
      results.hidden = true;
    }
  }

  /** The panel came into view: show the text of the address if it is a new one, else the example. */
  async function arrive() {
    const link = fromQuery(location.search);
    if (describesText(location.search) && placeOf(link) !== lastPlace) return load(link);
    if (text) return undefined;
    const { default: first } = await loadModels();
    const model = models.find(({ id }) => id === first) ?? models.at(-1);
    return setText(model, exampleOf(model));
  }

  /** All models; those with attention become the options. */
  async function loadModels() {
    const all = await fetchModels();
    models = all.models.filter((model) => model.has_attention);
    if ([...select.options].map(({ value }) => value).join() !== models.map(({ id }) => id).join())
      select.replaceChildren(...models.map(({ id, name }) => create("option", { value: id }, name)));
    return all;
  }

  /** Show the text of a link. A model without attention is replaced by one that learned from the same text. */
  async function load(link) {
    lastPlace = placeOf(link);
    const all = await loadModels();
    const writer = all.models.find(({ id }) => id === (link.model ?? all.default));
    if (!writer) throw new VisitorError("The model of this link is not open here.");
    const length = Number(link.length ?? SETTINGS.length);
    const written = [];
    let prompt = link.prompt ?? "";
    if (length > 0) {
      for await (const part of streamText(toQuery(link), 0, length, writer.vocabulary.length)) {
        prompt = part.prompt ?? prompt;
        written.push(...(part.tokens ?? []));
      }
    }
    const at = link.at === undefined ? undefined : Number(link.at);
    if (writer.has_attention) return setText(writer, prompt, written, at);
    const readers = models.filter(({ dataset }) => dataset === writer.dataset);
    const reader = readers.find(({ id }) => id === all.default) ?? readers[0] ?? models[0];
    const whole = (prompt + written.map((token) => token.text).join("")).slice(-MAX_CHARS);
    return setText(reader, whole, [], at === undefined ? undefined : at - written.length);
  }

  /** Look into what the visitor typed. Tokens that a model wrote stay as they are if nothing was changed. */
  function showInput() {
    guard(async () => {
      await loadModels();
      if (input.value !== text?.whole || chosenModel() !== text.model) await setText(chosenModel(), input.value);
    });
  }

  /**
   * @param {object} model
   * @param {string} prompt
   * @param {{id: number, text: string}[]} [written] The tokens that the model wrote after it.
   * @param {number} [at] The token to look at, counted from the first of `written`; the last one by default.
   */
  function setText(model, prompt, written = [], at = undefined) {
    const whole = prompt + written.map((token) => token.text).join("");
    text = { model, prompt, ids: written.map(({ id }) => id), whole, isLinked: written.length > 0 };
    answer = null;
    select.value = model.id;
    input.value = whole;
    return ask(at);
  }

  /** Ask for what led to a token, one request at a time: a visitor who holds an arrow key sees the last ones. */
  async function ask(at) {
    next = { of: text, body: { model: text.model.id, prompt: text.prompt, tokens: text.ids, at } };
    if (isAsking) return;
    isAsking = true;
    try {
      while (next) {
        const { of, body } = next;
        next = null;
        const response = await fetchJson("inspect", body);
        if (of === text) draw(response);
      }
    } catch (error) {
      next = null;
      throw error;
    } finally {
      isAsking = false;
    }
  }

  function draw(response) {
    const isNew = answer === null;
    answer = { ...response, weights: decodeAttention(response.attention, response.layers, response.heads) };
    if (isNew) {
      tokens.clear();
      tokens.append(answer.tokens.map((token) => ({ text: token })));
      if (answer.position < answer.tokens.length) tokens.select(answer.position);
      requestAnimationFrame(() => {
        const { offsetTop = 0 } = sheet.querySelector(".selected") ?? {};
        sheet.scrollTop = offsetTop - sheet.clientHeight / 2;
      });
    }
    const [layer, index] = head.split(".").map(Number);
    if (head !== MEAN && (layer >= answer.layers || index >= answer.heads)) head = MEAN;
    limits.textContent = describeLimits(answer, text.model);
    drawHeads();
    drawHead();
    drawLens(lens, answer);
    results.hidden = false;
  }

  /** A choice of heads, each with a small drawing of its weights. */
  function drawHeads() {
    const option = (value, label, weights) => {
      const radio = create("input", { type: "radio", name: "inside-head", value, "aria-label": label });
      radio.checked = value === head;
      return create("label", { title: label }, radio, createBars(weights));
    };
    const titles = answer.weights[0].map((_, i) => create("span", {}, `Head ${i + 1}`));
    const rows = answer.weights.map((row, layer) => [
      create("span", {}, `Layer ${layer + 1}`),
      ...row.map((weights, i) => option(`${layer}.${i}`, `Layer ${layer + 1}, head ${i + 1}`, weights)),
    ]);
    heads.style.setProperty("--heads", answer.heads);
    heads.replaceChildren(
      create("legend", { class: "inside-hidden" }, "Head"),
      create("span", {}, "Mean"),
      option(MEAN, "Mean of all heads", meanAttention(answer.weights)),
      create("span", {}),
      ...titles,
      ...rows.flat(),
    );
    heads.querySelector("label").classList.add("inside-mean");
  }

  /** Show the chosen head over the text and as a list. */
  function drawHead() {
    const [layer, index] = head.split(".").map(Number);
    const name = head === MEAN ? "The mean of all heads" : `Layer ${layer + 1}, head ${index + 1}`;
    const weights = head === MEAN ? meanAttention(answer.weights) : answer.weights[layer][index];
    const best = strongest(weights, PLACES).map((place) => ({ ...place, token: answer.first + place.index }));
    sheet.querySelectorAll(".token").forEach((span, i) => {
      const weight = weights[i - answer.first];
      span.classList.toggle("inside-unseen", weight === undefined && i !== answer.position);
      span.style.setProperty("--attention", ((weight ?? 0) / best[0].weight).toFixed(2));
    });
    tokens.unmark("inside-strong");
    for (const { token, weight } of best) if (token >= 0) tokens.mark(token, "inside-strong", percent(weight));
    placesTitle.textContent = `${name} looked most at`;
    places.replaceChildren(...best.map((place) => createPlace(place, answer, text.model)));
    sentence.textContent = describeChoice(answer, text.model);
  }
}

const exampleOf = ({ writes_lines: writesLines }) => (writesLines ? EXAMPLE_LINE : EXAMPLE);

const createNote = (text) => create("p", { class: "inside-note" }, text);

const createGlossary = () =>
  create("dl", { class: "inside-note" }, ...GLOSSARY.flatMap(([term, text]) => [create("dt", {}, term), create("dd", {}, text)]));

function createBars(weights) {
  const bars = Math.min(BARS, weights.length);
  const path = createSvg("path", { d: barsPath(weights, bars) });
  return createSvg("svg", { viewBox: `0 0 ${bars} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, path);
}

/** "To choose “e”, the model had read the 41 characters before it." */
function describeChoice({ tokens, position, first }, { name, unit }) {
  const choice = position < tokens.length ? `To choose ${quote(tokens[position])}` : "To choose what comes next";
  const read = position - Math.max(first, 0);
  const seen = read === 0 ? "only the start of the text" : `the ${plural(read, unit)} before it`;
  return `${choice}, ${name} looked at ${seen}.`;
}

/** What a visitor should know about what the model could not see, in sentences. */
function describeLimits({ first, part, unknown_chars: unknown, position }, { unit }) {
  const sentences = [];
  if (unknown) sentences.push(`This model does not know ${unknown}; it skips that.`);
  if (first > 0)
    sentences.push(
      `Each head sees the last ${plural(position - first, unit)}. What is further back gets here only through earlier layers.`,
    );
  if (part)
    sentences.push(`This model is a mixture: you see ${part} in it. The last row below is its guess, not that of the mixture.`);
  return sentences.join(" ");
}

/** An item of the list of the strongest places: its share, the token, and the text around it. */
function createPlace({ token, weight }, { tokens, position }, { unit }) {
  const share = create("b", {}, percent(weight));
  share.style.setProperty("--share", weight);
  if (token < 0) return create("li", {}, share, create("span", {}, "the start, before the text"));
  const back = position - token;
  const where = back === 1 ? "just before" : `${plural(back, unit)} before`;
  const around = (from, to) => tokens.slice(Math.max(from, 0), to).join("").replaceAll("\n", "⏎");
  return create(
    "li",
    {},
    share,
    create("span", {}, `${quote(tokens[token])}, ${where}`),
    create(
      "span",
      { class: "inside-around", "aria-hidden": "true" },
      around(token - AROUND, token),
      create("mark", {}, showWhitespace(tokens[token])),
      around(token + 1, Math.min(token + 1 + AROUND, position)),
    ),
  );
}

/** Fill a table with the guesses after each layer. */
function drawLens(table, { lens, tokens, position }) {
  const chosen = tokens[position];
  const titles = ["After", ...lens[0].likeliest.map((_, i) => `Guess ${i + 1}`)];
  if (chosen !== undefined) titles.push(`Rank of ${quote(chosen)}`);
  const rows = lens.map(({ likeliest, rank, probability }, layer) => {
    const name = layer === 0 ? "embedding" : `layer ${layer}`;
    const cells = likeliest.map(([text, p]) =>
      create("td", text === chosen ? { class: "inside-chosen" } : {}, create("b", {}, nameToken(text)), ` ${formatPercent(p)}`),
    );
    if (chosen !== undefined) cells.push(create("td", {}, create("b", {}, rank), ` ${formatPercent(probability)}`));
    return create("tr", {}, create("th", { scope: "row" }, name), ...cells);
  });
  table.replaceChildren(
    create("thead", {}, create("tr", {}, ...titles.map((title) => create("th", { scope: "col" }, title)))),
    create("tbody", {}, ...rows),
  );
}

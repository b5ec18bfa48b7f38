/** The tab Score: how surprising a text of the visitor is for each model, as a whole and in each place. */
import { fetchJson, fetchModels, onModels, VisitorError } from "./api.js";
import { drawBars } from "./bars.js";
import { createChooser, ladder, nameOf } from "./chooser.js";
import { createCopied } from "./copied.js";
import { create } from "./dom.js";
import { fromQuery } from "./link.js";
import { textOf } from "./picker.js";
import { createSegments } from "./segments.js";
import { extremePlaces, pieceAt, toPieces } from "./surprisal.js";
import { formatBits, nameToken, quote } from "./text.js";
import { createLegend, createTokens } from "./tokens.js";

const MAX_CHARS = 5000; // MAX_PROMPT_CHARS in ui/schema.py
const CONTEXT_CHARS = 14;
const EXAMPLES = [
  {
    title: "A passage from The Tempest",
    dataset: "shakespeare",
    text: "PROSPERO:\nBe collected:\nNo more amazement: tell your piteous heart\nThere's no harm done.\n\nMIRANDA:\nO, woe the day!\n\nPROSPERO:\nNo harm.\nI have done nothing but in care of thee,\nOf thee, my dear one, thee, my daughter, who\nArt ignorant of what thou art.\n",
  },
  {
    title: "An e-mail of today",
    dataset: "shakespeare",
    text: "Hi Sam, please send me the report by Friday, and don't forget to attach the spreadsheet. Thanks!",
  },
  { title: "A cat on the keyboard", dataset: "shakespeare", text: "asdf jkl; qwpoi zxcv mnb,. lkjh gfdsa uiop qq wfpg xtzrk" },
  { title: "Names", dataset: "names", text: "emma\nnoah\nelisabeth\nmaximilian\nzoe\nxqzwk\n" },
];

let resolveView;
const whenDrawn = new Promise((resolve) => {
  resolveView = resolve;
});

/** Choose the models that read the text: for other tabs. */
export const chooseModels = async (ids) => (await whenDrawn).chooser.choose(ids);

/** Gradio drew the tab. */
export const mount = async (element) => {
  const { models, default: first } = await fetchModels();
  let byId = new Map(models.map((model) => [model.id, model]));
  const view = createView(models);
  element.classList.add("reading-tab", "score");
  element.replaceChildren(view.form, view.status, view.results);
  const dataset = byId.get(first).dataset;
  view.chooser.choose(ladder(models, dataset));
  onModels((offered) => {
    byId = new Map(offered.map((model) => [model.id, model]));
    view.chooser.setModels(offered);
  });
  resolveView(view);

  let result = null; // {text: its characters, scores, at: index of the selected character, shown: index of the model}
  let run = null; // AbortController of the request

  const setRunning = (controller) => {
    run = controller;
    view.stop.disabled = !run;
    view.run.disabled = Boolean(run);
  };

  const score = async () => {
    const text = view.text.value;
    const ids = view.chooser.chosen;
    if (ids.length === 0) return view.say("Choose at least one model.");
    if (text === "") return view.say("Write or paste a text first, or choose an example.");
    const controller = new AbortController();
    setRunning(controller);
    view.say("Scoring…");
    try {
      const answer = await fetchJson("score", { models: ids, text }, controller.signal);
      show(answer);
    } catch (error) {
      if (error.name === "AbortError") view.say("Stopped.");
      else if (error instanceof VisitorError) view.say(error.message);
      else throw error;
    } finally {
      setRunning(null);
    }
  };

  const show = ({ text, models: scores }) => {
    const characters = Array.from(text);
    const failed = scores.filter(({ error }) => error);
    const scored = scores
      .filter(({ error }) => !error)
      .map((one) => ({ ...one, model: byId.get(one.id), pieces: toPieces(one) }))
      .sort((a, b) => a.bits_per_character - b.bits_per_character);
    view.say([`Scored ${characters.length.toLocaleString("en-US")} characters.`, ...failed.map((one) => one.error)].join(" "));
    view.results.hidden = scored.length === 0;
    if (scored.length === 0) return;
    result = { characters, scored, at: null, shown: 0 };
    view.summary.textContent = summary(scored, models);
    drawBars(view.bars, barsOf(scored), "Bits per character of each model");
    view.notes.replaceChildren(...notes(scored, text).map((note) => create("li", {}, note)));
    view.drawTabs(
      scored.map(({ model }) => nameOf(model)),
      (i) => showModel(i),
    );
    showModel(0);
  };

  const showModel = (index) => {
    const { characters, scored, at } = result;
    result.shown = index;
    const { pieces, model } = scored[index];
    const items = withUnknown(pieces, characters);
    result.items = items;
    view.tokens.clear();
    view.tokens.setLabel(`The text as ${nameOf(model)} finds it`);
    const texts = items.map(({ start, end }) => characters.slice(start, end).join(""));
    view.tokens.append(items.map(({ bits }, i) => ({ text: texts[i], bits })));
    requestAnimationFrame(() => {
      view.tokens.element.scrollTop = 0; // not at its end, where a text that grows stays
    });
    items.forEach((item, i) => {
      if (item.bits === undefined) view.tokens.mark(i, "unknown", "This model does not know this character and skips it");
    });
    view.copied.check({ model: model.id, texts });
    const { most, least } = extremePlaces(pieces);
    const draw = (list, indexes) =>
      list.replaceChildren(
        ...indexes.map((i) => {
          const { start, end, bits } = pieces[i];
          const piece = characters.slice(start, end).join("");
          const before = characters.slice(Math.max(0, start - CONTEXT_CHARS), start).join("");
          const button = create(
            "button",
            { type: "button", class: "option" },
            nameToken(piece),
            create("span", {}, before ? ` after ${quote(before)}` : " at the start"),
            create("span", { class: "bits" }, formatBits(bits)),
          );
          button.addEventListener("click", () => selectCharacter(start, true));
          return create("li", {}, button);
        }),
      );
    draw(view.most, most);
    draw(view.least, least);
    if (at === null)
      view.place.replaceChildren(
        create("p", { class: "hint" }, "Select a character, or point at one, to compare the models there."),
      );
    else selectCharacter(at);
  };

  /** Select what the character belongs to. */
  const selectCharacter = (at, scroll = false) => {
    const index = result.items.findIndex(({ start, end }) => start <= at && at < end);
    view.tokens.select(index);
    if (scroll) view.sheet.querySelectorAll(".token")[index].scrollIntoView({ block: "nearest" });
    result.at = at;
    showPlace(at);
  };

  /** Compare the models at a character. */
  const showPlace = (at) => {
    const { characters, scored } = result;
    const at_ = scored.map((one) => ({ ...one, piece: pieceAt(one.pieces, at) }));
    const before = characters.slice(Math.max(0, at - CONTEXT_CHARS), at).join("");
    const title = create(
      "h3",
      {},
      nameToken(characters[at]),
      create("span", {}, before ? ` after ${quote(before)}` : " at the start"),
    );
    const rows = at_.map(({ model, piece }) => {
      const length = piece ? piece.end - piece.start : 1;
      const inPiece = length > 1 ? ` for ${quote(characters.slice(piece.start, piece.end).join(""))}` : "";
      const text = piece ? `${formatBits(Math.max(0, piece.bits))}${inPiece}` : "unknown";
      return { name: nameOf(model), value: piece?.bits ?? Number.NaN, text };
    });
    const bars = create("div");
    drawBars(bars, rows, "Surprise of each model here");
    view.place.replaceChildren(title, bars, create("p", {}, differenceSentence(at_)));
  };

  /** Score the passage of the address, if it is a new one. */
  const showAddress = () => {
    const { passage } = fromQuery(location.search);
    if (!passage || passage === view.text.value) return;
    view.text.value = passage;
    view.text.dispatchEvent(new Event("input")); // counts the characters
    score();
  };
  addEventListener("popstate", showAddress);
  showAddress();

  view.onRun = score;
  view.stop.addEventListener("click", () => run?.abort());
  view.onSelect = (i) => {
    result.at = result.items[i].start;
    showPlace(result.at);
  };
  view.sheet.addEventListener("pointerover", ({ target, pointerType }) => {
    if (pointerType !== "mouse" || !result) return;
    const span = target.closest(".token");
    if (span) showPlace(result.items[[...view.sheet.querySelectorAll(".token")].indexOf(span)].start);
    else if (result.at !== null) showPlace(result.at);
  });
};

/** Pieces of a whole text: an unknown character is a piece without bits. */
export const withUnknown = (pieces, characters) => {
  const items = [];
  let at = 0;
  for (const piece of [...pieces, { start: characters.length }]) {
    while (at < piece.start) items.push({ start: at, end: ++at });
    if (piece.end === undefined) break;
    items.push(piece);
    at = piece.end;
  }
  return items;
};

/** "Here the bigram needs 6.1 bits, the GPT 0.4." The models that differ most, of those that read the same piece. */
export const differenceSentence = (readers) => {
  const known = readers.filter(({ piece }) => piece && piece.end - piece.start === 1).sort((a, b) => a.piece.bits - b.piece.bits);
  if (known.length < 2) return "";
  const [least, most] = [known[0], known.at(-1)];
  if (most.piece.bits - least.piece.bits < 1) return "Here the models agree.";
  return `Here ${nameOf(most.model)} needs ${formatBits(most.piece.bits)}, ${nameOf(least.model)} ${formatBits(Math.max(0, least.piece.bits))}.`;
};

/** The uniform guesses to compare with: one for each size of the vocabularies of characters. */
const guesses = (scored) => {
  const sizes = scored.filter(({ model }) => model.unit === "character").map(({ model }) => model.vocabulary.length);
  return [...new Set(sizes)].map((size) => ({ size, bits: Math.log2(size) }));
};

const barsOf = (scored) => [
  ...scored.map(({ model, bits_per_character: bits }) => ({
    name: nameOf(model),
    value: bits,
    text: `${model.likelihood === "bound" ? "at most " : ""}${bits.toFixed(2)}`,
  })),
  ...guesses(scored).map(({ size, bits }) => ({
    name: `Guessing blindly among ${size}`,
    value: bits,
    text: bits.toFixed(2),
    isReference: true,
  })),
];

/** What the figures say, in plain words. */
export const summary = (scored) => {
  const [best, worst] = [scored[0], scored.at(-1)];
  const needs = ({ model, bits_per_character: bits }) =>
    `${nameOf(model)} needs ${model.likelihood === "bound" ? "at most " : ""}${bits.toFixed(1)}`;
  const guess = guesses(scored)[0];
  const parts = [`${needs(best)} yes/no questions per character for this text`];
  if (scored.length > 1) parts.push(needs(worst));
  if (guess) parts.push(`guessing blindly would need ${guess.bits.toFixed(1)}`);
  const isWorse = guess && best.bits_per_character > guess.bits;
  return `${parts.join("; ")}.${isWorse ? " Even the best of them expected something very different." : ""}`;
};

/** What to know about the figures. */
const notes = (scored, text) => {
  const sentences = [];
  const unknown = Map.groupBy(
    scored.filter((one) => one.unknown_chars),
    (one) => one.unknown_chars,
  );
  for (const [characters, group] of unknown) {
    const names = Array.from(characters).slice(0, 20).map(nameToken).join(" ");
    const more = Array.from(characters).length > 20 ? " …" : "";
    sentences.push(
      `Skipped, and not counted, because ${group.map(({ model }) => nameOf(model)).join(", ")} never saw them: ${names}${more}`,
    );
  }
  if (text !== text.toLowerCase() && scored.some(({ model }) => textOf(model) === "names"))
    sentences.push("The models of names know no capital letters, so they read the text in lower case.");
  if (scored.some(({ model }) => model.likelihood === "bound"))
    sentences.push(
      "Of a VAE only an upper bound is known, estimated from 8 samples a line. It pays for a whole line in its first character, so its bits in single places say little.",
    );
  if (scored.some(({ model }) => model.unit !== "character"))
    sentences.push("A model that reads pieces of words is surprised by whole pieces; its bits per character are comparable.");
  return sentences;
};

const createView = (models) => {
  const text = create("textarea", { rows: 6, spellcheck: "false", "aria-describedby": "score-count" });
  const count = create("p", { id: "score-count", class: "count" });
  const examples = create("div", { class: "chips" });
  const fields = create("div", { class: "choosers" });
  const run = create("button", { type: "submit", class: "button primary" }, "Score");
  const stop = create("button", { type: "button", class: "button" }, "Stop");
  const form = create(
    "form",
    { class: "score-form" },
    create("label", { class: "field" }, "Your text", text),
    count,
    examples,
    fields,
    create("div", { class: "actions" }, run, stop),
  );
  const status = create("p", { class: "status", role: "status" });
  const results = create("div", { class: "score-results" });
  const [summaryText, bars, noteList] = [create("p", { class: "summary" }), create("div"), create("ul", { class: "notes" })];
  const [tabs, sheet] = [create("div"), create("div")];
  const [legend, copied] = [create("div"), create("div")];
  const place = create("section", { class: "place", "aria-label": "This place" });
  const [most, least] = [create("ol"), create("ol")];
  const view = { form, status, results, text, run, stop, bars, sheet, place, most, least };
  view.summary = summaryText;
  view.notes = noteList;
  view.chooser = createChooser(fields, models);
  view.tokens = createTokens(sheet, { onSelect: (i) => view.onSelect(i) });
  view.copied = createCopied(copied, view.tokens);
  view.say = (sentence) => {
    status.textContent = sentence;
  };
  view.drawTabs = (names, onChange) =>
    tabs.replaceChildren(createSegments("Show the surprise of", "score-model", [...names.entries()], { value: 0, onChange }));
  createLegend(legend);
  results.append(
    create(
      "section",
      { "aria-label": "Bits per character" },
      create("h2", {}, "Bits per character"),
      summaryText,
      bars,
      noteList,
    ),
    create(
      "section",
      { "aria-label": "Each character" },
      create("h2", {}, "Each character"),
      tabs,
      create("div", { class: "reading" }, create("div", {}, sheet, legend, copied), place),
    ),
    create(
      "section",
      { class: "extremes", "aria-label": "The most and the least expected places" },
      create("div", {}, create("h3", {}, "Least expected"), most),
      create("div", {}, create("h3", {}, "Most expected"), least),
    ),
  );
  results.hidden = true;
  stop.disabled = true;

  const countCharacters = () => {
    const length = Array.from(text.value).length;
    count.textContent = `${length.toLocaleString("en-US")} of ${MAX_CHARS.toLocaleString("en-US")} characters`;
    count.classList.toggle("too-many", length > MAX_CHARS);
  };
  text.addEventListener("input", countCharacters);
  for (const example of EXAMPLES) {
    const button = create("button", { type: "button", class: "chip" }, example.title);
    button.addEventListener("click", () => {
      text.value = example.text;
      view.chooser.choose(ladder(models, example.dataset));
      countCharacters();
    });
    examples.append(button);
  }
  countCharacters();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    view.onRun();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return view;
};

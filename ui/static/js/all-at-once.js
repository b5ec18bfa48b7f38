/** The tab "All at once": a masked diffusion model writes, fills gaps and finds errors. */
import { fetchJson, streamUnmasking, VisitorError } from "./api.js";
import { create, createButton } from "./dom.js";
import { fromQuery, updateAddress } from "./link.js";
import { TEXTS } from "./picker.js";
import { createProofreading } from "./proofread.js";
import { createRace } from "./race.js";
import { createSegments } from "./segments.js";
import { hiddenCanvas, hidePassage } from "./unmasking.js";
import { createSettings, describeSettings } from "./unmasking-settings.js";
import { createUnmaskingView } from "./unmasking-view.js";

const ABOUT =
  "These models do not write from left to right. They start with a text in which everything is hidden, guess all of it at once, " +
  "and keep the guesses they are most sure of, step by step. So they can also fill a gap, with text on both sides in view.";
const MODES = [
  ["write", "Write"],
  ["fill", "Fill a gap"],
  ["proofread", "Proofread"],
];
const LENGTH = 200;
// By data set: what the fields begin with.
const EXAMPLES = {
  shakespeare: {
    prompt: "ROMEO:",
    fill: "ROMEO:\nBut soft, what ___ through yonder window breaks?\nIt is the ____________, and Juliet is the sun.",
    proofread: "ROMEO:\nBut soft, what light through yunder window breaks?\nIt is the east, amd Juliet is thw sun.",
  },
  names: { prompt: "", fill: "ma____a", proofread: "elizaxeth" },
};
const PLAIN = { prompt: "", fill: "", proofread: "" };

/** Gradio drew the tab. */
export const mount = async (element) => {
  element.classList.add("reading-tab", "all-at-once");
  try {
    const { models } = await fetchJson("diffusion/models");
    createTab(element, models);
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    element.replaceChildren(create("p", { role: "alert" }, error.message));
  }
};

const createTab = (element, models) => {
  let model;
  let mode;
  let run = null; // AbortController
  let address; // what the address says of this tab

  const about = create("p", {});
  const settings = createSettings();
  const status = create("p", { class: "status", role: "status" });
  const prompt = create("textarea", { rows: 2, spellcheck: "false" });
  const length = create("input", { type: "number", min: 1, step: 1 });
  const gapped = create("textarea", { rows: 4, spellcheck: "false", "aria-describedby": "gap-hint" });
  const checked = create("textarea", { rows: 5, spellcheck: "false" });
  const [writing, filling, proofreading, racing] = ["div", "div", "div", "section"].map((tag) => create(tag));
  const views = {
    write: createUnmaskingView(writing, "Text that is revealed"),
    fill: createUnmaskingView(filling, "Text whose gaps are filled"),
  };
  const proofreader = createProofreading(proofreading);
  const race = createRace(racing);

  /** Do something that takes a while, in place of what runs; Stop ends it. */
  const start = async (task) => {
    run?.abort();
    const own = new AbortController();
    run = own;
    drawButtons();
    let sentence;
    try {
      sentence = (await task(own.signal)) || "Done.";
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof VisitorError)) throw error;
      sentence = error.name === "AbortError" ? "Stopped." : error.message;
    } finally {
      if (run === own) {
        run = null;
        drawButtons();
        status.textContent = sentence ?? "";
      }
    }
  };

  /** Reveal a text in a view. Returns what is known of it. */
  const reveal = async (view, source, signal) => {
    const values = settings.values;
    status.textContent = "Revealing…";
    let head;
    let last;
    try {
      for await (const part of streamUnmasking({ model: model.id, ...source, ...values }, model.vocabulary.length, signal)) {
        if (part.canvas) {
          head = part;
          view.start(model, head, values.temperature, describeSettings({ ...values, steps: head.steps }, head.seed));
          saveAddress(head.seed);
        } else {
          last = part;
          view.add(part);
        }
      }
    } finally {
      if (head) view.finish();
    }
    return { ...head, seconds: last.seconds };
  };

  const write = async (signal) => {
    race.hide();
    const { remarks } = await reveal(views.write, writingSource(), signal);
    return remarks.join(" ");
  };

  const runRace = async (signal) => {
    race.hide();
    const { canvas, steps, seed, seconds } = await reveal(views.write, writingSource(), signal);
    const count = canvas.filter((id) => id === null).length;
    const { text } = views.write;
    try {
      await race.run(model, { prompt: prompt.value, text, length: count, steps, seconds, seed }, signal);
    } catch (error) {
      race.hide(); // there is nothing to compare
      throw error;
    }
  };

  const writingSource = () => ({
    prompt: prompt.value,
    length: model.writes_lines || length.value === "" ? null : Number(length.value),
  });

  const fill = async (signal) => {
    const { remarks } = await reveal(views.fill, { text: gapped.value }, signal);
    return remarks.join(" ");
  };

  const proofread = (signal) => {
    status.textContent = "Reading…";
    saveAddress();
    return proofreader.run(model, checked.value, signal);
  };

  /** Replace the selected passage by a gap, and fill it. */
  const rewrite = () => {
    const { value, selectionStart: from, selectionEnd: to } = gapped;
    if (from === to) {
      status.textContent = "Select a passage of the text first.";
      return;
    }
    gapped.value = hidePassage(value, from, to);
    start(fill);
  };

  const actions = {
    write: () => start(write),
    fill: () => start(fill),
    proofread: () => start(proofread),
  };
  const labels = { write: "Write", fill: "Fill", proofread: "Proofread" };
  const buttons = Object.fromEntries(
    Object.entries(labels).map(([name, label]) => [name, createButton(label, actions[name], "button primary")]),
  );
  const raceButton = createButton("Race a GPT", () => start(runRace), "button");
  const rewriteButton = createButton("Rewrite the selection", rewrite, "button");
  const stop = createButton("Stop", () => run?.abort(), "button");
  const useResult = createButton("Use the result", () => useFilled(), "button");
  const useFilled = () => {
    gapped.value = views.fill.text;
  };

  const drawButtons = () => {
    for (const button of [...Object.values(buttons), raceButton, rewriteButton]) button.disabled = run !== null;
    stop.disabled = run === null;
    useResult.disabled = run !== null || filling.hidden;
  };

  const lengthField = create("label", { class: "field length" }, "Characters to write", length);
  const forms = {
    write: create(
      "div",
      { class: "mode-form" },
      create("label", { class: "field" }, "Prompt", prompt),
      lengthField,
      create("div", { class: "actions" }, buttons.write, raceButton),
    ),
    fill: create(
      "div",
      { class: "mode-form" },
      create("label", { class: "field" }, "A text with gaps", gapped),
      create(
        "p",
        { class: "hint", id: "gap-hint" },
        "___ is a gap whose length the model chooses; more underscores hide one character each. Or select a passage to have it rewritten.",
      ),
      create("div", { class: "actions" }, buttons.fill, rewriteButton, useResult),
    ),
    proofread: create(
      "div",
      { class: "mode-form" },
      create("label", { class: "field" }, "Your text", checked),
      create(
        "p",
        { class: "hint" },
        "Each character is hidden once, and judged by what stands around it. The page marks places and changes nothing: " +
          "left to itself, the model spoils about as many characters as it repairs.",
      ),
      create("div", { class: "actions" }, buttons.proofread),
    ),
  };
  const results = { write: create("div", {}, writing, racing), fill: filling, proofread: proofreading };
  const modes = createSegments("", "unmasking-mode", MODES, { onChange: (value) => setMode(value) });
  const options = models.map(({ id, name, dataset }) => [id, TEXTS[dataset] ?? name]);
  const modelChoice = createSegments("Text:", "unmasking-model", options, { onChange: (id) => setModel(id) });
  modes.querySelector("legend").textContent = "What to do:";
  modelChoice.hidden = models.length < 2;

  const setMode = (value) => {
    mode = value;
    for (const [name] of MODES) {
      forms[name].hidden = name !== mode;
      results[name].classList.toggle("off", name !== mode);
    }
    forms[mode].querySelector(".actions").append(stop);
    settings.element.hidden = mode === "proofread";
    for (const input of modes.querySelectorAll("input")) input.checked = input.value === mode;
    status.textContent = "";
  };

  const setModel = (id) => {
    run?.abort();
    model = models.find((candidate) => candidate.id === id);
    const example = EXAMPLES[model.dataset] ?? PLAIN;
    [prompt.value, gapped.value, checked.value] = [example.prompt, example.fill, example.proofread];
    settings.set({ ...model.defaults, seed: null });
    length.max = model.context_length;
    length.value = Math.min(LENGTH, model.context_length);
    lengthField.hidden = model.writes_lines;
    raceButton.hidden = !(model.rival && model.judge);
    for (const input of modelChoice.querySelectorAll("input")) input.checked = input.value === id;
    about.replaceChildren(`${ABOUT} `, createCardLink(model));
    for (const each of [filling, proofreading, racing]) each.hidden = true;
    const canvas = hiddenCanvas(model, prompt.value, Number(length.value));
    const hidden = canvas.filter((token) => token === null).length;
    views.write.preview(model, { canvas, steps: Math.min(settings.values.steps, hidden) }, settings.values.temperature);
    status.textContent = "";
    drawButtons();
  };

  /** What the tab does, as one value of the address. */
  const saveAddress = (seed) => {
    const fields = {
      write: { prompt: prompt.value, length: length.value },
      fill: { text: gapped.value },
      proofread: { text: checked.value },
    };
    const values = { mode, model: model.id, ...fields[mode], ...(mode !== "proofread" && { ...settings.values, seed }) };
    address = String(new URLSearchParams(values));
    updateAddress({ tab: "all-at-once", unmask: address });
  };

  const showAddress = () => {
    const { unmask } = fromQuery(location.search);
    if (!unmask || unmask === address) return;
    address = unmask;
    const values = Object.fromEntries(new URLSearchParams(unmask));
    if (!models.some(({ id }) => id === values.model) || !(values.mode in actions)) {
      status.textContent = "This link cannot be shown: the page has no such model.";
      return;
    }
    setModel(values.model);
    setMode(values.mode);
    if (values.mode === "write") {
      prompt.value = values.prompt ?? "";
      length.value = values.length ?? length.value;
    } else (values.mode === "fill" ? gapped : checked).value = values.text ?? "";
    settings.set(values);
    actions[mode]();
  };

  for (const [field, action] of [
    [prompt, actions.write],
    [gapped, actions.fill],
    [checked, actions.proofread],
  ])
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      action();
    });

  element.replaceChildren(
    about,
    create("div", { class: "choices" }, modes, modelChoice),
    create("div", { class: "unmasking-form" }, ...Object.values(forms), settings.element),
    status,
    ...Object.values(results),
  );
  setModel(models[0].id);
  setMode("write");
  addEventListener("popstate", showAddress);
  showAddress();
};

const createCardLink = ({ name, card }) =>
  card ? create("a", { href: card, target: "_blank", "aria-label": `Model card of ${name}` }, "Model card") : "";

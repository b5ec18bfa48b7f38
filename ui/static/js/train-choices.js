/** The choices before a training run, each with a sentence that says what it changes. */
import { create } from "./dom.js";
import { createSegments } from "./segments.js";

const CHOICES = {
  seconds: {
    legend: "Time",
    options: [
      ["15", "15 s"],
      ["30", "30 s"],
      ["60", "1 minute"],
      ["120", "2 minutes"],
    ],
    about: "A model that learns for longer sees the text more often. The page builds a larger one for a longer time.",
  },
  kind: {
    legend: "Model",
    options: [
      ["gpt", "GPT"],
      ["lstm", "LSTM"],
      ["bigram", "Bigram"],
    ],
    about:
      "A GPT looks back at every character that it sees. An LSTM carries a summary along. A bigram knows the last character " +
      "only; trained by gradient descent, it arrives at what counting gives at once.",
  },
  size: {
    legend: "Size",
    options: [
      ["small", "small"],
      ["medium", "medium"],
    ],
    about: "A larger model can learn more, takes longer for each step, and learns a short text by heart sooner.",
  },
  tokenizer: {
    legend: "It reads",
    options: [
      ["char", "characters"],
      ["sub-words", "sub-words"],
    ],
    about: "Sub-words are frequent pieces of words. They suit scripts with thousands of characters, and texts of a megabyte.",
  },
  dropout: {
    legend: "Dropout",
    options: [
      ["auto", "chosen by the page"],
      ["0", "0"],
      ["0.1", "0.1"],
      ["0.2", "0.2"],
      ["0.3", "0.3"],
    ],
    about:
      "Switches off a random part of the model in each step, so that it cannot rely on single details. It helps when a text is " +
      "read many times.",
  },
};
const DEFAULTS = { seconds: "30", kind: "gpt", size: "small", tokenizer: "char", dropout: "auto" };
const NEURAL = ["size", "dropout"]; // what a bigram has not

/** What the server gets from the values of the controls. */
export const toRequest = ({ seconds, kind, size, tokenizer, dropout }, subwords) => ({
  seconds: Number(seconds),
  kind,
  size,
  tokenizer: tokenizer === "char" ? "char" : subwords,
  dropout: kind === "bigram" || dropout === "auto" ? null : Number(dropout),
});

/**
 * Create the controls.
 * @param {(name: string) => void} onChange Called with the name of a choice that the visitor changed.
 */
export const createChoices = (onChange) => {
  const fieldsets = {};
  let subwords;
  for (const [name, { legend, options, about }] of Object.entries(CHOICES)) {
    const id = `train-about-${name}`;
    const onChoice = () => {
      match();
      onChange(name);
    };
    const fieldset = createSegments(legend, `train-${name}`, options, { value: DEFAULTS[name], onChange: onChoice });
    fieldset.setAttribute("aria-describedby", id);
    fieldsets[name] = create("div", { class: "train-choice" }, fieldset, create("p", { id, class: "hint" }, about));
  }
  const summary = create("summary");
  const { seconds, ...others } = fieldsets;
  const details = create("details", {}, summary, create("div", { class: "train-others" }, ...Object.values(others)));
  const element = create("div", { class: "train-choices" }, seconds, details);

  const chosen = (name) => fieldsets[name].querySelector("input:checked").value;
  const labelOf = (name) => new Map(CHOICES[name].options).get(chosen(name));
  const match = () => {
    const isNeural = chosen("kind") !== "bigram";
    for (const name of NEURAL) fieldsets[name].hidden = !isNeural;
    const size = isNeural ? `${labelOf("size")} ` : "";
    summary.textContent = `What learns: a ${size}${labelOf("kind")} that reads ${labelOf("tokenizer")}`;
  };
  match();
  return {
    element,
    /** What the server gets. */
    get request() {
      return toRequest(Object.fromEntries(Object.keys(CHOICES).map((name) => [name, chosen(name)])), subwords);
    },
    /**
     * Take what suits a text.
     * @param {{tokenizer: string, subwords: string}} report See `TextReport` in train/text_report.py.
     */
    advise({ tokenizer, subwords: suited }) {
      subwords = suited;
      fieldsets.tokenizer.querySelector(`[value=${tokenizer === "char" ? "char" : "sub-words"}]`).checked = true;
      match();
    },
    setEnabled(isEnabled) {
      for (const input of element.querySelectorAll("input")) input.disabled = !isEnabled;
    },
  };
};

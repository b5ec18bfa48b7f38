/** What the tab Three families says of the families and of their measures. */
import { create } from "./dom.js";
import { formatPercent } from "./text.js";

export const ABOUT =
  "There is more than one way to learn to write. Autoregressive models, such as the n-gram and the GPT, VAEs and GANs are three families " +
  "of generative models; diffusion, of characters or of a VAE's numbers, has joined them. Here models of all families have learned " +
  "the same text, and each draws from what it has learned.";

/** How each family writes, by its name in the registry. */
export const HOW = {
  ngram: "One character after another, from counts",
  gpt: "One character after another",
  vae: "First 32 numbers, then one character after another",
  gan: "All characters at once",
  diffusion: "Any character next, in several steps",
  "latent-diffusion": "32 numbers out of noise, in several steps, then one character after another",
};

const FAMILIES = [
  {
    name: "Autoregressive (n-gram, GPT)",
    maximizes: "The probability of each next character of the training text",
    likelihood: "Exact",
    prompt: "Yes",
    gap: "No",
    walk: "No",
    steps: "One for each character",
  },
  {
    name: "VAE",
    maximizes: "A lower bound on the probability of each training line",
    likelihood: "A bound",
    prompt: "Yes",
    gap: "No",
    walk: "Yes, between any two lines",
    steps: "One for each character",
  },
  {
    name: "GAN",
    maximizes: "The number of lines that its critic takes for real",
    likelihood: "None",
    prompt: "No",
    gap: "No",
    walk: "Yes, but it cannot say where a given name lies",
    steps: "A single one",
  },
  {
    name: "Masked diffusion",
    maximizes: "A lower bound: the probability of hidden characters, given the others",
    likelihood: "A bound",
    prompt: "Yes",
    gap: "Yes",
    walk: "No",
    steps: "As many as you like, up to one for each character",
  },
  {
    name: "Latent diffusion",
    maximizes: "How well it removes noise from the 32 numbers of a VAE",
    likelihood: "None",
    prompt: "No, but wishes such as the first letter",
    gap: "No",
    walk: "In the space of its VAE",
    steps: "Several for the numbers, then one for each character",
  },
];

const COLUMNS = [
  ["maximizes", "Training maximizes"],
  ["likelihood", "Likelihood of a text"],
  ["prompt", "Continues a prompt"],
  ["gap", "Fills a gap"],
  ["walk", "Walks from one line to another"],
  ["steps", "Steps to write"],
];

/** A table of what the families maximize, and can and cannot do; on a phone, each row is a card. */
export const createFamilyTable = () => {
  const head = create("tr", {}, create("th", { scope: "col" }, "Family"));
  head.append(...COLUMNS.map(([, title]) => create("th", { scope: "col" }, title)));
  const rows = FAMILIES.map((family) => {
    const cells = COLUMNS.map(([name, title]) => create("td", { "data-title": title }, family[name]));
    return create("tr", {}, create("th", { scope: "row" }, family.name), ...cells);
  });
  return [
    create("table", { class: "families-table" }, create("thead", {}, head), create("tbody", {}, ...rows)),
    create(
      "p",
      { class: "hint" },
      "Likelihood is the probability that a model gives to a text. Models that have one can be compared by it, on text that they " +
        "have not seen. A GAN has none, so it can only be judged by what it draws. That is why the bars above measure drawn lines.",
    ),
  ];
};

export const DIFFERENCE = [
  "A generative model learns what the data look like: asked for a name, it makes one up. A discriminative model learns to tell data " +
    "apart: asked about a name, it answers with a class, such as real or generated. It cannot make anything up.",
  "A GAN has both. Its discriminator is the critic, and the critic's judgment is all that the generator ever learns from. Neither " +
    "needs a formula for the probability of a name. The price: when the critic stops helping, training stalls, and a generator that " +
    "has found a few convincing names may draw only those. This is called mode collapse, and the bar for different lines would show it.",
];

const [LESS, MORE] = ["less is better", "more is better"];

/** What is measured of drawn lines, in the order of the page. Where real lines are no comparison, there is no mark for them. */
export const MEASURES = [
  { title: "Distance in pairs", best: LESS, value: (m) => m.js_divergence[1], format: (value) => value.toFixed(3) },
  { title: "Distance in triples", best: LESS, value: (m) => m.js_divergence[2], format: (value) => value.toFixed(3) },
  { title: "Distance in fours", best: LESS, value: (m) => m.js_divergence[3], format: (value) => value.toFixed(3) },
  {
    title: "Surprise of the GPT",
    best: "like the line is best",
    value: (m) => m.nll_per_character,
    format: (value) => `${value.toFixed(2)} nats`,
  },
  { title: "All different", best: "like the line is best", value: (m) => m.unique, format: formatPercent },
  { title: "Not in the training text", best: "more is less copied", value: (m) => m.new, format: formatPercent, hasNoMark: true },
  { title: "Well-formed", best: MORE, value: (m) => m.valid, format: formatPercent },
  {
    title: "Speed on one core",
    best: MORE,
    value: (m) => m.lines_per_second,
    format: (value) => `${Math.round(value).toLocaleString("en-US")} a second`,
    hasNoMark: true,
  },
];

/** What the measures mean. */
export const explainMeasures = (noun, samples, { date, machine }) => [
  `Distance: how differently pairs, triples or fours of neighboring characters are distributed among drawn and unseen ${noun}s ` +
    "(Jensen-Shannon divergence, in bits). 0 means alike, 1 nothing in common. Surprise: the mean cost of a character for the GPT of " +
    `this text. It favors the GPT itself, and dull ${noun}s. Well-formed: neither empty nor longer than any ${noun} of the training text.`,
  `The line across the bars is what real ${noun}s of the training text get: no model can be expected to do much better. ` +
    `${samples.toLocaleString("en-US")} ${noun}s of each model, measured in one run on ${date}, ${machine.processor}.`,
];

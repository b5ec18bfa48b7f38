/** Proofreading: which characters of a text a masked diffusion model finds unlikely, each judged while it is hidden. */
import { fetchJson } from "./api.js";
import { decodeSteps } from "./codec.js";
import { createDistribution } from "./distribution.js";
import { create, createButton, setText } from "./dom.js";
import { likeliestFirst, NEUTRAL } from "./sampling.js";
import { formatBits, formatPercent, nameToken } from "./text.js";
import { createLegend, createTokens } from "./tokens.js";
import { describePlace, doubtfulPlaces, proofreadingSentence } from "./unmasking.js";

const MAX_LISTED = 12;

/** The most likely token of a distribution, and its probability. */
const likeliest = ({ ids, bits }) => {
  const best = likeliestFirst(Array.from(bits, (value) => -value))[0];
  return [ids === null ? best : ids[best], 2 ** -bits[best]];
};

/**
 * Fill an element with the results of a proofreading.
 * @param {HTMLElement} element
 */
export const createProofreading = (element) => {
  const summary = create("p", { class: "summary", role: "status" });
  const [sheet, legend, candidates] = [create("div"), create("div"), create("div")];
  const list = create("ol", { class: "doubtful-list" });
  const title = create("h2");
  element.classList.add("unmasking");
  element.hidden = true;
  element.replaceChildren(
    create("div", { class: "unmasking-text" }, summary, sheet, legend),
    create("section", { class: "place", "aria-label": "This place" }, title, candidates),
    list,
  );
  const tokens = createTokens(sheet, { label: "The text as the model finds it", onSelect: (i) => explain(i) });
  const distribution = createDistribution(candidates, { label: "Candidates for this place" });
  createLegend(legend);

  let shown = null; // {model, texts, ids, bits, distributions}

  const explain = (index) => {
    const { model, texts, ids, bits, distributions } = shown;
    setText(title, `Place ${index + 1}: “${nameToken(texts[index])}”, ${formatBits(bits[index])}`);
    distribution.show({
      ...distributions[index],
      names: model.vocabulary,
      params: NEUTRAL,
      chosen: ids[index],
      subject: describePlace(texts, index),
    });
  };

  const createItem = (index) => {
    const { model, texts, bits, distributions } = shown;
    const [best, probability] = likeliest(distributions[index]);
    const button = createButton("", () => choose(index), "option");
    const words = `${nameToken(model.vocabulary[best])} ${formatPercent(probability)}`;
    button.append(
      create("span", {}, create("b", {}, nameToken(texts[index])), ` expected: ${words}`),
      create("span", { class: "bits" }, formatBits(bits[index])),
    );
    return create("li", {}, button);
  };

  const choose = (index) => {
    tokens.select(index);
    explain(index);
    sheet.querySelectorAll(".token")[index].scrollIntoView({ block: "nearest" });
  };

  return {
    /**
     * Proofread a text, and show what was found.
     * @param {object} model See `list_diffusion_models` in ui/all_at_once.py.
     * @param {string} text
     * @param {AbortSignal} signal
     * @returns {Promise<string>} What to know about it, in sentences.
     */
    async run(model, text, signal) {
      const { ids, bits, distributions, remarks } = await fetchJson("diffusion/proofread", { model: model.id, text }, signal);
      const texts = ids.map((id) => model.vocabulary[id]);
      shown = { model, texts, ids, bits, distributions: decodeSteps(distributions, ids.length, model.vocabulary.length) };
      element.hidden = false;
      tokens.clear();
      tokens.append(texts.map((each, i) => ({ text: each, bits: bits[i] })));
      requestAnimationFrame(() => {
        sheet.scrollTop = 0; // not at its end, where a text that grows stays
      });
      const doubtful = doubtfulPlaces(bits);
      for (const index of doubtful) tokens.mark(index, "doubtful", "The model expects something else here");
      setText(summary, proofreadingSentence(doubtful.length, ids.length));
      list.replaceChildren(...doubtful.slice(0, MAX_LISTED).map(createItem));
      setText(title, "Candidates");
      distribution.clear("Select a character to see what the model expects there.");
      if (doubtful.length) {
        tokens.select(doubtful[0]);
        explain(doubtful[0]);
      }
      return remarks.join(" ");
    },
  };
};

/** A race of a masked diffusion model against a GPT with the same prompt, judged by a model that takes no part. */
import { fetchJson, fetchModel, streamText } from "./api.js";
import { create } from "./dom.js";
import { SETTINGS, toQuery } from "./link.js";
import { describeRacer, raceSentences } from "./unmasking.js";

/**
 * Fill an element with the results of races.
 * @param {HTMLElement} element
 */
export const createRace = (element) => {
  element.classList.add("race");
  element.hidden = true;
  const sentence = create("p", { class: "summary", role: "status" });
  const note = create("p", { class: "hint" });
  const texts = create("div", { class: "race-texts" });
  element.replaceChildren(create("h2", {}, "The race"), sentence, texts, note);

  return {
    hide() {
      element.hidden = true;
    },

    /**
     * Let the GPT write, and compare.
     * @param {object} model That wrote first; see `list_diffusion_models` in ui/all_at_once.py.
     * @param {{prompt: string, text: string, length: number, steps: number, seconds: number, seed: number}} written By it; the text
     *   begins with the prompt.
     * @param {AbortSignal} signal
     */
    async run(model, { prompt, text, length, steps, seconds, seed }, signal) {
      element.hidden = false;
      texts.replaceChildren();
      note.textContent = "";
      sentence.textContent = "Now the GPT writes…";
      const rival = await fetchModel(model.rival);
      const { temperature } = SETTINGS;
      const query = toQuery({ model: rival.id, prompt, seed, length, temperature });
      let [other, speed] = [prompt, 0];
      for await (const part of streamText(query, 0, length, rival.vocabulary.length, signal)) {
        if (!part.tokens) continue;
        other += part.tokens.map((token) => token.text).join("");
        speed = part.tokens_per_second;
      }
      sentence.textContent = "The judge reads…";
      const verdict = await fetchJson("diffusion/judge", { model: model.id, texts: [text, other] }, signal);
      const racers = [
        { name: model.name, steps, seconds, text, ...verdict.texts[0] },
        { name: rival.name, steps: length, seconds: length / speed, text: other, ...verdict.texts[1] },
      ];
      sentence.textContent = raceSentences(racers, verdict.name);
      texts.replaceChildren(...racers.map(createArticle));
      note.textContent = `The GPT writes at temperature ${temperature}.`;
    },
  };
};

const createArticle = (racer) => {
  const facts = describeRacer(racer).map(([name, value]) => create("div", {}, create("dt", {}, name), create("dd", {}, value)));
  const heading = create("h3", {}, racer.name);
  return create(
    "article",
    { "aria-label": racer.name },
    heading,
    create("dl", {}, ...facts),
    create("blockquote", {}, racer.text),
  );
};

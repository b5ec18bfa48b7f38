/** The tab Watch it learn: a slider over the moments of a training run at which the model wrote the same text. */
import { fetchJson, fetchModels, VisitorError } from "./api.js";
import { decodeSteps } from "./codec.js";
import { createDistribution } from "./distribution.js";
import { create } from "./dom.js";
import { fromQuery } from "./link.js";
import { createLossCurve } from "./loss-curve.js";
import { NEUTRAL } from "./sampling.js";
import { formatCount } from "./text.js";
import { createLegend, createTokens } from "./tokens.js";

const ABOUT =
  "A model starts with random numbers and guesses. Here it writes from the same prompt with the same random numbers at several " +
  "moments of its training. Move the slider, and click a character to see what the model expected there.";
const PLAY_INTERVAL_MS = 2000;
const CONTEXT_CHARS = 20; // of the text before a character, quoted in the sentence about it

/** @typedef {{step: number, tokens: number, train: number | null, held_out: number}} Point Losses in bits per character. */

/** "after 1,000 steps, 2.0 million characters read" */
export const describeMoment = ({ step, tokens }) => {
  if (step === 0) return "before training";
  return `after ${step.toLocaleString("en-US")} steps, ${formatCount(tokens)} characters read`;
};

/** How good the model is at a moment, in comparison. */
export const describeLoss = ({ held_out: heldOut }, { uniform, bigram }) => {
  let comparison = "better than a counted bigram";
  if (heldOut > uniform - 0.05) comparison = "no better than guessing";
  else if (heldOut > bigram) comparison = "not yet as good as a counted bigram";
  return `${heldOut.toFixed(2)} bits per character on unseen text: ${comparison}.`;
};

/** All points and evaluations of a run in the order of their steps; of one step, the evaluation counts. */
export const mergeCurve = (points, curve) => {
  const byStep = new Map([...points, ...curve].map((point) => [point.step, point]));
  return [...byStep.values()].sort((a, b) => a.step - b.step);
};

/**
 * The loss curve of a run.
 * @param {Point[]} points All points and evaluations.
 * @param {number} bigram The loss of a counted bigram.
 * @returns {import("./loss-curve.js").Plot}
 */
const plotOf = (points, bigram) => {
  const lineOf = (name) => points.filter((point) => point[name] !== null).map((point) => [point.step, point[name]]);
  const heldOut = lineOf("held_out");
  const best = Math.min(...heldOut.map(([, loss]) => loss));
  return {
    lines: [
      { name: "on unseen text", kind: "thick", points: heldOut },
      { name: "on the text it learns from", kind: "dotted", points: lineOf("train") },
    ],
    baselines: [{ name: "a counted bigram", loss: bigram }],
    summary:
      `Loss curve: bits per character on unseen text fall from ${heldOut[0][1].toFixed(2)} to ${best.toFixed(2)} ` +
      `in ${heldOut.at(-1)[0].toLocaleString("en-US")} steps; a counted bigram has ${bigram.toFixed(2)}.`,
  };
};

/** Gradio drew the tab. */
export const mount = async (element) => {
  const parts = draw(element);
  try {
    const [ids, { models }] = await Promise.all([fetchJson("replays"), fetchModels()]);
    const replayable = ids.map((id) => models.find((model) => model.id === id)).filter(Boolean);
    for (const { id, name } of replayable) parts.model.append(new Option(name, id));
    parts.picker.hidden = replayable.length < 2;
    const linked = fromQuery(location.search).model;
    if (ids.includes(linked)) parts.model.value = linked;
    const open = () =>
      showReplay(
        parts,
        replayable.find((model) => model.id === parts.model.value),
      );
    parts.model.addEventListener("change", open);
    await open();
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    parts.notice.textContent = error.message;
  }
};

/** Create the elements of the tab. */
const draw = (element) => {
  const model = create("select");
  const picker = create("label", { class: "learn-model", hidden: "" }, "Model ", model);
  const notice = create("p", { class: "learn-notice", role: "status" });
  const play = create("button", { type: "button", class: "button primary learn-play" }, "Play");
  play.hidden = matchMedia("(prefers-reduced-motion: reduce)").matches; // the slider does the same
  const slider = create("input", { type: "range", min: 0, value: 0, step: 1 });
  const moment = create("output", { class: "learn-moment" });
  const loss = create("p", { class: "learn-loss" });
  const curve = createLossCurve({ x: "steps of training", y: "Bits per character", isLogarithmic: true });
  const [sheet, legend] = [create("div"), create("div")];
  const explanation = create("div", { class: "learn-explanation" });
  createLegend(legend);
  element.classList.add("learn");
  element.replaceChildren(
    create("p", { class: "learn-about" }, ABOUT),
    picker,
    notice,
    create(
      "div",
      { class: "learn-controls" },
      play,
      create("label", { class: "learn-slider" }, "Moment of the training", slider),
      moment,
    ),
    loss,
    create(
      "div",
      { class: "learn-text-and-curve" },
      create("div", { class: "learn-text" }, sheet, legend),
      create("div", { class: "learn-curve" }, curve.element),
    ),
    explanation,
  );
  const parts = { model, picker, notice, play, slider, moment, loss, curve };
  parts.distribution = createDistribution(explanation);
  parts.tokens = createTokens(sheet, { label: "Text of this moment", onSelect: (i) => parts.onSelect(i) });
  return parts;
};

/** Show the replay of a model. */
const showReplay = async (parts, model) => {
  const { slider, play, tokens, distribution } = parts;
  parts.stop?.();
  const { prompt, points, ...log } = await fetchJson(`replay/${encodeURIComponent(model.id)}`);
  const moments = points.map((point) => {
    const distributions = decodeSteps(point.distributions, point.token_ids.length, model.vocabulary.length);
    return { ...point, distributions, tokens_shown: point.token_ids.map((id, i) => token(model, id, distributions[i])) };
  });
  const last = moments.length - 1;
  const curve = mergeCurve(points, log.curve);
  const plot = plotOf(curve, log.bigram);
  let timer;
  let selected = 0; // at each moment the character at this place: the first one has the same text before it

  const explain = (index) => {
    selected = index;
    const { distributions, token_ids: ids, tokens_shown: shown, temperature } = moments[slider.value];
    const before =
      prompt +
      shown
        .slice(0, index)
        .map((each) => each.text)
        .join("");
    const params = { ...NEUTRAL, temperature };
    const context = before.slice(-CONTEXT_CHARS) || undefined;
    distribution.show({ ...distributions[index], names: model.vocabulary, params, chosen: ids[index], context });
  };
  const show = () => {
    const moment = moments[slider.value];
    parts.moment.textContent = describeMoment(moment);
    parts.loss.textContent = describeLoss(moment, log);
    slider.setAttribute("aria-valuetext", describeMoment(moment));
    tokens.clear();
    tokens.setPrompt(prompt);
    tokens.append(moment.tokens_shown);
    tokens.select(selected);
    explain(selected);
    parts.curve.draw({ ...plot, mark: [moment.step, curve.find(({ step }) => step === moment.step).held_out] });
  };
  parts.onSelect = explain;
  parts.stop = () => {
    clearInterval(timer);
    timer = undefined;
    play.textContent = "Play";
  };
  const advance = () => {
    if (Number(slider.value) < last) slider.value = Number(slider.value) + 1;
    show();
    if (Number(slider.value) === last) parts.stop();
  };
  slider.max = last;
  slider.value = last;
  slider.oninput = () => {
    parts.stop();
    show();
  };
  play.onclick = () => {
    if (timer) {
      parts.stop();
      return;
    }
    if (Number(slider.value) === last) slider.value = 0;
    show();
    play.textContent = "Pause";
    timer = setInterval(advance, PLAY_INTERVAL_MS);
  };
  show();
};

/** A token as `createTokens` takes it. */
const token = (model, id, { ids, bits, rest }) => ({
  text: model.vocabulary[id],
  bits: ids === null ? bits[id] : (bits[ids.indexOf(id)] ?? rest),
});

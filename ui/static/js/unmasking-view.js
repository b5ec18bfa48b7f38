/** A text that is revealed step by step: the text, a slider over the steps, and the candidates of one place. */
import { fetchJson, VisitorError } from "./api.js";
import { decodeSteps } from "./codec.js";
import { createDistribution } from "./distribution.js";
import { create, createButton, setText } from "./dom.js";
import { NEUTRAL } from "./sampling.js";
import { nameToken, plural } from "./text.js";
import { createLegend, createTokens } from "./tokens.js";
import { bitsOf, createSpelling, describePlace, placesAfter } from "./unmasking.js";

const PLAY_MS = 6000; // for all steps
const HINT = "Select a place, or a dot, to see what the model expects there.";

/**
 * Fill an element with the view.
 * @param {HTMLElement} element
 * @param {string} label The name of the text for screen readers.
 */
export const createUnmaskingView = (element, label) => {
  const caption = create("p", { class: "hint" });
  const [sheet, legend, candidates] = [create("div"), create("div"), create("div")];
  const play = createButton("Play", () => (timer ? stopPlaying() : startPlaying()), "button small unmasking-play");
  play.hidden = matchMedia("(prefers-reduced-motion: reduce)").matches; // the slider does the same
  const slider = create("input", { type: "range", min: 0, max: 0, value: 0, step: 1 });
  const moment = create("output", { class: "unmasking-moment" });
  const title = create("h2");
  const note = create("p", { class: "hint" });
  element.classList.add("unmasking");
  element.hidden = true;
  const controls = create("div", { class: "unmasking-controls" }, play, create("label", {}, "Step", slider), moment);
  const text = create("div", { class: "unmasking-text" }, caption, controls, sheet, legend);
  element.replaceChildren(text, create("section", { class: "place", "aria-label": "This place" }, title, note, candidates));
  const tokens = createTokens(sheet, { label, onSelect: (i) => select(i) });
  const distribution = createDistribution(candidates, { label: "Candidates for this place" });
  createLegend(legend);

  let shown = null; // {model, spelling, params, canvas, first, steps, total, predictions}
  let places = [];
  let selected = null; // index of a place
  let isFollowing = true; // shows each step that arrives
  let isRunning = false;
  let timer = 0;

  const draw = (count) => {
    const before = places;
    places = placesAfter(shown.canvas, shown.steps, count);
    for (const name of ["fresh", "hidden-place"]) tokens.unmark(name);
    for (let i = 0; i < tokens.length; i++) {
      const place = places[shown.first + i];
      if (place.id !== before[shown.first + i]?.id) tokens.replace(i, toToken(place));
      if (place.id === null) tokens.mark(i, "hidden-place");
      else if (place.step === count && count > 0) tokens.mark(i, "fresh");
    }
    const visible = places.slice(shown.first, shown.first + tokens.length);
    const hidden = visible.filter(({ id }) => id === null).length;
    tokens.element.classList.toggle("has-hidden", hidden > 0);
    slider.value = count;
    const words = `${count} of ${shown.total}: ${hidden ? `${plural(hidden, "character")} hidden` : "nothing hidden"}`;
    setText(moment, words);
    slider.setAttribute("aria-valuetext", words);
    explain();
  };

  const toToken = ({ id, distribution: from }) => ({ text: shown.spelling.of(id), bits: from && bitsOf(from, id) });

  const select = (index) => {
    selected = shown.first + index;
    explain();
  };

  /** Show the candidates of the selected place. */
  const explain = () => {
    if (selected === null) return;
    const { id, step, distribution: from } = places[selected];
    const number = selected - shown.first + 1;
    if (step === 0) {
      setText(title, `Place ${number}: given`);
      setText(note, "The model reads this character and never changes it.");
      distribution.clear();
    } else if (id === null) {
      setText(title, `Place ${number}: hidden`);
      setText(note, "What the model would write here in the next step.");
      showPrediction();
    } else {
      setText(title, `Place ${number}: why “${nameToken(shown.model.vocabulary[id])}”?`);
      setText(note, `Revealed in step ${step} of ${shown.total}, from these candidates.`);
      show(from, placesAfter(shown.canvas, shown.steps, step - 1), id);
    }
  };

  /** Show a distribution at the selected place, in a text with these places. */
  const show = (from, context, chosen) => {
    const texts = context.slice(shown.first).map(({ id }) => shown.spelling.of(id));
    const subject = describePlace(texts, selected - shown.first);
    distribution.show({ ...from, names: shown.model.vocabulary, params: shown.params, chosen, subject });
  };

  /** Ask the model for its candidates at a hidden place, unless the step changes anyway. */
  const showPrediction = async () => {
    const own = shown;
    const count = Number(slider.value);
    const isCurrent = () => own === shown && count === Number(slider.value) && places[selected].id === null;
    distribution.clear("…");
    if (!own.predictions.has(count)) {
      if (timer || isRunning) return;
      const body = { model: own.model.id, canvas: places.map(({ id }) => id) };
      own.predictions.set(count, fetchJson("diffusion/predict", body));
    }
    try {
      const { distributions } = await own.predictions.get(count);
      if (isCurrent()) show(decodeSteps(distributions, places.length, own.model.vocabulary.length)[selected], places);
    } catch (error) {
      own.predictions.delete(count); // ask again next time
      if (!(error instanceof VisitorError)) throw error;
      if (isCurrent()) distribution.clear(error.message);
    }
  };

  const startPlaying = () => {
    if (!shown) return;
    if (Number(slider.value) >= shown.steps.length) draw(0);
    play.textContent = "Pause";
    timer = setInterval(
      () => {
        draw(Math.min(Number(slider.value) + 1, shown.steps.length));
        if (Number(slider.value) >= shown.total) stopPlaying();
      },
      Math.max(40, PLAY_MS / shown.total),
    );
  };

  const stopPlaying = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    if (shown) explain();
  };

  slider.addEventListener("input", () => {
    isFollowing = false;
    if (timer) stopPlaying();
    draw(Math.min(Number(slider.value), shown.steps.length));
  });

  /** Show a text before its first step. */
  const open = (model, { canvas, steps: total }, temperature, words) => {
    if (timer) stopPlaying();
    const spelling = createSpelling(model);
    const [first, end] = spelling.range(canvas);
    shown = { model, spelling, params: { ...NEUTRAL, temperature }, canvas, first, steps: [], total, predictions: new Map() };
    [places, selected, isFollowing, isRunning] = [[], null, true, false];
    element.hidden = false;
    setText(caption, words);
    setText(title, "Candidates");
    setText(note, HINT);
    distribution.clear();
    slider.max = total;
    tokens.clear();
    tokens.append(canvas.slice(first, end).map((id) => ({ text: spelling.of(id) })));
    canvas.slice(first, end).forEach((id, i) => {
      if (id !== null) tokens.mark(i, "given");
    });
    draw(0);
  };

  return {
    /**
     * Show a text that nobody has asked to reveal yet.
     * @param {object} model See `list_diffusion_models` in ui/all_at_once.py.
     * @param {{canvas: (number | null)[], steps: number}} head
     * @param {number} temperature
     */
    preview(model, head, temperature) {
      open(model, head, temperature, "All characters are hidden. Press Write to reveal them.");
    },

    /**
     * A text begins.
     * @param {object} model
     * @param {{canvas: (number | null)[], steps: number}} head What the server says of it.
     * @param {number} temperature
     * @param {string} words How it is written.
     */
    start(model, head, temperature, words) {
      open(model, head, temperature, words);
      isRunning = true;
      requestAnimationFrame(() => {
        text.scrollIntoView({ block: "nearest" }); // on a phone it is below the settings
        sheet.scrollTop = 0; // not at its end, where a text that grows stays
      });
    },

    /** A step arrived. */
    add(step) {
      shown.steps.push(step);
      if (isFollowing) draw(shown.steps.length);
    },

    /** No further step will arrive. */
    finish() {
      isRunning = false;
      if (shown) explain();
    },

    /** The text, once all of it is revealed. */
    get text() {
      return shown.spelling.text(placesAfter(shown.canvas, shown.steps, shown.steps.length).map(({ id }) => id));
    },
  };
};

/** The game "Real or generated?": a visitor and the discriminator of a GAN choose the real one of two names. */
import { fetchJson, VisitorError } from "./api.js";
import { drawBars } from "./bars.js";
import { create, createButton, whenVisible } from "./dom.js";
import { randomSeed } from "./families-stage.js";

const ABOUT =
  "One of the two names is real, and no model has seen it. The other was made up by a model and is in no list. Which one is real? The critic " +
  "of the GAN chooses, too. It has learned to tell real names from those of its own student, and nothing else.";

/**
 * The score of the visit, without its looks.
 * @typedef {{names: string[], real: number, model: string, critic: number, percentiles: number[]}} Round See `play` in ui/families.py.
 */
export const createScore = () => {
  const played = []; // {isRight, criticIsRight, model}
  return {
    /**
     * The visitor chose a name.
     * @param {Round} round
     * @param {number} choice Its index.
     */
    add({ real, model, critic }, choice) {
      const result = { isRight: choice === real, criticIsRight: critic === real, model };
      played.push(result);
      return result;
    },
    get rounds() {
      return played.length;
    },
    /** How often the visitor and the critic were right. */
    get right() {
      const count = (name) => played.filter((result) => result[name]).length;
      return { visitor: count("isRight"), critic: count("criticIsRight") };
    },
    /** [model, how often the visitor took its name for real, how often they saw one], the most convincing first. */
    get fooled() {
      const models = [...new Set(played.map(({ model }) => model))];
      return models
        .map((model) => {
          const of = played.filter((result) => result.model === model);
          return [model, of.filter(({ isRight }) => !isRight).length, of.length];
        })
        .sort(([, a, ofA], [, b, ofB]) => b / ofB - a / ofA);
    },
  };
};

/** What to say of a choice. */
export const describeChoice = ({ names, real, percentiles }, { isRight, criticIsRight }, label) => {
  const [ofReal, ofOther] = [real, 1 - real].map((i) => `${Math.round(100 * percentiles[i])}\u00a0%`);
  return (
    `${isRight ? "Yes" : "No"}: ${names[real]} is real, and ${names[1 - real]} was made up (${label}). ` +
    `The critic was ${criticIsRight ? "right" : "wrong"}: to it, ${names[real]} looks more real than ${ofReal} of all real names, ` +
    `and ${names[1 - real]} than ${ofOther}.`
  );
};

const score = createScore(); // of this visit

/**
 * Create the game; names are requested when it is seen.
 * @param {object[]} texts See `list_families` in ui/families.py.
 */
export const createGameSection = (texts) => {
  const labels = Object.fromEntries(texts.flatMap(({ models }) => models.map(({ id, label }) => [id, label])));
  const message = create("p", { class: "families-message", role: "status" });
  const results = create("div", { class: "families-results" });
  const buttons = [0, 1].map((i) => createButton("…", () => choose(i), "option families-name"));
  const next = createButton("Next two names", () => advance(), "button primary");
  let rounds = [];
  let isOpen = false; // whether the visitor may choose

  const drawResults = () => {
    if (!score.rounds) return;
    const { visitor, critic } = score.right;
    const row = (name, right) => ({ name, value: right, text: `${right} of ${score.rounds}` });
    const [players, models] = [create("div"), create("div")];
    drawBars(
      players,
      [row("You", visitor), row("Critic", critic), { ...row("Blind guessing", score.rounds / 2), isReference: true }],
      "Right answers in this visit",
    );
    const fooled = score.fooled.map(([model, times, of]) => ({
      name: labels[model] ?? model,
      value: times / of,
      text: `${times} of ${of}`,
    }));
    drawBars(models, fooled, "How often you took a made-up name for real");
    results.replaceChildren(
      create("div", {}, create("h3", {}, "Right answers"), players),
      create("div", {}, create("h3", {}, "Who fooled you"), models),
    );
  };
  const show = () => {
    for (const [i, button] of buttons.entries()) {
      button.textContent = rounds[0].names[i];
      button.classList.remove("real", "made-up");
      button.setAttribute("aria-disabled", "false");
    }
    message.textContent = "Which one is real?";
    next.hidden = true;
    isOpen = true;
  };
  const advance = async () => {
    rounds.shift();
    try {
      if (!rounds.length) ({ rounds } = await fetchJson("families/play", { seed: randomSeed() }));
      show();
      if (document.activeElement === document.body) buttons[0].focus({ preventScroll: true }); // "Next" is hidden now
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      message.textContent = error.message;
    }
  };
  const choose = (choice) => {
    if (!isOpen) return;
    isOpen = false;
    const [round] = rounds;
    const result = score.add(round, choice);
    message.textContent = describeChoice(round, result, labels[round.model] ?? round.model);
    for (const [i, button] of buttons.entries()) {
      button.classList.add(i === round.real ? "real" : "made-up");
      button.append(create("span", { class: "families-verdict" }, i === round.real ? "real" : "made up"));
      button.setAttribute("aria-disabled", "true");
    }
    next.hidden = false;
    next.focus({ preventScroll: true });
    drawResults();
  };
  const element = create(
    "div",
    { class: "families-game" },
    create("p", {}, ABOUT),
    create("div", { class: "families-choice", role: "group", "aria-label": "Which name is real?" }, ...buttons),
    message,
    create("div", { class: "actions" }, next),
    results,
  );
  next.hidden = true;
  drawResults();
  whenVisible(element, advance);
  return element;
};

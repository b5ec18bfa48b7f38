/**
 * The tab Three families: names and lines drawn by models of every family, what each of them learns to do, a walk through two
 * latent spaces, lines that meet a wish, the training of a GAN, and a game (ui/families.py).
 */
import { fetchJson, VisitorError } from "./api.js";
import { create, createButton, whenVisible } from "./dom.js";
import { createGameSection } from "./families-game.js";
import { createReplay } from "./families-replay.js";
import { createStage } from "./families-stage.js";
import { createWalk } from "./families-walk.js";
import { createWishes } from "./families-wishes.js";
import { ABOUT, createFamilyTable, DIFFERENCE } from "./families-words.js";

/** Draw the tab. It requests nothing before a visitor first opens it. */
export const mount = (element) => {
  element.classList.add("reading-tab", "families");
  const load = async () => {
    const notice = create("p", { role: "status" }, "Asking the models …");
    element.replaceChildren(create("p", {}, ABOUT), notice);
    try {
      draw(element, await fetchJson("families"));
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      notice.textContent = error.message;
      element.append(createButton("Try again", load));
    }
  };
  whenVisible(element.closest(".tabitem") ?? element, load);
};

const draw = (element, answer) => {
  element.replaceChildren(
    create("p", {}, ABOUT),
    createStage(answer),
    section("What each family learns to do", ...createFamilyTable()),
    ...(answer.has_gan ? [section("A walk through two latent spaces", createWalk())] : []),
    ...(answer.wishes.length ? [section("A wish", createWishes(answer.wishes))] : []),
    ...(answer.replays.length ? [section("Watch them learn: the student and the critic", createReplay(answer.replays))] : []),
    ...(answer.has_gan ? [section("Real or generated?", createGameSection(answer.texts))] : []),
    section("Generative and discriminative models", ...DIFFERENCE.map((paragraph) => create("p", {}, paragraph))),
  );
};

const section = (title, ...children) => create("section", {}, create("h2", {}, title), ...children);

/** The training of a model without a likelihood, with a slider: the lines that it drew, its losses, and how good the lines are. */
import { fetchJson, VisitorError } from "./api.js";
import { nameOf } from "./chooser.js";
import { create, whenVisible } from "./dom.js";
import { createLossCurve } from "./loss-curve.js";
import { createSegments } from "./segments.js";

const ABOUT = {
  gan:
    "The generator is a student who forges names. The discriminator is a critic who is shown a real name and a forged one and has to tell " +
    "which is real. They take turns: the critic learns to tell them apart, and the student learns to make that harder. Move the slider: " +
    "the same 20 points in the latent space, at several moments of the training.",
  "latent-diffusion":
    "It learns to remove noise from the numbers of a VAE, which was trained before and turns them into lines. Move the slider: the " +
    "same noise, cleaned and decoded at several moments of the training. Even the first lines are not bad, because the VAE has learned " +
    "to write lines for any numbers.",
};
const ABOUT_LOSSES =
  "After the beginning, the losses of student and critic hardly move: each gets better against an opponent who gets better, too. So they " +
  "do not say how good the names are. The distance from unseen names does.";

const SHORT_CHARS = 16; // lines up to this length are shown in two columns

/** "after 1,000 steps" */
export const describeMoment = ({ step }) =>
  step === 0 ? "before training" : `after ${step.toLocaleString("en-US")} ${step === 1 ? "step" : "steps"}`;

/** The points [step, value] of a figure, of those moments that have it. */
export const pointsOf = (moments, value) =>
  moments.map((moment) => [moment.step, value(moment)]).filter(([, figure]) => figure !== undefined && figure !== null);

/** The two plots of a training at a moment, for `createLossCurve`; the first is null without losses of two networks. */
export const plotsOf = (moments, moment) => {
  const [critic, student] = ["discriminator", "generator"].map((name) => pointsOf(moments, (each) => each[name]));
  const distances = pointsOf(moments, ({ distance }) => distance);
  const ends = (points) => `from ${points[0][1].toFixed(3)} to ${points.at(-1)[1].toFixed(3)}`;
  const losses = critic.length > 0 &&
    student.length > 0 && {
      lines: [
        { name: "critic", kind: "thick", points: critic },
        { name: "student", kind: "dotted", points: student },
      ],
      summary: `The loss of the critic goes ${ends(critic)}, that of the student ${ends(student)}.`,
      ...(moment.discriminator !== undefined && moment.discriminator !== null && { mark: [moment.step, moment.discriminator] }),
    };
  const quality = {
    lines: [{ name: "distance in triples", kind: "thick", points: distances }],
    summary: `The distance from unseen lines goes ${ends(distances)}.`,
    mark: [moment.step, moment.distance],
  };
  return { losses: losses || null, quality };
};

/**
 * Create the replay; it is requested when it is seen.
 * @param {{id: string, family: string, label: string, dataset: string}[]} models Those that have one.
 */
export const createReplay = (models) => {
  const about = create("p");
  const slider = create("input", { type: "range", min: 0, value: 0, step: 1 });
  const moment = create("output", { class: "families-moment" });
  const notice = create("p", { class: "status", role: "status" });
  const list = create("ul", { class: "families-lines" });
  const losses = createLossCurve({ x: "steps of training", y: "Loss", isLogarithmic: true });
  const quality = createLossCurve({ x: "steps of training", y: "Bits", isLogarithmic: true });
  const aboutLosses = create("p", { class: "hint" }, ABOUT_LOSSES);
  let moments = [];

  const show = () => {
    const current = moments[slider.value];
    moment.textContent = describeMoment(current);
    slider.setAttribute("aria-valuetext", describeMoment(current));
    list.classList.toggle(
      "short",
      current.lines.every((line) => line.length <= SHORT_CHARS),
    );
    list.replaceChildren(...current.lines.map((line) => create("li", {}, line || create("i", {}, "(nothing)"))));
    const plots = plotsOf(moments, current);
    quality.draw(plots.quality);
    losses.element.hidden = aboutLosses.hidden = !plots.losses;
    if (plots.losses) losses.draw(plots.losses);
  };
  const open = async (id) => {
    about.textContent = ABOUT[models.find((model) => model.id === id).family] ?? "";
    notice.textContent = "";
    try {
      ({ points: moments } = await fetchJson(`families/replay/${encodeURIComponent(id)}`));
      slider.max = moments.length - 1;
      slider.value = moments.length - 1;
      show();
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      notice.textContent = error.message;
    }
  };
  slider.addEventListener("input", show);
  const options = models.map((model) => [model.id, nameOf(model)]);
  const choice = createSegments("Model", "families-replay", options, { value: models[0].id, onChange: open });
  choice.hidden = models.length < 2;
  const element = create(
    "div",
    { class: "families-replay" },
    choice,
    about,
    notice,
    create(
      "div",
      { class: "families-controls" },
      create("label", { class: "families-slider" }, "Moment of the training", slider),
      moment,
    ),
    create(
      "div",
      { class: "families-pair" },
      list,
      create("div", { class: "families-plots" }, quality.element, losses.element, aboutLosses),
    ),
  );
  whenVisible(element, () => open(models[0].id));
  return element;
};

/** The panel of the open lesson, above the tabs: what to read, a prediction to make, and a button that shows the answer. */
import { VisitorError } from "./api.js";
import { create, createButton } from "./dom.js";
import { describeLength, fetchLessons } from "./lessons.js";
import { fromQuery, updateAddress } from "./link.js";
import { openLink, scrollToLink } from "./navigate.js";
import { openTab } from "./tabs.js";

const SMALL = "button small";
const GAP = 12; // px between the panel and what it scrolls to

/**
 * The place in a link, "3.2": lesson 3, step 2. Step 0 is the introduction.
 * @param {string} [text]
 * @returns {{number: number, step: number} | null}
 */
export const parsePlace = (text) => {
  const match = /^(\d+)(?:\.(\d+))?$/.exec(text ?? "");
  return match && { number: Number(match[1]), step: Number(match[2] ?? 0) };
};

/** Inverse of `parsePlace`. */
export const formatPlace = ({ number, step }) => (step === 0 ? `${number}` : `${number}.${step}`);

/**
 * What to say of a prediction, in words.
 * @param {string[]} options In plain text.
 * @param {number} right Index of the right one.
 * @param {number} [chosen] Undefined if the visitor made none.
 */
export const feedback = (options, right, chosen) => {
  if (chosen === right) return "Right.";
  return `${chosen === undefined ? "The answer" : "Not quite. The answer"}: ${options[right]}.`.replace(/([.?!])\.$/, "$1");
};

/** Nodes of the HTML that ui/lessons.py made of a lesson's Markdown. */
const toNodes = (html) => [...new DOMParser().parseFromString(html, "text/html").body.childNodes];

/** Gradio drew the element. */
export const mount = (element) => {
  let lessons;
  let place = null; // {number, step}
  const predictions = new Map(); // by place: index of the chosen option; undefined if the answer was shown without one

  const panel = create("section", { class: "lesson", "aria-labelledby": "lesson-title" });
  const title = create("h2", { id: "lesson-title" });
  const progress = create("span", { class: "lesson-progress" });
  const fold = createButton("", () => setFolded(fold.getAttribute("aria-expanded") === "true"), SMALL);
  const body = create("div", { class: "lesson-body", id: "lesson-body" });
  const back = createButton("Back", () => go(place.step - 1), SMALL);
  const show = createButton("", () => reveal(undefined), `${SMALL} lesson-show`);
  const next = createButton("", () => advance(), SMALL);
  const buttons = create("div", { class: "lesson-buttons" }, back, show, next);
  fold.setAttribute("aria-controls", "lesson-body");
  panel.append(
    create(
      "header",
      {},
      title,
      progress,
      fold,
      createButton("Close", () => close(), SMALL),
    ),
    body,
    buttons,
  );
  panel.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="?"]');
    if (!link) return;
    event.preventDefault();
    openLink(link.search);
  });

  const lesson = () => lessons[place.number - 1];
  const step = () => lesson().steps[place.step - 1]; // undefined for the introduction

  const setFolded = (isFolded) => {
    fold.textContent = isFolded ? "Unfold" : "Fold";
    fold.setAttribute("aria-expanded", String(!isFolded));
    body.hidden = isFolded;
    buttons.hidden = isFolded;
  };

  /** Go to a step of the open lesson. */
  const go = (index) => {
    place = { ...place, step: index };
    updateAddress({ lesson: formatPlace(place) }, true);
    draw();
    body.querySelector("h3").focus();
  };

  const advance = () => {
    if (place.step < lesson().steps.length) go(place.step + 1);
    else if (place.number < lessons.length) {
      place = { number: place.number + 1, step: 0 };
      go(0);
    } else {
      close();
      openTab("lessons");
    }
  };

  const close = () => {
    place = null;
    element.replaceChildren();
    updateAddress({ lesson: undefined }, true);
    (document.querySelector('#tabs [role="tab"][aria-selected="true"]') ?? document.querySelector("#tabs button")).focus();
  };

  /** Show what the address says, without taking the focus. */
  const showAddress = async () => {
    const wanted = parsePlace(fromQuery(location.search).lesson);
    if (!wanted) {
      place = null;
      element.replaceChildren();
      return;
    }
    if (place && formatPlace(place) === formatPlace(wanted)) return;
    try {
      lessons = await fetchLessons();
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      element.replaceChildren(create("p", { role: "alert", class: "lesson" }, error.message));
      return;
    }
    const found = lessons[wanted.number - 1];
    if (!found) {
      const sentence = `There is no lesson ${wanted.number}; the tab Lessons lists them.`;
      element.replaceChildren(create("p", { role: "alert", class: "lesson" }, sentence));
      return;
    }
    const isOpening = place === null;
    place = { number: wanted.number, step: Math.min(wanted.step, found.steps.length) };
    if (isOpening) setFolded(false);
    element.replaceChildren(panel);
    draw();
  };

  const draw = () => {
    const { number, title: name, steps, outcome, intro_html: intro } = lesson();
    title.textContent = `Lesson ${number}: ${name}`;
    progress.textContent = place.step === 0 ? describeLength(lesson()) : `Step ${place.step} of ${steps.length}`;
    back.hidden = place.step === 0;
    show.hidden = place.step === 0;
    next.textContent = nextLabel();
    next.classList.toggle("primary", place.step === 0);
    if (place.step === 0) {
      const goal = create("p", { class: "lesson-outcome" }, create("strong", {}, "Afterwards you know: "), lowerFirst(outcome));
      body.replaceChildren(create("h3", { tabindex: "-1" }, "What this is about"), create("div", {}, ...toNodes(intro), goal));
    } else drawStep();
    body.scrollTop = 0;
  };

  const nextLabel = () => {
    if (place.step === 0) return "Start";
    if (place.step < lesson().steps.length) return "Next";
    return place.number < lessons.length ? "Next lesson" : "All lessons";
  };

  const drawStep = () => {
    const { title: heading, html, question_html: question, options, label, answer_html: answer } = step();
    const key = formatPlace(place);
    const isAnswered = predictions.has(key);
    const chosen = predictions.get(key);
    const right = options.findIndex(({ correct }) => correct);
    const choices = options.map((option, i) => {
      const choice = createButton("", () => predictions.has(key) || reveal(i), "option lesson-option");
      choice.replaceChildren(create("span", {}, ...toNodes(option.html)));
      if (isAnswered) {
        choice.setAttribute("aria-disabled", "true"); // not `disabled`: it keeps the focus
        const words = [i === chosen && "your answer", i === right && "right"].filter(Boolean).join(", ");
        if (words) choice.append(create("small", {}, words));
        choice.classList.toggle("lesson-right", i === right);
      }
      return choice;
    });
    const texts = choices.map((choice) => choice.firstChild.textContent);
    const sentence = isAnswered ? feedback(texts, right, chosen) : "";
    const text = create("div", {}, create("h3", { tabindex: "-1" }, heading), ...toNodes(html));
    const quiz = create(
      "div",
      { role: "group", "aria-labelledby": "lesson-question" },
      create("p", { id: "lesson-question" }, ...toNodes(question)),
      ...choices,
    );
    const explanation = create("div", { class: "lesson-answer", role: "status" });
    body.replaceChildren(text, quiz, explanation);
    if (isAnswered) explanation.append(create("p", {}, create("strong", {}, sentence)), ...toNodes(answer));
    show.textContent = isAnswered ? "Show me again" : label;
    show.classList.toggle("primary", !isAnswered);
    next.classList.toggle("primary", isAnswered);
  };

  /** Show the answer: in words here, and by the link of the step. */
  const reveal = (chosen) => {
    const key = formatPlace(place);
    const index = [...body.querySelectorAll(".lesson-option")].indexOf(document.activeElement);
    if (!predictions.has(key)) predictions.set(key, chosen);
    drawStep();
    if (index >= 0) body.querySelectorAll(".lesson-option")[index].focus({ preventScroll: true });
    const { query } = step();
    openLink(query);
    const explanation = body.querySelector(".lesson-answer");
    body.scrollTop = explanation.offsetTop - body.clientHeight / 2;
    return scrollToLink(query, panel.offsetHeight + GAP);
  };

  addEventListener("popstate", showAddress);
  return showAddress();
};

const lowerFirst = (text) => text.charAt(0).toLowerCase() + text.slice(1);

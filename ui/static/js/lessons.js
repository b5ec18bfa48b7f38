/** The tab Lessons: the list of lessons (ui/lessons.py). */
import { fetchJson, VisitorError } from "./api.js";
import { create } from "./dom.js";
import { openLink } from "./navigate.js";
import { plural } from "./text.js";

let lessons;

/** All lessons, in their order. */
export const fetchLessons = () => {
  lessons ??= fetchJson("lessons").then((answer) => answer.lessons);
  lessons.catch(() => {
    lessons = undefined; // ask again next time
  });
  return lessons;
};

/** "5 steps, about 8 minutes" */
export const describeLength = ({ steps, minutes }) => `${plural(steps.length, "step")}, about ${plural(minutes, "minute")}`;

/** Gradio drew the tab. */
export const mount = async (element) => {
  element.classList.add("lessons");
  try {
    element.replaceChildren(
      create("p", {}, "Short lessons with a prediction in each step: guess first, then see. They set the page up for you."),
      create("ol", {}, ...(await fetchLessons()).map(createItem)),
    );
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    element.replaceChildren(create("p", { role: "alert" }, error.message));
  }
};

const createItem = (lesson) => {
  const { number, title, outcome } = lesson;
  const link = create("a", { href: `?lesson=${number}` }, `${number}. ${title}`);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab or window of its own
    event.preventDefault();
    openLink(link.search);
  });
  return create("li", {}, create("h2", {}, link), create("p", {}, outcome), create("small", {}, describeLength(lesson)));
};

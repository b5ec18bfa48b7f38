/** Below the text: programs that write it again, and the files of its model (ui/snippets.py). */
import { fetchJson, VisitorError } from "./api.js";
import { createCopyButton } from "./clipboard.js";
import { create } from "./dom.js";
import { address } from "./link.js";
import { onText } from "./write.js";

let query; // the link of the text on the screen
let requests = 0; // of the panel for programs: a late answer does not replace a newer one

const fetchPrograms = () => fetchJson("programs", { query, address: address() });

/** Draw the button and the panel, which asks for the programs when it is opened. */
export const mount = (element) => {
  const python = createCopyButton("Copy as Python", async () => (await fetchPrograms()).programs.Python, "chip");
  const content = create("div", { class: "programs-content" });
  const panel = create("details", { class: "programs" }, create("summary", {}, "Use the weights"), content);
  const update = () => panel.open && query !== undefined && show(content);
  panel.addEventListener("toggle", update);
  onText((text) => {
    if (text.query === query) return;
    query = text.query;
    update();
  });
  element.classList.add("use");
  element.replaceChildren(python, panel);
};

const show = async (content) => {
  requests += 1;
  const own = requests;
  try {
    const { programs, files } = await fetchPrograms();
    if (own === requests) content.replaceChildren(...drawPrograms(programs), drawFiles(files));
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    content.replaceChildren(create("p", { role: "status" }, error.message));
  }
};

/** A tab for each program; the arrow keys go from one to the next. */
let chosen = 0;
const drawPrograms = (programs) => {
  const titles = Object.keys(programs);
  const code = create("code");
  const panel = create("div", { role: "tabpanel", id: "program", tabindex: "0" }, create("pre", {}, code));
  const copy = createCopyButton("Copy", () => programs[titles[chosen]], "chip");
  const tabs = titles.map((title, i) =>
    create("button", { type: "button", role: "tab", id: `program-tab-${i}`, "aria-controls": "program" }, title),
  );
  const choose = (index) => {
    chosen = index;
    for (const [i, tab] of tabs.entries()) {
      tab.ariaSelected = String(i === index);
      tab.tabIndex = i === index ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", tabs[index].id);
    code.textContent = programs[titles[index]];
  };
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(i));
    tab.addEventListener("keydown", (event) => {
      const target = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      choose((target + tabs.length) % tabs.length);
      tabs[chosen].focus();
    });
  }
  choose(chosen);
  const bar = create(
    "div",
    { class: "programs-bar" },
    create("div", { role: "tablist", "aria-label": "Programs" }, ...tabs),
    copy,
  );
  return [create("p", {}, "These programs write the text above, character for character."), bar, panel];
};

const drawFiles = (files) => {
  if (files.length === 0)
    return create("p", {}, "Download the model in the tab Train yours, and unzip it where the program runs.");
  const list = create("ul", { class: "files" });
  for (const { name, url, bytes } of files) {
    const link = create("a", { href: url }, name);
    list.append(create("li", {}, link, bytes === null ? "" : ` ${formatBytes(bytes)}`));
  }
  return create("div", {}, create("h2", {}, "Files of this model"), list);
};

const formatBytes = (bytes) => {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
};

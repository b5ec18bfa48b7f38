/** The foot of the page: links, the cards of the models, and the glossary, which terms anywhere on the page open. */
import { fetchModels } from "./api.js";
import { create } from "./dom.js";

const TERM = 'a[href^="#term-"]';

/** The foot is in the page: make its lists and its glossary work. */
export const mount = async (element) => {
  const glossary = element.querySelector("#glossary");
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.(TERM);
    if (!link) return;
    event.preventDefault();
    openGlossary(glossary, link.getAttribute("href").slice(1));
  });
  element.querySelector("#open-glossary").addEventListener("click", () => openGlossary(glossary));
  glossary.addEventListener("click", ({ target }) => {
    if (target === glossary) glossary.close(); // on its backdrop
  });
  const { models } = await fetchModels();
  const cards = models.filter(({ card }) => card);
  element
    .querySelector("#cards ul")
    .replaceChildren(...cards.map(({ card, name }) => create("li", {}, create("a", { href: card, target: "_blank" }, name))));
};

const openGlossary = (glossary, id) => {
  if (!glossary.open) glossary.showModal();
  for (const term of glossary.querySelectorAll("dt")) term.classList.toggle("wanted", term.id === id);
  glossary.querySelector("dt.wanted")?.scrollIntoView({ block: "center" });
};

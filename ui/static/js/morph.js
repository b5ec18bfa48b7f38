/** The tab Morph. */

/** The lines and the distance that the tab shows first for a model, in the order of its inputs. Its headings follow. */
export const exampleOf = (examples, id) => {
  const [from, to, distance, noun] = examples[id];
  for (const element of document.querySelectorAll("#morph .noun")) element.textContent = noun;
  return [from, to, from, distance];
};

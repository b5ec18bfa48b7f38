/** One text of the tab Compare: who writes it, the text, and what is known of it. */
import { nameOf } from "./chooser.js";
import { create } from "./dom.js";
import { formatCount } from "./text.js";
import { createTokens } from "./tokens.js";

/** The letter of a column. */
export const letterOf = (index) => String.fromCharCode(65 + index);

/**
 * Create a column.
 * @param {{model: object, temperature: number, query: string}} description
 * @param {number} index
 * @param {boolean} isTemperatures The columns differ in temperature, not in model.
 * @param {(index: number) => void} onSelect Called when a visitor selects a token.
 */
export const createColumn = ({ model, temperature, query }, index, isTemperatures, onSelect) => {
  const letter = letterOf(index);
  const title = isTemperatures ? `Temperature ${temperature}` : nameOf(model);
  const remarks = create("p", { class: "remarks" });
  const sheet = create("div");
  const surprisal = create("dd");
  const speed = create("dd");
  const link = create("a", { href: `?${query}` }, "Open in Write");
  const bits = model.bits_per_character;
  const facts = isTemperatures
    ? []
    : [
        [
          "On unseen text",
          bits ? `${model.likelihood === "bound" ? "at most " : ""}${bits.toFixed(2)} bits per character` : "not measured",
        ],
        ["Parameters", formatCount(model.parameters)],
        ["Sees", model.context],
      ];
  const list = create("dl");
  const add = (name, value) => list.append(create("div", {}, create("dt", {}, name), value));
  for (const [name, value] of facts) add(name, create("dd", {}, value));
  add("Speed on this server", speed);
  if (isTemperatures) add("Surprisal of its own text", surprisal);
  const heading = create("h2", {}, create("span", { class: "letter" }, letter), ` ${title}`);
  const element = create("article", { "aria-label": `${letter} ${title}` }, heading, list, sheet, remarks, link);
  const tokens = createTokens(sheet, { label: `Text ${letter}, ${title}`, onSelect });
  tokens.setRunning(true);
  return {
    element,
    tokens,

    /** The server accepted the request. */
    showHead({ query: accepted, prompt, unknown_chars: unknownChars, remarks: sentences }) {
      tokens.setPrompt(prompt, unknownChars);
      remarks.textContent = sentences.join(" ");
      const theme = new URLSearchParams(location.search).get("__theme");
      link.href = `?${accepted}${theme ? `&__theme=${theme}` : ""}`;
    },

    showSpeed(charactersPerSecond) {
      speed.textContent = charactersPerSecond
        ? `${Math.round(charactersPerSecond).toLocaleString("en-US")} characters a second`
        : "–";
    },

    showSurprisal(bitsPerCharacter) {
      surprisal.textContent = Number.isNaN(bitsPerCharacter) ? "–" : `${bitsPerCharacter.toFixed(2)} bits per character`;
    },

    /** Mark a token by the letter of a model that is much more surprised than the others. */
    markSurprised(token, reader, title_) {
      tokens.mark(token, "surprised", title_);
      sheet.querySelectorAll(".token")[token].dataset.reader = letterOf(reader);
    },
  };
};

/**
 * The tab "Your turn": Shannon's guessing game (1951). The visitor guesses the next character of a text that no model has
 * seen, and is measured beside the models on the same characters. Upper and lower case count as the same letter
 * (ui/passages.py).
 */
import { fetchJson, VisitorError } from "./api.js";
import { create, createButton, whenVisible } from "./dom.js";
import { estimateBits, guessesOnGivingUp } from "./shannon.js";
import { nameToken, plural } from "./text.js";

const ROWS = ["qwertyuiop", "asdfghjkl", "zxcvbnm", ".,;:!?'-"];
const ALPHABET = [...ROWS.join(""), " ", "\n"]; // every character of the held-out text, in lower case
const MAX_BITS = Math.log2(ALPHABET.length);
const FIGURES = { minimumFractionDigits: 2, maximumFractionDigits: 2 };

const INTRODUCTION =
  "Here is a piece of Shakespeare that no model on this page has read. Guess how it goes on, one character at a time: tap a key or type. " +
  "Claude Shannon played this game in 1951 to measure how predictable English is. Capitals and small letters count as the same.";
const ABOUT_ESTIMATE =
  "Your range is Shannon's lower and upper bound, from how many guesses each character took you. From a few dozen characters it " +
  "is a rough estimate; another passage makes it better. The models saw exactly what you saw. Shannon's readers, who saw 100 letters of " +
  "modern English, needed between 0.6 and 1.3 bits per letter.";

/** "0.81 to 1.30" */
const formatRange = (lower, upper) => [lower, upper].map((bits) => bits.toLocaleString("en-US", FIGURES)).join(" to ");

/** What to say of a character that was found or revealed. */
export const describeAnswer = (character, tried, isRevealed, guess) => {
  const name = nameToken(character);
  const result = isRevealed ? `It was: ${name}.` : `Yes: ${name}, with guess ${tried + 1}.`;
  if (guess === undefined) return result;
  return `${result} The GPT would have guessed ${guess === character.toLowerCase() ? "the same" : `${nameToken(guess)} first`}.`;
};

/**
 * The game, without its looks.
 * @param {object[]} passages See `list_passages` in ui/passages.py.
 */
export const createGame = (passages) => {
  let index = 0;
  let answered = []; // {character, guesses, isRevealed} of this passage
  let wrong = [];
  const record = []; // {guesses, bits: of each model by title} of all passages so far

  const passage = () => passages[index];
  const target = () => passage().answer[answered.length];
  const finish = (guesses, isRevealed) => {
    const at = answered.length;
    const { models } = passage();
    const answer = { character: target(), guesses, isRevealed, guess: models.at(-1)?.guesses[at] };
    answered.push(answer);
    record.push({ guesses, bits: Object.fromEntries(models.map(({ title, bits }) => [title, bits[at]])) });
    wrong = [];
    return answer;
  };

  return {
    get passage() {
      return passage();
    },
    get answered() {
      return answered;
    },
    get wrong() {
      return wrong;
    },
    get isOver() {
      return target() === undefined;
    },

    /** Guess a character. Returns the answer if it is right, null if it is wrong, undefined if it does not count. */
    guess(character) {
      if (this.isOver || !ALPHABET.includes(character) || wrong.includes(character)) return undefined;
      if (character === target().toLowerCase()) return finish(wrong.length + 1, false);
      wrong.push(character);
      return null;
    },

    /** Give up on a character. */
    reveal() {
      return this.isOver ? undefined : finish(guessesOnGivingUp(wrong.length, ALPHABET.length), true);
    },

    /** Go on with another passage; what was measured is kept. */
    next() {
      index = (index + 1) % passages.length;
      answered = [];
      wrong = [];
    },

    /** Bits per character of the visitor, as a range, and of each model, on the same characters; null before the first one. */
    results() {
      if (!record.length) return null;
      const mean = (title) => record.reduce((sum, { bits }) => sum + bits[title], 0) / record.length;
      return {
        characters: record.length,
        visitor: estimateBits(record.map(({ guesses }) => guesses)),
        models: Object.keys(record[0].bits).map((title) => ({ title, bits: mean(title) })),
      };
    },
  };
};

const shuffle = (items) => {
  const rest = [...items];
  return Array.from(items, () => rest.splice(Math.floor(Math.random() * rest.length), 1)[0]);
};

/** The keys on the screen; `onKey` gets their characters. */
const createKeyboard = (onKey) => {
  const keys = new Map();
  const row = (characters) => {
    const element = create("div", { class: "turn-row" });
    for (const character of characters) {
      const name = nameToken(character);
      const key = createButton(name, () => onKey(character), "button turn-key");
      if (name !== character) key.classList.add("wide");
      keys.set(character, key);
      element.append(key);
    }
    return element;
  };
  const element = create("div", { class: "turn-keyboard", role: "group", "aria-label": "Keyboard" });
  element.append(...[...ROWS, [" ", "\n"]].map(row));
  return {
    element,
    /** Switch off the keys of these characters. They keep the focus: `aria-disabled`, not `disabled`. */
    disable(characters) {
      for (const [character, key] of keys) key.setAttribute("aria-disabled", String(characters.includes(character)));
    },
  };
};

/** A character of the answer, above the number of guesses that it took. */
const answerCell = ({ character, guesses, isRevealed }) => {
  const cell = create("span", { class: isRevealed ? "turn-answer revealed" : "turn-answer" });
  const count = create("span", { class: "turn-count" }, isRevealed ? "–" : String(guesses));
  count.setAttribute("aria-hidden", "true");
  cell.title = isRevealed ? "revealed" : `guess ${guesses}`;
  cell.append(create("span", { class: "turn-character" }, character === "\n" ? "⏎" : character), count);
  return cell;
};

const drawPassage = (element, game) => {
  const words = [create("span", { class: "turn-word" })]; // lines break between words only
  for (const answer of game.answered) {
    words.at(-1).append(answerCell(answer));
    if (answer.character === "\n") words.push(create("br"));
    if (/\s/.test(answer.character)) words.push(create("span", { class: "turn-word" }));
  }
  words.at(-1).append(create("span", { class: "turn-slot" }, game.isOver ? "" : "?"));
  element.replaceChildren(create("span", { class: "turn-context" }, game.passage.context), ...words);
};

const drawResults = (element, results) => {
  if (!results) return element.replaceChildren();
  const { characters, visitor, models } = results;
  const row = (title, from, to, figure) => {
    const line = create("tr", { class: title === "You" ? "you" : "" });
    const name = create("th", { scope: "row" }, title);
    const track = create("td", { class: "turn-track" });
    const bar = create("span", { class: "turn-bar" });
    bar.style.insetInlineStart = `${(100 * from) / MAX_BITS}%`;
    bar.style.width = `${(100 * Math.min(to - from, MAX_BITS - from)) / MAX_BITS}%`;
    track.append(bar);
    line.append(name, track, create("td", { class: "turn-figure" }, figure));
    return line;
  };
  const table = create("table");
  const caption = create("caption", {}, `Bits per character, on the ${plural(characters, "character")} so far; less is better`);
  table.append(caption);
  table.append(
    row("You", visitor.lower, Math.max(visitor.upper, visitor.lower + 0.04), formatRange(visitor.lower, visitor.upper)),
  );
  for (const { title, bits } of models) {
    const name = title.replace(/^an? /, "");
    table.append(row(name[0].toUpperCase() + name.slice(1), 0, bits, bits.toLocaleString("en-US", FIGURES)));
  }
  table.append(row("Blind guessing", 0, MAX_BITS, MAX_BITS.toLocaleString("en-US", FIGURES)));
  return element.replaceChildren(table, create("p", { class: "turn-note" }, ABOUT_ESTIMATE));
};

const play = (element, passages) => {
  const game = createGame(shuffle(passages));
  // The passage takes the focus, so that Space and Enter are guesses.
  const sheet = create("div", { class: "turn-passage", tabindex: 0, role: "group", "aria-label": "Passage" });
  const message = create("p", { class: "turn-message", role: "status" });
  const results = create("div", { class: "turn-results" });
  const keyboard = createKeyboard((character) => guess(character));
  const reveal = createButton("Reveal it", () => answer(game.reveal()));
  const next = createButton("Another passage", () => start());
  const buttons = create("div", { class: "turn-buttons" });
  buttons.append(reveal, next);

  const draw = () => {
    drawPassage(sheet, game);
    keyboard.disable(game.isOver ? ALPHABET : game.wrong);
    reveal.setAttribute("aria-disabled", String(game.isOver));
    next.classList.toggle("primary", game.isOver);
    drawResults(results, game.results());
  };

  const answer = (found) => {
    if (!found) return;
    message.textContent = describeAnswer(found.character, found.guesses - 1, found.isRevealed, found.guess);
    if (game.isOver) {
      const { play: title, speaker } = game.passage;
      message.textContent += ` That was the passage: ${speaker} in ${title}.`;
    }
    draw();
  };

  const guess = (character) => {
    const found = game.guess(character);
    if (found === null) message.textContent = `Not ${nameToken(character)}. Guess again.`;
    answer(found);
    draw();
  };

  const start = () => {
    if (game.answered.length) game.next();
    message.textContent = "Which character comes next?";
    draw();
    sheet.focus({ preventScroll: true });
  };

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (!element.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (target.closest("input, textarea, select, [contenteditable]")) return;
    const isElsewhere = target !== document.body && target !== sheet;
    if (isElsewhere && (key === " " || key === "Enter")) return; // they press the button that has the focus
    const character = key === "Enter" ? "\n" : key.toLowerCase();
    if (!ALPHABET.includes(character)) return;
    event.preventDefault();
    guess(character);
  });

  element.replaceChildren(
    create("p", { class: "turn-introduction" }, INTRODUCTION),
    sheet,
    message,
    keyboard.element,
    buttons,
    results,
  );
  message.textContent = "Which character comes next?";
  draw();
};

/** Draw the tab. The passages are requested when a visitor first opens it. */
export const mount = (element) => {
  const load = async () => {
    const loading = create("p", { class: "turn-message", role: "status" }, "Choosing passages …");
    element.replaceChildren(loading);
    try {
      const { passages } = await fetchJson("passages");
      play(element, passages);
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      loading.textContent = error.message;
      element.append(createButton("Try again", load));
    }
  };
  whenVisible(element.closest(".tabitem") ?? element, load);
};

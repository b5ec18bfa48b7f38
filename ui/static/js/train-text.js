/** The text to train on: pasted, from a file, or one of the project's own, and what the server says about it. */
import { fetchJson, uploadText, VisitorError } from "./api.js";
import { create, createButton, setText } from "./dom.js";
import { createSegments } from "./segments.js";
import { count, MAX_BYTES, megabytes, whyNot } from "./train-words.js";

const EXCERPT_CHARS = 5000; // of a longer text, the field shows only the beginning
const TYPING_MS = 600; // after the last change, a text that is typed is sent
const PASTED = "my-text";

/**
 * Create the field, and the report on the text.
 * @param {object} options
 * @param {() => void} options.onChange Another text is on its way, or there is none.
 * @param {(report: object) => void} options.onReport There is a report: see `TextReport` in train/text_report.py.
 * @param {() => string} options.tokenizer The chosen one.
 */
export const createTextInput = ({ onChange, onReport, tokenizer }) => {
  const field = create("textarea", { rows: 9, spellcheck: "false", "aria-describedby": "train-excerpt" });
  const excerpt = create("p", { id: "train-excerpt", class: "hint" });
  const file = create("input", {
    type: "file",
    accept: ".txt,text/plain",
    class: "visually-hidden",
    "aria-label": "Open a text file",
  });
  const open = createButton("Open a .txt file", () => file.click());
  const clear = createButton("Clear", () => {
    show("");
    forget();
    field.focus();
  });
  const texts = create("div", { class: "train-texts", role: "group", "aria-label": "A text to try" });
  const message = create("p", { role: "alert" });
  const facts = create("div", { class: "train-facts" });
  const expectation = create("p", { role: "status" });
  const report = create("section", { class: "train-report", "aria-label": "About this text", hidden: "" }, facts, expectation);
  const element = create(
    "div",
    { class: "train-text" },
    create(
      "div",
      { class: "train-drop" },
      create("label", { class: "field" }, "Paste a text, or drop a .txt file here", field),
      excerpt,
      create("div", { class: "actions" }, open, clear, file),
    ),
    create("div", { class: "train-side" }, create("p", {}, "Or take one of these:"), texts, message, report),
  );
  let sending = null; // AbortController of the request that reads the text
  let typing;
  let current = null; // the report
  let version = 0; // of the text

  const say = (sentence) => {
    message.textContent = sentence;
  };

  /** Run a request about the text; a newer one ends it. */
  const ask = async (request) => {
    clearTimeout(typing);
    sending?.abort();
    const own = new AbortController();
    sending = own;
    onChange();
    say("");
    report.setAttribute("aria-busy", "true");
    try {
      const answer = await request(own.signal);
      if (sending !== own) return;
      current = answer;
      showReport();
      say(answer.problem);
      onReport(answer);
    } catch (error) {
      if (sending !== own) return;
      current = null;
      report.hidden = true;
      if (!(error instanceof VisitorError)) throw error;
      say(error.message);
    } finally {
      if (sending === own) {
        sending = null;
        report.removeAttribute("aria-busy");
      }
    }
  };

  /** Show a text in the field; of a long one, its beginning. */
  const show = (text) => {
    const isLong = text.length > EXCERPT_CHARS;
    field.value = isLong ? text.slice(0, EXCERPT_CHARS) : text;
    field.readOnly = isLong;
    excerpt.textContent = isLong ? "The field shows the beginning of this text. “Clear” makes room for another one." : "";
  };

  const forget = () => {
    clearTimeout(typing);
    sending?.abort();
    sending = null;
    current = null;
    report.hidden = true;
    say("");
    onChange();
  };

  const take = (name, text) => {
    const content = new Blob([text]);
    if (content.size > MAX_BYTES) {
      forget();
      say(`This text has ${megabytes(content.size)}; a text here has up to ${MAX_BYTES / 1e6} MB. Take a part of it.`);
      return;
    }
    show(text);
    version++;
    ask((signal) => uploadText(name, content, signal));
  };

  const takeFiles = async (files) => {
    const reason = whyNot(files);
    if (reason) {
      forget();
      say(reason);
      return;
    }
    const [chosen] = files;
    show("");
    version++;
    await ask((signal) => uploadText(chosen.name.replace(/\.[^.]*$/, ""), chosen, signal));
    if (current) show(await readExcerpt(chosen));
  };

  field.addEventListener("input", () => {
    if (field.value.length > EXCERPT_CHARS) return take(PASTED, field.value);
    forget();
    if (field.value === "") return undefined;
    typing = setTimeout(() => take(PASTED, field.value), TYPING_MS);
    return undefined;
  });
  field.addEventListener("paste", (event) => {
    const pasted = event.clipboardData.getData("text/plain");
    if (pasted.length <= EXCERPT_CHARS || field.readOnly) return;
    event.preventDefault(); // a field with a megabyte of text is slow
    const { value, selectionStart: start, selectionEnd: end } = field;
    take(PASTED, value.slice(0, start) + pasted + value.slice(end));
  });
  file.tabIndex = -1; // the button does the same
  file.addEventListener("change", () => {
    if (file.files.length > 0) takeFiles([...file.files]);
    file.value = ""; // the same file can be opened again
  });
  const drop = element.querySelector(".train-drop");
  const isFile = ({ dataTransfer }) => dataTransfer.types.includes("Files");
  drop.addEventListener("dragover", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    takeFiles([...event.dataTransfer.files]);
  });

  /** Draw what the server says of the text. */
  const showReport = () => {
    const hadFocus = report.contains(document.activeElement);
    report.hidden = false;
    facts.replaceChildren(...factsOf(current, (isLines) => askAgain({ is_lines: isLines })));
    setText(expectation, current.expectation);
    if (hadFocus) report.querySelector("input:checked").focus();
  };

  const askAgain = (changed) =>
    ask((signal) => fetchJson("train/report", { is_lines: current.is_lines, tokenizer: tokenizer(), ...changed }, signal));

  drawTexts(texts, take, say);
  return {
    element,
    /** The report on the text; null without one. */
    get report() {
      return current;
    },
    /** Another number for another text. */
    get version() {
      return version;
    },
    clear() {
      show("");
      forget();
    },
    /** Ask for the report again, for another tokenizer. */
    refresh() {
      if (current) askAgain({});
    },
    setEnabled(isEnabled) {
      for (const control of element.querySelectorAll("button, textarea, input")) control.disabled = !isEnabled;
    },
  };
};

/** The beginning of a file, to be looked at; the server reads the file itself. */
const readExcerpt = async (file) => {
  const bytes = new Uint8Array(await file.slice(0, 4 * EXCERPT_CHARS).arrayBuffer());
  const encoding = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.slice(0, 2).join()] ?? "utf-8";
  const text = new TextDecoder(encoding).decode(bytes).replaceAll("\r\n", "\n");
  return file.size > bytes.length ? text.padEnd(EXCERPT_CHARS + 1) : text; // marked as an excerpt
};

/** Buttons for the project's own texts. */
const drawTexts = async (element, take, say) => {
  try {
    for (const { name, title, sentence } of await fetchJson("train/texts")) {
      const button = create("button", { type: "button", class: "option" }, create("b", {}, title), create("span", {}, sentence));
      button.addEventListener("click", async () => {
        try {
          take(name, (await fetchJson(`train/texts/${name}`)).text);
        } catch (error) {
          if (!(error instanceof VisitorError)) throw error;
          say(error.message);
        }
      });
      element.append(button);
    }
  } catch (error) {
    if (!(error instanceof VisitorError)) throw error;
    say(error.message);
  }
};

/** The facts of a report, and the choice between running text and lines. */
const factsOf = (report, onLines) => {
  const figures = create("dl", { class: "train-figures" });
  const add = (term, text) => figures.append(create("div", {}, create("dt", {}, term), create("dd", {}, text)));
  add("Characters", count(report.characters));
  add("Different characters", count(report.distinct_characters));
  add(report.is_lines ? "Items" : "Lines", count(report.lines));
  const kinds = [
    [false, "running text"],
    [true, "one item a line"],
  ];
  const form = createSegments("This is", "train-lines", kinds, { value: report.is_lines, onChange: onLines });
  const skipped = Object.entries(report.skipped).map(
    ([reason, n]) => `Skipped: ${count(n)} ${n === 1 ? "line" : "lines"}, ${reason}.`,
  );
  const notes = [...skipped, ...report.warnings].map((sentence) => create("li", {}, sentence));
  return [figures, form, create("ul", { class: "notes" }, ...notes)];
};

/** What a training run made: all models compared, and what to do with them in this page and elsewhere. */
import { endVisit, fetchModels, fetchZip, onModels, VisitorError } from "./api.js";
import { drawBars } from "./bars.js";
import { nameOf } from "./chooser.js";
import { createCopyButton } from "./clipboard.js";
import { create, createButton } from "./dom.js";
import { toQuery } from "./link.js";
import { openLink } from "./navigate.js";
import { textOf } from "./picker.js";
import { chooseModels } from "./score.js";
import { openTab } from "./tabs.js";
import { barsOf } from "./train-words.js";

const MOST_COMPARED = 4; // columns of the tab Compare
const LOOKED_INTO_CHARS = 300; // of a model's sample

/** Draw the verdict of a run into an element. */
export const drawVerdict = (element, { end, baselines }) => {
  const bars = create("div");
  drawBars(bars, barsOf(end, baselines.uniform), "Loss of each model, from worst to best");
  element.replaceChildren(
    create("h2", {}, "What came out"),
    create("p", { class: "summary" }, end.verdict),
    create(
      "p",
      { class: "hint" },
      "Nats per character on the last tenth of the text, which no model learned from. Fewer is better.",
    ),
    bars,
  );
};

/** The link that shows the sample of a model in the tab Write, or looks into it. */
export const sampleLink = ({ id, sample }, tab) => {
  const { text = "", prompt = "", max_new_tokens: length = 300, ...settings } = sample ?? {};
  if (tab === "inside") return toQuery({ model: id, prompt: `${prompt}${text}`.slice(0, LOOKED_INTO_CHARS), length: 0, tab });
  return toQuery({ model: id, prompt, ...settings, length });
};

/**
 * Create the section with the models of this visit, which is hidden while there is none.
 * @param {() => void} onForget Called when the visitor has deleted them.
 */
export const createOwnModels = (onForget) => {
  const select = create("select");
  const button = (text, onClick, kind) => createButton(text, () => guard(onClick), kind);
  const message = create("p", { class: "status", role: "status" });
  const command = create("code");
  let models = [];
  let latest = []; // ids of the models of the last run
  const chosen = () => models.find(({ id }) => id === select.value);

  /** Run a function. An error that the visitor should read about becomes the message. */
  const guard = async (task) => {
    message.textContent = "";
    try {
      await task();
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      message.textContent = error.message;
    }
  };
  const together = () => (latest.includes(select.value) ? latest : models.map(({ id }) => id)).slice(-MOST_COMPARED);

  const inside = button("Look inside", () => openLink(sampleLink(chosen(), "inside")));
  const copy = createCopyButton("Copy", () => command.textContent, "button small");
  const forget = button("Delete my text and models", async () => {
    await endVisit();
    await fetchModels(true);
    onForget();
  });
  const element = create(
    "section",
    { class: "train-own", hidden: "" },
    create("h2", {}, "Your models"),
    create(
      "p",
      {},
      "They are in every tab of this page, and nobody else can see them. The page forgets them, and your text, 15 minutes after " +
        "you have left.",
    ),
    create("label", { class: "field" }, "Model", select),
    create(
      "div",
      { class: "actions" },
      button("Write with it", () => openLink(sampleLink(chosen(), "write"))),
      button("Compare", () =>
        openLink(
          toQuery({
            models: together().join(","),
            prompt: chosen().sample?.prompt ?? "",
            seed: 7,
            length: 200,
            temperature: 0.8,
            tab: "compare",
          }),
        ),
      ),
      inside,
      button("Score", async () => {
        openTab("score");
        await chooseModels(together());
      }),
    ),
    create("h3", {}, "Take it home"),
    create(
      "div",
      { class: "actions" },
      button("Download .zip", () => download(chosen())),
    ),
    create(
      "p",
      { class: "hint" },
      "A folder with the weights, the tokenizer, a model card and the log of the training. gpt.load, python -m gpt and " +
        "transformers open it. With this project's code, one command puts it on the Hugging Face Hub:",
    ),
    create("p", { class: "train-command" }, command, " ", copy),
    message,
    create("div", { class: "actions" }, forget),
  );
  const match = () => {
    const model = chosen();
    if (!model) return;
    inside.disabled = !model.has_attention && model.family !== "bigram";
    inside.title = inside.disabled ? "The page can look inside a GPT and a bigram." : "";
    command.textContent = `python -m train publish ${model.id} --repo you/${model.id}`;
  };
  select.addEventListener("change", match);
  const draw = (all) => {
    const before = select.value;
    models = all.filter((model) => textOf(model) === "own");
    element.hidden = models.length === 0;
    select.replaceChildren(...models.map((model) => create("option", { value: model.id }, `${nameOf(model)}, ${bits(model)}`)));
    if (models.some(({ id }) => id === before)) select.value = before;
    match();
  };
  onModels(draw);
  fetchModels().then((answer) => draw(answer.models));

  return {
    element,
    /** Without a training run, they can be deleted. */
    setEnabled(isEnabled) {
      forget.disabled = !isEnabled;
    },
    /** Show the models of a run that has just ended. */
    async add(ids, first) {
      latest = ids;
      await fetchModels(true);
      select.value = first;
      match();
    },
  };
};

const bits = ({ bits_per_character: value }) => (value ? `${value.toFixed(2)} bits per character` : "not measured");

/** Save the folder of a model as a file. */
const download = async ({ id }) => {
  const address = URL.createObjectURL(await fetchZip(id));
  create("a", { href: address, download: `${id}.zip` }).click();
  setTimeout(() => URL.revokeObjectURL(address)); // once the browser has begun to save it
};

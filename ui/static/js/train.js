/** The tab Train yours: a text of the visitor, models that learn it in a minute, and what came out. */
import { fetchJson, streamTraining, VisitorError } from "./api.js";
import { create, createButton, setText } from "./dom.js";
import { createChoices } from "./train-choices.js";
import { createRunPlot } from "./train-plot.js";
import { createOwnModels, drawVerdict } from "./train-results.js";
import { apply, bestOf, newRun } from "./train-run.js";
import { createTextInput } from "./train-text.js";
import { describeLoss, describeProgress, describeQueue } from "./train-words.js";

const ABOUT =
  "Paste a text, and watch models learn it. First the page counts its pairs and longer sequences of characters, which is done " +
  "at once. Then a small network learns it from scratch, on this server, while you watch.";
const MEMORIZING =
  "The model begins to memorize: it gets better on the part of the text that it learns from, and worse on the part that it has " +
  "not seen. The page keeps the best model so far.";
const CUT_OFF = "The connection ended before the training did. Nothing was kept; please try again.";

/** Gradio drew the tab. */
export const mount = (element) => {
  let run = null; // the one on the screen; see train-run.js
  let controller = null; // AbortController, while it goes on
  let isStopping = false;
  const runs = []; // those that ended

  const text = createTextInput({ onChange: match, onReport, tokenizer: () => choices.request.tokenizer });
  const choices = createChoices((name) => {
    if (name === "tokenizer") text.refresh();
  });
  const start = createButton("Train", train, "button primary");
  const stop = createButton("Stop", askToStop);
  const status = create("p", { class: "status", role: "status" });
  const alert = create("p", { role: "alert" });
  const progress = create("progress", { max: 1, "aria-label": "Training" });
  const clock = create("p", { class: "train-clock" });
  const meaning = create("p", { class: "train-meaning" });
  const memorizing = create("p", { class: "train-memorizing", role: "status" });
  const plot = createRunPlot();
  const sample = create("pre", { class: "train-sample", tabindex: 0, role: "group", "aria-label": "What the model writes now" });
  const sampleTitle = create("h3");
  const model = create("p", { class: "hint" });
  const watching = create(
    "section",
    { class: "train-watch", "aria-label": "Training", hidden: "" },
    create("h2", {}, "Watch it learn"),
    create("div", { class: "train-progress" }, progress, clock),
    create("div", { class: "train-plot" }, meaning, plot.element, memorizing),
    create("div", { class: "train-now" }, sampleTitle, sample, model),
  );
  const verdict = create("section", { class: "train-verdict", hidden: "" });
  const own = createOwnModels(() => {
    runs.length = 0;
    run = null;
    watching.hidden = verdict.hidden = true;
    say("Your text and your models are deleted.");
    text.clear();
  });

  element.classList.add("reading-tab", "train");
  element.replaceChildren(
    create("p", {}, ABOUT),
    section("Your text", text.element),
    section("Train", choices.element, create("div", { class: "actions" }, start, stop), status, alert),
    watching,
    verdict,
    own.element,
  );
  match();

  function say(sentence) {
    setText(status, sentence); // equal text is not announced again
  }

  /** A text was given. */
  function onReport(report) {
    choices.advise(report);
    match();
  }

  function match() {
    const isRunning = controller !== null;
    const { activeElement } = document;
    start.disabled = isRunning || !text.report || text.report.problem !== "";
    stop.disabled = !isRunning;
    for (const part of [text, choices, own]) part.setEnabled(!isRunning);
    if (activeElement === start && isRunning) stop.focus(); // a disabled button would lose the focus
    if (activeElement === stop && !isRunning) start.focus();
  }

  async function askToStop() {
    stop.disabled = true;
    try {
      if (run.phase === "waiting") {
        controller.abort(); // nothing has been learned
        return;
      }
      await fetchJson("train/stop", {});
      isStopping = true;
      draw();
    } catch (error) {
      if (!(error instanceof VisitorError)) throw error;
      alert.textContent = error.message;
      stop.disabled = false;
    }
  }

  async function train() {
    controller = new AbortController();
    isStopping = false;
    run = newRun(choices.request, text.version);
    alert.textContent = memorizing.textContent = "";
    verdict.hidden = true;
    addEventListener("beforeunload", askBeforeLeaving);
    match();
    say("Starting…");
    watching.hidden = false;
    watching.scrollIntoView({ block: "nearest" });
    draw();
    try {
      const request = { ...run.choices, is_lines: text.report.is_lines };
      for await (const event of streamTraining(request, controller.signal)) {
        if (event.event === "error") throw new VisitorError(event.message);
        run = apply(run, event);
        draw();
      }
      if (run.phase !== "ended") throw new VisitorError(CUT_OFF);
      await finish();
    } catch (error) {
      if (error.name === "AbortError") say("Stopped before the training began.");
      else if (error instanceof VisitorError) {
        say("");
        alert.textContent = error.message;
      } else throw error;
    } finally {
      removeEventListener("beforeunload", askBeforeLeaving);
      controller = null;
      match();
    }
  }

  async function finish() {
    runs.push(run);
    verdict.hidden = false;
    drawVerdict(verdict, run);
    const { models, stopped } = run.end;
    const trained = models.findLast(({ kind }) => kind === run.choices.kind) ?? models.at(-1);
    say(stopped ? "Stopped. The best model so far is kept." : "Done. The best model is kept.");
    await own.add(
      models.map(({ id }) => id),
      trained.id,
    );
  }

  /** Show the run as it is now. */
  function draw() {
    const { queue, phase, latest, start: begun, sample: written } = run;
    if (isStopping) say("Stopping…");
    else if (queue) say(describeQueue(queue));
    else if (phase === "running") say(begun ? "Training…" : "Counting…");
    progress.value = latest?.progress ?? 0;
    clock.textContent = latest ? describeProgress(latest, phase === "ended") : "";
    meaning.textContent = describeMoment(run);
    if (run.isMemorizing && memorizing.textContent === "") memorizing.textContent = MEMORIZING;
    sampleTitle.textContent = written ? `It writes, after ${written.step.toLocaleString("en-US")} steps` : "";
    sample.textContent = written?.text ?? "";
    sample.hidden = !written;
    model.textContent = begun ? `${begun.parameters.toLocaleString("en-US")} parameters. ${begun.reason}` : "";
    plot.show(
      run,
      runs.filter((other) => other !== run && other.text === run.text),
    );
  }
};

/** What the loss at this moment means. */
const describeMoment = (run) => {
  const { phase, baselines, evaluations } = run;
  if (!baselines) return "";
  if (evaluations.length === 0) return `Before training: ${describeLoss(baselines.uniform)}`;
  if (phase === "ended") return `The model that is kept, on unseen text: ${describeLoss(bestOf(run).held_out)}`;
  return `On unseen text: ${describeLoss(evaluations.at(-1).held_out)}`;
};

const section = (title, ...children) => create("section", { "aria-label": title }, create("h2", {}, title), ...children);

/** The browser asks whether to leave, which would end the training. */
const askBeforeLeaving = (event) => event.preventDefault();

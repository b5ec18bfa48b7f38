"""The tab Write: pick a model, type a prompt, watch it write."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from gpt import SamplingParams
from gpt.sampling import MAX_SEED
from ui.shelf import Shelved, take
from ui.writing import MAX_RUN, MAX_TEXT, MIN_RUN, Ask, Writing, bounded

CHIPS = ("ROMEO:", "To be, or not to be", "KING RICHARD III:\nMy horse", "Once upon a time")
VISITORS = 8  # texts that are written at one time; more wait in the queue
SESSION = 30 * 60  # seconds for which the server keeps a text that can be continued; later it is written again
PLAIN = SamplingParams()
LINK = {"model", "prompt", "seed", "length", "temperature", "top_k", "top_p", "min_p"}  # what a link may say

# These run in the visitor's browser. A page without https has no clipboard; then the text is shown to be copied by hand.
COPY = """(text) => {{
  const button = document.querySelector("#{button} button, button#{button}"), label = button.innerText;
  const done = () => {{ button.innerText = "Copied"; setTimeout(() => button.innerText = label, 1500); }};
  const content = {content};
  if (navigator.clipboard) navigator.clipboard.writeText(content).then(done, () => prompt("Copy this:", content));
  else prompt("Copy this:", content);
}}"""
COPY_LINK = COPY.format(button="copy-link", content='location.origin + location.pathname + "?" + text')
COPY_PYTHON = COPY.format(button="copy-python", content="text")
KEEP_IN_ADDRESS = '(query) => { if (query) history.replaceState(null, "", "?" + query); }'


def sheet(prompt: str, left_out: str, text: str, writing: bool = False) -> str:
    """Prompt and text as HTML, every character of them escaped; what was left out of the prompt is struck through."""
    asked = "".join(f"<s>{_safe(c)}</s>" if c in left_out else _safe(c) for c in prompt)
    state = " writing" if writing else ""
    return (
        f'<div class="sheet{state}" role="region" aria-label="Text" tabindex="0">'
        f'<span class="prompt">{asked}</span><span class="written">{_safe(text)}</span></div>'
    )


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())  # half a character pair cannot be sent


def paragraph(*sentences: str) -> str:
    return f"<p>{_safe(' '.join(sentences))}</p>" if sentences else ""


def remarks(writing: Writing) -> list[str]:
    """What the visitor should know about this prompt."""
    ids, left_out = writing.lm.tokenizer.encode(writing.ask.prompt)
    said = []
    if left_out:
        were = "it was" if len(left_out) == 1 else "they were"
        said.append(f"This model never saw {' '.join(left_out[:20])}{' …' if len(left_out) > 20 else ''}; {were} left out.")
    if len(ids) > writing.lm.window > 1:
        said.append(f"The prompt is read whole, but this model sees {writing.lm.window} characters at a time.")
    return said


def build(page: gr.Blocks, models: list[Shelved]) -> None:
    """Lay out the tab inside `page`; `models` from the simplest to the best, which is picked first."""
    best = models[-1]
    first = best.facts["sample"]
    first_ask = Ask(best.lm.name, first["prompt"], SamplingParams(**{n: first[n] for n in SamplingParams.__dataclass_fields__}))
    first_status = f"Written when this model had just been trained · seed {first['seed']}"

    with gr.Column(elem_id="write"):
        with gr.Column(elem_id="ask"):
            prompt = gr.Textbox(first["prompt"], label="Prompt", lines=2, max_lines=8, elem_id="prompt")
            with gr.Row(elem_id="chips"):
                for chip in CHIPS:
                    button = gr.Button(chip.split("\n")[-1] if "\n" in chip else chip, size="sm")
                    button.click(None, None, prompt, js=f"() => {json.dumps(chip)}", api_visibility="private")
            with gr.Row(elem_id="buttons"):
                generate = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop", interactive=False)
                go_on = gr.Button("Continue", elem_id="continue")
        with gr.Column(elem_id="sheet"):
            notice = gr.HTML("", elem_id="notice", visible=False)
            text = gr.HTML(sheet(first["prompt"], "", first["text"]), elem_id="text")
            status = gr.HTML(paragraph(first_status), elem_id="status")
            with gr.Row(elem_id="copies"):
                copy_link = gr.Button("Copy link", size="sm", elem_id="copy-link")
                copy_python = gr.Button("Copy as Python", size="sm", elem_id="copy-python")
        with gr.Column(elem_id="settings"):
            model = gr.Radio([(m.label, m.lm.name) for m in models], value=best.lm.name, label="Model", elem_id="models")
            temperature = gr.Slider(
                0,
                2,
                PLAIN.temperature,
                step=0.05,
                label="Temperature",
                info="0 = always the likeliest, 2 = wild",
                elem_id="temperature",
            )
            length = gr.Slider(
                MIN_RUN, MAX_RUN, PLAIN.max_new_tokens, step=10, label="Length", info="characters to write", elem_id="length"
            )
            with gr.Accordion("More", open=False, elem_id="more"):
                top_k = gr.Slider(0, 65, 0, step=1, label="Top-k", info="draw from the k likeliest alone; 0 = off")
                top_p = gr.Slider(
                    0.05, 1, 1, step=0.05, label="Top-p", info="draw from the likeliest that hold this share; 1 = off"
                )
                min_p = gr.Slider(
                    0, 0.5, 0, step=0.01, label="Min-p", info="drop what is less likely than this share of the likeliest; 0 = off"
                )
                with gr.Row(elem_id="seed-row"):
                    seed = gr.Number(
                        first["seed"], label="Seed", info="the same seed writes the same text", precision=0, minimum=0,
                        maximum=MAX_SEED, elem_id="seed",
                    )  # fmt: skip
                    locked = gr.Checkbox(label="Lock", info="else new each time", elem_id="lock")

        # What is on the screen now: its text in the making, and its link and program for the copy buttons.
        session = gr.State(None, time_to_live=SESSION)
        query = gr.Textbox(first_ask.query(first["max_new_tokens"]), visible="hidden", elem_id="query", label="Query")
        program = gr.Textbox(first_ask.python(first["max_new_tokens"]), visible="hidden", elem_id="program", label="Program")

    choices = [temperature, top_k, top_p, min_p]
    outputs = [model, prompt, length, *choices, seed, notice, text, status, query, program, session, stop, go_on]

    def result(writing: Writing, running: bool) -> dict[Any, Any]:
        """What the page shows of a text, as it stands."""
        ask, pieces = writing.ask, len(writing.pieces)
        left_out = writing.lm.tokenizer.encode(ask.prompt).left_out
        shown = {text: sheet(ask.prompt, left_out, "".join(writing.pieces[:pieces]), running)}
        if running:
            return shown
        facts = f"{writing.speed:,.0f} characters per second · seed {ask.params.seed}"
        bits = f" · {writing.bits_per_character:.2f} bits per character" if pieces else ""
        return shown | {
            status: paragraph(facts + bits),
            query: ask.query(pieces),
            program: ask.python(pieces),
            stop: gr.update(interactive=False),
            go_on: gr.update(interactive=writing.room > 0),
        }

    def said(*sentences: str) -> dict[Any, Any]:
        return {notice: gr.update(value=paragraph(*sentences), visible=bool(sentences))}

    def run(writing: Writing, tokens: int) -> Iterator[dict[Any, Any]]:
        """Write on and show it, about twenty times a second."""
        notes = remarks(writing)
        full = [f"A text here ends at {MAX_TEXT:,} characters."] if tokens >= writing.room else []
        yield {
            seed: writing.ask.params.seed,
            session: writing,
            status: paragraph("Writing…"),
            stop: gr.update(interactive=True),
            go_on: gr.update(interactive=False),
            **said(*notes),
        }
        for _ in writing.write(tokens):
            yield result(writing, running=True)
        yield result(writing, running=False) | said(*notes, *full)

    def on_generate(
        name: str, prompt: str, length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, locked: bool
    ) -> Iterator[dict[Any, Any]]:
        try:
            tokens = bounded(length)
            ask = Ask(name, prompt, SamplingParams(temperature, top_k, top_p, min_p, tokens, seed if locked else None))
        except ValueError as error:
            yield said(f"Nothing was written: {error}") | {status: ""}
            return
        yield from run(Writing(ask, take(name).lm), tokens)

    def on_continue(length: int, query: str, writing: Writing | None) -> Iterator[dict[Any, Any]]:
        try:
            tokens = bounded(length)
            ask = Ask.from_query(query, best.lm.name)
            if writing is None or not ask.same_text(writing.ask):  # forgotten: write it again, from its seed
                writing = Writing(ask, take(ask.model).lm)
                for _ in writing.write(ask.params.max_new_tokens):
                    yield {status: paragraph("Finding the place…")}
            yield from run(writing, tokens)
        except ValueError as error:
            yield said(f"Nothing was written: {error}") | {status: ""}

    def on_stop(writing: Writing | None) -> dict[Any, Any]:
        return result(writing, running=False) if writing else {stop: gr.update(interactive=False)}

    def on_load(request: gr.Request) -> Iterator[dict[Any, Any]]:
        given = dict(request.query_params)
        if not given.keys() & LINK:
            yield {status: gr.skip()}  # no link to a text: the page as it is
            return
        try:
            ask = Ask.from_query(given, best.lm.name)
        except ValueError as error:
            yield said(f"This link cannot be shown: {error}")
            return
        asked = ask.params
        yield {
            model: ask.model,
            prompt: ask.prompt,
            length: min(max(asked.max_new_tokens, MIN_RUN), MAX_RUN),
            temperature: asked.temperature,
            top_k: asked.top_k,
            top_p: asked.top_p,
            min_p: asked.min_p,
        }
        yield from run(Writing(ask, take(ask.model).lm), asked.max_new_tokens)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    place: dict[str, Any] = {"concurrency_limit": VISITORS, "concurrency_id": "write", "api_visibility": "private"}
    queued: dict[str, Any] = place | {"show_progress": "minimal", "show_progress_on": status}  # one's place in the queue
    restored = page.load(on_load, None, outputs, **place, show_progress="hidden")
    continued = go_on.click(on_continue, [length, query, session], outputs, **queued)
    generated = gr.on(
        [generate.click, prompt.submit],
        on_generate,
        [model, prompt, length, *choices, seed, locked],
        outputs,
        cancels=[restored, continued],
        **queued,
    )
    stopped = stop.click(on_stop, session, outputs, cancels=[restored, continued, generated], queue=False, **quiet)
    for event in (continued, generated, stopped):
        event.then(None, query, None, js=KEEP_IN_ADDRESS, **quiet)
    copy_link.click(None, query, None, js=COPY_LINK, **quiet)
    copy_python.click(None, program, None, js=COPY_PYTHON, **quiet)

"""The tab Write: pick a model, type a prompt, watch it write."""

import json
import unicodedata
from collections.abc import AsyncIterator, Iterator
from html import escape
from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

import gradio as gr

from gpt import SamplingParams
from ui import hub, use
from ui.model_registry import ModelEntry, default, offered
from ui.session import LINK, MAX_RUN, MAX_TEMPERATURE, MAX_TEXT, MIN_RUN, GenerationRequest, GenerationSession, bounded

CHIPS = ("ROMEO:", "To be, or not to be", "My kingdom for a", "Once upon a time")
VISITORS = 32  # texts that are written at one time; more wait in the queue
SESSION = 30 * 60  # seconds for which the server keeps a text that can be continued; later it is written again
PLAIN = SamplingParams()

# What a text in the making changes on the page, in the order in which Gradio wants it. They are plain values alone:
# for each part that stays as it is, or changes in another way than its value, Gradio would build a component anew.
OUTPUTS = ("session", "text", "status", "notice", "query")
SETTINGS = ("model", "prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed")
# What a link changes, before its text is written.
LINKED = ("session", "notice", *SETTINGS[:-1])
Shown = tuple[Any, ...]

texts: WeakValueDictionary[str, GenerationSession] = (
    WeakValueDictionary()
)  # the last of each visitor, by the name of their session

# These run in the visitor's browser. A page without https has no clipboard; then the text is shown to be copied by hand.
COPY = """(text) => {{
  const button = document.querySelector("#{button}"), content = {content};
  const done = () => {{ button.innerText = "Copied"; setTimeout(() => button.innerText = "{label}", 1500); }};
  if (navigator.clipboard) navigator.clipboard.writeText(content).then(done, () => prompt("Copy this:", content));
  else prompt("Copy this:", content);
}}"""
COPY_LINK = COPY.format(button="copy-link", label="Copy link", content='location.origin + location.pathname + "?" + text')
COPY_PYTHON = COPY.format(button="copy-python", label="Copy as Python", content="text")
KEEP_IN_ADDRESS = '(query) => history.replaceState(null, "", "?" + query)'
KEEP_IF_LINK = f"(query) => {{ if (/[?&]({'|'.join(LINK)})=/.test(location.search)) ({KEEP_IN_ADDRESS})(query); }}"
BUTTONS = """(sheet) => {
  const writing = sheet.startsWith('<div class="sheet writing"'), full = sheet.startsWith('<div class="sheet full"');
  return [!writing, writing, !writing && !full].map((interactive) => ({ interactive, __type__: "update" }));
}"""
ABOUT = "<p>{}</p>"
# What a model is, and a prompt that suits it: one of a play is nothing to a model of names; what a visitor typed stays.
SUIT = """(id, prompt) => {{
  const suits = ({prompts})[id];
  document.querySelector("#chips").style.display = suits === "" ? "none" : "";
  return [({abouts})[id] ?? "", suits !== undefined && !!prompt !== !!suits && {known}.includes(prompt) ? suits : prompt];
}}"""
SEED = '(query) => Number(new URLSearchParams(query).get("seed"))'


def sheet(prompt: str, unknown_chars: str, text: str, state: str = "") -> str:
    """Prompt and text as HTML, every character of them escaped; what was left out of the prompt is struck through.

    state: "", " writing" or " full", which the buttons go by.
    """
    asked = "".join(f"<s>{_safe(c)}</s>" if c in unknown_chars else _safe(c) for c in prompt)
    return (
        f'<div class="sheet{state}" role="region" aria-label="Text" tabindex="0">'
        f'<div><span class="prompt">{asked}</span><span class="written">{_safe(text)}</span></div></div>'
    )


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())  # half a character pair cannot be sent


def paragraph(*sentences: str) -> str:
    return f'<p role="status">{_safe(" ".join(sentences))}</p>' if sentences else ""


def note(*sentences: str) -> str:
    """What the notice above the text becomes: the sentences, or nothing at all."""
    return paragraph(*(sentence if sentence.endswith((".", "…")) else f"{sentence}." for sentence in sentences))


def remarks(writing: GenerationSession) -> list[str]:
    """What the visitor should know about this prompt."""
    said, unknown_chars = [], writing.unknown_chars
    if unknown_chars:
        names = [c if c.isprintable() else unicodedata.name(c, "").lower() or f"U+{ord(c):04X}" for c in unknown_chars[:20]]
        were = "it was" if len(unknown_chars) == 1 else "they were"
        said.append(f"This model never saw {' '.join(names)}{' …' if len(unknown_chars) > 20 else ''}; {were} left out.")
        if not writing.prompt_tokens:
            said.append("Nothing of the prompt remains, so it starts on a new line.")
    if writing.prompt_tokens > writing.lm.window > 1:
        said.append(f"The prompt is read whole, but this model sees {writing.lm.window} {writing.lm.tokenizer.unit}s at a time.")
    return said


def refused(error: ValueError) -> Shown:
    """Everything as it is, with the reason why nothing was written."""
    return gr.skip(), gr.skip(), gr.skip(), note(f"Nothing was written: {error}"), gr.skip()


def finished(writing: GenerationSession) -> Shown:
    """What the page shows of a text at rest."""
    ask, pieces = writing.ask, len(writing.pieces)
    facts = [f"seed {ask.params.seed}"]
    if pieces:
        facts = [f"{writing.speed:,.0f} characters per second", *facts, f"{writing.bits_per_character:.2f} bits per character"]
    full = [] if writing.room else [f"A text here ends at {MAX_TEXT:,} {writing.lm.tokenizer.unit}s."]
    status, notice = paragraph(" · ".join(facts)), note(*remarks(writing), *full)
    text = sheet(ask.prompt, writing.unknown_chars, writing.text, "" if writing.room else " full")
    return writing, text, status, notice, ask.query(pieces)


async def run(writing: GenerationSession, tokens: int, visitor: gr.Request) -> AsyncIterator[Shown]:
    """Write on, and show it about twenty times a second."""
    texts[visitor.session_hash or ""] = writing
    ask, whole, notice = writing.ask, min(len(writing.pieces) + tokens, MAX_TEXT), note(*remarks(writing))
    about = paragraph("GenerationSession…"), notice, ask.query(whole)
    async for _ in writing.write(tokens):
        yield writing, sheet(ask.prompt, writing.unknown_chars, writing.text, " writing"), *about
    yield finished(writing)


async def on_generate(
    model: str, prompt: str, length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, locked: bool,
    visitor: gr.Request,
) -> AsyncIterator[Shown]:  # fmt: skip
    try:
        tokens = bounded(length)
        writing = GenerationSession(
            GenerationRequest(model, prompt, SamplingParams(temperature, top_k, top_p, min_p, tokens, seed if locked else None))
        )
    except ValueError as error:
        yield refused(error)
        return
    async for each in run(writing, tokens, visitor):
        yield each


async def on_continue(length: int, query: str, writing: GenerationSession | None, visitor: gr.Request) -> AsyncIterator[Shown]:
    try:
        tokens = bounded(length)
        ask = GenerationRequest.from_query(query, default().id)
        if writing is None or not writing.can_go_on or not ask.same_text(writing.ask):  # forgotten: write it again
            writing = GenerationSession(ask)
            async for _ in writing.write(ask.params.max_new_tokens):
                text = sheet(ask.prompt, writing.unknown_chars, writing.text, " writing")
                yield writing, text, paragraph("Finding the place…"), note(), query
            if len(writing.pieces) < ask.params.max_new_tokens:
                yield finished(writing)
                return
        async for each in run(writing, tokens, visitor):
            yield each
    except ValueError as error:
        yield refused(error)


async def on_stop(writing: GenerationSession | None) -> None:
    if writing:
        writing.stop()  # the handler that writes it sees that, and shows what there is


def on_leave(visitor: gr.Request) -> None:
    """Free what the text of a visitor who left could have gone on with. Should they come back, it is written again."""
    if writing := texts.get(visitor.session_hash or ""):
        writing.forget()


def on_load(visitor: gr.Request) -> Iterator[Shown]:
    """Read the link; the writing comes after this."""
    same = [gr.skip() for _ in LINKED[2:]]
    given = dict(parse_qsl(str(visitor.query_params), keep_blank_values=True))
    if not given.keys() & set(LINK):
        yield None, gr.skip(), *same  # no link to a text: the page as it is
        return
    try:
        if "/" in (model := given.get("model", "")) and model not in offered():
            for told in hub.opening(model):
                yield None, note(told), *same
            given["model"] = told
        ask = GenerationRequest.from_query(given, default().id)
        writing = GenerationSession(ask)
    except ValueError as error:
        yield None, note(f"This link cannot be shown: {error}"), *same
        return
    asked = ask.params
    choice, length = gr.update(choices=hub.choices(), value=ask.model), min(max(asked.max_new_tokens, MIN_RUN), MAX_RUN)
    yield writing, note(), choice, ask.prompt, length, asked.temperature, asked.top_k, asked.top_p, asked.min_p


async def on_linked(writing: GenerationSession | None, visitor: gr.Request) -> AsyncIterator[Shown]:
    """Write what a link tells, once its settings are on the page."""
    if not writing:
        yield tuple(gr.skip() for _ in OUTPUTS)
        return
    async for each in run(writing, writing.ask.params.max_new_tokens, visitor):
        yield each


def build(page: gr.Blocks, models: list[ModelEntry]) -> None:
    """Lay out the tab inside `page`; `models` are its own."""
    opened = default()
    first = opened.facts["sample"]
    ask = GenerationRequest(
        opened.id, first["prompt"], SamplingParams(**{n: first[n] for n in SamplingParams.__dataclass_fields__})
    )
    parts: dict[str, gr.components.Component] = {}

    with gr.Column(elem_id="write"):
        with gr.Column(elem_id="ask"):
            parts["prompt"] = prompt = gr.Textbox(
                ask.prompt, label="Prompt", lines=2, max_lines=8, elem_id="prompt",
                placeholder="Empty starts on a new line. Shift + Enter generates.",
            )  # fmt: skip
            with gr.Row(elem_id="chips"):
                chips = [gr.Button(chip, size="sm") for chip in CHIPS]
            with gr.Row(elem_id="buttons"):
                parts["generate"] = generate = gr.Button("Generate", variant="primary", elem_id="generate")
                parts["stop"] = stop = gr.Button("Stop", elem_id="stop", interactive=False)
                parts["go_on"] = go_on = gr.Button("Continue", elem_id="continue")
        with gr.Column(elem_id="sheet"):
            parts["notice"] = gr.HTML("", elem_id="notice")
            parts["text"] = text = gr.HTML(sheet(ask.prompt, "", first["text"]), elem_id="text")
            told = paragraph(f"Written when this model had just been trained · seed {ask.params.seed}")
            parts["status"] = gr.HTML(told, elem_id="status")
            with gr.Row(elem_id="copies"):
                copy_link = gr.Button("Copy link", size="sm", elem_id="copy-link")
                copy_python = gr.Button("Copy as Python", size="sm", elem_id="copy-python")
        with gr.Column(elem_id="settings"):
            parts["model"] = model = gr.Radio(
                hub.choices(), value=opened.id, label="Model", elem_id="models", elem_classes="models"
            )
            about = gr.HTML(ABOUT.format(escape(opened.about)), elem_id="about")
            hub.build(model)
            parts["temperature"] = gr.Slider(
                0, MAX_TEMPERATURE, PLAIN.temperature, step=0.05, label="Temperature", info="0 = always the likeliest, 2 = wild",
                elem_id="temperature",
            )  # fmt: skip
            parts["length"] = gr.Slider(
                MIN_RUN, MAX_RUN, PLAIN.max_new_tokens, step=10, label="Length", info="characters, or pieces of words, to write",
                elem_id="length",
            )  # fmt: skip
            with gr.Accordion("More", open=False, elem_id="more"):
                vocabulary = max(len(m.lm.tokenizer) for m in models)
                parts["top_k"] = gr.Slider(0, vocabulary, 0, step=1, label="Top-k", info="the k likeliest alone; 0 = off")
                parts["top_p"] = gr.Slider(
                    0.05, 1, 1, step=0.05, label="Top-p", info="the likeliest that hold this share; 1 = off"
                )
                parts["min_p"] = gr.Slider(
                    0, 0.5, 0, step=0.01, label="Min-p", info="not below this share of the likeliest; 0 = off"
                )
                with gr.Row(elem_id="seed-row"):
                    info = "the same seed writes the same text"
                    parts["seed"] = gr.Number(ask.params.seed, label="Seed", info=info, precision=0, elem_id="seed")
                    locked = gr.Checkbox(label="Lock", info="else new each time", elem_id="lock")

        # What is on the screen now: its link, and its text in the making.
        query = gr.Textbox(ask.query(ask.params.max_new_tokens), visible="hidden", elem_id="query", label="Query")
        parts["query"] = query
        parts["session"] = gr.State(None, time_to_live=SESSION)
    program = use.build(page, query, model)

    outputs = [parts[name] for name in OUTPUTS]
    settings = [parts[name] for name in SETTINGS]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    place: dict[str, Any] = {"concurrency_limit": VISITORS, "concurrency_id": "write", "api_visibility": "private"}
    place["postprocess"] = False  # what they give is as the browser wants it
    queued: dict[str, Any] = place | {"show_progress": "minimal", "show_progress_on": parts["status"]}  # one's place in the queue
    linked = page.load(on_load, None, [parts[name] for name in LINKED], **quiet)
    restored = linked.then(on_linked, parts["session"], outputs, **place, show_progress="hidden")
    generated = gr.on([generate.click, prompt.submit], on_generate, [*settings, locked], outputs, **queued)
    continued = go_on.click(on_continue, [parts["length"], query, parts["session"]], outputs, **queued)
    page.unload(on_leave)
    stop.click(on_stop, parts["session"], None, queue=False, **quiet)
    text.change(None, text, [generate, stop, go_on], js=BUTTONS, **quiet)
    query.change(None, query, parts["seed"], js=SEED, **quiet)
    restored.then(None, query, None, js=KEEP_IF_LINK, **quiet)
    for event in (generated, continued):
        event.then(None, query, None, js=KEEP_IN_ADDRESS, **quiet)
    abouts = {each.id: ABOUT.format(escape(each.about)) for each in models}
    prompts = {each.id: each.facts["sample"]["prompt"] for each in models}
    suit = {"abouts": abouts, "prompts": prompts, "known": [*CHIPS, *set(prompts.values())]}
    suit_js = SUIT.format(**{name: json.dumps(each) for name, each in suit.items()})
    model.change(None, [model, prompt], [about, prompt], js=suit_js, **quiet)
    copy_link.click(None, query, None, js=COPY_LINK, **quiet)
    copy_python.click(None, program, None, js=COPY_PYTHON, **quiet)
    for chip in chips:
        chip.click(None, None, prompt, js=f"() => {json.dumps(chip.value)}", **quiet)

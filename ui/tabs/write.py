"""The tab Write: pick a model, type a prompt, watch it write."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from html import escape
from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

import gradio as gr

from gpt import SamplingParams
from ui import hub_panel, snippets
from ui.assets import js_call
from ui.model_registry import ModelEntry, default_model, model_ids
from ui.session import (
    LINK,
    MAX_RUN_TOKENS,
    MAX_TEMPERATURE,
    MAX_TEXT_TOKENS,
    MIN_RUN_TOKENS,
    GenerationRequest,
    GenerationSession,
    check_run_tokens,
)

EXAMPLES = ("ROMEO:", "To be, or not to be", "My kingdom for a", "Once upon a time")
MAX_RUNS = 32  # texts that are generated at the same time; more requests wait in the queue
SESSION_TTL_S = 30 * 60  # how long the server keeps a text that can be continued; later it is generated again
DEFAULTS = SamplingParams()

# What a running text changes on the page, in the order of the handlers' outputs. They are plain values only: for
# gr.skip(), or an update that is more than a value, Gradio would build the component anew each time.
OUTPUTS = ("session", "text", "status", "notice", "query")
SETTINGS = ("model", "prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed")
# What a link changes, before its text is generated.
LINKED = ("session", "notice", *SETTINGS[:-1])
Outputs = tuple[Any, ...]

sessions: WeakValueDictionary[str, GenerationSession] = WeakValueDictionary()  # of each visitor, the last, by session_hash


def text_html(prompt: str, unknown_chars: str, text: str, state: str = "") -> str:
    """Prompt and text as HTML, every character escaped.

    Args:
        prompt: The prompt.
        unknown_chars: Characters of it to strike through.
        text: The text after it.
        state: "", " running" or " full"; it decides which buttons can be pressed (`buttonStates` in page.js).
    """
    read = "".join(f"<s>{_escape(c)}</s>" if c in unknown_chars else _escape(c) for c in prompt)
    return (
        f'<div class="output{state}" role="region" aria-label="Text" tabindex="0">'
        f'<div><span class="prompt">{read}</span><span class="generated">{_escape(text)}</span></div></div>'
    )


def _escape(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())  # a lone surrogate cannot be sent


def paragraph(*sentences: str) -> str:
    """A message as HTML, or nothing."""
    return f'<p role="status">{_escape(" ".join(sentences))}</p>' if sentences else ""


def notice(*sentences: str) -> str:
    """The notice above the text."""
    return paragraph(*(sentence if sentence.endswith((".", "…")) else f"{sentence}." for sentence in sentences))


def running_html(session: GenerationSession) -> str:
    """The text of a session while it grows."""
    return text_html(session.prompt, session.unknown_chars, session.text, " running")


def refused(error: ValueError) -> Outputs:
    """Leave everything as it is, and say why nothing was generated."""
    return gr.skip(), gr.skip(), gr.skip(), notice(f"Nothing was written: {error}"), gr.skip()


def finished(session: GenerationSession) -> Outputs:
    """What the page shows of a text that does not grow."""
    request, pieces = session.request, len(session.pieces)
    facts = [f"seed {request.params.seed}"]
    if pieces:
        facts.insert(0, f"{session.chars_per_second:,.0f} characters per second")
    if (bits := session.bits_per_character) is not None:
        facts.append(f"{bits:.2f} bits per character")
    full = [] if session.remaining else [f"A text here ends at {MAX_TEXT_TOKENS:,} {session.lm.tokenizer.unit}s."]
    text = text_html(session.prompt, session.unknown_chars, session.text, "" if session.remaining else " full")
    return session, text, paragraph(" · ".join(facts)), notice(*session.remarks(), *full), request.query(pieces)


async def run(session: GenerationSession, tokens: int, visitor: gr.Request) -> AsyncIterator[Outputs]:
    """Generate tokens, and show them about 20 times a second."""
    sessions[visitor.session_hash or ""] = session
    query = session.request.query(min(len(session.pieces) + tokens, MAX_TEXT_TOKENS))
    others = paragraph("Writing…"), notice(*session.remarks()), query
    async for _ in session.run(tokens):
        yield session, running_html(session), *others
    yield finished(session)


async def on_generate(
    model: str, prompt: str, length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, locked: bool,
    visitor: gr.Request,
) -> AsyncIterator[Outputs]:  # fmt: skip
    """Start a new text."""
    try:
        tokens = check_run_tokens(length)
        params = SamplingParams(temperature, top_k, top_p, min_p, tokens, seed if locked else None)
        session = await asyncio.to_thread(GenerationSession, GenerationRequest(model, prompt, params))
        async for outputs in run(session, tokens, visitor):
            yield outputs
    except ValueError as error:
        yield refused(error)


async def on_continue(
    length: int, query: str, session: GenerationSession | None, visitor: gr.Request
) -> AsyncIterator[Outputs]:  # fmt: skip
    """Continue the text on the screen; if the server no longer has its state, generate it again first."""
    try:
        tokens = check_run_tokens(length)
        request = GenerationRequest.from_query(query, default_model().id)
        if session is None or not session.can_continue or not request.is_same_text(session.request):
            session = await asyncio.to_thread(GenerationSession, request)
            async for _ in session.run(request.params.max_new_tokens):
                yield session, running_html(session), paragraph("Writing the text so far again…"), notice(), query
            if len(session.pieces) < request.params.max_new_tokens:
                yield finished(session)
                return
        async for outputs in run(session, tokens, visitor):
            yield outputs
    except ValueError as error:
        yield refused(error)


async def on_stop(session: GenerationSession | None) -> None:
    """Stop the text that is being generated; the handler that generates it shows the result."""
    if session:
        session.stop()


def on_leave(visitor: gr.Request) -> None:
    """Free the state of a visitor's text. If they come back and continue, it is generated again."""
    if session := sessions.get(visitor.session_hash or ""):
        session.release()


def on_load(visitor: gr.Request) -> Iterator[Outputs]:
    """Read the link that the page was opened with, and set the controls; `on_linked` generates the text."""
    unchanged = [gr.skip() for _ in LINKED[2:]]
    values = dict(parse_qsl(str(visitor.query_params), keep_blank_values=True))
    if not values.keys() & LINK.keys():
        yield None, gr.skip(), *unchanged  # no link to a text
        return
    try:
        if "/" in (model := values.get("model", "")) and model not in model_ids():
            for message in hub_panel.open_from_hub(model):
                yield None, notice(message), *unchanged
            values["model"] = message  # the last one is its id
        request = GenerationRequest.from_query(values, default_model().id)
        session = GenerationSession(request)
    except ValueError as error:
        yield None, notice(f"This link cannot be shown: {error}"), *unchanged
        return
    params = request.params
    choice = gr.update(choices=hub_panel.choices(), value=request.model)
    length = min(max(params.max_new_tokens, MIN_RUN_TOKENS), MAX_RUN_TOKENS)
    settings = length, params.temperature, params.top_k, params.top_p, params.min_p
    yield session, notice(), choice, request.prompt, *settings


async def on_linked(session: GenerationSession | None, visitor: gr.Request) -> AsyncIterator[Outputs]:
    """Generate the text of a link."""
    if not session:
        yield tuple(gr.skip() for _ in OUTPUTS)
        return
    try:
        async for outputs in run(session, session.request.params.max_new_tokens, visitor):
            yield outputs
    except ValueError as error:
        yield refused(error)


def build(page: gr.Blocks, models: list[ModelEntry]) -> None:
    """Lay out the tab.

    Args:
        page: The page, for its load and unload events.
        models: The models that it always offers.
    """
    opened = default_model()
    sample = opened.sample or {"prompt": "", "text": ""}
    settings = {name: sample[name] for name in SamplingParams.__dataclass_fields__ if name in sample}
    request = GenerationRequest(opened.id, sample["prompt"], SamplingParams(**settings))
    parts: dict[str, gr.components.Component] = {}

    with gr.Column(elem_id="write"):
        with gr.Column(elem_id="controls"):
            parts["prompt"] = prompt = gr.Textbox(
                request.prompt, label="Prompt", lines=2, max_lines=8, elem_id="prompt",
                placeholder="Leave it empty to start on a new line. Shift + Enter generates.",
            )  # fmt: skip
            with gr.Row(elem_id="chips"):
                examples = [gr.Button(example, size="sm") for example in EXAMPLES]
            with gr.Row(elem_id="buttons"):
                parts["generate"] = generate = gr.Button("Generate", variant="primary", elem_id="generate")
                parts["stop"] = stop = gr.Button("Stop", elem_id="stop", interactive=False)
                parts["continue"] = continue_ = gr.Button("Continue", elem_id="continue")
        with gr.Column(elem_id="output"):
            parts["notice"] = gr.HTML("", elem_id="notice")
            parts["text"] = text = gr.HTML(text_html(request.prompt, "", sample["text"]), elem_id="text")
            status = paragraph(f"A sample from the end of this model's training · seed {request.params.seed}")
            parts["status"] = gr.HTML(status, elem_id="status")
            with gr.Row(elem_id="copies"):
                copy_link = gr.Button("Copy link", size="sm", elem_id="copy-link")
                copy_python = gr.Button("Copy as Python", size="sm", elem_id="copy-python")
        with gr.Column(elem_id="settings"):
            parts["model"] = model = gr.Radio(
                hub_panel.choices(), value=opened.id, label="Model", elem_id="models", elem_classes="models"
            )
            about = gr.HTML(_description(opened), elem_id="about")
            hub_panel.build(model)
            parts["temperature"] = gr.Slider(
                0, MAX_TEMPERATURE, DEFAULTS.temperature, step=0.05, label="Temperature",
                info="0 = always the most likely, 2 = wild", elem_id="temperature",
            )  # fmt: skip
            parts["length"] = gr.Slider(
                MIN_RUN_TOKENS, MAX_RUN_TOKENS, DEFAULTS.max_new_tokens, step=10, label="Length",
                info="characters to write, or pieces of words", elem_id="length",
            )  # fmt: skip
            with gr.Accordion("More", open=False, elem_id="more"):
                vocab_size = max(len(entry.lm.tokenizer) for entry in models)
                parts["top_k"] = gr.Slider(
                    0, vocab_size, 0, step=1, label="Top-k", info="only the k most likely; 0 = off"
                )  # fmt: skip
                parts["top_p"] = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="the most likely that add up to p; 1 = off")
                parts["min_p"] = gr.Slider(0, 0.5, 0, step=0.01, label="Min-p", info="at least p times the most likely; 0 = off")
                with gr.Row(elem_id="seed-row"):
                    info = "the same seed gives the same text"
                    parts["seed"] = gr.Number(request.params.seed, label="Seed", info=info, precision=0, elem_id="seed")
                    locked = gr.Checkbox(label="Lock", info="otherwise new each time", elem_id="lock")

        # The link of the text on the screen, and its session.
        query = gr.Textbox(request.query(request.params.max_new_tokens), visible="hidden", elem_id="query", label="Query")
        parts["query"] = query
        parts["session"] = gr.State(None, time_to_live=SESSION_TTL_S)
    program = snippets.build(page, query, model)

    outputs = [parts[name] for name in OUTPUTS]
    inputs = [parts[name] for name in SETTINGS]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    limits: dict[str, Any] = {"concurrency_limit": MAX_RUNS, "concurrency_id": "write", "api_visibility": "private"}
    limits["postprocess"] = False  # the handlers yield what the browser wants
    queued: dict[str, Any] = limits | {"show_progress": "minimal", "show_progress_on": parts["status"]}  # the place in the queue
    linked = page.load(on_load, None, [parts[name] for name in LINKED], **quiet)
    restored = linked.then(on_linked, parts["session"], outputs, **limits, show_progress="hidden")
    generated = gr.on([generate.click, prompt.submit], on_generate, [*inputs, locked], outputs, **queued)
    continued = continue_.click(on_continue, [parts["length"], query, parts["session"]], outputs, **queued)
    page.unload(on_leave)
    stop.click(on_stop, parts["session"], None, queue=False, **quiet)
    text.change(None, text, [generate, stop, continue_], js=js_call("buttonStates"), **quiet)
    query.change(None, query, parts["seed"], js=js_call("seedOf"), **quiet)
    restored.then(None, query, None, js=js_call("completeLink", list(LINK)), **quiet)
    for event in (generated, continued):
        event.then(None, query, None, js=js_call("showInAddress"), **quiet)
    prompts = {entry.id: entry.sample["prompt"] for entry in models if entry.sample}
    known = {
        "descriptions": {entry.id: _description(entry) for entry in models},
        "prompts": prompts,
        "examples": [*EXAMPLES, *set(prompts.values())],
    }
    model.change(None, [model, prompt], [about, prompt], js=js_call("selectModel", known), **quiet)
    copy_link.click(None, query, None, js=js_call("copyLink"), **quiet)
    copy_python.click(None, program, None, js=js_call("copyPython"), **quiet)
    for example in examples:
        example.click(None, None, prompt, js=js_call("value", example.value), **quiet)


def _description(entry: ModelEntry) -> str:
    return f"<p>{escape(entry.explanation)}</p>"

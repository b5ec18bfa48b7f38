"""The tab Write: pick a model, type a prompt, watch it write."""

import json
import unicodedata
from collections.abc import Iterator
from html import escape
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from gpt import SamplingParams
from ui import hub, use
from ui.shelf import Shelved, default, offered, take
from ui.writing import LINK, MAX_RUN, MAX_TEMPERATURE, MAX_TEXT, MIN_RUN, Ask, Writing, bounded

CHIPS = ("ROMEO:", "To be, or not to be", "My kingdom for a", "Once upon a time")
VISITORS = 32  # texts that are written at one time, each on its turn; more wait in the queue
SESSION = 30 * 60  # seconds for which the server keeps a text that can be continued; later it is written again
PLAIN = SamplingParams()

# What the handlers below may change on the page, in the order in which Gradio wants it.
OUTPUTS = (
    "model", "prompt", "length", "temperature", "top_k", "top_p", "min_p", "seed",
    "notice", "text", "status", "generate", "stop", "go_on", "query", "session",
)  # fmt: skip
Update = list[Any]

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


def update(**changes: Any) -> Update:
    """The page with these changes, and everything else as it is."""
    return [changes.get(name, gr.skip()) for name in OUTPUTS]


def sheet(prompt: str, left_out: str, text: str, writing: bool = False) -> str:
    """Prompt and text as HTML, every character of them escaped; what was left out of the prompt is struck through."""
    asked = "".join(f"<s>{_safe(c)}</s>" if c in left_out else _safe(c) for c in prompt)
    state = " writing" if writing else ""
    return (
        f'<div class="sheet{state}" role="region" aria-label="Text" tabindex="0">'
        f'<div><span class="prompt">{asked}</span><span class="written">{_safe(text)}</span></div></div>'
    )


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode())  # half a character pair cannot be sent


def paragraph(*sentences: str) -> str:
    return f'<p role="status">{_safe(" ".join(sentences))}</p>' if sentences else ""


def note(*sentences: str) -> Any:
    """What the notice above the text becomes: the sentences, or nothing at all."""
    whole = [sentence if sentence.endswith((".", "…")) else f"{sentence}." for sentence in sentences]
    return gr.update(value=paragraph(*whole), visible=bool(whole))


def remarks(writing: Writing) -> list[str]:
    """What the visitor should know about this prompt."""
    said, left_out = [], writing.left_out
    if left_out:
        names = [c if c.isprintable() else unicodedata.name(c, "").lower() or f"U+{ord(c):04X}" for c in left_out[:20]]
        were = "it was" if len(left_out) == 1 else "they were"
        said.append(f"This model never saw {' '.join(names)}{' …' if len(left_out) > 20 else ''}; {were} left out.")
        if not writing.prompt_tokens:
            said.append("Nothing of the prompt remains, so it starts on a new line.")
    if writing.prompt_tokens > writing.lm.window > 1:
        said.append(f"The prompt is read whole, but this model sees {writing.lm.window} characters at a time.")
    return said


def finished(writing: Writing) -> dict[str, Any]:
    """What the page shows of a text at rest."""
    ask, pieces = writing.ask, len(writing.pieces)
    facts = [f"seed {ask.params.seed}"]
    if pieces:
        facts = [f"{writing.speed:,.0f} characters per second", *facts, f"{writing.bits_per_character:.2f} bits per character"]
    return {
        "text": sheet(ask.prompt, writing.left_out, writing.text),
        "status": paragraph(" · ".join(facts)),
        "query": ask.query(pieces),
        "generate": gr.update(interactive=True),
        "stop": gr.update(interactive=False),
        "go_on": gr.update(interactive=writing.room > 0),
    }


def run(writing: Writing, tokens: int, **settings: Any) -> Iterator[Update]:
    """Write on and show it, about twenty times a second, with `settings` that the page shall show too."""
    notes, ask, whole = remarks(writing), writing.ask, len(writing.pieces) + tokens
    yield update(
        **settings,
        seed=ask.params.seed,
        session=writing,
        status=paragraph("Writing…"),
        notice=note(*notes),
        query=ask.query(min(whole, MAX_TEXT)),
        generate=gr.update(interactive=False),
        stop=gr.update(interactive=True),
        go_on=gr.update(interactive=False),
    )
    for _ in writing.write(tokens):
        yield update(text=sheet(ask.prompt, writing.left_out, writing.text, writing=True))
    full = [] if writing.room else [f"A text here ends at {MAX_TEXT:,} characters."]
    yield update(**finished(writing), notice=note(*notes, *full))


def on_generate(
    model: str, prompt: str, length: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, locked: bool
) -> Iterator[Update]:
    try:
        tokens = bounded(length)
        ask = Ask(model, prompt, SamplingParams(temperature, top_k, top_p, min_p, tokens, seed if locked else None))
    except ValueError as error:
        yield update(notice=note(f"Nothing was written: {error}"))
        return
    yield from run(Writing(ask, take(model).lm), tokens)


def on_continue(length: int, query: str, writing: Writing | None) -> Iterator[Update]:
    try:
        tokens = bounded(length)
        ask = Ask.from_query(query, default().id)
        if writing is None or not ask.same_text(writing.ask):  # forgotten: write it again, from its seed
            writing = Writing(ask, take(ask.model).lm)
            stop = gr.update(interactive=True)
            yield update(session=writing, status=paragraph("Finding the place…"), stop=stop)
            for _ in writing.write(ask.params.max_new_tokens):
                yield update()
            if writing.stopping.is_set():
                yield update(**finished(writing))
                return
        else:
            writing.stopping.clear()
        yield from run(writing, tokens)
    except ValueError as error:
        yield update(notice=note(f"Nothing was written: {error}"))


def on_stop(writing: Writing | None) -> None:
    if writing:
        writing.stopping.set()  # the handler that writes it sees that, and shows what there is


def on_load(request: gr.Request) -> Iterator[Update]:
    given = dict(parse_qsl(str(request.query_params), keep_blank_values=True))
    if not given.keys() & set(LINK):
        yield update()  # no link to a text: the page as it is
        return
    try:
        if "/" in (model := given.get("model", "")) and model not in offered():
            for told in hub.opening(model):
                yield update(notice=note(told))
            given["model"] = told
        ask = Ask.from_query(given, default().id)
    except ValueError as error:
        yield update(notice=note(f"This link cannot be shown: {error}"))
        return
    asked = ask.params
    yield from run(
        Writing(ask, take(ask.model).lm),
        asked.max_new_tokens,
        model=gr.update(choices=hub.choices(), value=ask.model),
        prompt=ask.prompt,
        length=min(max(asked.max_new_tokens, MIN_RUN), MAX_RUN),
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
    )


def build(page: gr.Blocks, models: list[Shelved]) -> None:
    """Lay out the tab inside `page`; `models` are its own."""
    opened = default()
    first = opened.facts["sample"]
    ask = Ask(opened.id, first["prompt"], SamplingParams(**{n: first[n] for n in SamplingParams.__dataclass_fields__}))
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
            parts["notice"] = gr.HTML("", elem_id="notice", visible=False)
            parts["text"] = gr.HTML(sheet(ask.prompt, "", first["text"]), elem_id="text")
            told = paragraph(f"Written when this model had just been trained · seed {ask.params.seed}")
            parts["status"] = gr.HTML(told, elem_id="status")
            with gr.Row(elem_id="copies"):
                copy_link = gr.Button("Copy link", size="sm", elem_id="copy-link")
                copy_python = gr.Button("Copy as Python", size="sm", elem_id="copy-python")
        with gr.Column(elem_id="settings"):
            parts["model"] = model = gr.Radio(hub.choices(), value=opened.id, label="Model", elem_id="models")
            hub.build(model)
            parts["temperature"] = gr.Slider(
                0, MAX_TEMPERATURE, PLAIN.temperature, step=0.05, label="Temperature", info="0 = always the likeliest, 2 = wild",
                elem_id="temperature",
            )  # fmt: skip
            parts["length"] = gr.Slider(
                MIN_RUN, MAX_RUN, PLAIN.max_new_tokens, step=10, label="Length", info="characters to write", elem_id="length"
            )
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
    settings = [parts[name] for name in OUTPUTS[:8]]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    place: dict[str, Any] = {"concurrency_limit": VISITORS, "concurrency_id": "write", "api_visibility": "private"}
    queued: dict[str, Any] = place | {"show_progress": "minimal", "show_progress_on": parts["status"]}  # one's place in the queue
    restored = page.load(on_load, None, outputs, **place, show_progress="hidden")
    generated = gr.on([generate.click, prompt.submit], on_generate, [*settings, locked], outputs, **queued)
    continued = go_on.click(on_continue, [parts["length"], query, parts["session"]], outputs, **queued)
    stop.click(on_stop, parts["session"], None, queue=False, **quiet)
    restored.then(None, query, None, js=KEEP_IF_LINK, **quiet)
    for event in (generated, continued):
        event.then(None, query, None, js=KEEP_IN_ADDRESS, **quiet)
    copy_link.click(None, query, None, js=COPY_LINK, **quiet)
    copy_python.click(None, program, None, js=COPY_PYTHON, **quiet)
    for chip in chips:
        chip.click(None, None, prompt, js=f"() => {json.dumps(chip.value)}", **quiet)

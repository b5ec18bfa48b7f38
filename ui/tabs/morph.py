"""The tab Morph: lines as points of a space, and what lies between two of them."""

import json
from collections.abc import Sequence
from html import escape
from secrets import randbelow
from typing import Any

import gradio as gr
import torch

from gpt import LatentModel, SamplingParams
from gpt.sampling import MAX_SEED
from ui.model_registry import ModelEntry, shelf, take

MAX_LINE = 64  # characters that a visitor may send
STEPS = 9  # lines from one end to the other, both of them among them
DRAWN = 24  # new names at once, or half as many lines
AROUND = 12
NAME = 16  # characters that a name has at most
NEAR, FAR = 0.4, 2.0  # standard deviations from a point
# Two lines that suit a model, and how far to look around the first.
ENDS = {"names": ("emma", "oliver", 1.0), "shakespeare": ("Give me your hand.", "What is the matter?", 0.6)}
GREEDY = SamplingParams(temperature=0, max_new_tokens=MAX_LINE)
ABOUT = (
    "This model turned every line that it learned from into a point: a few dozen numbers. From any point it writes a line, "
    "so there are lines that nobody wrote, and a way from each to each."
)

SUIT = "(id) => {{ const [a, b, distance] = {ends}[id]; return [a, b, a, distance]; }}"


def offered() -> list[ModelEntry]:
    """The models that have a space of lines."""
    return [shelved for shelved in shelf() if isinstance(shelved.lm, LatentModel)]


def model(id: str) -> LatentModel:
    """Raises ValueError, in a sentence for the visitor, if it has no space of lines."""
    if not isinstance(lm := take(id).lm, LatentModel):
        raise ValueError(f"{id[:60]} has no space of lines; pick one of {', '.join(shelved.id for shelved in offered())}.")
    return lm


def place(lm: LatentModel, line: str) -> torch.Tensor:
    """Where a visitor's line lies. Raises ValueError, in a sentence, for what is no line that the model knows."""
    line = line.strip() if isinstance(line, str) else ""
    if not 0 < len(line) <= MAX_LINE:
        raise ValueError(f"Type a line of 1 to {MAX_LINE} characters.")
    if lm.tokenizer.encode(line).unknown_chars:
        line = line.lower()
    if unknown_chars := lm.tokenizer.encode(line).unknown_chars:
        raise ValueError(f"This model never saw {' '.join(unknown_chars[:20])}; type something else.")
    return lm.encode(line)


def names(lines: Sequence[str]) -> bool:
    """Whether they are as short as names, which stand in two columns."""
    return max(map(len, lines)) <= NAME


def written(lines: Sequence[str], pick: int = -1) -> str:
    """Lines as a list in HTML, every character escaped; one of them in bold."""
    items = "".join(
        f"<li>{f'<b>{escape(line)}</b>' if i == pick else escape(line)}</li>" if line else "<li><i>(nothing)</i></li>"
        for i, line in enumerate(lines)
    )
    kind = "lines names" if names(lines) else "lines"
    return f'<ul class="{kind}" role="status">{items}</ul>'


def told(sentence: str) -> str:
    return f'<p role="status">{escape(sentence)}</p>'


def on_draw(id: str) -> str:
    try:
        lm = model(id)
    except ValueError as error:
        return told(str(error))
    points = torch.randn(DRAWN, lm.model.config.latent_size)
    params = SamplingParams(temperature=0.5, max_new_tokens=MAX_LINE, seed=randbelow(MAX_SEED))  # the points differ enough
    lines = lm.decode_all(list(points), params)
    return written(lines if names(lines) else lines[: DRAWN // 2])


def on_return(id: str, line: str, distance: float) -> str:
    """What comes back of a line, and what lies around it."""
    try:
        lm = model(id)
        z = place(lm, line)
        if not NEAR <= distance <= FAR:
            raise ValueError(f"The distance goes from {NEAR} to {FAR}.")
    except ValueError as error:
        return told(str(error))
    back, *around = lm.decode_all([z, *(z + distance * torch.randn_like(z) for _ in range(AROUND))], GREEDY)
    others = [each for each in dict.fromkeys(around) if each != back]
    return told(f"It comes back as {f'“{back}”' if back else 'nothing'}, and around it lie:") + written(others or [back])


def on_morph(id: str, a: str, b: str, way: float) -> str:
    """The lines on the straight way from one to another, and the one at `way` of it, 0 to 1."""
    try:
        lm = model(id)
        start, end = place(lm, a), place(lm, b)
        if not 0 <= way <= 1:
            raise ValueError("The way goes from 0 to 1.")
    except ValueError as error:
        return told(str(error))
    lines = lm.decode_all([torch.lerp(start, end, i / (STEPS - 1)) for i in range(STEPS)], GREEDY)
    return written(lines, round(way * (STEPS - 1)))


def build(tab: gr.Tab, models: list[ModelEntry]) -> None:
    """Lay out the tab, which shows something as soon as it is opened. models: those that have a space of lines, at least one."""
    ends = {shelved.id: ENDS.get(shelved.facts["data"]["name"], ("", "", 1.0)) for shelved in models}
    first, second, near = ends[models[-1].id]
    with gr.Column(elem_id="morph"):
        gr.HTML(f"<p>{ABOUT}</p>", elem_classes="about")
        labels = [(shelved.label, shelved.id) for shelved in models]
        several = len(models) > 1
        pick = gr.Radio(labels, value=models[-1].id, label="Model", elem_id="spaces", elem_classes="models", visible=several)
        with gr.Row():
            with gr.Column(min_width=300):
                gr.HTML("<h2>From one to another</h2>")
                a = gr.Textbox(first, label="From", max_lines=1, max_length=MAX_LINE, elem_id="from")
                b = gr.Textbox(second, label="To", max_lines=1, max_length=MAX_LINE, elem_id="to")
                way = gr.Slider(0, 1, 0.5, step=1 / (STEPS - 1), label="Way", info="0 = the first, 1 = the second", elem_id="way")
                morphed = gr.HTML("", elem_id="morphed")
            with gr.Column(min_width=300):
                gr.HTML("<h2>There and back</h2>")
                line = gr.Textbox(first, label="Line", max_lines=1, max_length=MAX_LINE, elem_id="line")
                info = "how far around it to look"
                distance = gr.Slider(NEAR, FAR, near, step=0.1, label="Distance", info=info, elem_id="distance")
                find = gr.Button("Look around", elem_id="look")
                around = gr.HTML("", elem_id="around")
            with gr.Column(min_width=300):
                gr.HTML("<h2>New ones</h2>")
                sample_from_probs = gr.Button("Draw new ones", variant="primary", elem_id="draw")
                drawn = gr.HTML("", elem_id="drawn")
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4}
    picked = pick.change(None, pick, [a, b, line, distance], js=SUIT.format(ends=json.dumps(ends)), **quick)
    for triggers, handler, inputs, output in (
        ([a.submit, b.submit, a.blur, b.blur, way.input], on_morph, [pick, a, b, way], morphed),
        ([line.submit, find.click, distance.release], on_return, [pick, line, distance], around),
        ([sample_from_probs.click], on_draw, [pick], drawn),
    ):
        gr.on([*triggers, tab.select], handler, inputs, output, trigger_mode="always_last", **quick)
        picked.then(handler, inputs, output, **quick)

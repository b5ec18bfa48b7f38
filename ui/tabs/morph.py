"""The tab Morph: encode lines as latent vectors, sample new lines, and interpolate between two."""

from collections.abc import Sequence
from html import escape
from secrets import randbelow
from typing import Any

import gradio as gr
import torch

from gpt import LatentModel, SamplingParams
from gpt.sampling import MAX_SEED
from gpt.tokenizer import name_characters
from ui.assets import js_call
from ui.hub_panel import paragraph
from ui.model_registry import ModelEntry, get_model, list_models

MAX_LINE_CHARS = 64
STEPS = 9  # lines of an interpolation, both ends included
SAMPLES = 24  # new names at once, or half as many longer lines
NEIGHBORS = 12
SHORT_CHARS = 16  # lines up to this length are shown in two columns
MIN_DISTANCE, MAX_DISTANCE = 0.4, 2.0  # standard deviations of the noise around a latent vector
# By data set: two lines to begin with, the distance of neighbors of the first, what a line is called, and what the text is.
EXAMPLES = {
    "names": ("emma", "oliver", 1.0, "name", "Names"),
    "shakespeare": ("Give me your hand.", "What is the matter?", 0.6, "line", "Lines of Shakespeare's plays"),
}
GREEDY = SamplingParams(temperature=0, max_new_tokens=MAX_LINE_CHARS)
ABOUT = (
    "This model, a VAE, turns each line into 32 numbers, which are the coordinates of a point, and any point back into a line. "
    "Points between two lines give lines in between, points nearby give similar ones, and random points give new ones."
)


def latent_models() -> list[ModelEntry]:
    """The models with a latent space."""
    return [entry for entry in list_models() if entry.family.lm_class is LatentModel]


def get_latent_model(id: str) -> LatentModel:
    """A model with a latent space by its id. Raises ValueError, in a sentence for the visitor, if it is none."""
    if not isinstance(lm := get_model(id).lm, LatentModel):
        others = ", ".join(entry.id for entry in latent_models())
        raise ValueError(f"{id[:60]} cannot turn lines into points; pick one of {others}.")
    return lm


def encode(lm: LatentModel, line: str) -> torch.Tensor:
    """The latent vector of a visitor's line. Raises ValueError, in a sentence for the visitor, if it has none."""
    line = lm.tokenizer.normalize(line.strip()) if isinstance(line, str) else ""
    if not 0 < len(line) <= MAX_LINE_CHARS:
        raise ValueError(f"Type a line of 1 to {MAX_LINE_CHARS} characters.")
    if unknown_chars := lm.tokenizer.encode(line).unknown_chars:
        raise ValueError(f"This model has never seen {name_characters(unknown_chars)}; type something else.")
    return lm.encode(line)


def is_short(lines: Sequence[str]) -> bool:
    """Whether all lines are as short as names."""
    return max(map(len, lines)) <= SHORT_CHARS


def list_html(lines: Sequence[str], highlighted: int = -1) -> str:
    """Lines as a list in HTML, every character escaped; one of them in bold."""
    items = "".join(
        f"<li>{f'<b>{escape(line)}</b>' if i == highlighted else escape(line)}</li>" if line else "<li><i>(nothing)</i></li>"
        for i, line in enumerate(lines)
    )
    classes = "lines short" if is_short(lines) else "lines"
    return f'<div role="status"><ul class="{classes}">{items}</ul></div>'


def on_sample(id: str) -> str:
    """New lines, decoded from samples of the prior."""
    try:
        lm = get_latent_model(id)
    except ValueError as error:
        return paragraph(str(error))
    points = torch.randn(SAMPLES, lm.model.config.latent_size)
    params = SamplingParams(temperature=0.5, max_new_tokens=MAX_LINE_CHARS, seed=randbelow(MAX_SEED))  # the points differ enough
    lines = lm.decode_all(list(points), params)
    return list_html(lines if is_short(lines) else lines[: SAMPLES // 2])


def on_reconstruct(id: str, line: str, distance: float) -> str:
    """The reconstruction of a line, and its neighbors in the latent space."""
    try:
        lm = get_latent_model(id)
        z = encode(lm, line)
        if not MIN_DISTANCE <= distance <= MAX_DISTANCE:
            raise ValueError(f"The distance goes from {MIN_DISTANCE} to {MAX_DISTANCE}.")
    except ValueError as error:
        return paragraph(str(error))
    back, *around = lm.decode_all([z, *(z + distance * torch.randn_like(z) for _ in range(NEIGHBORS))], GREEDY)
    others = [line for line in dict.fromkeys(around) if line != back]
    result = f"It comes back as {f'“{back}”' if back else 'nothing'}. Around it:"
    return paragraph(result) + list_html(others or [back])


def on_interpolate(id: str, a: str, b: str, position: float) -> str:
    """The lines on the segment between two latent vectors, with the one at `position`, from 0 to 1, in bold."""
    try:
        lm = get_latent_model(id)
        start, end = encode(lm, a), encode(lm, b)
        if not 0 <= position <= 1:
            raise ValueError("The position goes from 0 to 1.")
    except ValueError as error:
        return paragraph(str(error))
    lines = lm.decode_all([torch.lerp(start, end, i / (STEPS - 1)) for i in range(STEPS)], GREEDY)
    return list_html(lines, round(position * (STEPS - 1)))


def build(tab: gr.Tab, models: list[ModelEntry]) -> None:
    """Lay out the tab, which computes its first results as soon as it is opened.

    Args:
        tab: The tab.
        models: The models with a latent space, at least one.
    """
    examples = {
        e.id: EXAMPLES.get(e.training_log.get("data", {}).get("name", ""), ("", "", 1.0, "line", e.label)) for e in models
    }
    first, second, near, noun, _ = examples[models[-1].id]
    with gr.Column(elem_id="morph"):
        gr.HTML(f"<p>{ABOUT}</p>", elem_classes="about")
        choices = [(title, id) for id, (*_, title) in examples.items()]
        model = gr.Dropdown(
            choices, value=models[-1].id, label="Text", filterable=False, elem_id="spaces", visible=len(models) > 1
        )
        with gr.Row():
            with gr.Column(min_width=300):
                gr.HTML(f"<h2>Walk from any <span class='noun'>{noun}</span> to any other</h2>")
                a = gr.Textbox(first, label="From", max_lines=1, max_length=MAX_LINE_CHARS, elem_id="from")
                b = gr.Textbox(second, label="To", max_lines=1, max_length=MAX_LINE_CHARS, elem_id="to")
                info = "0 = the first, 0.5 = halfway, 1 = the second"
                position = gr.Slider(0, 1, 0.5, step=1 / (STEPS - 1), label="Position", info=info, elem_id="position")
                interpolation = gr.HTML("", elem_id="interpolation")
            with gr.Column(min_width=300):
                gr.HTML("<h2>Explore around one</h2>")
                line = gr.Textbox(first, label="Start", max_lines=1, max_length=MAX_LINE_CHARS, elem_id="line")
                info = "How far around it to look"
                distance = gr.Slider(MIN_DISTANCE, MAX_DISTANCE, near, step=0.1, label="Distance", info=info, elem_id="distance")
                look = gr.Button("Explore", elem_id="look")
                around = gr.HTML("", elem_id="around")
            with gr.Column(min_width=300):
                gr.HTML(f"<h2>Invent <span class='noun'>{noun}</span>s</h2>")
                sample = gr.Button("Invent", variant="primary", elem_id="sample")
                samples = gr.HTML("", elem_id="samples")
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4}
    picked = model.change(None, model, [a, b, line, distance], js=js_call("morph", "exampleOf", examples), **options)
    for triggers, handler, inputs, output in (
        ([a.submit, b.submit, a.blur, b.blur, position.input], on_interpolate, [model, a, b, position], interpolation),
        ([line.submit, look.click, distance.release], on_reconstruct, [model, line, distance], around),
        ([sample.click], on_sample, [model], samples),
    ):
        gr.on([*triggers, tab.select], handler, inputs, output, trigger_mode="always_last", **options)
        picked.then(handler, inputs, output, **options)

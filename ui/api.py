"""What programs may call: the endpoints under "Use via API"."""

from collections.abc import Iterator

import gradio as gr

from gpt import SamplingParams
from ui.shelf import take
from ui.writing import Ask, Writing, bounded


def generate(
    model: str,
    prompt: str = "",
    temperature: float = 0.8,
    length: int = 300,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Write on from a prompt; yields the text so far, about twenty times a second, and last the whole."""
    try:
        ask = Ask(model, prompt, SamplingParams(temperature, top_k, top_p, min_p, bounded(length), seed))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None
    writing = Writing(ask, take(model).lm)
    for _ in writing.write(length):
        yield writing.text

"""What programs may call: the endpoints under "Use via API"."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import gradio as gr

from gpt import SamplingParams
from ui.hub_panel import choices
from ui.model_registry import ModelEntry, take
from ui.session import MAX_TEXT, GenerationRequest, GenerationSession


async def generate(
    model: str,
    prompt: str = "",
    temperature: float = 0.8,
    length: int = 300,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
) -> AsyncIterator[str]:
    """Write on from a prompt; yields the text so far, about twenty times a second, and last the whole.

    Args:
        model: its id, as list-models tells it
        prompt: what to write on from, up to 5,000 characters; it is not repeated
        temperature: 0 = always the likeliest, 2 = wild
        length: tokens to write, 1 to 5,000: characters, or pieces of words
        top_k: keep the k likeliest alone; 0 = all
        top_p: keep the likeliest that hold this share together; 1 = all
        min_p: keep those at least this share as likely as the likeliest; 0 = all
        seed: the same seed writes the same text; a new one if there is none
    """
    with _plainly():
        if not isinstance(length, int) or not 1 <= length <= MAX_TEXT:
            raise ValueError(f"The length is {length!r}; it must be a whole number from 1 to {MAX_TEXT:,}.")
        ask = GenerationRequest(model, prompt, SamplingParams(temperature, top_k, top_p, min_p, length, seed))
        writing = GenerationSession(ask)
    async for _ in writing.write(length):
        yield writing.text


def score(model: str, text: str) -> dict[str, Any]:
    """How well a model foresees a text: the cost of each token in nats, and bits per character on the whole.

    Args:
        model: its id, as list-models tells it
        text: up to 5,000 characters; those that the model never saw are left out, and told
    """
    with _plainly():
        return asdict(take(model).lm.score(GenerationRequest(model, text, SamplingParams()).prompt))


def list_models() -> list[dict[str, Any]]:
    """The models that are open here, of each text the best last: their id, size, and how many tokens back they see."""
    models = [take(id) for _, id in choices()]
    return [
        {"id": m.id, "parameters": m.lm.parameters, "window": m.lm.window, "vocabulary": len(m.lm.tokenizer), **_quality(m)}
        for m in models
    ]


def _quality(model: ModelEntry) -> dict[str, float]:
    held_out = model.facts.get("held_out")
    return {"bits_per_character": held_out["bits_per_character"]} if held_out else {}


@contextmanager
def _plainly() -> Iterator[None]:
    """What was wrong with a call is told in its own sentence, with no trace of the program."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None

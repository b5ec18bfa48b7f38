"""What programs may call: the endpoints under "Use via API"."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import gradio as gr

from gpt import SamplingParams
from ui.hub_panel import open_models
from ui.model_registry import ModelEntry, get_model
from ui.session import MAX_TEXT_TOKENS, GenerationRequest, GenerationSession


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
    """Continue a prompt; yields the text so far about 20 times a second, and the whole text last.

    Args:
        model: its id, from list-models
        prompt: the text to continue, up to 5,000 characters; it is not repeated
        temperature: 0 = always the most likely token, 2 = wild
        length: number of tokens, 1 to 5,000: characters, or pieces of words
        top_k: keep the k most likely tokens; 0 = all
        top_p: keep the most likely tokens whose probabilities add up to this; 1 = all
        min_p: keep tokens with at least this fraction of the highest probability; 0 = all
        seed: the same seed gives the same text; random by default
    """
    with _user_errors():
        if not isinstance(length, int) or not 1 <= length <= MAX_TEXT_TOKENS:
            raise ValueError(f"The length is {length!r}; it must be a whole number from 1 to {MAX_TEXT_TOKENS:,}.")
        request = GenerationRequest(model, prompt, SamplingParams(temperature, top_k, top_p, min_p, length, seed))
        session = await asyncio.to_thread(GenerationSession, request)
        async for _ in session.run(length):
            yield session.text


def score(model: str, text: str) -> dict[str, Any]:
    """How well a model predicts a text: the negative log-likelihood of each token in nats, and bits per character.

    For a VAE these are an upper bound, estimated with importance-weighted samples.

    Args:
        model: its id, from list-models
        text: up to 5,000 characters; characters that the model does not know are skipped and reported
    """
    with _user_errors():
        request = GenerationRequest(model, text, SamplingParams())
        return asdict(get_model(model).lm.score(request.prompt))


def list_models() -> list[dict[str, Any]]:
    """The open models, for each text from worst to best: id, number of parameters, context length in tokens, quality."""
    return [
        {
            "id": entry.id,
            "num_parameters": entry.lm.num_parameters,
            "context_length": entry.lm.context_length,
            "vocab_size": len(entry.lm.tokenizer),
            **_quality(entry),
        }
        for entry in open_models()
    ]


def _quality(entry: ModelEntry) -> dict[str, float]:
    held_out = entry.training_log.get("held_out")
    return {"bits_per_character": held_out["bits_per_character"]} if held_out else {}


@contextmanager
def _user_errors() -> Iterator[None]:
    """Report a ValueError, which is a sentence for the caller, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None

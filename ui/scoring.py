"""How surprising each character of a text is for several models: the endpoint of the tabs Score and Compare."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Annotated, Any

from pydantic import Field
from starlette.routing import BaseRoute, Route

from gpt import LatentModel
from ui.endpoints import json_endpoint
from ui.model_registry import get_model
from ui.schema import ModelId, Prompt

MAX_MODELS = 32
LATENT_SAMPLES = 8  # with 64, as on the cards, 5,000 characters take a VAE seconds
_threads = ThreadPoolExecutor(2, "score")  # of all requests together


Models = Annotated[
    list[ModelId],
    Field(min_length=1, max_length=MAX_MODELS, description=f"a list of the ids of 1 to {MAX_MODELS} different models"),
]


def score(models: Models, text: Prompt) -> dict[str, Any]:
    """The surprisal of each token of a text under several models.

    Args:
        models: Their ids.
        text: Up to 5,000 characters.

    Returns:
        "text" as it was scored, and "models", for each: its id; "bits", -log2 p of each token, and "spans", the index of the
        first character of each and of the one after it, or null if token i is character i; "bits_per_character"; and
        "unknown_chars", which the model does not know and skips. Of a VAE the bits are an upper bound. A model that cannot
        score the text has "error", a sentence, instead.

    Raises:
        ValueError: If there is no text, or a model is named twice.
    """
    if len(set(models)) < len(models):
        raise ValueError(f"Choose 1 to {MAX_MODELS} different models.")
    if not text:
        raise ValueError("There is no text to score yet.")
    # From the last to the first: the best models are listed last and take longest, and the quick ones fill the gaps.
    contexts = [copy_context() for _ in models]  # the threads know the visitor's own models
    scores = list(_threads.map(lambda context, id: context.run(_score, id, text), contexts, reversed(models)))
    return {"text": text, "models": scores[::-1]}


def _score(id: str, text: str) -> dict[str, Any]:
    try:
        lm = get_model(id).lm
        if not lm.tokenizer.encode(lm.tokenizer.normalize(text)).ids:
            raise ValueError(f"{lm.name} knows none of these characters.")
        score = lm.score(text, LATENT_SAMPLES) if isinstance(lm, LatentModel) else lm.score(text)
        spans = lm.tokenizer.spans(text)
        if not math.isfinite(score.bits_per_character):
            raise ValueError(f"{lm.name} takes a part of this text to be impossible, so it has no finite score.")
    except ValueError as error:
        return {"id": id, "error": str(error)}
    return {
        "id": id,
        "bits": [round(nll / math.log(2), 3) for nll in score.nll],
        "spans": None if spans == [(i, i + 1) for i in range(len(text))] else spans,
        "bits_per_character": score.bits_per_character,
        "unknown_chars": score.unknown_chars,
    }


def routes() -> list[BaseRoute]:
    """The routes of this module."""
    return [Route("/page/score", json_endpoint(score), methods=["POST"])]

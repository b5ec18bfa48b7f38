"""The table of a bigram for the page: how often each token followed each other one in the training text."""

from typing import Any, cast

from starlette.routing import BaseRoute, Route

from gpt import Bigram
from ui.endpoints import json_endpoint
from ui.model_registry import get_model
from ui.schema import ModelId

MAX_TABLE_TOKENS = 256  # of a vocabulary whose table can be drawn


def bigram_table(model: ModelId) -> dict[str, Any]:
    """The counts behind a bigram that was counted.

    Args:
        model: Its id.

    Returns:
        `tokens`, the text of each; `counts`, one row for each last token, one column for each next one; and `k`, which the model
        adds to each count.

    Raises:
        ValueError: In a sentence for the visitor, if there is no such model, or its counts are not known.
    """
    entry = get_model(model)
    id, log, tokenizer = entry.id, entry.training_log, entry.lm.tokenizer
    if not entry.family.has_pair_table:
        raise ValueError(f"{id[:60]} is not a bigram and has no table of pairs.")
    if log.get("method") != "counting":
        raise ValueError(f"{id[:60]} was not counted, so there are no counts to show.")
    if len(tokenizer) > MAX_TABLE_TOKENS:
        raise ValueError(f"The table of {id[:60]} is too large to draw: it has {len(tokenizer):,} rows and columns.")
    return {
        "tokens": [tokenizer.decode([i]) for i in range(len(tokenizer))],
        "counts": cast(Bigram, entry.lm.model).recover_counts(log["k"]).tolist(),
        "k": log["k"],
    }


def routes() -> list[BaseRoute]:
    """The endpoint page/bigram/MODEL."""
    return [Route("/page/bigram/{model:path}", json_endpoint(bigram_table))]

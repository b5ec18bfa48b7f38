"""The endpoint of the tab "Look inside": what a GPT looked at, and what it would have said after each layer."""

import base64
from typing import Annotated, Any

import torch
from pydantic import Field
from starlette.routing import BaseRoute, Route
from torch import Tensor

from gpt import LanguageModel
from gpt.inspection import find_gpt, inspect, logit_lens, receptive_field
from gpt.models.registry import family_of
from gpt.tokenizer import name_characters
from ui.endpoints import json_endpoint
from ui.model_registry import get_model
from ui.schema import MAX_INT32, MAX_TEXT_TOKENS, ModelId, Prompt

GUESSES = 3  # the likeliest tokens after each layer


TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_INT32)]],
    Field(max_length=MAX_TEXT_TOKENS, description=f"a list of up to {MAX_TEXT_TOKENS:,} whole numbers, the ids of tokens"),
]
Place = Annotated[
    int | None, Field(ge=-MAX_INT32, le=MAX_INT32, description="a whole number, the index of a token, or null for the last one")
]


def inspect_token(model: ModelId, prompt: Prompt, tokens: TokenIds = [], at: Place = None) -> dict[str, Any]:  # noqa: B006
    """What a model computed to choose one token of a text.

    Args:
        model: Its id.
        prompt: The text, or its beginning.
        tokens: Token ids that a model generated after the prompt.
        at: Index of the token, as in a link: 0 is the first of `tokens`, -1 the last of the prompt. The number of `tokens` is
            the next one, which is not chosen yet. By default, the last token.

    Returns:
        A JSON object:
        - tokens: the texts of all tokens; unknown_chars: characters of the prompt that the model does not know.
        - position: index of the token in all of them; first: that of the first token that the model sees from there, -1 for
          the start token before the text.
        - layers, heads and attention: base64 of bytes in the order [layer][head][token from `first` to before `position`],
          each 255 * sqrt(weight), rounded: a weight w is off by up to 0.004 * sqrt(w).
        - lens: after the embedding and each layer, the likeliest tokens as [text, probability], and the rank (1 is the
          likeliest) and the probability of the token at the position, or null.
        - part: for a mixture, the part that is inspected, such as "a GPT"; else null.

    Raises:
        ValueError: In a sentence for the visitor, if it is not possible.
    """
    lm = get_model(model).lm
    if (highest := max(tokens, default=0)) >= len(lm.tokenizer):
        raise ValueError(f"The tokens have {highest:,}; those of this model go from 0 to {len(lm.tokenizer) - 1:,}.")
    prompt_ids, unknown_chars = lm.tokenizer.encode(lm.tokenizer.normalize(prompt))
    ids = prompt_ids + tokens
    at = len(tokens) - 1 if at is None else at
    position = len(prompt_ids) + at if ids else 0
    if not 0 <= position <= len(ids):
        raise ValueError(f"The place is {at:,}; this text has the places {-len(prompt_ids):,} to {len(tokens):,}.")
    gpt = find_gpt(lm.model)
    if gpt is None:
        raise ValueError(f"{lm.name} has no attention to look at; choose a GPT, or a mixture with one.")
    context = lm.context_ids(ids[:position])
    inspection = inspect(gpt, torch.tensor(context[-receptive_field(gpt.config) :]))
    weights = inspection.attention[:, :, 0, -gpt.context_length :]  # (L, nh, T)
    layers, heads, seen = weights.shape
    return {
        "tokens": [lm.tokenizer.decode([i]) for i in ids],
        "unknown_chars": name_characters(unknown_chars),
        "position": position,
        "first": position - seen,
        "layers": layers,
        "heads": heads,
        "attention": base64.b64encode((255 * weights.sqrt()).round().byte().numpy().tobytes()).decode(),
        "lens": _lens(lm, logit_lens(gpt, inspection.hidden_states)[:, 0], ids[position] if position < len(ids) else None),
        "part": None if gpt is lm.model else family_of(gpt.config).title,
    }


def _lens(lm: LanguageModel, logprobs: Tensor, chosen: int | None) -> list[dict[str, Any]]:
    """The rows of the logit lens, from log-probabilities (L + 1, V)."""
    rows = []
    for row in logprobs:
        best = row.topk(min(GUESSES, len(row)))
        rows.append(
            {
                "likeliest": [
                    [lm.tokenizer.decode([i]), round(p, 4)]
                    for i, p in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
                ],
                "rank": None if chosen is None else int((row > row[chosen]).sum()) + 1,
                "probability": None if chosen is None else round(float(row[chosen].exp()), 4),
            }
        )
    return rows


def routes() -> list[BaseRoute]:
    """The endpoint `page/inspect`."""
    return [Route("/page/inspect", json_endpoint(inspect_token), methods=["POST"])]

"""The endpoints of the tab "All at once": masked diffusion models write, fill gaps and find errors."""

import base64
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any, get_args

import torch
from pydantic import Field
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from gpt import CheckpointError, TextDiffusion
from gpt.distribution import encode_distribution
from gpt.tokenizer import name_characters
from gpt.unmasking import Order, UnmaskingParams, UnmaskingStep
from train.data import SOURCES, load_shipped_dataset
from train.text_metrics import measure_texts
from ui.endpoints import BUSY, BusyError, Limit, error_response, json_endpoint, read_body
from ui.model_registry import ModelEntry, get_model, list_models
from ui.schema import MAX_INT32, AnySeed, Arguments, ModelId, Temperature, Text
from ui.snippets import card_address

MAX_STEPS = 128
MAX_TEXT_CHARS = 2_000  # that are proofread: about 3 seconds
DEFAULTS = UnmaskingParams()
RIVAL, JUDGE = "gpt", "lstm"  # families: of the model in the race, and of the one that judges it and takes no part
unmasking = Limit(running=2, waiting=16)


def list_diffusion_models() -> dict[str, Any]:
    """The models of the tab, and for each the model that it races against and the judge, or null."""
    return {"models": [_describe(entry) for entry in list_models("infills")]}


def _describe(entry: ModelEntry) -> dict[str, Any]:
    lm: TextDiffusion = entry.lm
    rival, judge = _find_of_same_text(entry, RIVAL), _find_of_same_text(entry, JUDGE)
    return {
        "id": entry.id,
        "name": lm.name,
        "dataset": entry.training_log.get("data", {}).get("name", ""),
        "unit": lm.tokenizer.unit,
        "vocabulary": [lm.tokenizer.decode([i]) for i in range(len(lm.tokenizer))],
        "context_length": lm.context_length,
        "writes_lines": lm.eos_token_id is not None,
        "parameters": lm.num_parameters,
        "defaults": asdict(lm.default_params),
        "rival": rival and rival.id,
        "judge": judge and judge.id,
        "card": card_address(entry),
        "explanation": entry.explanation,
    }


def _find_of_same_text(entry: ModelEntry, family: str) -> ModelEntry | None:
    """The best model of a family that writes, has a token for each character and was trained on the same running text."""
    sha256 = entry.training_log.get("data", {}).get("sha256")
    if entry.lm.eos_token_id is not None or all(sha256 != source.sha256 for source in SOURCES.values()):
        return None
    found = [
        other
        for other in list_models()
        if other.family.name == family
        and other.lm.tokenizer.unit == "character"
        and other.training_log.get("data", {}).get("sha256") == sha256
    ]
    return found[-1] if found else None


DiffusionText = Annotated[Text, Field(max_length=MAX_TEXT_CHARS, description=f"a text of up to {MAX_TEXT_CHARS:,} characters")]


class UnmaskingArguments(Arguments):
    """What `unmask` takes: a model, either a prompt and a length or a text with gaps, and how to reveal it."""

    model: ModelId
    prompt: Annotated[DiffusionText | None, Field(description="a text, or null if there is a text with gaps")] = None
    text: Annotated[DiffusionText | None, Field(description="a text with gaps, or null if there is a prompt")] = None
    length: Annotated[
        int | None, Field(ge=0, le=MAX_INT32, description="a whole number, or null for as much as there is room for")
    ] = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS, description=f"a whole number from 1 to {MAX_STEPS}")] = DEFAULTS.steps
    temperature: Temperature = DEFAULTS.temperature
    order: Annotated[Order, Field(description=f"one of {', '.join(get_args(Order))}")] = DEFAULTS.order
    seed: AnySeed = None


async def unmask(request: Request) -> Response:
    """Stream how a text is revealed, as JSON lines.

    The body has `UnmaskingArguments`. The first line has the `canvas`, the token ids of the text with null at each hidden place;
    the number of `steps`, the `seed`, and `remarks`, sentences for the visitor. Each other line is a step: the `positions` that
    it reveals, the token `ids` there, the `distributions` that they were drawn from (before temperature), and the `seconds` that
    the model took so far.
    """
    try:
        values = UnmaskingArguments.parse(await read_body(request))
        if (values.prompt is None) == (values.text is None):
            raise ValueError("The request needs either a prompt or a text with gaps.")
        lines = _unmasking_lines(_get_diffusion(values.model), values)
    except ValueError as error:
        return error_response(error)

    async def encoded() -> AsyncIterator[bytes]:
        try:
            async with unmasking.slot():
                async for line in iterate_in_threadpool(lines):
                    yield json.dumps(line, separators=(",", ":")).encode() + b"\n"
        except ValueError as error:
            yield json.dumps({"error": str(error)}).encode() + b"\n"
        except BusyError:
            yield json.dumps({"error": BUSY}).encode() + b"\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


def _unmasking_lines(lm: TextDiffusion, values: UnmaskingArguments) -> Iterator[dict[str, Any]]:
    start = time.perf_counter()
    params = UnmaskingParams(values.steps, values.temperature, values.order, values.seed).seeded()
    with _sentences():
        if (text := values.text) is not None:
            filling = lm.fill(text, params)
            canvas, unknown_chars, steps = filling.canvas, filling.unknown_chars, iter(filling.steps)
        else:
            text = values.prompt or ""
            canvas = lm.canvas(text, values.length)
            unknown_chars = lm.tokenizer.encode(lm.tokenizer.normalize(text)).unknown_chars
            steps = lm.unmask(canvas, params)
    yield {
        "canvas": canvas,
        "steps": min(params.steps, canvas.count(None)),
        "seed": params.seed,
        "remarks": _remarks(lm, text, unknown_chars),
    }
    for step in steps:
        yield _encode_step(step) | {"seconds": round(time.perf_counter() - start, 3)}


def _encode_step(step: UnmaskingStep) -> dict[str, Any]:
    distributions = base64.b64encode(encode_distribution(step.logits[step.positions])).decode()
    return {"positions": step.positions, "ids": step.token_ids, "distributions": distributions}


def _remarks(lm: TextDiffusion, text: str, unknown_chars: str) -> list[str]:
    remarks = []
    if lm.tokenizer.normalize(text) != text:
        remarks.append("This model knows no capital letters, so it reads the text in lower case.")
    if unknown_chars:
        were = "it was" if len(unknown_chars) == 1 else "they were"
        remarks.append(f"This model has never seen {name_characters(unknown_chars)}, so {were} skipped.")
    return remarks


Canvas = Annotated[
    list[Annotated[int | None, Field(ge=0, le=MAX_INT32)]],
    Field(min_length=1, description="a list of the ids of tokens, null at each hidden place"),
]


def predict(model: ModelId, canvas: Canvas) -> dict[str, Any]:
    """What a model expects at each place of a text of which some places are hidden.

    Args:
        model: Its id.
        canvas: Token ids, null at each hidden place.

    Returns:
        The distributions of all places, one after the other.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    lm = _get_diffusion(model)
    size = len(lm.tokenizer)
    if len(canvas) > lm.context_length:
        raise ValueError(f"The canvas has {len(canvas):,} tokens; this model takes up to {lm.context_length:,}.")
    if (highest := max((token for token in canvas if token is not None), default=0)) >= size:
        raise ValueError(f"The canvas has token {highest:,}; those of this model go from 0 to {size - 1:,}.")
    ids = torch.tensor([[lm.model.mask_id if token is None else token for token in canvas]])
    return {"distributions": base64.b64encode(encode_distribution(lm.denoise(ids)[0])).decode()}


def proofread(model: ModelId, text: DiffusionText) -> dict[str, Any]:
    """Judge each character of a text while it is hidden.

    Args:
        model: The id of a model.
        text: Up to 2,000 characters; of a model of lines, one line.

    Returns:
        The token `ids`, the `bits` of each (-log2 p), the `distributions` at all places, and `remarks`, sentences for the
        visitor.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    lm = _get_diffusion(model)
    with _sentences():
        result = lm.proofread(text)
    return {
        "ids": result.token_ids,
        "bits": [round(nll / math.log(2), 3) for nll in result.nll],
        "distributions": base64.b64encode(encode_distribution(result.logits)).decode(),
        "remarks": _remarks(lm, text, result.unknown_chars),
    }


Texts = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=MAX_TEXT_CHARS)]],
    Field(min_length=1, max_length=4, description=f"a list of 1 to 4 texts, each of 1 to {MAX_TEXT_CHARS:,} characters"),
]


def judge(model: ModelId, texts: Texts) -> dict[str, Any]:
    """Compare texts by a model that wrote none of them.

    Args:
        model: The id of the diffusion model that takes part.
        texts: Up to four.

    Returns:
        The `name` of the judge, and for each text: `bits` per character under the judge, the share of its words that occur in
        the training text (`known_words`), and the share of different words (`unique_words`).

    Raises:
        ValueError: In a sentence for the visitor.
    """
    entry = get_model(model, "infills")
    judge_entry = _find_of_same_text(entry, JUDGE)
    if judge_entry is None:
        raise ValueError(f"No other model here learned from the text of {entry.lm.name}, so nobody can judge.")
    training_text = _training_text(entry.training_log["data"]["sha256"])
    results = []
    for text in texts:
        metrics = measure_texts([text], training_text, judge_entry.lm)
        results.append(
            {
                "bits": (metrics.nll_per_character or 0.0) / math.log(2),
                "known_words": metrics.known_words,
                "unique_words": metrics.unique_words,
            }
        )
    return {"name": judge_entry.lm.name, "texts": results}


@cache
def _training_text(sha256: str) -> str:
    try:
        dataset = load_shipped_dataset(sha256, False)
    except CheckpointError:
        raise ValueError("The training text is damaged on this server, so nothing can be compared with it.") from None
    assert dataset is not None  # noqa: S101 (it is one of SOURCES)
    return dataset.split()[0].text


def _get_diffusion(id: str) -> TextDiffusion:
    lm: TextDiffusion = get_model(id, "infills").lm
    return lm


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn the message of a ValueError into a sentence for the visitor."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise ValueError(f"{message[0].upper()}{message[1:]}.") from None


def routes() -> list[BaseRoute]:
    """The routes of this module."""
    return [
        Route("/page/diffusion/models", json_endpoint(list_diffusion_models)),
        Route("/page/diffusion/unmask", unmask, methods=["POST"]),
        Route("/page/diffusion/predict", json_endpoint(predict), methods=["POST"]),
        Route("/page/diffusion/proofread", json_endpoint(proofread, unmasking), methods=["POST"]),
        Route("/page/diffusion/judge", json_endpoint(judge, unmasking), methods=["POST"]),
    ]

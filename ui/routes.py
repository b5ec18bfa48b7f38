"""What the page's scripts request, under page/ in the page's own address."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import Field
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gpt.inspection import find_gpt
from ui import all_at_once, bigram_table, copied, families, inspection, lessons, passages, scoring, snippets, source, training
from ui.assets import STATIC
from ui.endpoints import BUSY, BusyError, Limit, error_response, json_endpoint, read_body
from ui.hub_panel import open_from_hub, open_models
from ui.model_registry import ModelEntry, default_model
from ui.schema import MAX_INT32, MAX_TEXT_TOKENS, Arguments, Link, ModelId
from ui.session import GenerationRequest, GenerationSession, SessionStore
from ui.shutdown import shutdown
from ui.tabs import learn
from ui.visits import visits

streams = Limit(running=128, waiting=128)
downloads = Limit(running=2, waiting=16)
sessions = SessionStore()
visits.on_models_gone(lambda ids: sessions.remove_models(ids))


class Revalidated(StaticFiles):
    """Static files that a browser asks about each time, so that it never mixes the scripts of two versions."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or 304 if the browser has it."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def describe(entry: ModelEntry) -> dict[str, Any]:
    """What the browser knows of a model."""
    log, tokenizer = entry.training_log, entry.lm.tokenizer
    held_out = log.get("held_out", {})
    return {
        "id": entry.id,
        "name": entry.lm.name,
        "label": entry.label,
        "dataset": log.get("data", {}).get("name", ""),
        "family": entry.family.name,
        "title": entry.family.title,
        "likelihood": entry.family.likelihood,
        "has_attention": find_gpt(entry.lm.model) is not None,
        "unit": tokenizer.unit,
        "vocabulary": [tokenizer.decode([i]) for i in range(len(tokenizer))],
        "writes_lines": entry.lm.eos_token_id is not None,
        "bits_per_character": held_out.get("bits_per_character"),
        "parameters": entry.lm.num_parameters,
        "context": entry.lm.context_description,
        "memory": entry.memory,
        "card": snippets.card_address(entry),
        "explanation": entry.explanation,
        "sample": entry.sample,
        "is_own": bool(entry.own_label),
    }


def list_models() -> dict[str, Any]:
    """The open models, and which one the page opens with."""
    return {"default": default_model().id, "models": [describe(entry) for entry in open_models()]}


async def health(request: Request) -> Response:
    """Whether the page takes new texts, and how many grow: for a load balancer, which sends nobody here after a 503."""
    status = "stopping" if shutdown.has_begun else "ok"
    return JSONResponse({"status": status, "texts": shutdown.readers}, 503 if shutdown.has_begun else 200)


class StreamArguments(Arguments):
    """What `generate` takes: a link, and the indices of the first token to send and of the one after the last."""

    query: Link
    start: Annotated[int, Field(ge=0, le=MAX_INT32, description="a whole number from 0 up")] = 0
    end: Annotated[int, Field(ge=1, le=MAX_INT32, description="a whole number from 1 up")]


class OpenArguments(Arguments):
    """What `open_model` takes: "user/repo" or "user/repo@commit"."""

    id: ModelId


async def generate(request: Request) -> Response:
    """Stream a text as JSON lines: what is generated, then tokens about 10 times a second.

    The body has `StreamArguments`. The first line has the query with its seed, the prompt as the model reads it, the characters
    of it that it does not know, and remarks about it; each other line has the ids, texts, surprisals in bits and distributions
    of some tokens, and how many tokens a second the server generated so far.
    """
    try:
        values = StreamArguments.parse(await read_body(request))
        start, end = values.start, values.end
        if end > MAX_TEXT_TOKENS:
            raise ValueError(f"A text here has up to {MAX_TEXT_TOKENS:,} characters or pieces of words; this one is full.")
        if start >= end:
            raise ValueError(f"The start is {start:,} and the end {end:,}; the start must be below the end.")
        session = await sessions.get(GenerationRequest.from_query(values.query, default_model().id))
    except ValueError as error:
        return error_response(error)

    async def lines() -> AsyncIterator[bytes]:
        async for line in text_lines(session, start, end):
            yield json.dumps(line, separators=(",", ":")).encode() + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


async def text_lines(session: GenerationSession, start: int, end: int) -> AsyncIterator[dict[str, Any]]:
    """The lines that `generate` sends; an error after the first is a line as well."""
    yield {
        "query": session.request.query(end),
        "prompt": session.prompt,
        "unknown_chars": session.unknown_chars,
        "remarks": session.remarks(),
    }
    try:
        async with streams.slot(), aclosing(session.read(start, end)) as batches:
            async for tokens in batches:
                yield {
                    "ids": [token.id for token in tokens],
                    "texts": [token.text for token in tokens],
                    "bits": [round(token.bits, 3) for token in tokens],
                    "distributions": base64.b64encode(b"".join(token.distribution for token in tokens)).decode(),
                    "tokens_per_second": round(session.tokens_per_second, 1),
                }
    except ValueError as error:
        yield {"error": str(error)}
    except BusyError:
        yield {"error": BUSY}


async def open_model(request: Request) -> Response:
    """Open a model from the Hub, as JSON lines: messages about the progress, then its id, or an error.

    The body has `OpenArguments`.
    """
    try:
        id = OpenArguments.parse(await read_body(request)).id
    except ValueError as error:
        return error_response(error)

    async def lines() -> AsyncIterator[bytes]:
        message = None
        try:
            async with downloads.slot():
                async for answer in iterate_in_threadpool(open_from_hub(id)):
                    if message:
                        yield json.dumps({"message": message}).encode() + b"\n"
                    message = answer
            yield json.dumps({"id": message}).encode() + b"\n"
        except ValueError as error:
            yield json.dumps({"error": str(error)}).encode() + b"\n"
        except BusyError:
            yield json.dumps({"error": BUSY}).encode() + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


def routes() -> list[BaseRoute]:
    """All routes next to Gradio's own."""
    return [
        Mount("/page/static", Revalidated(directory=STATIC)),
        Route("/page/health", health),
        Route("/page/models", json_endpoint(list_models)),
        Route("/page/generate", generate, methods=["POST"]),
        Route("/page/open", open_model, methods=["POST"]),
        Route("/page/programs", json_endpoint(snippets.programs), methods=["POST"]),
        *bigram_table.routes(),
        snippets.route(),
        *learn.routes(),
        *source.routes(),
        *inspection.routes(),
        *copied.routes(),
        *passages.routes(),
        *scoring.routes(),
        *lessons.routes(),
        *training.routes(),
        *families.routes(),
        *all_at_once.routes(),
    ]

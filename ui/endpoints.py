"""JSON endpoints for the page's scripts: bounded in size, in number and in what an error may say."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ui.schema import schema_of

MAX_BODY_BYTES = 256_000  # 5,000 characters of any script, escaped, with room to spare
BUSY = "Too many people are using this page right now. Please try again in a moment."


class BusyError(Exception):
    """There are as many requests as the server takes."""


class Limit:
    """Bounds how many requests run at the same time, and how many wait for their turn.

    Args:
        running: That run.
        waiting: That wait; further ones are refused at once.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting, self._places = running, 0, waiting
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a turn. Raises BusyError if too many wait already."""
        # A semaphore belongs to one event loop, and a process may serve several pages, each in its own.
        running = self._semaphores.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._running))
        if running.locked() and self._waiting >= self._places:
            raise BusyError
        self._waiting += 1
        try:
            await running.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            running.release()


compute = Limit(running=2, waiting=256)  # everything but streams of text


async def read_content(request: Request) -> bytes:
    """The body of a request. Raises ValueError, in a sentence for the visitor, if it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"The request has more than {MAX_BODY_BYTES // 1000:,} kB, which is the most this page takes.")
    return body


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request. Raises ValueError, in a sentence, if it is too large, or not a JSON object."""
    return parse_object(await read_content(request))


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError, in a sentence for the visitor, for anything else."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        values = None
    if not isinstance(values, dict):
        raise ValueError("The request must be a JSON object.")
    return values


def error_response(error: Exception) -> Response:
    """What a client gets instead of an answer: a sentence, in {"error": ...}."""
    status, sentence = (503, BUSY) if isinstance(error, BusyError) else (422, str(error))
    return JSONResponse({"error": sentence}, status)


def json_endpoint(function: Callable[..., Any], limit: Limit = compute) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that calls a function with the values of the request's JSON body, in a thread.

    Args:
        function: Gets the values by name, and returns what becomes JSON. Its annotations are the schema of the values
            (`ui/schema.py`). A ValueError of it is a sentence for the visitor.
        limit: Bounds how many calls run at the same time.
    """
    schema = schema_of(function)

    @wraps(function)
    async def endpoint(request: Request) -> Response:
        try:
            values = await read_body(request) if request.method == "POST" else {}
            arguments = schema.parse(values | request.path_params)
            async with limit.slot():
                return JSONResponse(await asyncio.to_thread(function, **dict(arguments)))
        except (ValueError, BusyError) as error:
            return error_response(error)

    return endpoint

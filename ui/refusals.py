"""Requests that Gradio cannot read get a sentence, and the log gets a line with a count instead of a traceback for each."""

import logging
import time
from collections import Counter
from typing import Any

import gradio as gr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.endpoints import parse_object, read_content

GRADIO_PATH = "/gradio_api/"  # in the paths of Gradio's own endpoints
INTERVAL_S = 60.0  # between two lines
SENTENCE = "This request does not fit the page; reload the page, or see “Use via API” at its foot."
logger = logging.getLogger(__name__)


class RefusalLog:
    """Counts refused requests by the name of their exception, and writes a line at most once a minute."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._next_line = 0.0

    def add(self, error: Exception) -> None:
        """Count a request. At level DEBUG, its traceback is logged as well."""
        logger.debug("refused a request", exc_info=error)
        self._counts[type(error).__name__] += 1
        if (now := time.monotonic()) >= self._next_line:
            counts = ", ".join(f"{name} {count}" for name, count in self._counts.most_common())
            logger.warning("refused %d requests that do not fit the page: %s", self._counts.total(), counts)
            self._counts.clear()
            self._next_line = now + INTERVAL_S


refusals = RefusalLog()


class BodyError(ValueError):
    """The body of a request to Gradio is not what its endpoints take."""


class PageBlocks(gr.Blocks):
    """Blocks that refuse what does not fit the inputs of an event: too few values, another type, a file, an empty field."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        """Convert the inputs of an event. Raises gr.Error, in a sentence for the visitor, if they do not fit it."""
        try:
            if block_fn.fn is None:
                raise ValueError("the event runs in the browser")
            if len(inputs) < len(block_fn.inputs):
                needed = ", ".join(block.label for block in block_fn.inputs)
                message = f"The request has {len(inputs)} values; {block_fn.api_name} takes {len(block_fn.inputs)}: {needed}."
                raise gr.Error(message)
            values = await super().preprocess_data(block_fn, inputs, *args, **options)
            if block_fn.preprocess and None in values:
                raise gr.Error("The request has an empty field; fill it in.")
        except Exception as error:  # Gradio's components raise many kinds for a value that they cannot read
            refusals.add(error)
            sentence = error.message if isinstance(error, gr.Error) else SENTENCE
            raise gr.Error(sentence, print_exception=False) from None
        return values


class RefusalMiddleware:
    """ASGI middleware that bounds the requests to Gradio's own endpoints, and answers with a sentence where one raises."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or GRADIO_PATH not in scope["path"]:
            await self.app(scope, receive, send)
            return
        has_started = False

        async def note_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            if scope["method"] == "POST":
                receive = await _checked_body(scope, receive)
            await self.app(scope, receive, note_start)
        except ClientDisconnect:
            return
        except BodyError as error:
            refusals.add(error)
            await JSONResponse({"detail": str(error)}, 422)(scope, receive, send)
        except Exception as error:  # such as a KeyError for an unknown event
            refusals.add(error)
            if has_started:
                await send({"type": "http.response.body"})
            else:
                await JSONResponse({"detail": SENTENCE}, 422)(scope, receive, send)


async def _checked_body(scope: Scope, receive: Receive) -> Receive:
    """Read a body; returns what receives it again. Raises BodyError, in a sentence for the client, if it does not do."""
    try:
        body = await read_content(Request(scope, receive))
        if parse_object(body).get("session_hash") == "":
            raise ValueError("The session_hash is empty; leave it out, or choose a name.")
    except ValueError as error:
        raise BodyError(str(error)) from None
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again

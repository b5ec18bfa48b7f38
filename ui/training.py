"""The endpoints of the tab "Train yours": a text, trainings on it, and their models as .zip files. All belong to a visit."""

import asyncio
import io
import json
import re
import shutil
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gpt import CheckpointError
from gpt.checkpoint import FILES
from train.advice import SIZES
from train.short_run import KINDS
from train.text_files import MAX_TEXT_BYTES, decode_text
from train.text_report import report_text
from ui.endpoints import BusyError, Limit, compute, error_response, json_endpoint, read_body
from ui.jobs import Event, JobProcess, JobQueue
from ui.model_registry import get_model
from ui.schema import Arguments, Text, one_of
from ui.visits import Visit, current_visit, visits

TEXTS = Path(__file__).parent / "texts"  # original texts to try: NAME.txt each, and index.json
UPLOAD_S = 120.0  # the most that an upload may take
SEED = 1337
SECONDS = (15, 30, 60, 120)
MAX_DROPOUT = 0.5
MAX_VOCABULARY = 2048
MAX_NAME_CHARS = 300
MODEL_FILES = (*FILES, "README.md", "loss_curve.svg")  # what a .zip has of a weights folder

uploads = Limit(running=4, waiting=16)
queue = JobQueue()


def get_visit() -> Visit:
    """The visit of this request. Raises ValueError, in a sentence for the visitor, if it has none with a text."""
    visit = current_visit.get()
    if visit is None or not visit.text:
        raise ValueError("Your text is not here any more: it is forgotten 15 minutes after you leave. Please give it again.")
    return visit


async def upload_text(request: Request) -> Response:
    """Take the bytes of a text file; the first one begins a visit. Returns the report on it, and the token of the visit."""
    try:
        async with uploads.slot(), asyncio.timeout(UPLOAD_S):
            content = b""
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_TEXT_BYTES:
                    raise ValueError(
                        f"The text has more than {MAX_TEXT_BYTES / 1e6:g} MB, which is the most this page trains on."
                    )
            text = await asyncio.to_thread(_decode, content)
            report = await asyncio.to_thread(report_text, text)
    except TimeoutError:
        return error_response(ValueError("The upload took too long. Please try again with a shorter text."))
    except ClientDisconnect:  # the visitor has left, or sends another text
        return Response(status_code=400)
    except (ValueError, BusyError) as error:
        return error_response(error)
    visit = current_visit.get() or visits.open()
    visit.text, visit.name = text, _clean_name(request.query_params.get("name", ""))
    return JSONResponse({"visit": visit.token, **asdict(report)})


def _decode(content: bytes) -> str:
    try:
        return decode_text(content)
    except ValueError as error:
        raise ValueError(_as_sentence(str(error))) from None


def _as_sentence(message: str) -> str:
    """A message of the command line as a sentence of the page."""
    return f"{message[:1].upper()}{message[1:].removesuffix('.')}."


def _clean_name(name: str) -> str:
    """A name of a file without its ending, as a part of a command."""
    return re.sub(r"[^\w-]+", "-", name[:60].rpartition(".txt")[0] or name[:60]).strip("-")[:40] or "my-text"


def _check_tokenizer(name: str) -> str:
    if int(name.removeprefix("bpe:") if name != "char" else 0) > MAX_VOCABULARY:
        raise ValueError
    return name


def _check_seconds(seconds: int) -> int:
    if seconds not in SECONDS:
        raise ValueError
    return seconds


IsLines = Annotated[bool, Field(description="true or false")]
TokenizerName = Annotated[
    str,
    Field(pattern="^(char|bpe:[0-9]{3,4})$", description=f"char or bpe:N with N up to {MAX_VOCABULARY}"),
    AfterValidator(_check_tokenizer),
]


class TrainingArguments(Arguments):
    """What a visitor chooses for a training; a dropout of null is set by the rule."""

    kind: Annotated[str, one_of(*KINDS), Field(description=f"one of {', '.join(KINDS)}")]
    size: Annotated[str, one_of(*SIZES), Field(description=f"one of {', '.join(SIZES)}")]
    tokenizer: TokenizerName
    is_lines: IsLines
    dropout: Annotated[float | None, Field(ge=0, le=MAX_DROPOUT, description=f"a number from 0 to {MAX_DROPOUT}, or null")] = None
    seconds: Annotated[int, AfterValidator(_check_seconds), Field(description=f"one of {', '.join(map(str, SECONDS))}")]


def report(is_lines: IsLines, tokenizer: TokenizerName) -> dict[str, Any]:
    """The report on the text of the visit with other choices.

    Args:
        is_lines: Whether each line is a document.
        tokenizer: "char", or "bpe:" and the size of the vocabulary.

    Raises:
        ValueError: In a sentence for the visitor.
    """
    return asdict(report_text(get_visit().text, is_lines, tokenizer))


def make_settings(visit: Visit, choices: TrainingArguments) -> dict[str, Any]:
    """The settings of a job, without its files. Raises ValueError, in a sentence for the visitor, if the text does not do."""
    if problem := report_text(visit.text, choices.is_lines, choices.tokenizer).problem:
        raise ValueError(problem)
    return {"name": visit.name, "seed": SEED, **dict(choices)}


class JobResponse(StreamingResponse):
    """The events of a job as JSON lines. When they end, or the client leaves, the job ends, and its folder is deleted."""

    def __init__(self, visit: Visit, job: JobProcess) -> None:
        self.visit, self.job, self._events = visit, job, self._lines()
        super().__init__(self._events, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()  # which ends the process
            if self.visit.job is self.job:
                self.visit.job = None
            shutil.rmtree(self.job.folder, ignore_errors=True)  # with the folder of a visit that is over

    async def _lines(self) -> AsyncGenerator[bytes]:
        async with aclosing(queue.run(self.job)) as events:
            async for event in events:
                if event["event"] == "end":
                    event = await self._take_models(event)
                elif event["event"] == "error":
                    event = {**event, "message": _as_sentence(event["message"])}
                yield json.dumps(event, separators=(",", ":")).encode() + b"\n"

    async def _take_models(self, end: Event) -> Event:
        """Move the models of a job into the visit; the event gets their ids."""
        models, out = [], Path(self.job.settings["out"])
        try:
            for model in end["models"]:
                entry = await asyncio.to_thread(self.visit.add_model, out / model["folder"], model["title"])
                models.append({"id": entry.id, **{name: model[name] for name in model if name != "folder"}})
        except CheckpointError as error:
            return {"event": "error", "message": f"The model could not be opened: {error}."}
        visits.drop_oldest_models(self.visit)
        return {**end, "models": models}


async def run(request: Request) -> Response:
    """Train a model on the text of the visit, as JSON lines: the events of `train/worker.py`.

    The body has `TrainingArguments`. While others train, the
    events are {"event": "queue", "before": how many, "seconds": until the first of them has ended}. In the last event, the
    models have an `id`. A second training of a visit ends the first one.
    """
    try:
        visit = get_visit()
        choices = TrainingArguments.parse(await read_body(request))
        settings = await asyncio.to_thread(make_settings, visit, choices)
        queue.check()
    except ValueError as error:
        return error_response(error)
    if visit.job:
        visit.job.cancel()
    folder = Path(mkdtemp(prefix="run-", dir=visit.folder))
    text, out = folder / "text.txt", folder / "out"
    text.write_text(visit.text, encoding="utf-8", newline="\n")
    visit.job = JobProcess({"text": str(text), "out": str(out), **settings}, folder)
    return JobResponse(visit, visit.job)


async def stop(request: Request) -> Response:
    """Ask the training of the visit for the best model so far, with which its stream ends."""
    visit = current_visit.get()
    if visit and visit.job:
        visit.job.stop()
    return JSONResponse({})


async def end_visit(request: Request) -> Response:
    """Delete the text and the models of the visit."""
    if visit := current_visit.get():
        visits.end(visit)
    return JSONResponse({})


async def keep_visit(request: Request) -> Response:
    """Keep the visit from ending, as every request does; returns whether it is open."""
    return JSONResponse({"is_open": current_visit.get() is not None})


def zip_folder(folder: Path) -> bytes:
    """A .zip with a weights folder in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MODEL_FILES:
            if (folder / name).is_file():
                archive.write(folder / name, f"{folder.name}/{name}")
    return content.getvalue()


async def send_zip(request: Request) -> Response:
    """Send the weights folder of a model of the visit as a .zip."""
    id, visit = request.path_params["id"], current_visit.get()
    try:
        if visit is None or id not in visit.models:
            get_model(id)  # raises what is to be said of a model that is not there
            raise ValueError(f"{id[:60]} is not a model of yours; its files are below its text in the tab Write.")
        async with compute.slot():
            content = await asyncio.to_thread(zip_folder, visit.folder / id)
    except (ValueError, BusyError) as error:
        return error_response(error)
    headers = {"Content-Disposition": f'attachment; filename="{id}.zip"', "Cache-Control": "no-store"}
    return Response(content, media_type="application/zip", headers=headers)


TextName = Annotated[Text, Field(max_length=MAX_NAME_CHARS, description="the name of a text")]


def list_texts() -> list[dict[str, str]]:
    """The texts to try: name, title and a sentence."""
    texts: list[dict[str, str]] = json.loads((TEXTS / "index.json").read_text(encoding="utf-8"))
    return texts


def get_text(name: TextName) -> dict[str, str]:
    """One of them. Raises ValueError, in a sentence for the visitor, if there is none."""
    if name not in [text["name"] for text in list_texts()]:
        raise ValueError(f"There is no text called {name[:60]!r} here.")
    return {"text": (TEXTS / f"{name}.txt").read_text(encoding="utf-8")}


def routes() -> list[BaseRoute]:
    """The endpoints under page/train and page/visit."""
    return [
        Route("/page/train/texts", json_endpoint(list_texts)),
        Route("/page/train/texts/{name}", json_endpoint(get_text)),
        Route("/page/train/text", upload_text, methods=["POST"]),
        Route("/page/train/report", json_endpoint(report), methods=["POST"]),
        Route("/page/train/run", run, methods=["POST"]),
        Route("/page/train/stop", stop, methods=["POST"]),
        Route("/page/train/zip/{id}", send_zip),
        Route("/page/visit/end", end_visit, methods=["POST"]),
        Route("/page/visit/ping", keep_visit, methods=["POST"]),
    ]

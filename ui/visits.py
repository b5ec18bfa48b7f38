"""Visits: what belongs to one visitor. Their text, models and folder end with the visit, and nobody else can reach them.

A visit begins with the first text that a visitor uploads. Its token, a long random name that only the visitor's browser gets,
comes with each request in the header `X-Visit`. Visits belong to the page's event loop.
"""

import asyncio
import atexit
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gpt.checkpoint import open_folder
from train.card import render_card
from ui.jobs import JobProcess
from ui.model_registry import OWN_PREFIX, ModelEntry, own_models, read_training_log

HEADER = "X-Visit"
MAX_VISITS = 16  # that are open at the same time; the least recently used one ends for another
IDLE_S = 15 * 60.0  # without a request, a visit ends; the page sends one every 5 minutes (ui/static/js/api.js)
MAX_MODELS = 12  # of a visit, those of about three trainings; the oldest one is dropped for another


class Visit:
    """The text and the models of one visitor.

    Attributes:
        token: What the visitor's browser names it by.
        text: The text that was uploaded last.
        name: What to call the text.
        models: The models by id, the oldest first. The weights folder of each is in `folder`, under its id.
        job: The training that runs or waits.
        open_requests: Number of requests that are being answered.
        last_request: When the last one ended, on the clock of time.monotonic.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.text, self.name = "", ""
        self.models: dict[str, ModelEntry] = {}
        self.job: JobProcess | None = None
        self.open_requests, self.last_request = 0, time.monotonic()
        self._folder = TemporaryDirectory(prefix="from-bigram-to-gpt-", ignore_cleanup_errors=True)  # mode 0700

    @property
    def folder(self) -> Path:
        """The folder of the visit, which only the user of the page's process can read."""
        return Path(self._folder.name)

    def idle_seconds(self) -> float:
        """Seconds since the last request; 0 while one is being answered."""
        return 0.0 if self.open_requests else time.monotonic() - self.last_request

    def add_model(self, source: Path, title: str) -> ModelEntry:
        """Move a weights folder into the visit, and open it. A model that is there already is not added again.

        Args:
            source: The folder.
            title: What to call the model in lists; from the second one of its kind on, a number is added.

        Raises:
            CheckpointError: If the folder is damaged.
        """
        log = read_training_log(source, "train the model again")
        for entry in self.models.values():  # the counted models of a second training on the same text
            if all(entry.training_log[name] == log[name] for name in ("kind", "tokenizer", "check")):
                return entry
        id = f"{OWN_PREFIX}{log['kind']}-{secrets.token_hex(3)}"
        folder = Path(shutil.move(source, self.folder / id))
        (folder / "README.md").write_text(render_card(log, id), encoding="utf-8")  # it names the folder
        title = title[0].upper() + title[1:]
        number = 1 + sum(entry.own_label.partition(" #")[0] == title for entry in self.models.values())
        label = title if number == 1 else f"{title} #{number}"  # a "GPT 2" is another model
        entry = ModelEntry(id, open_folder(folder, id, id), log, id, own_label=label)
        self.models[id] = entry
        return entry

    def close(self) -> None:
        """End the training, and delete the folder."""
        if self.job:
            self.job.cancel()
        self._folder.cleanup()


current_visit: ContextVar[Visit | None] = ContextVar("current_visit", default=None)  # whose request is answered


class VisitStore:
    """The open visits."""

    def __init__(self) -> None:
        self._visits: OrderedDict[str, Visit] = OrderedDict()  # by token, the least recently used first
        self._listeners: list[Callable[[list[str]], None]] = []

    def on_models_gone(self, listener: Callable[[list[str]], None]) -> None:
        """Call a function with the ids of models that are gone."""
        self._listeners.append(listener)

    def find(self, token: str) -> Visit | None:
        """The open visit with this token."""
        if token in self._visits:
            self._visits.move_to_end(token)
        return self._visits.get(token)

    def open(self) -> Visit:
        """Begin a visit. If there are too many, the least recently used one ends, or the oldest if all of them train."""
        visit = Visit()
        self._visits[visit.token] = visit
        if len(self._visits) > MAX_VISITS:
            others = list(self._visits.values())[:-1]
            self.end(next((other for other in others if not other.job), others[0]))
        self._end_when_idle(visit)
        return visit

    def drop_oldest_models(self, visit: Visit) -> None:
        """Drop models of a visit until it has no more than it may have."""
        gone = list(visit.models)[:-MAX_MODELS]
        for id in gone:
            del visit.models[id]
            shutil.rmtree(visit.folder / id)
        self._notify(gone)

    def end(self, visit: Visit) -> None:
        """End a visit: nothing of it is left."""
        if self._visits.pop(visit.token, None):
            visit.close()
            self._notify(list(visit.models))
            visit.models.clear()

    def end_all(self) -> None:
        """End all visits."""
        for visit in list(self._visits.values()):
            self.end(visit)

    def _notify(self, ids: list[str]) -> None:
        for listener in self._listeners:
            listener(ids)

    def _end_when_idle(self, visit: Visit) -> None:
        if visit.token not in self._visits:
            return
        if (left := IDLE_S - visit.idle_seconds()) > 0:
            asyncio.get_running_loop().call_later(left, self._end_when_idle, visit)
        else:
            self.end(visit)


visits = VisitStore()
atexit.register(visits.end_all)


class VisitMiddleware:
    """ASGI middleware that finds the visit of a request, so that its models can be named while the request is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on behalf of its visit, if it has one."""
        token = Headers(scope=scope).get(HEADER, "") if scope["type"] == "http" else ""
        visit = visits.find(token)
        if visit is None:
            await self.app(scope, receive, send)
            return
        visit.open_requests += 1
        reset_visit, reset_models = current_visit.set(visit), own_models.set(visit.models)
        try:
            await self.app(scope, receive, send)
        finally:
            own_models.reset(reset_models)
            current_visit.reset(reset_visit)
            visit.open_requests -= 1
            visit.last_request = time.monotonic()

"""Continuous batching for an asyncio server: one thread steps the sequences of all requests, in a batch for each model."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from gpt.generation import BatchGenerator, GenerationStep, LanguageModel, Sequence

UPDATE_INTERVAL_S = 0.1  # between two updates of one client; more often is slower for a browser, not smoother
MAX_UPDATES_PER_S = 50  # of all clients together: each costs the server a good part of a step
TURN_S = 0.01  # a step that takes longer counts as several, so that a slow model does not slow the others down


class Request:
    """A sequence that waits for more tokens.

    Its consumer only sets `cancelled` and reads `queue`; everything else belongs to the scheduler's thread.

    Args:
        sequence: The sequence.
        tokens: Maximum number of tokens.
        stop: Ends the request when it is set.
    """

    def __init__(self, sequence: Sequence, tokens: int, stop: threading.Event) -> None:
        self.sequence, self.remaining, self.stop = sequence, tokens, stop
        self.cancelled = threading.Event()
        self.pending: list[GenerationStep] = []
        self.next_update = 0.0  # on the clock of time.perf_counter; the first step is delivered at once
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[list[GenerationStep] | Exception | None] = asyncio.Queue()

    @property
    def is_done(self) -> bool:
        """Whether it gets no more tokens."""
        return self.remaining <= 0 or self.stop.is_set() or self.cancelled.is_set()

    def add(self, step: GenerationStep, now: float, interval: float) -> None:
        """Take one step, and deliver all pending ones if the last update is `interval` seconds ago."""
        self.pending.append(step)
        self.remaining -= 1
        if now >= self.next_update:
            self.put(self.pending)
            self.pending, self.next_update = [], now + interval

    def finish(self) -> None:
        """Deliver the pending steps and the end."""
        if self.pending:
            self.put(self.pending)
        self.put(None)

    def put(self, item: list[GenerationStep] | Exception | None) -> None:
        """Deliver steps, an error, or None for the end."""
        with suppress(RuntimeError):  # the consumer's event loop is closed
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


@dataclass(eq=False)
class Batch:
    """The requests of one model.

    Attributes:
        generator: Steps their sequences.
        clock: Steps so far, counted from when the scheduler started; longer ones count as several. The batch with the
            lowest clock is next, so the texts of all models grow by one token a turn.
        joining: Requests that are not in the generator yet.
        active: Those that are.
    """

    generator: BatchGenerator
    clock: float
    joining: list[Request] = field(default_factory=list)
    active: list[Request] = field(default_factory=list)

    def step(self, interval: float) -> None:
        """Let the requests that are done leave, and those that are new join; then generate a token for each.

        Args:
            interval: Seconds between two updates of a request.
        """
        for request in [request for request in self.active if request.is_done]:
            self.generator.remove(request.sequence)
            self.active.remove(request)
            request.finish()
        while self.joining:
            request = self.joining.pop(0)
            if request.is_done:
                request.finish()
            else:
                self.active.append(request)
                self.generator.insert(request.sequence)
        if self.active:
            steps, now = self.generator.step(), time.perf_counter()
            for request, step in zip(self.active, steps, strict=True):
                request.add(step, now, interval)

    def fail(self, error: Exception) -> None:
        """Deliver an error to all requests."""
        for request in (*self.joining, *self.active):
            request.put(error)
        self.joining, self.active = [], []


class BatchScheduler:
    """Steps the requests of all models in turn. Its thread runs while there are any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[tuple[LanguageModel, Request]] = []
        self.batches: dict[LanguageModel, Batch] = {}  # changed by the scheduler's thread only
        self.is_running = False

    async def stream(
        self, lm: LanguageModel, sequence: Sequence, tokens: int, stop: threading.Event
    ) -> AsyncGenerator[list[GenerationStep]]:
        """Continue a sequence; yields the first step at once, then the steps of each update interval together.

        Args:
            lm: The model.
            sequence: From `lm.prefill`. It may be continued again only if this generator ended by itself.
            tokens: Maximum number of tokens.
            stop: Ends the generation after the current step when it is set.
        """
        request = Request(sequence, tokens, stop)
        with self.lock:
            self.waiting.append((lm, request))
            if not self.is_running:
                self.is_running = True
                threading.Thread(target=self._run, name="scheduler", daemon=True).start()
        try:
            while (item := await request.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            request.cancelled.set()

    def _run(self) -> None:
        while self._admit():
            batch = min(self.batches.values(), key=lambda batch: batch.clock)
            requests = sum(len(batch.active) + len(batch.joining) for batch in self.batches.values())
            start = time.perf_counter()
            try:
                batch.step(max(UPDATE_INTERVAL_S, requests / MAX_UPDATES_PER_S))
            except Exception as error:  # of any kind: the clients must not wait for ever
                batch.fail(error)
            batch.clock += max(1.0, (time.perf_counter() - start) / TURN_S)

    def _admit(self) -> bool:
        """Move the waiting requests into the batches of their models; returns whether there are any batches.

        If there are none, another thread may start as soon as this returns.
        """
        self.batches = {lm: batch for lm, batch in self.batches.items() if batch.active or batch.joining}
        with self.lock:
            for lm, request in self.waiting:
                if lm not in self.batches:
                    clock = min((batch.clock for batch in self.batches.values()), default=0.0)
                    self.batches[lm] = Batch(BatchGenerator(lm), clock)
                self.batches[lm].joining.append(request)
            self.waiting = []
            self.is_running = bool(self.batches)
            return self.is_running

"""Continuous batching for an asyncio server: one thread for each model steps the sequences of all requests together."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from gpt.generation import BatchGenerator, GenerationStep, LanguageModel, Sequence

UPDATE_INTERVAL_S = 0.1  # between two updates of one client; more often is slower for a browser, not smoother
MAX_UPDATES_PER_S = 50  # of all clients together: each costs the server a good part of a step


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


class BatchScheduler:
    """Steps the active requests of one model in one batch. Its thread runs while there are any.

    Args:
        lm: The model.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.lock = lm, threading.Lock()
        self.waiting: list[Request] = []
        self.active: list[Request] = []  # changed by the scheduler's thread only
        self.is_running = False

    async def stream(self, sequence: Sequence, tokens: int, stop: threading.Event) -> AsyncGenerator[list[GenerationStep]]:
        """Continue a sequence; yields the first step at once, then the steps of each update interval together.

        Args:
            sequence: From `LanguageModel.prefill`. It may be continued again only if this generator ended by itself.
            tokens: Maximum number of tokens.
            stop: Ends the generation after the current step when it is set.
        """
        request = Request(sequence, tokens, stop)
        with self.lock:
            self.waiting.append(request)
            if not self.is_running:
                self.is_running = True
                threading.Thread(target=self._run, daemon=True).start()
        try:
            while (item := await request.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            request.cancelled.set()

    def _run(self) -> None:
        batch = BatchGenerator(self.lm)
        while True:
            active, done = self._admit()
            try:
                self._step(batch, active, done)
            except Exception as error:  # of any kind: the clients must not wait for ever
                for request in (*active, *done):
                    request.put(error)
                    request.cancelled.set()
                batch = BatchGenerator(self.lm)
            if not active:
                return

    def _admit(self) -> tuple[list[Request], list[Request]]:
        """Admit the waiting requests; returns the active ones and those that are done.

        If none is active, another thread may start as soon as this returns.
        """
        with self.lock:
            requests, self.waiting = [*self.active, *self.waiting], []
            done = [request for request in requests if request.is_done]  # decided once: it may change at any moment
            self.active = [request for request in requests if request not in done]
            self.is_running = bool(self.active)
            return self.active, done

    def _step(self, batch: BatchGenerator, active: list[Request], done: list[Request]) -> None:
        for request in done:
            batch.remove(request.sequence)
            request.finish()
        for request in active:
            if request.sequence not in batch.sequences:
                batch.insert(request.sequence)
        if active:
            steps = batch.step()
            now, interval = time.perf_counter(), max(UPDATE_INTERVAL_S, len(active) / MAX_UPDATES_PER_S)
            for request, step in zip(active, steps, strict=True):
                request.add(step, now, interval)

"""Continuous batching for an asyncio server: one thread for each model steps the sequences of all requests together."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from gpt.generation import BatchGenerator, GenerationStep, LanguageModel, Sequence

UPDATE_INTERVAL_S = 0.05  # between two updates of one client; more often is slower for a browser, not smoother
MAX_UPDATES_PER_S = 50  # of all clients together: each costs the server a good part of a step


class Request:
    """A sequence that waits for more tokens. Only the scheduler's thread touches `sequence` and `remaining`."""

    def __init__(self, sequence: Sequence, tokens: int, stop: threading.Event) -> None:
        self.sequence, self.remaining, self.stop = sequence, tokens, stop
        self.cancelled = threading.Event()  # set by the consumer
        self.pending: list[GenerationStep] = []
        self.next_update = 0.0  # on the clock of time.perf_counter; the first step is delivered at once
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[list[GenerationStep] | Exception | None] = asyncio.Queue()

    def put(self, item: list[GenerationStep] | Exception | None) -> None:
        """Deliver steps, an error, or None at the end."""
        with suppress(RuntimeError):  # the consumer's event loop has ended
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)

    @property
    def is_done(self) -> bool:
        """Whether it gets no more tokens."""
        return self.remaining <= 0 or self.stop.is_set() or self.cancelled.is_set()


class BatchScheduler:
    """Steps the active requests of one model in one batch. Its thread runs while there are any.

    Args:
        lm: The model.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.lock = lm, threading.Lock()
        self.waiting: list[Request] = []
        self.is_running = False

    async def stream(self, sequence: Sequence, tokens: int, stop: threading.Event) -> AsyncGenerator[list[GenerationStep]]:
        """Continue a sequence; yields the first step at once, then the steps of each update interval together.

        Args:
            sequence: From `LanguageModel.prefill`. It may be used again only after this generator ended by itself.
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
        active: list[Request] = []
        while active := self._admit(batch, active):
            try:
                steps = batch.step()
            except Exception as error:  # its consumers must hear of any error
                for request in active:
                    request.put(error)
                    request.cancelled.set()
                batch = BatchGenerator(self.lm)
                active = []
                continue
            now, interval = time.perf_counter(), max(UPDATE_INTERVAL_S, len(active) / MAX_UPDATES_PER_S)
            for request, step in zip(active, steps, strict=True):
                request.pending.append(step)
                request.remaining -= 1
                if now >= request.next_update:
                    request.put(request.pending)
                    request.pending, request.next_update = [], now + interval

    def _admit(self, batch: BatchGenerator, active: list[Request]) -> list[Request]:
        """Remove requests that are done, add those that wait; returns the active ones, in the batch's order."""
        with self.lock:
            arrived, self.waiting = self.waiting, []
            admitted = [request for request in (*active, *arrived) if not request.is_done]
            self.is_running = bool(admitted)
        for request in arrived:
            if request in admitted:
                batch.insert(request.sequence)
        for request in active:
            if request not in admitted:
                batch.remove(request.sequence)
        for request in (*active, *arrived):
            if request not in admitted:
                if request.pending:
                    request.put(request.pending)
                request.put(None)
        return admitted

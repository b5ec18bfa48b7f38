"""Where a model writes for all its visitors: one thread, which adds a token to each of their texts at every step."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from gpt import LanguageModel, Row, Step

UPDATE = 0.05  # seconds between two updates of a page; more often is slower for the browser, not smoother
UPDATES = 50  # a second, of all pages together: each costs the server a good part of a step of the whole crowd


class _Seat:
    """One text at the desk. The desk's thread alone touches its row."""

    def __init__(self, row: Row, tokens: int, stopping: threading.Event) -> None:
        self.row, self.left, self.stopping = row, tokens, stopping
        self.steps: list[Step] = []  # not handed over yet
        self.due = 0.0  # when they are; the first step at once
        self.loop = asyncio.get_running_loop()
        self.handed: asyncio.Queue[list[Step] | Exception | None] = asyncio.Queue()

    def hand(self, what: list[Step] | Exception | None) -> None:
        with suppress(RuntimeError):  # its event loop has ended: nobody waits for it
            self.loop.call_soon_threadsafe(self.handed.put_nowait, what)


class Desk:
    """Texts join and leave at every step. The thread lives while there are any."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.lock = lm, threading.Lock()
        self.seats: list[_Seat] = []

    async def write(self, row: Row, tokens: int, stopping: threading.Event) -> AsyncGenerator[list[Step]]:
        """Up to `tokens` more steps of a row, or until `stopping` is set: the first at once, then as many together as came
        between two updates of a page. Whoever does not hear them to the end may not use the row again."""
        seat = _Seat(row, tokens, stopping)
        with self.lock:
            self.seats.append(seat)
            if len(self.seats) == 1:
                threading.Thread(target=self._work, daemon=True).start()
        try:
            while (what := await seat.handed.get()) is not None:
                if isinstance(what, Exception):
                    raise what
                yield what
        finally:
            seat.left = 0

    def _work(self) -> None:
        while seats := self._seated():
            try:
                steps = self.lm.step([seat.row for seat in seats])
            except Exception as error:  # whatever it is, those who wait must hear of it
                for seat in seats:
                    seat.hand(error)
                    seat.left = 0
                continue
            now, pause = time.perf_counter(), max(UPDATE, len(seats) / UPDATES)
            for seat, step in zip(seats, steps, strict=True):
                seat.steps.append(step)
                seat.left -= 1
                if now >= seat.due:
                    seat.hand(seat.steps)
                    seat.steps, seat.due = [], now + pause

    def _seated(self) -> list[_Seat]:
        with self.lock:
            done = [seat for seat in self.seats if seat.left <= 0 or seat.stopping.is_set()]
            self.seats = [seat for seat in self.seats if seat not in done]
            seats = list(self.seats)
        for seat in done:
            if seat.steps:
                seat.hand(seat.steps)
            seat.hand(None)
        return seats

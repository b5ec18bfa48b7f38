"""Trainings, each in a process of its own (`train/worker.py`), which a queue starts one after the other."""

import asyncio
import heapq
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from gpt.engine.binding import cores

ROOT = Path(__file__).resolve().parents[1]
WORKER = (sys.executable, "-P", "-m", "train.worker")  # -P: no modules from its own folder, where it writes
NICE = 5  # next to readers who take all there is, a training gets a quarter of each core
CORES = 2  # for each training
MAX_WAITING = 8
UPDATE_INTERVAL_S = 2.0  # between two messages to a visitor who waits
CLOSING_S = 10.0  # that a training takes after its budget: the last measurement, and writing
LATE_S = 120.0  # after its budget, a training is killed; a busy server slows it down
STOP_S = 15.0  # after Stop, a training is killed
EXIT_S = 5.0  # the most that a killed process takes to end
SECRETS = re.compile("TOKEN|SECRET|PASSWORD|API_KEY", re.IGNORECASE)  # environment variables that a training does not get

KILLED = "The training process ended unexpectedly, perhaps for lack of memory. The page goes on; please try again."
LATE = "The training took too long and was ended. This server is busy; please try again later."
CANCELLED = "This training was ended, because another one was started or the visit is over."
FULL = f"{MAX_WAITING} trainings wait already, which is the most this page takes. Please try again in a few minutes."

Event = dict[str, Any]


class JobProcess:
    """A training: a process that reads its settings from stdin, writes events to stdout, and ends with its job.

    It belongs to the page's event loop; a thread of its own reads the events.

    Args:
        settings: What the process gets, as JSON; its "seconds" are the budget.
        folder: The working folder of the process.
    """

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.is_stopped = self.is_cancelled = self._is_late = False
        self.started: float | None = None  # on the clock of time.monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._killer: asyncio.TimerHandle | None = None

    def remaining_seconds(self) -> float:
        """About how long it takes from now on, once it runs."""
        seconds = float(self.settings["seconds"]) + CLOSING_S
        return seconds if self.started is None else max(1.0, self.started + seconds - time.monotonic())

    async def events(self) -> AsyncGenerator[Event]:
        """Run the process; yields its events. The last one is an end or an error, unless this generator is closed."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()

        def read(process: subprocess.Popen[bytes]) -> None:
            with suppress(RuntimeError):  # the page's event loop is closed
                for line in process.stdout or ():
                    loop.call_soon_threadsafe(lines.put_nowait, line)
                process.wait()
                loop.call_soon_threadsafe(lines.put_nowait, None)

        self.started, last = time.monotonic(), ""
        with (self.folder / "stderr.txt").open("w+b") as stderr:
            process = self._process = self._start(stderr)
            reader = threading.Thread(target=read, args=(process,), daemon=True)
            reader.start()
            try:
                self._kill_after(float(self.settings["seconds"]) + LATE_S)
                self._send(json.dumps(self.settings))
                while (line := await lines.get()) is not None:
                    if line.endswith(b"\n"):  # a killed process leaves a part of one
                        event = json.loads(line)
                        last = event["event"]
                        yield event
                if last not in ("end", "error"):
                    yield {"event": "error", "message": self._reason()}
                    if not self.is_cancelled:
                        stderr.seek(0)
                        _log_crash(process.returncode, stderr.read())
            finally:
                if self._killer:
                    self._killer.cancel()
                process.kill()
                process.wait(EXIT_S)
                reader.join(EXIT_S)
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with suppress(OSError):  # what was not sent
                            pipe.close()
                self._process = None

    def stop(self) -> None:
        """Ask the process for the best model so far. A job that waits ends."""
        self.is_stopped = True
        if self._process:
            self._send("stop")
            self._kill_after(STOP_S)

    def cancel(self) -> None:
        """End the process at once; the last event is an error. Returns when it has ended."""
        self.is_cancelled = True
        if self._process:
            self._process.kill()
            self._process.wait(EXIT_S)

    def _start(self, stderr: Any) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if not SECRETS.search(name)}
        env |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH")))), "HF_HUB_OFFLINE": "1"}
        if cores() > CORES:
            env["OMP_NUM_THREADS"] = str(CORES)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        process = subprocess.Popen(WORKER, cwd=self.folder, env=env, **pipes)  # noqa: S603 (WORKER)
        if sys.platform != "win32":
            with suppress(ProcessLookupError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        return process

    def _send(self, line: str) -> None:
        assert self._process is not None  # noqa: S101 (it runs)
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        with suppress(BrokenPipeError):  # it has ended, which its reader sees
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _kill_after(self, seconds: float) -> None:
        if self._killer:
            self._killer.cancel()
        self._killer = asyncio.get_running_loop().call_later(seconds, self._kill_late)

    def _kill_late(self) -> None:
        assert self._process  # noqa: S101 (the timer starts with it)
        self._is_late = True
        self._process.kill()

    def _reason(self) -> str:
        if self.is_cancelled:
            return CANCELLED
        return LATE if self._is_late else KILLED


def _log_crash(status: int, stderr: bytes) -> None:
    """Log where a process failed. The message of an exception is left out: it may contain the visitor's text."""
    lines = stderr.decode("utf-8", "replace").splitlines()
    places = [line for line in lines if line.startswith('  File "')]
    error = lines[-1].partition(":")[0] if places else ""
    print("\n".join([f"A training process ended with status {status}.", *places, error]).rstrip(), file=sys.stderr)


class JobQueue:
    """Runs jobs in the order in which they come. It belongs to the page's event loop.

    Args:
        running: Number of jobs that run at the same time; by default one for every `CORES` CPUs.
        waiting: Number of jobs that wait; further ones are refused.
    """

    def __init__(self, running: int | None = None, waiting: int = MAX_WAITING) -> None:
        self.places = max(1, cores() // CORES) if running is None else running
        self.max_waiting = waiting
        self.running: list[JobProcess] = []
        self.waiting: list[JobProcess] = []
        self._changed = asyncio.Event()  # replaced at each change

    def check(self) -> None:
        """Raise ValueError, in a sentence for the visitor, if there is no place for another job."""
        if len(self.waiting) >= self.max_waiting and len(self.running) >= self.places:
            raise ValueError(FULL)

    async def run(self, job: JobProcess) -> AsyncGenerator[Event]:
        """Wait for a place, and run a job. Yields how long it has to wait, then its events. Closing it ends the job."""
        self.waiting.append(job)
        has_waited = False
        try:
            while self.waiting[0] is not job or len(self.running) >= self.places:
                has_waited = True
                yield {"event": "queue", **self._estimate(job)}
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), UPDATE_INTERVAL_S)
                if job.is_cancelled or job.is_stopped:
                    yield {"event": "error", "message": CANCELLED if job.is_cancelled else "Stopped before it began."}
                    return
            self._move(job, self.running)
            if has_waited:
                yield {"event": "queue", "before": 0, "seconds": 0}  # the first event of the job takes seconds
            async with aclosing(job.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._move(job, None)

    def _move(self, job: JobProcess, place: list[JobProcess] | None) -> None:
        for jobs in (self.running, self.waiting):
            if job in jobs:
                jobs.remove(job)
        if place is not None:
            place.append(job)
        self._changed.set()
        self._changed = asyncio.Event()

    def _estimate(self, job: JobProcess) -> dict[str, int]:
        """How many jobs have to end before this one begins, and in about how many seconds."""
        ahead = self.waiting[: self.waiting.index(job)]
        ends = [each.remaining_seconds() for each in self.running] + [0.0] * (self.places - len(self.running))
        heapq.heapify(ends)
        for each in ahead:
            heapq.heappush(ends, heapq.heappop(ends) + each.remaining_seconds())
        return {"before": len(ahead) + 1, "seconds": round(ends[0])}

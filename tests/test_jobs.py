"""Training processes: how they run, wait and end, and what happens when they do not behave."""

import asyncio
import gc
import os
import signal
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
from loops import run
from visitors import TEXT

from ui import jobs
from ui.jobs import CANCELLED, FULL, KILLED, LATE, JobProcess, JobQueue

pytestmark = pytest.mark.slow


@pytest.fixture
def make_job(fake_worker, tmp_path):
    """A function that makes a job which does what a word says."""

    def make(action, seconds=15, secret=""):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "text.txt").write_text(f"{action} {secret} {TEXT}")
        return JobProcess({"text": str(folder / "text.txt"), "out": str(folder / "out"), "seconds": seconds}, folder)

    return make


async def collect(job, queue=None):
    return [event async for event in (queue or JobQueue(1)).run(job)]


async def first_events(events, name):
    """The events up to the first one of a name."""
    seen = []
    async for event in events:
        seen.append(event)
        if event["event"] == name:
            return seen
    raise AssertionError(f"no {name} in {seen}")


def is_alive(pid):
    """Whether there is a process that has not ended; a zombie is one that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_job_sends_the_events_of_its_process(make_job):
    events = run(collect(make_job("quick")))
    assert [event["event"] for event in events] == ["baselines", "start", "end"]
    assert not is_alive(events[1]["parameters"])


def test_process_is_nice_and_gets_no_secrets(make_job, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OAUTH_CLIENT_SECRET", "MY_API_KEY"):
        monkeypatch.setenv(name, "private")
    _, start, _ = run(collect(make_job("quick")))
    assert start["reason"] == f"nice {jobs.NICE}"
    names = start["command"].split()
    assert "PATH" in names
    assert not [name for name in names if "TOKEN" in name or "SECRET" in name or "API_KEY" in name]


def test_stop_asks_for_the_best_model(make_job):
    job = make_job("slow")

    async def go():
        async with aclosing(JobQueue(1).run(job)) as events:
            await first_events(events, "step")
            job.stop()
            return [event async for event in events][-1]

    assert run(go())["stopped"] is True


def test_process_that_ignores_stop_is_killed(make_job, monkeypatch):
    monkeypatch.setattr(jobs, "STOP_S", 0.2)
    job = make_job("hang")

    async def go():
        async with aclosing(JobQueue(1).run(job)) as events:
            await first_events(events, "step")
            job.stop()
            return [event async for event in events][-1]

    assert run(go()) == {"event": "error", "message": LATE}


def test_process_that_takes_too_long_is_killed(make_job, monkeypatch):
    monkeypatch.setattr(jobs, "LATE_S", 0.5)
    *_, last = run(collect(make_job("hang", seconds=0)))
    assert last == {"event": "error", "message": LATE}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_process_is_a_sentence(make_job, capfd):
    async def go():
        async with aclosing(JobQueue(1).run(make_job("hang"))) as events:
            *_, start = await first_events(events, "start")
            os.kill(start["parameters"], signal.SIGKILL)
            return [event async for event in events][-1]

    assert run(go()) == {"event": "error", "message": KILLED}
    assert "ended with status -9" in capfd.readouterr().err


def test_crash_is_a_sentence_and_its_log_has_nothing_of_the_text(make_job, capfd):
    *_, last = run(collect(make_job("crash", secret="my diary")))
    assert last == {"event": "error", "message": KILLED}
    log = capfd.readouterr().err
    assert "KeyError" in log
    assert "fake_worker.py" in log
    assert "diary" not in log


def test_error_of_the_process_is_the_last_event(make_job, capfd):
    *_, last = run(collect(make_job("error")))
    assert last == {"event": "error", "message": "The text is not to my taste."}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("action", ["hang", "deaf"])
def test_process_ends_when_nobody_listens(make_job, action):
    async def go():
        queue = JobQueue(1)
        async with aclosing(queue.run(make_job(action))) as events:
            *_, start = await first_events(events, "start")
        return start["parameters"], queue

    pid, queue = run(go())
    assert not is_alive(pid)
    assert queue.running == queue.waiting == []


def test_cancelled_job_ends_with_a_sentence(make_job, capfd):
    job = make_job("deaf")

    async def go():
        async with aclosing(JobQueue(1).run(job)) as events:
            *_, start = await first_events(events, "start")
            job.cancel()
            assert not is_alive(start["parameters"])
            return [event async for event in events][-1]

    assert run(go()) == {"event": "error", "message": CANCELLED}
    assert capfd.readouterr().err == ""


def test_jobs_run_in_the_order_in_which_they_come(make_job):
    queue, order = JobQueue(1), []

    async def note(name, job):
        waited = []
        async for event in queue.run(job):
            if event["event"] == "queue":
                waited.append(event["before"])
            elif event["event"] == "start":
                order.append(name)
        return waited

    async def go():
        tasks = [asyncio.create_task(note(name, make_job("quick"))) for name in "abc"]
        return await asyncio.gather(*tasks)

    a, b, c = run(go())
    assert order == list("abc")
    assert (a, b[0], c[0]) == ([], 1, 2)
    assert c[-2:] == [1, 0]


def test_estimate_is_when_the_jobs_before_have_ended(make_job):
    async def go():
        queue = JobQueue(2)
        runs = [queue.run(make_job("slow", seconds=seconds)) for seconds in (15, 60, 30, 15)]
        for job in runs[:2]:
            await anext(job)
        waiting = [await anext(job) for job in runs[2:]]
        for job in runs:
            await job.aclose()
        return waiting

    first, second = run(go())
    closing = jobs.CLOSING_S
    assert (first["before"], second["before"]) == (1, 2)
    assert first["seconds"] == pytest.approx(15 + closing, abs=3)
    assert second["seconds"] == pytest.approx(min(15 + closing + 30 + closing, 60 + closing), abs=3)


def test_full_queue_refuses(make_job):
    async def go():
        queue = JobQueue(1, waiting=1)
        queue.check()
        runs = [queue.run(make_job("slow")) for _ in range(2)]
        for job in runs:
            queue.check()
            await anext(job)
        with pytest.raises(ValueError, match=FULL):
            queue.check()
        await runs[1].aclose()
        queue.check()
        await runs[0].aclose()

    run(go())


@pytest.mark.parametrize(("how", "message"), [("stop", "Stopped before it began."), ("cancel", CANCELLED)])
def test_waiting_job_can_be_ended(make_job, monkeypatch, how, message):
    monkeypatch.setattr(jobs, "UPDATE_INTERVAL_S", 0.05)
    job = make_job("quick")

    async def go():
        queue = JobQueue(1)
        first = queue.run(make_job("slow"))
        await anext(first)
        async with aclosing(queue.run(job)) as events:
            assert (await anext(events))["event"] == "queue"
            getattr(job, how)()
            last = [event async for event in events][-1]
        await first.aclose()
        return last

    assert run(go()) == {"event": "error", "message": message}
    assert not (job.folder / "stderr.txt").exists()  # it never started


def test_process_ends_with_the_page(make_job):
    """The page's process is killed: stdin of the training is closed."""
    job = make_job("hang")

    async def go():
        async with aclosing(job.events()) as events:
            await first_events(events, "step")
            job._process.stdin.close()
            return [event async for event in events][-1]

    assert run(go()) == {"event": "error", "message": KILLED}


def test_one_place_for_two_cores(monkeypatch):
    for cores, places in ((1, 1), (2, 1), (3, 1), (4, 2), (16, 8)):
        monkeypatch.setattr(jobs, "cores", lambda cores=cores: cores)
        assert JobQueue().places == places


def test_fifty_jobs_leave_everything_as_it_was(make_job):
    def resources():
        gc.collect()
        files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        return files, threading.active_count(), children()

    async def go():
        queue = JobQueue(2)
        await collect(make_job("quick"), queue)
        before = resources()
        for action in ("quick", "crash", "error", "quick", "slow") * 10:
            job = make_job(action)
            async with aclosing(queue.run(job)) as events:
                async for event in events:
                    if event["event"] == "step":
                        break  # the visitor leaves
        assert resources() == before
        assert queue.running == queue.waiting == []

    run(go())


def children():
    """The processes that this one has started, zombies included."""
    paths = Path("/proc/self/task").glob("*/children")
    return [pid for path in paths for pid in path.read_text().split()]

"""Continuous batching for the clients of a server."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from loops import run

from gpt import BatchGenerator, SamplingParams, load
from gpt.scheduler import BatchScheduler

LM = load("gpt-shakespeare")


async def generate(scheduler, params, tokens=40, stop=None, delay=0.0):
    """The text that a client gets, in the pieces in which it arrives."""
    await asyncio.sleep(delay)
    sequence = scheduler.lm.prefill("ROMEO:", params)
    updates = [steps async for steps in scheduler.stream(sequence, tokens, stop or threading.Event())]
    return ["".join(step.text for step in steps) for steps in updates]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_idle(scheduler):
    return not (scheduler.active or scheduler.waiting or scheduler.is_running)


@pytest.mark.slow
def test_text_does_not_depend_on_the_other_clients():
    params = [SamplingParams(temperature=0.5 + seed / 4, top_k=seed, seed=seed, max_new_tokens=40) for seed in range(6)]

    async def clients():
        scheduler = BatchScheduler(LM)
        return await asyncio.gather(*(generate(scheduler, p, delay=i * 0.01) for i, p in enumerate(params)))

    assert ["".join(text) for text in run(clients())] == [LM.generate("ROMEO:", p).text for p in params]


def start_together(scheduler, tokens, monkeypatch):
    """Texts of clients that all arrive before the first step; returns the batch sizes of the steps, and the texts."""
    arrived, sizes, admit, step = threading.Event(), [], BatchScheduler._admit, BatchGenerator.step

    def held_admit(self):
        arrived.wait()
        return admit(self)

    def recorded_step(self):
        sizes.append(len(self.sequences))
        return step(self)

    async def clients():
        texts = asyncio.gather(*(generate(scheduler, SamplingParams(seed=seed), n) for seed, n in enumerate(tokens)))
        while len(scheduler.active) + len(scheduler.waiting) < len(tokens):
            await asyncio.sleep(0.01)
        arrived.set()
        return await texts

    with monkeypatch.context() as patch:
        patch.setattr(BatchScheduler, "_admit", held_admit)
        patch.setattr(BatchGenerator, "step", recorded_step)
        texts = run(clients())
    return sizes, texts


def test_all_requests_are_stepped_in_one_batch(monkeypatch):
    scheduler = BatchScheduler(LM)
    sizes, _ = start_together(scheduler, [10, 20, 30], monkeypatch)
    assert sizes == [3] * 10 + [2] * 10 + [1] * 10
    wait_until(lambda: is_idle(scheduler))


def test_new_request_does_not_wait_for_long_ones(slow_generation):
    async def clients():
        scheduler = BatchScheduler(LM)
        long = [asyncio.create_task(generate(scheduler, SamplingParams(seed=seed), 1_000_000)) for seed in range(8)]
        while len(scheduler.active) < len(long):
            await asyncio.sleep(0.01)
        text = "".join(await generate(scheduler, SamplingParams(seed=9), 3))
        assert not any(task.done() for task in long)
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return text

    assert run(clients()) == LM.generate("ROMEO:", SamplingParams(seed=9, max_new_tokens=3)).text


def test_first_step_is_delivered_at_once_and_later_ones_together(monkeypatch):
    monkeypatch.setattr("gpt.scheduler.UPDATE_INTERVAL_S", 600.0)
    assert [len(text) for text in run(generate(BatchScheduler(LM), SamplingParams(seed=1), 100))] == [1, 99]


def test_updates_are_less_frequent_for_many_clients(monkeypatch):
    clock = iter(range(1000))  # each step takes a second
    monkeypatch.setattr("gpt.scheduler.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr("gpt.scheduler.MAX_UPDATES_PER_S", 1 / 3)  # one client is updated every 3 seconds, 4 every 12
    _, (alone,) = start_together(BatchScheduler(LM), [31], monkeypatch)
    assert [len(text) for text in alone] == [1] + [3] * 10
    _, texts = start_together(BatchScheduler(LM), [31] * 4, monkeypatch)
    assert all([len(part) for part in text].count(12) == 2 for text in texts)


def test_request_for_no_tokens_yields_nothing():
    assert run(generate(BatchScheduler(LM), SamplingParams(seed=1), 0)) == []


@pytest.mark.slow
def test_stopped_sequence_delivers_every_token_and_can_continue(slow_generation):
    async def client():
        scheduler, stop = BatchScheduler(LM), threading.Event()
        sequence, steps = LM.prefill("ROMEO:", SamplingParams(seed=3)), []
        async for update in scheduler.stream(sequence, 1_000_000, stop):
            steps += update
            if len(steps) > 5:
                stop.set()
        stop.clear()
        async for update in scheduler.stream(sequence, 20, stop):
            steps += update
        return "".join(step.text for step in steps)

    text = run(client())
    assert text == LM.generate("ROMEO:", SamplingParams(seed=3, max_new_tokens=len(text))).text


@pytest.mark.slow
def test_cancelled_request_is_removed(slow_generation):
    scheduler = BatchScheduler(LM)

    async def cancel():
        stream = scheduler.stream(LM.prefill("x", SamplingParams(seed=1)), 10_000, threading.Event())
        await anext(stream)
        await stream.aclose()

    async def both():
        return (await asyncio.gather(cancel(), generate(scheduler, SamplingParams(seed=2), 20)))[1]

    assert "".join(run(both())) == LM.generate("ROMEO:", SamplingParams(seed=2, max_new_tokens=20)).text
    wait_until(lambda: is_idle(scheduler))


def test_request_cancelled_during_a_step_gets_no_other(monkeypatch):
    """Cancelling only sets an event, so no write of the scheduler's thread can undo it."""
    scheduler, started, cancelled, steps = BatchScheduler(LM), threading.Event(), threading.Event(), []
    step = BatchGenerator.step

    def held_step(self):
        steps.append(len(self.sequences))
        if len(steps) == 2:
            started.set()
            assert cancelled.wait(60)
        return step(self)

    async def cancel():
        stream = scheduler.stream(LM.prefill("x", SamplingParams(seed=1)), 10_000, threading.Event())
        await anext(stream)
        while not started.is_set():
            await asyncio.sleep(0.01)
        await stream.aclose()
        cancelled.set()

    monkeypatch.setattr(BatchGenerator, "step", held_step)
    run(cancel())
    wait_until(lambda: is_idle(scheduler))
    assert steps == [1, 1]


@pytest.mark.slow
def test_closed_event_loop_does_not_stop_other_requests(slow_generation):
    scheduler = BatchScheduler(LM)

    async def abandon():
        stream = scheduler.stream(LM.prefill("x", SamplingParams(seed=1)), 50, threading.Event())
        await anext(stream)
        return stream  # it is not closed before its loop ends

    stream = run(abandon())
    assert "".join(run(generate(scheduler, SamplingParams(seed=2), 20)))
    del stream


@pytest.mark.parametrize("method", ["insert", "step", "remove"])
def test_error_reaches_every_client_and_the_scheduler_recovers(method, monkeypatch):
    scheduler = BatchScheduler(LM)

    def fail(self, *args):
        raise MemoryError("out of memory")

    async def clients():
        streams = (generate(scheduler, SamplingParams(seed=seed), 5) for seed in (1, 2))
        return await asyncio.wait_for(asyncio.gather(*streams, return_exceptions=True), 60)

    with monkeypatch.context() as patch:
        patch.setattr(BatchGenerator, method, fail)
        assert [str(error) for error in run(clients())] == ["out of memory"] * 2
        wait_until(lambda: is_idle(scheduler))
    assert len("".join(run(generate(scheduler, SamplingParams(seed=1), 40)))) == 40


@pytest.mark.parametrize("count", [1, 3])
def test_token_outside_the_vocabulary_is_an_error(count):
    async def clients():
        scheduler = BatchScheduler(LM)
        sequences = [LM.prefill("x", SamplingParams(seed=1)) for _ in range(count)]
        for sequence in sequences:
            sequence.logits, sequence.last_token_id = None, 10**6
        streams = [scheduler.stream(sequence, 5, threading.Event()) for sequence in sequences]
        return await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)

    assert all(isinstance(error, IndexError) for error in run(clients()))

"""Continuous batching for the clients of a server."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from loops import run

from gpt import BatchGenerator, SamplingParams, load
from gpt import scheduler as scheduling
from gpt.scheduler import BatchScheduler

LM = load("gpt-shakespeare")


async def generate(scheduler, params, tokens=40, stop=None, delay=0.0, lm=LM):
    """The text that a client gets, in the pieces in which it arrives."""
    await asyncio.sleep(delay)
    sequence = lm.prefill("ROMEO:", params)
    updates = [steps async for steps in scheduler.stream(lm, sequence, tokens, stop or threading.Event())]
    return ["".join(step.text for step in steps) for steps in updates]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_idle(scheduler):
    return not (scheduler.batches or scheduler.waiting or scheduler.is_running)


def count_active(scheduler):
    return sum(len(batch.active) for batch in scheduler.batches.values())


@pytest.mark.slow
def test_text_does_not_depend_on_the_other_clients():
    params = [SamplingParams(temperature=0.5 + seed / 4, top_k=seed, seed=seed, max_new_tokens=40) for seed in range(6)]

    async def clients():
        scheduler = BatchScheduler()
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
        while len(scheduler.waiting) < len(tokens):
            await asyncio.sleep(0.01)
        arrived.set()
        return await texts

    with monkeypatch.context() as patch:
        patch.setattr(BatchScheduler, "_admit", held_admit)
        patch.setattr(BatchGenerator, "step", recorded_step)
        texts = run(clients())
    return sizes, texts


def test_all_requests_are_stepped_in_one_batch(monkeypatch):
    scheduler = BatchScheduler()
    sizes, _ = start_together(scheduler, [10, 20, 30], monkeypatch)
    assert sizes == [3] * 10 + [2] * 10 + [1] * 10
    wait_until(lambda: is_idle(scheduler))


def test_new_request_does_not_wait_for_long_ones(slow_generation):
    async def clients():
        scheduler = BatchScheduler()
        long = [asyncio.create_task(generate(scheduler, SamplingParams(seed=seed), 1_000_000)) for seed in range(8)]
        while count_active(scheduler) < len(long):
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
    assert [len(text) for text in run(generate(BatchScheduler(), SamplingParams(seed=1), 100))] == [1, 99]


def test_updates_are_less_frequent_for_many_clients(monkeypatch):
    clock, step = [0.0], BatchGenerator.step

    def slow_step(self):
        clock[0] += 1  # each step takes a second
        return step(self)

    monkeypatch.setattr(BatchGenerator, "step", slow_step)
    monkeypatch.setattr("gpt.scheduler.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr("gpt.scheduler.MAX_UPDATES_PER_S", 1 / 3)  # one client is updated every 3 seconds, 4 every 12
    _, (alone,) = start_together(BatchScheduler(), [31], monkeypatch)
    assert [len(text) for text in alone] == [1] + [3] * 10
    _, texts = start_together(BatchScheduler(), [31] * 4, monkeypatch)
    assert all([len(part) for part in text].count(12) == 2 for text in texts)


def test_request_for_no_tokens_yields_nothing():
    assert run(generate(BatchScheduler(), SamplingParams(seed=1), 0)) == []


@pytest.mark.slow
def test_stopped_sequence_delivers_every_token_and_can_continue(slow_generation):
    async def client():
        scheduler, stop = BatchScheduler(), threading.Event()
        sequence, steps = LM.prefill("ROMEO:", SamplingParams(seed=3)), []
        async for update in scheduler.stream(LM, sequence, 1_000_000, stop):
            steps += update
            if len(steps) > 5:
                stop.set()
        stop.clear()
        async for update in scheduler.stream(LM, sequence, 20, stop):
            steps += update
        return "".join(step.text for step in steps)

    text = run(client())
    assert text == LM.generate("ROMEO:", SamplingParams(seed=3, max_new_tokens=len(text))).text


@pytest.mark.slow
def test_cancelled_request_is_removed(slow_generation):
    scheduler = BatchScheduler()

    async def cancel():
        stream = scheduler.stream(LM, LM.prefill("x", SamplingParams(seed=1)), 10_000, threading.Event())
        await anext(stream)
        await stream.aclose()

    async def both():
        return (await asyncio.gather(cancel(), generate(scheduler, SamplingParams(seed=2), 20)))[1]

    assert "".join(run(both())) == LM.generate("ROMEO:", SamplingParams(seed=2, max_new_tokens=20)).text
    wait_until(lambda: is_idle(scheduler))


def test_request_cancelled_during_a_step_gets_no_other(monkeypatch):
    """Cancelling only sets an event, so no write of the scheduler's thread can undo it."""
    scheduler, started, cancelled, steps = BatchScheduler(), threading.Event(), threading.Event(), []
    step = BatchGenerator.step

    def held_step(self):
        steps.append(len(self.sequences))
        if len(steps) == 2:
            started.set()
            assert cancelled.wait(60)
        return step(self)

    async def cancel():
        stream = scheduler.stream(LM, LM.prefill("x", SamplingParams(seed=1)), 10_000, threading.Event())
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
    scheduler = BatchScheduler()

    async def abandon():
        stream = scheduler.stream(LM, LM.prefill("x", SamplingParams(seed=1)), 50, threading.Event())
        await anext(stream)
        return stream  # it is not closed before its loop ends

    stream = run(abandon())
    assert "".join(run(generate(scheduler, SamplingParams(seed=2), 20)))
    del stream


@pytest.mark.parametrize("method", ["insert", "step", "remove"])
def test_error_reaches_every_client_and_the_scheduler_recovers(method, monkeypatch):
    scheduler = BatchScheduler()

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
        scheduler = BatchScheduler()
        sequences = [LM.prefill("x", SamplingParams(seed=1)) for _ in range(count)]
        for sequence in sequences:
            sequence.logits, sequence.last_token_id = None, 10**6
        streams = [scheduler.stream(LM, sequence, 5, threading.Event()) for sequence in sequences]
        return await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)

    assert all(isinstance(error, IndexError) for error in run(clients()))


@pytest.fixture
def step_order(monkeypatch):
    """The models that are stepped, in order, as a function of the texts of each and of the seconds of a step of each."""
    step, clock = BatchGenerator.step, [0.0]

    def record(texts, seconds):
        order, arrived, admit = [], threading.Event(), BatchScheduler._admit

        def held_admit(self):
            arrived.wait()
            return admit(self)

        def recorded_step(self):
            order.append(self.lm.name)
            clock[0] += seconds[self.lm.name]
            return step(self)

        async def clients():
            scheduler = BatchScheduler()
            streams = [
                asyncio.create_task(generate(scheduler, SamplingParams(seed=i), tokens, lm=lm))
                for lm, counts in ((load(name), counts) for name, counts in texts.items())
                for i, tokens in enumerate(counts)
            ]
            while len(scheduler.waiting) < len(streams):
                await asyncio.sleep(0.01)
            arrived.set()
            await asyncio.gather(*streams)

        monkeypatch.setattr(BatchScheduler, "_admit", held_admit)
        monkeypatch.setattr(BatchGenerator, "step", recorded_step)
        monkeypatch.setattr(scheduling, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
        run(clients())
        return order

    return record


def test_texts_of_all_models_grow_by_a_token_a_turn(step_order):
    texts = {"gpt-names": [20], "bigram-names": [3] * 40, "ngram-names": [20, 20]}
    order = step_order(texts, {"gpt-names": 0.009, "bigram-names": 0.001, "ngram-names": 0.0001})
    assert [set(order[i : i + 3]) for i in range(0, 9, 3)] == [set(texts)] * 3
    assert [set(order[i : i + 2]) for i in range(9, 43, 2)] == [{"gpt-names", "ngram-names"}] * 17


def test_slow_model_pays_with_turns(step_order):
    order = step_order({"gpt-names": [10], "bigram-names": [50]}, {"gpt-names": 0.05, "bigram-names": 0.0001})
    assert [order[: 6 * i].count("gpt-names") for i in (1, 2, 4, 8)] == [1, 2, 4, 8]  # a step of 50 ms counts as 5


def test_new_model_does_not_make_up_for_turns_before_it(monkeypatch):
    order, step = [], BatchGenerator.step
    scheduler, names = BatchScheduler(), load("bigram-names")

    def recorded_step(self):
        order.append(self.lm.name)
        return step(self)

    async def clients():
        long = asyncio.create_task(generate(scheduler, SamplingParams(seed=1), 400))
        while len(order) < 50:
            await asyncio.sleep(0.001)
        await generate(scheduler, SamplingParams(seed=1), 100, lm=names)
        await long

    monkeypatch.setattr(BatchGenerator, "step", recorded_step)
    run(clients())
    joined = order.index("bigram-names")
    assert 40 <= order[joined : joined + 100].count("bigram-names") <= 60


def test_error_of_one_model_does_not_reach_the_clients_of_another(monkeypatch):
    scheduler, names, step = BatchScheduler(), load("bigram-names"), BatchGenerator.step

    def failing_step(self):
        if self.lm is names:
            raise MemoryError("out of memory")
        return step(self)

    async def clients():
        streams = generate(scheduler, SamplingParams(seed=1), 100), generate(scheduler, SamplingParams(seed=1), lm=names)
        return await asyncio.gather(*streams, return_exceptions=True)

    monkeypatch.setattr(BatchGenerator, "step", failing_step)
    text, error = run(clients())
    assert len("".join(text)) == 100
    assert isinstance(error, MemoryError)
    wait_until(lambda: is_idle(scheduler))

"""Where a model writes for all its visitors at once."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from loops import run

from gpt import LanguageModel, SamplingParams
from gpt.scheduler import BatchScheduler
from ui.model_registry import take

LM = take("gpt-shakespeare").lm


async def write(desk, params, tokens=40, stopping=None, wait=0.0):
    """The text that a visitor gets, in the pieces in which it came."""
    await asyncio.sleep(wait)
    row = desk.lm.open("ROMEO:", params)
    batches = [steps async for steps in desk.write(row, tokens, stopping or threading.Event())]
    return ["".join(step.text for step in steps) for steps in batches]


def test_a_text_is_the_same_alone_and_in_company_that_comes_and_goes():
    settings = [SamplingParams(temperature=0.5 + seed / 4, top_k=seed, seed=seed, max_new_tokens=40) for seed in range(6)]
    alone = [LM.generate("ROMEO:", params).text for params in settings]

    async def crowd():
        desk = BatchScheduler(LM)
        return await asyncio.gather(*(write(desk, params, wait=i * 0.01) for i, params in enumerate(settings)))

    assert ["".join(text) for text in run(crowd())] == alone


def together(desk, tokens, monkeypatch):
    """Texts of visitors who all sit down before the first step is made; sizes of the steps, and the texts."""
    seated, sizes, step = threading.Event(), [], LanguageModel.step

    def held(self, rows):
        seated.wait()
        sizes.append(len(rows))
        return step(self, rows)

    async def crowd():
        texts = asyncio.gather(*(write(desk, SamplingParams(seed=seed), count) for seed, count in enumerate(tokens)))
        while len(desk.seats) < len(tokens):
            await asyncio.sleep(0.01)
        seated.set()
        return await texts

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "step", held)
        texts = run(crowd())
    return sizes[1:], texts  # the first step is the first visitor's alone


def test_all_texts_are_written_together(monkeypatch):
    desk = BatchScheduler(LM)
    sizes, _ = together(desk, [11, 20, 30], monkeypatch)
    assert sizes == [3] * 10 + [2] * 10 + [1] * 10
    assert desk.seats == []


def test_a_newcomer_need_not_wait_for_long_texts(slow):
    async def crowd():
        desk = BatchScheduler(LM)
        long = [asyncio.create_task(write(desk, SamplingParams(seed=seed), 1_000_000)) for seed in range(8)]
        while len(desk.seats) < len(long):
            await asyncio.sleep(0.01)
        text = "".join(await write(desk, SamplingParams(seed=9), 3))
        assert not any(task.done() for task in long)
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return text

    assert run(crowd()) == LM.generate("ROMEO:", SamplingParams(seed=9, max_new_tokens=3)).text


def test_the_first_character_comes_at_once_and_then_many_together(monkeypatch):
    monkeypatch.setattr("gpt.scheduler.UPDATE", 600.0)
    assert [len(text) for text in run(write(BatchScheduler(LM), SamplingParams(seed=1), 100))] == [1, 99]


def test_pages_are_updated_less_often_in_a_crowd(monkeypatch):
    clock = iter(range(1000))  # a step takes a second
    monkeypatch.setattr("gpt.scheduler.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr("gpt.scheduler.UPDATES", 1 / 3)  # a second: one in 3 seconds of a single visitor
    _, (alone,) = together(BatchScheduler(LM), [31], monkeypatch)
    assert [len(text) for text in alone] == [1] + [3] * 10
    _, texts = together(BatchScheduler(LM), [31] * 4, monkeypatch)
    assert all([len(part) for part in text].count(12) == 2 for text in texts)  # of 4, one in 12


def test_no_tokens_are_no_text():
    assert run(write(BatchScheduler(LM), SamplingParams(seed=1), 0)) == []


def test_a_stop_keeps_every_character_that_was_drawn(slow):
    async def text():
        desk, stopping = BatchScheduler(LM), threading.Event()
        row, steps = LM.open("ROMEO:", SamplingParams(seed=3)), []
        async for some in desk.write(row, 1_000_000, stopping):
            steps += some
            if len(steps) > 5:
                stopping.set()
        stopping.clear()
        async for some in desk.write(row, 20, stopping):
            steps += some
        return "".join(step.text for step in steps)

    written = run(text())
    assert written == LM.generate("ROMEO:", SamplingParams(seed=3, max_new_tokens=len(written))).text


def test_whoever_leaves_leaves_the_desk_and_the_others_go_on(slow):
    desk = BatchScheduler(LM)

    async def leave():
        running = desk.write(LM.open("x", SamplingParams(seed=1)), 10_000, threading.Event())
        await anext(running)
        await running.aclose()

    async def both():
        return (await asyncio.gather(leave(), write(desk, SamplingParams(seed=2), 20)))[1]

    assert "".join(run(both())) == LM.generate("ROMEO:", SamplingParams(seed=2, max_new_tokens=20)).text
    deadline = time.monotonic() + 60
    while desk.seats:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_leaves_with_their_event_loop_does_no_harm(slow):
    desk = BatchScheduler(LM)

    async def vanish():
        running = desk.write(LM.open("x", SamplingParams(seed=1)), 50, threading.Event())
        await anext(running)
        return running  # nobody closes it before the loop ends

    left = run(vanish())
    assert "".join(run(write(desk, SamplingParams(seed=2), 20)))
    del left


def test_a_fault_reaches_all_who_wait_and_the_desk_works_on(monkeypatch):
    desk = BatchScheduler(LM)

    def broken(self, rows):
        raise MemoryError("there is no memory for a step")

    async def crowd():
        return await asyncio.gather(*(write(desk, SamplingParams(seed=s)) for s in (1, 2)), return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "step", broken)
        assert [str(error) for error in run(crowd())] == ["there is no memory for a step"] * 2
    assert len("".join(run(write(desk, SamplingParams(seed=1), 40)))) == 40


@pytest.mark.parametrize("texts", [1, 3])
def test_a_row_that_the_model_cannot_go_on_with_is_told(texts):
    async def crowd():
        desk = BatchScheduler(LM)
        rows = [LM.open("x", SamplingParams(seed=1)) for _ in range(texts)]
        for row in rows:
            row.logits = None
            row.token = 10**6
        return await asyncio.gather(*(anext(desk.write(row, 5, threading.Event())) for row in rows), return_exceptions=True)

    assert all(isinstance(error, IndexError) for error in run(crowd()))

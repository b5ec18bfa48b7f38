"""The load benchmarks find what they are for: texts that differ, calls that fail, and how long visitors wait."""

import os
import random
import sys
import time
from dataclasses import replace

import pytest
from loops import run

from benchmarks import bench_page, soak
from gpt import load


@pytest.fixture(scope="module")
def texts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soak, "writing_models", lambda: {name: load(name) for name in ("bigram-names", "gpt-names")})
        return soak.make_texts(6, 12)


def run_action(address, action, text, length=10):
    async def go():
        record = soak.Record()
        async with soak.httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
            await action(client, text, length, record)
        return record

    return run(go())


@pytest.mark.slow
@pytest.mark.parametrize("action", [soak.write, soak.leave, soak.api, soak.score])
def test_each_action_agrees_with_the_library(address, texts, action):
    for text in texts:
        assert run_action(address, action, text).mismatches == []


@pytest.mark.slow
@pytest.mark.parametrize("action", [soak.write, soak.api, soak.score])
def test_each_action_finds_a_difference(address, texts, action):
    text = replace(texts[1], pieces=["?"] * 12, nll=1.0)
    assert len(run_action(address, action, text).mismatches) == 1


@pytest.mark.slow
def test_soak_counts_calls_and_errors(address, texts, capsys):
    broken = replace(texts[0], query="model=nobody", arguments={"model": "nobody", "prompt": "a"}, nll=1.0)
    total, rows = run(soak.soak(address, os.getpid(), [*texts, broken], clients=3, minutes=0.05))
    assert sum(total.calls.values()) == sum(row["calls"] for row in rows) >= 3
    assert all(row["resident_mb"] > 50 for row in rows)
    assert total.mismatches == []
    assert all("nobody" in error for error in total.errors)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)


@pytest.mark.slow
def test_failed_calls_are_recorded(address, texts):
    broken, records = (
        replace(texts[0], query="model=nobody", arguments={"model": "nobody", "prompt": "a"}, nll=1.0),
        [soak.Record()],
    )
    run(soak.visit(address, [broken], random.Random(0), time.monotonic() + 1, records))
    assert len(records[0].errors) == records[0].calls.total() >= 1


@pytest.mark.slow
def test_waiting_times_of_visitors(address):
    times = run(bench_page.read_all(address, ["bigram-names", "gpt-names"], 4, 20))
    assert 0 < times["first character, median, s"] <= times["first character, last, s"] <= times["all texts, s"]
    assert times["slowest / fastest visitor"] >= 1


def test_percentile():
    assert soak.percentile([float(i) for i in range(101)], 95) == pytest.approx(95)
    assert (soak.percentile([], 95), soak.percentile([1.0], 50)) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_resident_memory():
    before = soak.resident_mb(os.getpid())
    block = bytearray(b"x") * 50_000_000
    assert soak.resident_mb(os.getpid()) - before > 40
    del block

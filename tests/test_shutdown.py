"""The page ends gracefully, says how it is, and its memory is bounded."""

import json
import sys
import threading
import time

import pytest
from browser import page_process
from visitors import Visitor, wait_until

from ui import routes, session, shutdown
from ui.shutdown import RESTARTING, Shutdown


@pytest.fixture
def closing(monkeypatch):
    """A shutdown that gives texts a second, and that only this test begins."""
    own = Shutdown()
    for module in (routes, session):
        monkeypatch.setattr(module, "shutdown", own)
    monkeypatch.setattr(shutdown, "DRAIN_S", 1.0)
    return own


def read(visitor, end, answers):
    """Read a text of some tokens in a thread; appends the number of tokens, and the error."""
    seed = len(answers)

    def run():
        body = {"query": f"model=bigram-names&seed={seed}", "start": 0, "end": end}
        lines = list(map(json.loads, visitor.post("generate", body).iter_lines()))
        answers[end] = sum(len(line.get("ids", [])) for line in lines), lines[-1].get("error")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.slow
def test_short_texts_finish_and_long_ones_end_in_a_sentence(visitor, closing, slow_generation):
    one, answers = visitor(), {}
    threads = [read(one, end, answers) for end in (20, 4_000)]
    wait_until(lambda: one.get("health").json() == {"status": "ok", "texts": 2}, "two texts")
    closing.drain()
    for thread in threads:
        thread.join()
    assert answers[20] == (20, None)
    tokens, error = answers[4_000]
    assert 20 < tokens < 4_000
    assert error == RESTARTING
    health = one.get("health")
    assert (health.status_code, health.json()) == (503, {"status": "stopping", "texts": 0})
    read(one, 5, answers).join()
    assert answers[5] == (0, RESTARTING)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_terminated_page_exits_with_0_in_10_seconds():
    with page_process() as (address, server):
        one, answers = Visitor(address), {}
        thread = read(one, 300, answers)
        wait_until(lambda: one.get("health").json()["texts"] or answers, "the text begins")
        start = time.monotonic()
        server.terminate()
        assert server.wait(timeout=30) == 0
        assert time.monotonic() - start < 10
        thread.join()
        one.close()
    assert answers == {300: (300, None)}

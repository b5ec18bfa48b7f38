"""The process that trains for the page, as a process."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from gpt import load
from train.short_run import Job
from train.worker import read_object

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def start(text_file, tmp_path):
    """A function that starts a worker and gives it a job with some settings."""
    processes = []

    def start(**settings):
        job = Job(str(text_file), "chain", False, "gpt", "small", "char", None, 100, 1, str(tmp_path / "out"))
        process = subprocess.Popen(
            [sys.executable, "-m", "train.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        send(process, json.dumps(asdict(job) | settings))
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def send(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def events_until(process, name):
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == name:
            return events
    raise AssertionError(f"no event {name!r}: {events}")


def test_a_job_is_done(start, tmp_path):
    process = start(seconds=0.5)
    end = events_until(process, "end")[-1]
    assert end["stopped"] is False
    assert {model["folder"] for model in end["models"]} >= {"bigram", "ngram", "gpt"}
    assert all(load(tmp_path / "out" / model["folder"]).generate("").text for model in end["models"])
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


def test_stop_ends_with_the_best_model(start, tmp_path):
    process = start()
    events_until(process, "evaluation")
    send(process, "stop")
    started = time.monotonic()
    end = events_until(process, "end")[-1]
    assert time.monotonic() - started < 3
    assert end["stopped"] is True
    assert load(tmp_path / "out" / "gpt").num_parameters > 0
    assert process.wait(20) == 0


@pytest.mark.parametrize("event", [None, "start"])
def test_the_end_of_the_input_ends_the_process_at_once(start, event):
    process = start()
    if event:
        events_until(process, event)
    process.stdin.close()
    started = time.monotonic()
    process.stdout.read()
    assert process.wait(20) == 0
    assert time.monotonic() - started < 3
    process.stdin = None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"kind": "zebra"}, "Kind is 'zebra'"), ({"seconds": "15"}, "not supported between"), ({"out": "/proc/no"}, "/proc/no")],
)
def test_a_job_that_cannot_be_done_is_an_event(start, settings, expected):
    process = start(**settings)
    *_, error = events_until(process, "error")
    assert expected in error["message"]
    assert "\n" not in error["message"]
    assert error["message"].endswith(".")
    assert process.wait(20) == 1
    assert process.stderr.read() == ""


@pytest.mark.parametrize("line", ["", "{", "[1]", "stop"])
def test_a_line_that_is_no_job_is_refused(line):
    with pytest.raises(ValueError, match="the first line of input is not a job in JSON"):
        read_object(line)

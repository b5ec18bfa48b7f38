"""Bad data files and resume files, and faults while a run writes: a kill or a full disk at each write."""

import os
import shutil
import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt import CheckpointError, load
from train.__main__ import read_facts
from train.configs import BigramTrainConfig
from train.data import TextDataset, load_dataset
from train.runs import RESUME, TRAINING, train
from train.text_files import MAX_FILE_BYTES
from train.trainer import Budget, StepEvent

DATA = TextDataset("chain", ("the quick brown fox; " * 20,), "0" * 64)
JUNK = [None, -1, 10**50, float("nan"), "x", [], {}, True, torch.zeros(2)]


def begin(out, resume=False):
    return train("bigram", BigramTrainConfig(), DATA, out, Budget(steps=3), seed=1, command="a test", resume=resume)


def weights_of(out):
    return load(out).model.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    list(begin(out))
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped after its second step."""
    out, events = tmp_path_factory.mktemp("stopped") / "out", None
    events = begin(out)
    while not (isinstance(event := next(events), StepEvent) and event.step == 2):
        pass
    events.close()
    return out


# Data


def test_endless_and_huge_files(attack, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    paths = [tmp_path, *(tmp_path / name for name in ("pipe", "loop", "huge"))]
    for path in (*paths, "/dev/zero", "/dev/urandom", "/dev/null", "/proc/self/mem", "/"):
        attack.refused(lambda path=path: load_dataset(str(path)), ValueError)


@given(
    st.binary(max_size=400)
    | st.text(max_size=200).map(str.encode)
    | st.text(max_size=200).map(lambda text: text.encode("utf-16"))
)
@pytest.mark.parametrize("is_lines", [False, True])
def test_any_bytes(attack, is_lines, content):
    dataset = attack.survived(lambda: TextDataset.from_bytes("any", content, is_lines), ValueError)
    if dataset:
        assert "\r" not in dataset.text
        assert "\0" not in dataset.text


# Resume files


def paths_in(value, path=()):
    """The path of everything inside nested dicts, lists and tuples."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, child in children:
        yield from paths_in(child, (*path, key))


def changed(value, path, junk):
    """A copy of nested values with `junk` at a path."""
    if not path:
        return junk
    if isinstance(value, dict):
        return {key: changed(child, path[1:], junk) if key == path[0] else child for key, child in value.items()}
    return type(value)(changed(child, path[1:], junk) if i == path[0] else child for i, child in enumerate(value))


def test_resume_files_of_another_form(attack, stopped, tmp_path):
    saved = torch.load(stopped / RESUME, weights_only=True)
    out = tmp_path / "out"
    out.mkdir()
    changes = [(path, junk) for path in paths_in(saved) for junk in JUNK]
    for path, junk in changes if os.environ.get("ATTACK") == "full" else changes[::7]:
        torch.save(changed(saved, path, junk), out / RESUME)
        attack.survived(lambda: next(begin(out, resume=True)), ValueError)


@given(st.binary(max_size=300))
def test_resume_files_of_any_bytes(attack, tmp_path, content):
    (tmp_path / RESUME).write_bytes(content)
    attack.refused(lambda: next(begin(tmp_path, resume=True)), ValueError)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, '{"train_config": 1}', '{"train_config": {}, "budget": {"x": 1}}']
)
def test_training_json_of_another_form(attack, tmp_path, content):
    (tmp_path / TRAINING).write_text(content)
    attack.refused(lambda: read_facts(tmp_path, "gpt"), ValueError)


# Faults


class KilledError(BaseException):
    """Ends a run at once: what it would clean up, it cannot."""


def run_with_fault(monkeypatch, out, write, fault):
    """Run until a write, counted from 0, and return whether the run got there. Half of the file is written then."""
    count, fsync = 0, os.fsync

    def fail(file):
        nonlocal count
        count += 1
        if count > write:
            os.truncate(file, os.fstat(file).st_size // 2)
            raise fault
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        if isinstance(fault, KilledError):
            patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        try:
            list(begin(out))
        except type(fault):
            return True
    return False


@pytest.mark.parametrize("kind", ["kill", "full disk"])
def test_fault_at_each_write_loses_nothing(attack, monkeypatch, whole, tmp_path, kind):
    write = 0
    while True:
        out, fault = tmp_path / str(write), KilledError() if kind == "kill" else OSError(28, "No space left on device")
        with attack.time_limit():
            if not run_with_fault(monkeypatch, out, write, fault):
                break
            attack.faults += 1
            if kind == "full disk":
                assert str(out) in fault.filename
                assert not list(out.glob(".*"))
            if write:  # else there is nothing to resume
                list(begin(out, resume=True))
                assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}  # no temporary files
                assert all(torch.equal(a, b) for a, b in zip(weights_of(out).values(), weights_of(whole).values(), strict=True))
        shutil.rmtree(out)
        write += 1
    assert write > 15


def test_full_disk(attack, tmp_path):
    """A real one, where file systems may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        attack.faults += 1
        with attack.time_limit(), pytest.raises(OSError, match="No space left"):
            list(begin(disk / "out"))
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        list(begin(disk / "out", resume=(disk / "out" / RESUME).exists()))
        load(disk / "out")
    except CheckpointError as error:
        pytest.fail(str(error))
    finally:
        subprocess.run(["umount", disk], check=True)

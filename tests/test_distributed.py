"""Several processes, as torchrun starts them, train as one does; on the CPU, over loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch

from gpt import load
from train import __main__ as program
from train import processes as module
from train.distributed import DistributedContext, WorkerLostError
from train.runs import RESUME, TRAINING
from train.trainer import StepEvent

SIZES = "--steps 150 --layers 1 --width 32 --context 16 --seed 3 --device cpu"  # looked at after 100 steps and 150


@pytest.fixture
def torchrun():
    """A function that starts `python -m train run gpt` in two processes. Its pipe is open until the last has ended."""
    launch = "-m torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 --local-addr 127.0.0.1"
    started = []

    def start(*args):
        started.append(
            subprocess.Popen(
                [sys.executable, *launch.split(), *["-m", "train", "run", "gpt"], *map(str, args)],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # which ends its processes, too
        process.communicate(timeout=60)


@pytest.fixture
def alone(command, keeps_sigint, text_file):
    """A function that trains in this process, and returns the folder."""

    def train(out, *options):
        run = command("python -m train", program.main)
        assert run("run", "gpt", "--data", text_file, "--out", out, *SIZES.split(), *options)[0] == 0
        return out

    return train


def same(out, other):
    facts, expected = (json.loads((folder / TRAINING).read_text(encoding="utf-8")) for folder in (out, other))
    assert [point["step"] for point in facts["curve"]] == [100, 150]
    for name in ("train", "held_out"):
        ours, theirs = ([point[name] for point in each["curve"]] for each in (facts, expected))
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert facts["tokens"] == expected["tokens"]
    ours, theirs = (load(folder).model.state_dict() for folder in (out, other))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-3, rtol=0)
    return facts


def test_two_processes_learn_as_one_does(torchrun, text_file, tmp_path, alone):
    process = torchrun("--data", text_file, "--out", tmp_path / "two", *SIZES.split())
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    facts = same(tmp_path / "two", alone(tmp_path / "one"))
    assert facts["processes"] == 2
    assert facts["spent"]["exchange"] > 0
    for once in ("The model is in", "step 100: train", "step 150: train", " exchange "):
        assert said.count(once) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_stops_all_of_them_and_one_can_go_on(torchrun, text_file, tmp_path, alone):
    out = tmp_path / "two"
    process = torchrun("--data", text_file, "--out", out, *SIZES.split())
    while not (out / RESUME).exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "The model is in" not in said
    assert said.count("Stopped. The same command with --resume goes on from here.") == 1
    assert said.count("Traceback") <= 1  # torchrun's own
    same(alone(out, "--resume"), alone(tmp_path / "one"))


def test_what_they_refuse_is_said_once(torchrun, text_file, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    process = torchrun("--data", text_file, "--out", tmp_path, *SIZES.split())
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count(f"python -m train: {tmp_path} is not empty; name another folder, so that nothing is lost") == 1
    assert said.count("python -m train: ") == 1


# In this process


def test_alone_nothing_is_changed():
    alone = DistributedContext()
    rows = torch.arange(6).view(3, 2)
    assert torch.equal(alone.share(rows), rows)
    alone.average([rows])  # there is nothing to call
    assert alone.sum(2.5) == 2.5
    assert alone.is_main_process
    with alone.main_process_first():
        alone.check_posterior_collapse(7)


def test_shares_are_even_and_make_up_the_batch():
    rows = torch.arange(12).view(6, 2)
    shares = [DistributedContext(rank, 3).share(rows) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert sorted(torch.cat(shares).flatten().tolist()) == list(range(12))


def test_a_batch_that_does_not_divide_is_refused():
    DistributedContext(0, 4).check_posterior_collapse(8)
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide among 3 processes; start one of: 1, 2, 4, 8"):
        DistributedContext(0, 3).check_posterior_collapse(8)


def test_torchrun_with_one_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert DistributedContext.join("cpu") == DistributedContext()


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need a GPU each and there are 1; start fewer, or give --device cpu"):
        DistributedContext.join("cuda")


@pytest.fixture
def pair(monkeypatch):
    """The first of two processes, the other of which hands in the same; `calls` counts what they exchange."""

    @dataclass(frozen=True)
    class Pair(DistributedContext):
        calls: list = field(default_factory=list)

    two = Pair(0, 2)

    def all_reduce(tensor):
        two.calls.append(tensor.clone())
        tensor.mul_(2)

    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    return two


def test_the_average_keeps_shapes_and_is_one_exchange(pair):
    tensors = [torch.tensor(3.0), torch.arange(4.0).view(2, 2)]
    before = [tensor.clone() for tensor in tensors]
    pair.average(tensors)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))  # both had the same
    assert len(pair.calls) == 1


def test_a_sum_is_exact(pair):
    seconds = 123456.789012345  # more digits than float32 has
    assert pair.sum(seconds) == 2 * seconds


def test_the_first_goes_first(monkeypatch):
    order = []
    monkeypatch.setattr(module.dist, "all_reduce", lambda _: order.append("met"))
    for rank in (0, 1):
        with DistributedContext(rank, 2).main_process_first():
            order.append(rank)
    assert order == [0, "met", "met", 1]


def test_a_process_that_is_gone_is_told_of_in_a_sentence(pair, monkeypatch):
    def closed(_):
        raise RuntimeError("gloo/transport/tcp/pair.cc:547 Connection closed by peer")

    monkeypatch.setattr(module.dist, "all_reduce", closed)
    for exchange in (lambda: pair.sum(1.0), lambda: pair.average([torch.ones(1)])):
        with pytest.raises(
            WorkerLostError, match="another process of this run has ended; the same command with --resume goes on"
        ):
            exchange()


@pytest.mark.parametrize(("rank", "status"), [("0", "python -m train: wrong"), ("1", 1)])
def test_the_first_says_what_all_refuse(command, monkeypatch, rank, status):
    def refuse(_):
        raise ValueError("wrong")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(program, "pick_device", refuse)
    run = command("python -m train", program.main)
    assert run("run", "gpt", "--data", "x", "--out", "y") == (status, "", "")


def test_each_says_what_its_machine_denies_it(command, monkeypatch):
    def refuse(_):
        raise OSError("disk full")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(program, "pick_device", refuse)
    run = command("python -m train", program.main)
    assert run("run", "gpt", "--data", "x", "--out", "y") == ("python -m train: disk full", "", "")


@pytest.mark.parametrize("rank", [0, 1])
def test_all_stop_at_the_step_at_which_one_was_asked_to(keeps_sigint, capsys, rank):
    answers = iter([0.0, 0.0, 1.0])  # another process is interrupted in the third step
    ended = []

    class Told(DistributedContext):
        def sum(self, number):
            assert not number  # nobody asked this one
            return next(answers)

    def events():
        try:
            for step in range(1, 10):
                yield StepEvent(step, step / 10, 1.0, 1.0)
        finally:
            ended.append(step)

    with pytest.raises(SystemExit) as leaving:
        program.show(events(), Told(rank, 2))
    assert (leaving.value.code, ended) == (130, [3])
    assert ("Stopped." in "".join(capsys.readouterr())) == (rank == 0)


def test_counting_takes_one_process(command, monkeypatch, pair, text_file, tmp_path, keeps_sigint):
    monkeypatch.setattr(DistributedContext, "join", lambda _: pair)
    run = command("python -m train", program.main)
    status, _, _ = run("run", "bigram", "--data", text_file, "--out", tmp_path / "out")
    assert status == "python -m train: counting takes one process; start it without torchrun, or give --steps to learn"
    assert not (tmp_path / "out").exists()

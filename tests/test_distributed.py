"""Data-parallel training: several processes, started by torchrun on the CPU over loopback, train as one does."""

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
from train import distributed as module
from train.distributed import DistributedContext, WorkerLostError
from train.runs import TRAINING
from train.trainer import StepEvent

SIZES = "--steps 150 --layers 1 --width 32 --context 16 --seed 3 --device cpu"  # evaluated after 2, 100 and 150 steps


@pytest.fixture
def torchrun():
    """A function that starts `python -m train run gpt` in two processes."""
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
        process.terminate()  # torchrun ends its workers
        process.communicate(timeout=60)


@pytest.fixture
def train_alone(command, keeps_sigint, text_file):
    """A function that trains in this process and returns the folder."""

    def train(out, *options):
        run = command("python -m train", program.main)
        assert run("run", "gpt", "--data", text_file, "--out", out, *SIZES.split(), *options)[0] == 0
        return out

    return train


def assert_same_run(out, other):
    facts, expected = (json.loads((folder / TRAINING).read_text(encoding="utf-8")) for folder in (out, other))
    assert [point["step"] for point in facts["curve"]] == [2, 100, 150]
    for name in ("train", "held_out"):
        ours, theirs = ([point[name] for point in each["curve"]] for each in (facts, expected))
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert facts["tokens"] == expected["tokens"]
    ours, theirs = (load(folder).model.state_dict() for folder in (out, other))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-3, rtol=0)
    return facts


@pytest.mark.slow
def test_two_processes_train_as_one_does(torchrun, text_file, tmp_path, train_alone):
    process = torchrun("--data", text_file, "--out", tmp_path / "two", *SIZES.split())
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    facts = assert_same_run(tmp_path / "two", train_alone(tmp_path / "one"))
    assert facts["processes"] == 2
    assert facts["timings"]["exchange"] > 0
    for once in ("The model is in", "step 100: train", "step 150: train", " exchange "):
        assert output.count(once) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupted_processes_can_be_resumed_by_one(torchrun, text_file, tmp_path, train_alone):
    out = tmp_path / "two"
    process = torchrun("--data", text_file, "--out", out, *SIZES.split())
    while not (out / TRAINING).exists():  # from the first step on, Ctrl-C ends the run between two steps
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "The model is in" not in output
    assert output.count("Continue with the same command and --resume.") == 1
    assert output.count("Traceback") <= 1  # torchrun's own
    assert_same_run(train_alone(out, "--resume"), train_alone(tmp_path / "one"))


@pytest.mark.slow
def test_error_of_all_processes_is_printed_once(torchrun, text_file, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    process = torchrun("--data", text_file, "--out", tmp_path, *SIZES.split())
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count(f"python -m train: {tmp_path} is not empty; name another folder, so that nothing is lost") == 1
    assert output.count("python -m train: ") == 1


# In this process


def test_single_process_does_not_communicate():
    single = DistributedContext()
    batch = torch.arange(6).view(3, 2)
    assert torch.equal(single.shard(batch), batch)
    single.average([batch])
    assert single.sum(2.5) == 2.5
    assert single.is_main_process
    with single.main_process_first():
        single.check_batch_size(7)


def test_shards_are_even_and_make_up_the_batch():
    batch = torch.arange(12).view(6, 2)
    shards = [DistributedContext(rank, 3).shard(batch) for rank in range(3)]
    assert [len(shard) for shard in shards] == [2, 2, 2]
    assert sorted(torch.cat(shards).flatten().tolist()) == list(range(12))


def test_batch_that_does_not_divide_is_refused():
    DistributedContext(0, 4).check_batch_size(8)
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide among 3 processes; start one of: 1, 2, 4, 8"):
        DistributedContext(0, 3).check_batch_size(8)


def test_torchrun_with_one_process_is_a_single_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert DistributedContext.join("cpu") == DistributedContext()


def test_every_process_needs_a_gpu(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need a GPU each and there are 1; start fewer, or give --device cpu"):
        DistributedContext.join("cuda")


@pytest.fixture
def pair(monkeypatch):
    """The first of two processes, of which the other has the same tensors; `calls` records what they exchange."""

    @dataclass(frozen=True)
    class Pair(DistributedContext):
        calls: list = field(default_factory=list)

    two = Pair(0, 2)

    def all_reduce(tensor):
        two.calls.append(tensor.clone())
        tensor.mul_(2)

    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    return two


def test_average_keeps_shapes_and_is_one_exchange(pair):
    tensors = [torch.tensor(3.0), torch.arange(4.0).view(2, 2)]
    before = [tensor.clone() for tensor in tensors]
    pair.average(tensors)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert len(pair.calls) == 1


def test_sum_is_exact(pair):
    seconds = 123456.789012345  # more digits than float32 has
    assert pair.sum(seconds) == 2 * seconds


def test_main_process_runs_first(monkeypatch):
    order = []
    monkeypatch.setattr(module.dist, "all_reduce", lambda _: order.append("met"))
    for rank in (0, 1):
        with DistributedContext(rank, 2).main_process_first():
            order.append(rank)
    assert order == [0, "met", "met", 1]


def test_lost_process_is_one_sentence(pair, monkeypatch):
    def closed(_):
        raise RuntimeError("gloo/transport/tcp/pair.cc:547 Connection closed by peer")

    monkeypatch.setattr(module.dist, "all_reduce", closed)
    for exchange in (lambda: pair.sum(1.0), lambda: pair.average([torch.ones(1)])):
        with pytest.raises(WorkerLostError, match="another process of this run has ended"):
            exchange()


@pytest.mark.parametrize(
    ("rank", "error", "status"),
    [
        ("0", ValueError("wrong"), "python -m train: wrong"),
        ("1", ValueError("wrong"), 1),  # every process raises it, and the main one prints it
        ("1", OSError("disk full"), "python -m train: disk full"),
    ],
)
def test_errors_of_all_processes_are_printed_by_the_main_one(command, monkeypatch, rank, error, status):
    def refuse(_):
        raise error

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(program, "pick_device", refuse)
    run = command("python -m train", program.main)
    assert run("run", "gpt", "--data", "x", "--out", "y") == (status, "", "")


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_stop_at_the_same_step(keeps_sigint, capsys, tmp_path, rank):
    answers = iter([0.0, 0.0, 1.0])  # another process is interrupted in the third step
    ended = []

    class Fake(DistributedContext):
        def sum(self, number):
            assert not number  # this one is not interrupted
            return next(answers)

    def events():
        try:
            for step in range(1, 10):
                yield StepEvent(step, step / 10, 1.0, 1.0)
        finally:
            ended.append(step)

    with pytest.raises(SystemExit) as exit_info:
        program.show_events(events(), tmp_path, Fake(rank, 2))
    assert (exit_info.value.code, ended) == (130, [3])
    assert ("Stopped" in "".join(capsys.readouterr())) == (rank == 0)


def test_lines_take_one_process(line_data, tmp_path):
    from train.configs import LSTMTrainConfig
    from train.runs import train
    from train.trainer import Budget

    run = train(
        "lstm",
        LSTMTrainConfig(1, 8),
        line_data,
        tmp_path / "out",
        Budget(1),
        seed=1,
        command="",
        distributed=DistributedContext(0, 2),
    )
    with pytest.raises(ValueError, match="lines take one process"):
        next(run)
    assert not (tmp_path / "out").exists()

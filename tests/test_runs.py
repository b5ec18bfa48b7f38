"""Whole training runs: what they write, and that a stopped, killed or finished run continues exactly."""

import base64
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gpt import CheckpointError, SamplingParams, load
from gpt.checkpoint import REPLAY
from train import runs as module
from train.configs import BigramTrainConfig, GPTTrainConfig, LSTMTrainConfig
from train.counting import fit_bigram
from train.data import TextDataset
from train.distributed import DistributedContext
from train.evaluate import EvalResult, evaluate
from train.runs import RESUME, TRAINING, fit_counts, machine, train
from train.tasks import CausalLMTask
from train.tokenizers import tokenize
from train.trainer import (
    Budget,
    EndEvent,
    EvalEvent,
    ProgressEvent,
    ReplayEvent,
    SampleEvent,
    StepEvent,
    learning_rate_factor,
)

TINY = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
BUDGET = Budget(steps=120)  # evaluated after 2, 100 and 120 steps
WEIGHTS_FOLDER = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
    "README.md",
}


def start(data, out, config=TINY, budget=BUDGET, seed=5, **options):
    return train("gpt", config, data, out, budget, seed=seed, command="a test", **options)


def count(data, out, seed=1):
    return fit_counts(data, out, seed=seed, command="a test", kind="bigram", fit=fit_bigram)


def without_times(events):
    times = {"seconds", "tokens_per_second", "timings"}
    return [(type(event), {k: v for k, v in vars(event).items() if k not in times}) for event in events]


def facts_of(out: Path):
    return json.loads((out / TRAINING).read_text(encoding="utf-8"))


def replay_of(out: Path):
    return json.loads((out / REPLAY).read_text(encoding="utf-8"))


def curve_of(out: Path):
    return [(point["step"], point["train"], point["held_out"]) for point in facts_of(out)["curve"]]


def weights_of(out: Path):
    return load(out).model.state_dict()


def resume_file_of(out: Path):
    return torch.load(out / RESUME, weights_only=True)


def assert_same_result(out, other):
    assert curve_of(out) == curve_of(other)
    assert replay_of(out) == replay_of(other)
    ours, theirs = weights_of(out), weights_of(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def run_until(events, step):
    """The events up to a step, after which the run is closed."""
    before = []
    for event in events:
        before.append(event)
        if getattr(event, "step", 0) == step:
            events.close()
            break
    return before


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never stopped: its events and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return list(start(data, out)), out


# What a run writes


def test_run_writes_a_complete_folder(whole):
    events, out = whole
    assert {path.name for path in out.iterdir()} == WEIGHTS_FOLDER | {"loss_curve.svg", REPLAY, RESUME}
    assert [event.step for event in events if isinstance(event, EvalEvent)] == [2, 100, 120]
    assert [event.step for event in events if isinstance(event, StepEvent)] == list(range(1, 121))
    assert all(len(event.text) == 150 for event in events if isinstance(event, SampleEvent))
    assert [type(event) for event in events[-2:]] == [ProgressEvent, EndEvent]


def test_training_json_describes_the_run(whole, data):
    events, out = whole
    facts, lm, tokens = facts_of(out), load(out), tokenize(data)
    evaluations = [event for event in events if isinstance(event, EvalEvent)]
    best = min(evaluations, key=lambda event: event.held_out)
    again = evaluate(lm.model, tokens.held_out)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(again.nats_per_token, abs=1e-5)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(best.held_out, abs=1e-3)  # float16
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert facts["train_loss"] == best.train
    assert (facts["steps"], facts["run_steps"], facts["finished"]) == (best.step, 120, True)
    assert [point["held_out"] for point in facts["curve"]] == [event.held_out for event in evaluations]
    assert "warning" not in facts
    assert facts["tokens"] == best.step * 64
    assert facts["parameters"] == lm.num_parameters
    assert facts["context_length"] == lm.context_length == 16
    assert facts["vocabulary"] == len(lm.tokenizer) == len(set(data.text) | {"\n"})
    assert facts["data"]["characters"] == len(data.text)
    assert facts["data"]["sha256"] == data.sha256
    assert (facts["seed"], facts["budget"], facts["command"]) == (5, {"steps": 120}, "a test")
    assert facts["train_config"]["layers"] == 1
    assert (facts["precision"], facts["processes"]) == ("float32", 1)
    assert facts["timings"].keys() == {"data", "forward", "backward", "optimizer", "evaluation", "saving", "measuring"}
    assert facts["timings"] == events[-1].timings
    assert facts["baselines"]["bigram"] == pytest.approx(evaluate(fit_bigram(tokens)[0], tokens.held_out).nats_per_token)
    sample = facts["sample"]
    params = SamplingParams(**{name: sample[name] for name in sample.keys() - {"prompt", "text"}})
    assert lm.generate(sample["prompt"], params).text == sample["text"]
    assert facts["check"]["text"] == (sample["prompt"] + sample["text"])[:64]
    assert len(facts["check"]["nll"]) == 64


def test_replay_has_the_texts_and_distributions_of_its_points(whole):
    events, out = whole
    recorded = [event for event in events if isinstance(event, ReplayEvent)]
    replay, lm = replay_of(out), load(out)
    assert replay["prompt"] == ""
    assert [point["step"] for point in replay["points"]] == [0, 10, 30, 100, 120]
    for point, event in zip(replay["points"], recorded, strict=True):
        assert (point["tokens"], point["train"], point["held_out"]) == (event.tokens, event.train, event.held_out)
        assert (point["temperature"], point["seed"]) == (0.8, 5)
        assert point["text"] == event.sample.text == lm.tokenizer.decode(point["token_ids"])
        bits = np.frombuffer(base64.b64decode(point["distributions"]), "<u2").reshape(150, len(lm.tokenizer)) / 1024
        assert np.exp2(-bits).sum(axis=1) == pytest.approx(1, abs=1e-3)
    uniform = np.frombuffer(base64.b64decode(replay["points"][0]["distributions"]), "<u2")
    assert set(uniform.tolist()) == {round(1024 * math.log2(len(lm.tokenizer)))}
    assert (out / REPLAY).stat().st_size < 300_000


def test_run_learns(whole, data):
    events, _ = whole
    losses = [event.held_out for event in events if isinstance(event, EvalEvent)]
    assert losses[-1] < torch.tensor(float(len(set(data.text) | {"\n"}))).log() - 0.3


@pytest.mark.slow
def test_seed_determines_the_run_and_the_global_random_state_is_untouched(whole, data, tmp_path):
    events, _ = whole
    losses = [event.loss for event in events if isinstance(event, StepEvent)][:20]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = [event.loss for event in run_until(start(data, tmp_path / "again"), 20) if isinstance(event, StepEvent)]
    other = [event.loss for event in run_until(start(data, tmp_path / "other", seed=6), 20) if isinstance(event, StepEvent)]
    assert torch.equal(torch.get_rng_state(), before)
    assert again == losses
    assert other != losses


def test_machine_is_described_without_its_name():
    assert set(machine()) == {"processor", "cores", "threads"}
    assert machine()["cores"] >= 1


def test_a_gpt_is_validated_in_windows_of_the_length_that_it_is_trained_on(data):
    task = CausalLMTask(GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64), tokenize(data))
    documents = task.dataset.held_out
    for progress, window in ((0.0, 8), (0.59, 8), (0.6, 256), (1.0, 256)):
        metrics = task.validate(progress)
        assert metrics["loss"] == evaluate(task.model, documents, window=window).nats_per_token
        assert metrics["eval_context"] == window
    bigram = CausalLMTask(BigramTrainConfig(context=16, batch_tokens=64), tokenize(data))
    assert bigram.validate(0.0)["eval_context"] == 256


@pytest.mark.slow
def test_best_checkpoint_is_kept(data, tmp_path, monkeypatch):
    losses = iter([5.0, 4.0, 4.0, 3.0, 1.0, 1.5])  # replay points after 0, 10 and 30 steps, evaluations after 2, 100 and 120
    result = asdict(EvalResult(7.0, 7.0, 7.0, 10, 256))
    monkeypatch.setattr(CausalLMTask, "validate", lambda self, progress, quick: {"loss": next(losses), **result})
    out = tmp_path / "out"
    for event in start(data, out):
        if isinstance(event, EvalEvent) and event.step == 100:
            at_best = weights_of(out)
            assert facts_of(out)["held_out"] == result
            assert facts_of(out)["finished"] is False
    facts = facts_of(out)
    assert (facts["steps"], facts["run_steps"]) == (100, 120)
    assert [point["held_out"] for point in facts["curve"]] == [4.0, 1.0, 1.5]
    assert facts["held_out"]["nats_per_token"] != 7.0  # measured again as stored
    kept, last = weights_of(out), resume_file_of(out)["trainer"]["module"]
    assert all(torch.equal(kept[name], at_best[name]) for name in kept)
    assert any(not torch.equal(kept[name], last[name].half().float()) for name in kept)


def test_counting_writes_a_complete_folder(data, tmp_path):
    out = tmp_path / "out"
    events = list(count(data, out))
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    assert {path.name for path in out.iterdir()} == WEIGHTS_FOLDER
    tokens = tokenize(data)
    counted, fit_facts = fit_bigram(tokens)
    facts, lm = facts_of(out), load(out)
    assert torch.equal(lm.model.logits, counted.logits)
    assert facts.items() >= fit_facts.items()
    assert facts["finished"] is True
    assert facts["held_out"]["nats_per_token"] == events[0].held_out == facts["baselines"]["bigram"]


@pytest.mark.slow
def test_training_part_that_ends_in_a_long_line(tmp_path):
    """The line is longer than a tenth of the training part, which held no complete line when it was split by token."""
    long = "long " * 50
    for i in range(30):  # the position from which the shuffle moves it to the end of the training part
        lines = [long if i == j else f"line {j}" for j in range(30)]
        dataset = TextDataset.from_lines("uneven", "".join(f"{line}\n" for line in lines).encode())
        if dataset.split()[0].documents[-1] == long:
            break
    else:
        pytest.fail("no position found")
    list(count(dataset, tmp_path / "counted"))
    config = LSTMTrainConfig(1, 8, context=256, batch_tokens=256)
    list(train("lstm", config, dataset, tmp_path / "trained", Budget(steps=2), seed=1, command="a test"))
    for name in ("counted", "trained"):
        assert facts_of(tmp_path / name)["finished"] is True


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "warns"), [(14, True), (50, False)])
def test_run_of_few_steps_warns(data, tmp_path, steps, warns):
    end = list(start(data, tmp_path / "out", budget=Budget(steps=steps)))[-1]
    assert ("14 steps" in end.warning) == warns
    assert facts_of(tmp_path / "out").get("warning", "") == end.warning


# Stopping and resuming


@pytest.mark.slow
def test_run_that_is_stopped_early_leaves_a_model(data, tmp_path):
    for budget, step in ((Budget(steps=5000), 10), (Budget(minutes=10_000), None)):
        out = tmp_path / str(step)
        for event in start(data, out, budget=budget):
            if isinstance(event, EvalEvent):
                assert step is None or event.step == step
                assert event.seconds < 60
                break
        assert len(load(out).generate("a", SamplingParams(max_new_tokens=5)).text) == 5
        assert facts_of(out)["finished"] is False


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 99, 100, 119])
def test_stopped_run_continues_exactly(whole, data, tmp_path, stop):
    events, finished = whole
    before = run_until(start(data, tmp_path / "out"), stop)
    assert without_times(before + list(start(data, tmp_path / "out", resume=True))) == without_times(events)
    assert_same_result(tmp_path / "out", finished)


@pytest.mark.slow
def test_stopped_run_with_dropout_continues_exactly(data, tmp_path):
    config, budget = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64, dropout=0.3), Budget(steps=60)
    events = list(start(data, tmp_path / "whole", config, budget))
    torch.manual_seed(1)
    before = run_until(start(data, tmp_path / "out", config, budget), 20)
    torch.manual_seed(2)
    assert without_times(before + list(start(data, tmp_path / "out", config, budget, resume=True))) == without_times(events)
    assert_same_result(tmp_path / "out", tmp_path / "whole")


@pytest.mark.slow
def test_run_stopped_at_an_evaluation_continues_exactly(whole, data, tmp_path):
    events, finished = whole
    run = start(data, tmp_path / "out")
    next(event for event in run if isinstance(event, EvalEvent) and event.step == 100)
    run.close()
    after = list(start(data, tmp_path / "out", resume=True))
    assert without_times(after)[-20:] == without_times(events)[-20:]
    assert_same_result(tmp_path / "out", finished)


@pytest.mark.slow
def test_run_stopped_twice_continues_exactly(whole, data, tmp_path):
    events, finished = whole
    for resume, stop in ((False, 40), (True, 110)):
        run_until(start(data, tmp_path / "out", resume=resume), stop)
    assert without_times(start(data, tmp_path / "out", resume=True))[-1] == without_times(events)[-1]
    assert_same_result(tmp_path / "out", finished)


@pytest.mark.slow
def test_run_stopped_while_it_is_measured_is_measured_again(whole, data, tmp_path):
    run = start(data, tmp_path / "out")
    next(event for event in run if isinstance(event, ProgressEvent))
    run.close()
    assert facts_of(tmp_path / "out")["finished"] is False
    events = list(start(data, tmp_path / "out", resume=True))
    assert [type(event) for event in events] == [ProgressEvent, EndEvent]
    assert facts_of(tmp_path / "out")["finished"] is True
    assert_same_result(tmp_path / "out", whole[1])


def test_abandoned_run_is_saved(data, tmp_path):
    run = start(data, tmp_path / "out")
    next(event for event in run if event.step == 42)
    del run
    assert resume_file_of(tmp_path / "out")["trainer"]["step"] == 42


def test_run_can_be_resumed_from_its_first_step(data, tmp_path):
    run = start(data, tmp_path / "out")
    next(run)
    assert resume_file_of(tmp_path / "out")["trainer"]["step"] == 0


def test_run_is_saved_at_intervals(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_INTERVAL_S", 0)
    run = start(data, tmp_path / "out")
    next(event for event in run if event.step == 7)
    assert resume_file_of(tmp_path / "out")["trainer"]["step"] == 7


@pytest.mark.slow
def test_trained_bigram_can_be_resumed(data, tmp_path):
    def begin(**options):
        budget = Budget(steps=5)
        return train("bigram", BigramTrainConfig(), data, tmp_path / "out", budget, seed=1, command="a test", **options)

    run_until(begin(), 1)
    assert isinstance(list(begin(resume=True))[-1], EndEvent)
    assert facts_of(tmp_path / "out")["run_steps"] == 5


@pytest.mark.slow
def test_finished_run_continues_with_a_larger_budget(data, tmp_path):
    out = tmp_path / "out"
    list(start(data, out, budget=Budget(steps=40)))
    first = facts_of(out)
    assert "warning" in first
    rates = []
    for event in start(data, out, budget=Budget(steps=120), resume=True):
        if isinstance(event, StepEvent):
            rates.append((event.step, resume_file_of(out)["trainer"]["step"]))
    assert [step for step, _ in rates] == list(range(41, 121))
    facts = facts_of(out)
    assert (facts["run_steps"], facts["budget"], facts["finished"]) == (120, {"steps": 120}, True)
    assert [point["step"] for point in facts["curve"]] == [1, 40, 120]
    assert facts["curve"][:2] == first["curve"]
    assert facts["held_out"]["nats_per_token"] < first["held_out"]["nats_per_token"]
    assert "warning" not in facts


@pytest.mark.slow
def test_larger_budget_raises_the_learning_rate_again(data, tmp_path, monkeypatch):
    list(start(data, tmp_path / "out", budget=Budget(steps=40)))
    seen = []
    monkeypatch.setattr(
        "train.trainer.learning_rate_factor", lambda progress: seen.append(progress) or learning_rate_factor(progress)
    )
    list(start(data, tmp_path / "out", budget=Budget(steps=80), resume=True))
    assert seen[0] == pytest.approx(0.5)
    assert seen[-1] == pytest.approx(79 / 80)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget(steps=40), Budget(steps=20), Budget(minutes=1e-6)])
def test_finished_run_needs_a_larger_budget(data, tmp_path, budget):
    list(start(data, tmp_path / "out", budget=Budget(steps=40)))
    before = content_of(tmp_path / "out")
    assert "finished after 40 steps; give a larger budget" in refused(start(data, tmp_path / "out", budget=budget, resume=True))
    assert content_of(tmp_path / "out") == before


# What is refused


def content_of(out: Path):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def refused(events) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller checks the message)
        next(events)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("begin", [start, count])
def test_folder_that_is_not_empty_is_refused_and_left_alone(data, tmp_path, begin):
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty; name another folder" in refused(begin(data, tmp_path))
    assert content_of(tmp_path) == {"notes.txt": b"mine"}


def test_file_in_the_place_of_the_folder_is_refused(data, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file; name a folder" in refused(start(data, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_folder_of_a_run_is_not_overwritten(data, tmp_path):
    run_until(start(data, tmp_path / "out"), 1)
    before = content_of(tmp_path / "out")
    assert "holds a run; continue it with --resume" in refused(start(data, tmp_path / "out"))
    assert content_of(tmp_path / "out") == before


def test_empty_folder_is_used(data, tmp_path):
    assert isinstance(next(start(data, tmp_path)), ReplayEvent)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 6},
        {"config": GPTTrainConfig(layers=2, width=32, context=16, batch_tokens=64)},
        {"data": TextDataset("other", ("ab " * 500,), "1" * 64)},
        {"tokenizer": "bpe:260"},
    ],
)
def test_resuming_with_other_settings_is_refused(data, tmp_path, changed):
    out = tmp_path / "out"
    run_until(start(data, out), 1)
    before = content_of(out)
    message = refused(start(**({"data": data, "out": out, "resume": True} | changed)))
    assert "resume it with the same settings, except for the budget" in message
    assert content_of(out) == before


def test_resuming_without_a_resume_file_is_refused(data, tmp_path):
    assert "there is nothing to resume" in refused(start(data, tmp_path / "out", resume=True))
    assert not (tmp_path / "out").exists()


def test_batch_that_does_not_divide_is_refused_before_anything_is_written(data, tmp_path):
    message = refused(start(data, tmp_path / "out", distributed=DistributedContext(0, 8)))  # 8 rows of 8, then 4 of 16
    assert "a batch of 4 rows does not divide among 8 processes" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "gibberish", "another"])
def test_damaged_resume_file_is_refused(data, tmp_path, damage):
    run_until(start(data, tmp_path / "out"), 1)
    path = tmp_path / "out" / RESUME
    if damage == "another":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "gibberish": b"hello"}[damage])
    assert refused(start(data, tmp_path / "out", resume=True)) == f"{path} is damaged; remove the folder and train again"


def test_resume_file_runs_no_code(data, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"identity": Trap(), "progress": {}, "trainer": {}}, tmp_path / RESUME)
    assert "is damaged" in refused(start(data, tmp_path, resume=True))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("begin", [start, count])
def test_seed_out_of_range_is_refused_before_anything_is_written(data, tmp_path, begin, seed):
    assert f"seed is {seed}; it must be" in refused(begin(data, tmp_path / "out", seed=seed))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0, 1, 11, 19])
def test_short_text_is_refused(tmp_path, length):
    short = TextDataset("short", (("ab" * 10)[:length],), "")
    for begin in (count, start):
        message = refused(begin(short, tmp_path / "out"))
        assert message.startswith(f"short has {length} characters; a run with windows of ")
        assert message.endswith(" needs 20 or more")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_shortest_allowed_text_is_long_enough(tmp_path):
    shortest = TextDataset("short", ("ab" * 10,), "")
    assert isinstance(list(count(shortest, tmp_path / "counted"))[-1], EndEvent)
    assert isinstance(list(start(shortest, tmp_path / "trained", budget=Budget(steps=2)))[-1], EndEvent)


def test_text_of_one_character(tmp_path):
    assert next(count(TextDataset("aaa", ("a" * 100,), ""), tmp_path / "out")).held_out < 0.1


# A real process, stopped and killed


def command_line(text: Path, out: Path) -> list[str]:
    sizes = "--steps 400 --layers 1 --width 32 --context 16 --seed 3 --device cpu"
    return ["run", "gpt", "--data", str(text), "--out", str(out), *sizes.split()]


def begin_process(*args: str) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # the same order of summation as in this process
    return subprocess.Popen(
        [sys.executable, "-m", "train", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_process_that_is_stopped_and_then_killed_continues_exactly(text_file, tmp_path, monkeypatch, keeps_sigint, capsys):
    from train.__main__ import main

    out = tmp_path / "out"
    process = begin_process(*command_line(text_file, out))
    wait_for(out / TRAINING, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Continue with the same command and --resume." in output
    assert "Traceback" not in output

    step = resume_file_of(out)["trainer"]["step"]
    process = begin_process(*command_line(text_file, out), "--resume")
    while resume_file_of(out)["trainer"]["step"] == step:  # until the next evaluation
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert "Traceback" not in output
    assert len(load(out).generate("a", SamplingParams(max_new_tokens=5)).text) == 5

    for folder, options in ((out, ["--resume"]), (tmp_path / "whole", [])):
        monkeypatch.setattr(sys, "argv", ["train", *command_line(text_file, folder), *options])
        main()
    capsys.readouterr()
    assert len(curve_of(out)) == 5
    assert_same_result(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("written", [1, 4, 6, 13])
def test_run_killed_between_two_files_continues_exactly(whole, data, tmp_path, monkeypatch, written):
    """The order of files: resume.pt; five of the model, with the weights last; three that describe it; resume.pt; and again."""
    out, replace, paths = tmp_path / "out", os.replace, []

    class KilledError(BaseException):
        pass

    def replace_until_killed(source, path):
        if len(paths) == written:
            raise KilledError
        paths.append(path)
        replace(source, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_until_killed)
        with pytest.raises(KilledError):
            list(start(data, out))
    if written < 6:
        with pytest.raises(CheckpointError):
            load(out)
    else:
        assert len(load(out).generate("a", SamplingParams(max_new_tokens=5)).text) == 5
    list(start(data, out, resume=True))
    assert_same_result(out, whole[1])

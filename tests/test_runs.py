"""Whole training runs: what they write, and that one which was stopped or killed goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt import CheckpointError, SamplingParams, Tokenizer, load
from train import run as runs
from train.configs import BigramTrainConfig, GPTTrainConfig
from train.data import TextDataset
from train.distributed import DistributedContext
from train.evaluate import evaluate
from train.runs import RESUME, TRAINING, WINDOW, TokenizedDataset, fit_bigram, fit_counts, machine, train
from train.trainer import Budget, EndEvent, EvalEvent, SampleEvent, StepEvent

TINY = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
BUDGET = Budget(steps=250)  # looked at after 100, 200 and 250 steps


def start(data, out, **options):
    options = {"recipe": TINY, "budget": BUDGET, "seed": 5} | options
    return train("gpt", data=data, out=out, command="a test", **options)


def timeless(events):
    """What events tell, but for the time that it took."""
    skipped = {"seconds", "tokens_per_second", "spent"}
    return [(type(event), {k: v for k, v in vars(event).items() if k not in skipped}) for event in events]


def facts_of(out: Path):
    return json.loads((out / TRAINING).read_text(encoding="utf-8"))


def curve_of(out: Path):
    return [(point["step"], point["train"], point["held_out"]) for point in facts_of(out)["curve"]]


def weights_of(out: Path):
    return load(out).model.state_dict()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never stopped: its events and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return list(start(data, out)), out


# What a run writes


def test_a_run_leaves_a_whole_folder(whole):
    _, out = whole
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
        "README.md",
        "loss_curve.svg",
    }


def test_events_of_a_run_end_with_done(whole):
    events, _ = whole
    assert [event.step for event in events if isinstance(event, EvalEvent)] == [100, 200, 250]
    assert sum(isinstance(event, StepEvent) for event in events) == 250
    assert isinstance(events[-1], EndEvent)
    assert all(len(event.text) == 200 for event in events if isinstance(event, SampleEvent))


def test_training_json_tells_what_can_be_checked(whole, data):
    events, out = whole
    facts, lm, texts = facts_of(out), load(out), TokenizedDataset.of(data, 16)
    best = min((event for event in events if isinstance(event, EvalEvent)), key=lambda event: event.evaluate)
    again = evaluate(lm.model, texts.evaluate, 16)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(again.nats_per_token, abs=1e-5)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(best.evaluate, abs=1e-3)  # stored in half the bytes
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert facts["train_loss"] == best.train
    assert (facts["steps"], facts["run_steps"], facts["finished"]) == (best.step, 250, True)
    assert facts["tokens"] == best.step * 64
    assert facts["parameters"] == lm.parameters
    assert facts["window"] == lm.window == 16
    assert facts["vocabulary"] == len(lm.tokenizer) == len(set(data.text) | {"\n"})
    assert facts["data"]["characters"] == len(data.text)
    assert facts["data"]["sha256"] == data.sha256
    assert facts["seed"] == 5
    assert facts["budget"] == {"steps": 250}
    assert facts["recipe"]["layers"] == 1
    assert facts["command"] == "a test"
    assert facts["precision"] == "float32"
    assert facts["processes"] == 1
    assert facts["spent"].keys() == {"data", "forward", "backward", "optimizer", "evaluation", "saving"}
    assert facts["spent"] == events[-1].timings
    baseline = evaluate(fit_bigram(texts)[0], texts.evaluate, WINDOW).nats_per_token
    assert facts["baselines"]["bigram"] == pytest.approx(baseline)
    sample = facts["sample"]
    params = SamplingParams(**{name: sample[name] for name in SamplingParams.__dataclass_fields__})
    assert lm.generate(sample["prompt"], params).text == sample["text"]


def test_a_listener_that_leaves_at_the_end_leaves_nothing_to_resume(data, tmp_path):
    events = start(data, tmp_path / "out", budget=Budget(steps=1))
    next(event for event in events if isinstance(event, EndEvent))
    events.close()
    assert not (tmp_path / "out" / RESUME).exists()


def test_a_run_learns(whole, data):
    events, _ = whole
    losses = [event.evaluate for event in events if isinstance(event, EvalEvent)]
    uniform = torch.tensor(float(len(set(data.text) | {"\n"}))).log()
    assert losses[-1] < uniform - 0.3


def test_a_seed_repeats_a_run_and_another_differs(whole, data, tmp_path):
    events, _ = whole
    short = [event.loss for event in events[:20]]
    again, other = start(data, tmp_path / "again"), start(data, tmp_path / "other", seed=6)
    assert [next(again).loss for _ in range(20)] == short
    assert [next(other).loss for _ in range(20)] != short


def test_the_machine_is_described_and_not_named():
    assert set(machine()) == {"processor", "cores", "threads"}
    assert machine()["cores"] >= 1


def scripted(monkeypatch, losses):
    """Make the held-out losses of a run what they are said to be."""
    real, losses = runs.evaluate, iter(losses)

    def fake(model, ids, window, target_text=None):
        result = real(model, ids, window, target_text)
        if window != TINY.context:  # the baseline of the bigram
            return result
        return type(result)(next(losses), 1.0, 1.0, result.tokens, result.window)

    monkeypatch.setattr(runs, "held_out", fake)


def test_the_best_is_kept(whole, data, tmp_path, monkeypatch):
    scripted(monkeypatch, [1.0, 2.0, 1.5, 1.1])  # the last is of what is stored
    out = tmp_path / "out"
    for event in start(data, out):
        if isinstance(event, EvalEvent) and event.step == 100:
            at_best = weights_of(out)
    facts = facts_of(out)
    assert (facts["steps"], facts["run_steps"], facts["held_out"]["nats_per_token"]) == (100, 250, 1.1)
    assert [point["held_out"] for point in facts["curve"]] == [1.0, 2.0, 1.5]
    kept, later = weights_of(out), weights_of(whole[1])  # the same run, which kept a later step
    assert facts_of(whole[1])["steps"] > 100
    assert all(torch.equal(kept[name], at_best[name]) for name in kept)
    assert any(not torch.equal(kept[name], later[name]) for name in kept)


# Counting


def test_counting_writes_a_whole_folder(data, tmp_path):
    out = tmp_path / "out"
    events = list(fit_counts(data, out, 3, "a test"))
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    texts = TokenizedDataset.of(data, 1)
    counted, k = fit_bigram(texts)
    facts, lm = facts_of(out), load(out)
    assert torch.equal(lm.model.logits, counted.logits)
    assert facts["k"] == k
    assert facts["method"] == "counting"
    assert facts["finished"] is True
    assert facts["held_out"]["nats_per_token"] == events[0].evaluate == facts["baselines"]["bigram"]
    assert facts["held_out"]["nats_per_token"] == pytest.approx(evaluate(lm.model, texts.evaluate, 7).nats_per_token)
    assert not (out / RESUME).exists()


# Stopping and going on


@pytest.mark.parametrize("stop", [1, 99, 100, 101, 180, 249])
def test_a_stopped_run_goes_on_exactly(whole, data, tmp_path, stop):
    events, finished = whole
    out, before = tmp_path / "out", []
    run = start(data, out)
    for event in run:
        before.append(event)
        if event.step == stop:
            run.close()
            break
    assert (out / RESUME).is_file()
    after = list(start(data, out, resume=True))
    assert timeless(before + after) == timeless(events)
    assert curve_of(out) == curve_of(finished)
    ours, theirs = weights_of(out), weights_of(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (out / RESUME).exists()


def test_a_run_stopped_at_an_evaluation_goes_on_exactly(whole, data, tmp_path):
    events, finished = whole
    out, run = tmp_path / "out", start(data, tmp_path / "out")
    next(event for event in run if isinstance(event, EvalEvent))
    run.close()
    after = list(start(data, out, resume=True))
    assert timeless(after)[-150:] == timeless(events)[-150:]
    assert curve_of(out) == curve_of(finished)


def test_a_run_stopped_twice_goes_on_exactly(whole, data, tmp_path):
    events, finished = whole
    out = tmp_path / "out"
    for resume, stop in ((False, 70), (True, 130)):
        run = start(data, out, resume=resume)
        next(event for event in run if event.step == stop)
        run.close()
    assert timeless(start(data, out, resume=True))[-1] == timeless(events)[-1]
    assert curve_of(out) == curve_of(finished)


def test_a_run_that_nobody_listens_to_any_more_is_saved(data, tmp_path):
    run = start(data, tmp_path / "out")
    next(event for event in run if event.step == 42)
    del run
    saved = torch.load(tmp_path / "out" / RESUME, weights_only=True)
    assert saved["trainer"]["step"] == 42


def test_a_run_can_be_resumed_from_its_first_moment(data, tmp_path):
    run = start(data, tmp_path / "out")
    next(run)
    saved = torch.load(tmp_path / "out" / RESUME, weights_only=True)
    assert saved["trainer"]["step"] == 0


def test_it_is_saved_every_minute(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_EVERY", 0)
    run = start(data, tmp_path / "out")
    next(event for event in run if event.step == 7)
    assert torch.load(tmp_path / "out" / RESUME, weights_only=True)["trainer"]["step"] == 7


def test_a_run_that_was_saved_before_its_time_was_accounted_for_goes_on(data, tmp_path):
    out, run = tmp_path / "out", start(data, tmp_path / "out")
    next(event for event in run if event.step == 120)
    run.close()
    saved = torch.load(out / RESUME, weights_only=True)
    assert sum(saved["trainer"].pop("spent").values()) > 0
    torch.save(saved, out / RESUME)
    assert list(start(data, out, resume=True))[-1].step == 250


def test_a_learned_bigram_can_be_resumed(data, tmp_path):
    def begin(**options):
        return train("bigram", BigramTrainConfig(), data, tmp_path / "out", Budget(steps=5), 1, "a test", **options)

    run = begin()
    next(run)
    run.close()
    assert isinstance(list(begin(resume=True))[-1], EndEvent)
    assert facts_of(tmp_path / "out")["run_steps"] == 5


# What is refused


def content_of(out: Path):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def refused(events) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (its text is what is looked at)
        next(events)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("begin", [start, lambda data, out: fit_counts(data, out, 1, "a test")])
def test_a_folder_that_is_not_empty_is_refused_and_left_alone(data, tmp_path, begin):
    (tmp_path / "notes.txt").write_text("mine")
    before = content_of(tmp_path)
    assert refused(begin(data, tmp_path)) == f"{tmp_path} is not empty; name another folder, so that nothing is lost"
    assert content_of(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused(data, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file; name a folder" in refused(start(data, tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_stopped_run_is_not_begun_again(data, tmp_path):
    run = start(data, tmp_path / "out")
    next(run)
    run.close()
    before = content_of(tmp_path / "out")
    assert "holds a run that was stopped; go on with --resume" in refused(start(data, tmp_path / "out"))
    assert content_of(tmp_path / "out") == before


def test_an_empty_folder_is_taken(data, tmp_path):
    assert isinstance(next(start(data, tmp_path)), StepEvent)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 6},
        {"budget": Budget(steps=300)},
        {"budget": Budget(minutes=1)},
        {"recipe": GPTTrainConfig(layers=2, width=32, context=16, batch_tokens=64)},
        {"data": TextDataset("other", "ab " * 500, "1" * 64, None)},
        {"tokenizer": "bpe:260"},
    ],
)
def test_resuming_with_other_settings_is_refused(data, tmp_path, changed):
    out = tmp_path / "out"
    run = start(data, out)
    next(run)
    run.close()
    before = content_of(out)
    options = {"data": data, "out": out, "resume": True} | changed
    said = refused(start(**options))
    assert said.startswith(f"the run in {out} began with {{{next(iter(changed))!r}: ")
    assert said.endswith("; resume it with the same settings")
    assert content_of(out) == before


def test_a_run_of_pieces_of_words_goes_on_with_the_same_pieces_alone(data, tmp_path):
    file = tmp_path / "tokenizer.json"
    for name, asked in (("learned", "bpe:280"), ("opened", str(file))):
        file.write_text(Tokenizer.bpe(data.text, 270).files()["tokenizer.json"])
        run = start(data, tmp_path / name, budget=Budget(steps=9), tokenizer=asked)
        next(run)
        run.close()
        file.write_text(Tokenizer.bpe(data.text[::-1], 270).files()["tokenizer.json"])
        again = start(data, tmp_path / name, budget=Budget(steps=9), tokenizer=asked, resume=True)
        if name == "opened":
            assert f"the run in {tmp_path / name} began with {{'vocabulary': " in refused(again)
        else:
            assert [event.step for event in again if isinstance(event, StepEvent)] == list(range(2, 10))
            assert facts_of(tmp_path / name)["tokenizer"] == "bpe:280"


def test_there_is_nothing_to_resume_in_a_finished_run(whole, data):
    _, out = whole
    before = content_of(out)
    assert refused(start(data, out, resume=True)).startswith(f"there is nothing to resume in {out}: resume.pt is not there")
    assert content_of(out) == before


def test_there_is_nothing_to_resume_where_nothing_is(data, tmp_path):
    assert "there is nothing to resume" in refused(start(data, tmp_path / "out", resume=True))
    assert not (tmp_path / "out").exists()


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(data, tmp_path):
    said = refused(start(data, tmp_path / "out", processes=DistributedContext(0, 8)))  # 64 tokens: 8 rows of 8, then 4 of 16
    assert said == "a batch of 4 rows does not divide among 8 processes; start one of: 1, 2, 4"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "gibberish", "another"])
def test_a_damaged_resume_file_is_refused(data, tmp_path, damage):
    out = tmp_path / "out"
    run = start(data, out)
    next(run)
    run.close()
    path = out / RESUME
    if damage == "another":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "gibberish": b"hello"}[damage])
    assert refused(start(data, out, resume=True)) == f"{path} is damaged; remove the folder and train again"


def test_a_resume_file_runs_no_code(data, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"identity": Trap(), "progress": {}, "trainer": {}}, tmp_path / RESUME)
    assert "is damaged" in refused(start(data, tmp_path, resume=True))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("length", [0, 1, 11, 19])
def test_a_text_that_is_too_short_is_refused(tmp_path, length):
    short = TextDataset("short", "ab" * 10, "", None)
    short = TextDataset("short", short.text[:length], "", None)
    said = f"short has {length} characters; a run with windows of {{}} needs {{}} or more"
    assert refused(fit_counts(short, tmp_path / "out", 1, "a test")) == said.format(1, 20)
    assert refused(start(short, tmp_path / "out")) == said.format(16, 20)
    assert not (tmp_path / "out").exists()


def test_the_shortest_text_that_is_allowed_is_long_enough(tmp_path):
    shortest = TextDataset("short", "ab" * 10, "", None)
    assert isinstance(list(fit_counts(shortest, tmp_path / "counted", 1, "a test"))[-1], EndEvent)
    assert isinstance(list(start(shortest, tmp_path / "learned", budget=Budget(steps=2)))[-1], EndEvent)
    with pytest.raises(ValueError, match="windows of 64 needs 73 or more"):
        TokenizedDataset.of(TextDataset("short", "a" * 72, "", None), 64)
    for window in range(1, 600):
        least = max(20, -(-(window + 1) * 10 // 9))
        assert len(TokenizedDataset.of(TextDataset("short", "a" * least, "", None), window).train) > window


def test_a_text_of_one_character(tmp_path):
    events = list(fit_counts(TextDataset("aaa", "a" * 100, "", None), tmp_path / "out", 1, "a test"))
    assert events[0].evaluate < 0.1


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("begin", [start, lambda data, out, seed: fit_counts(data, out, seed, "a test")])
def test_a_seed_out_of_range_is_refused_before_anything_is_written(data, tmp_path, begin, seed):
    assert f"seed is {seed}; it must be" in refused(begin(data, tmp_path / "out", seed=seed))
    assert not (tmp_path / "out").exists()


# A real process, stopped and killed


def command(text: Path, out: Path) -> list[str]:
    sizes = "--steps 400 --layers 1 --width 32 --context 16 --seed 3 --device cpu"
    return ["run", "gpt", "--data", str(text), "--out", str(out), *sizes.split()]


def begin(*args: str) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # sums in the order of the tests' own process
    return subprocess.Popen(
        [sys.executable, "-m", "train", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_a_process_that_is_stopped_and_then_killed_goes_on_exactly(data, tmp_path, monkeypatch, keeps_sigint, capsys):
    from train.__main__ import main

    text, out = tmp_path / "chain.txt", tmp_path / "out"
    text.write_text(data.text)

    process = begin(*command(text, out))
    wait_for(out / RESUME, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "The same command with --resume goes on from here." in said
    assert "Traceback" not in said

    process = begin(*command(text, out), "--resume")
    wait_for(out / TRAINING, process)
    process.kill()
    said, _ = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert "Traceback" not in said
    assert len(load(out).generate("a", SamplingParams(max_new_tokens=5)).text) == 5

    for folder, options in ((out, ["--resume"]), (tmp_path / "whole", [])):
        monkeypatch.setattr(sys, "argv", ["train", *command(text, folder), *options])
        main()
    capsys.readouterr()
    assert curve_of(out) == curve_of(tmp_path / "whole")
    assert len(curve_of(out)) == 4
    ours, theirs = weights_of(out), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("arrived", [1, 4, 6, 9, 13])
def test_a_run_killed_between_two_files_goes_on_exactly(whole, data, tmp_path, monkeypatch, arrived):
    """The resume file comes first, then five files of which the last has the weights, three that tell of the run, the
    resume file again; then the same from the next evaluation."""
    _, finished = whole
    out, real, written = tmp_path / "out", os.replace, []

    class KilledError(BaseException):
        pass

    def replace(aside, path):
        if len(written) == arrived:
            raise KilledError
        written.append(path)
        real(aside, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KilledError):
            list(start(data, out))
    if arrived < 6:
        with pytest.raises(CheckpointError, match="is missing; train or download the model again"):
            load(out)
    else:
        assert len(load(out).generate("a", SamplingParams(max_new_tokens=5)).text) == 5
    list(start(data, out, resume=True))
    assert curve_of(out) == curve_of(finished)
    ours, theirs = weights_of(out), weights_of(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

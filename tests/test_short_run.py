"""A short run on a text: its events, the models that it leaves, and its schedule."""

import json
import math
import shlex
import time
from dataclasses import asdict, replace

import pytest
import torch

from gpt import load
from train import trainer as trainer_module
from train.__main__ import build_parser, pick_config
from train.data import load_dataset
from train.evaluate import evaluate
from train.short_run import Job, ShortRun, run_job, train_command, training_seconds
from train.tasks import CausalLMTask
from train.tokenizers import tokenize


@pytest.fixture
def job(text_file, tmp_path):
    return Job(str(text_file), "chain", False, "gpt", "small", "char", None, 0.5, 1, str(tmp_path / "out"))


def events_of(job, should_stop=lambda: False):
    return list(run_job(job, should_stop, time.perf_counter()))


def of_type(name, events):
    return [event for event in events if event["event"] == name]


def held_out_loss(folder, tokenized):
    """Nats a character of a model as it is opened from its folder."""
    result = evaluate(load(folder).model, tokenized.held_out, tokenized.held_out_text)
    return result.bits_per_character * math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tokenizer", "folders"),
    [
        ("gpt", "char", ["bigram", "ngram", "gpt"]),
        ("gpt", "bpe:280", ["bigram", "ngram", "gpt"]),
        ("lstm", "char", ["bigram", "ngram", "lstm"]),
        ("bigram", "char", ["bigram", "ngram", "bigram-trained"]),
    ],
)
def test_a_run_leaves_ordinary_folders_with_the_losses_that_it_reported(job, tmp_path, kind, tokenizer, folders):
    job = replace(job, kind=kind, tokenizer=tokenizer)
    events, tokenized = events_of(job), tokenize(load_dataset(job.text), tokenizer)
    assert all(json.loads(json.dumps(event)) == event for event in events)
    (baselines,), (start,), end = of_type("baselines", events), of_type("start", events), events[-1]
    assert [events[0], events[1]] == [baselines, start]
    tokens, characters = len(tokenized.held_out[0]) - 1, len(tokenized.held_out_text)
    assert baselines["uniform"] == pytest.approx(math.log(len(tokenized.tokenizer)) * tokens / characters)
    assert (end["event"], end["stopped"]) == ("end", False)
    models = {model["name"]: model for model in end["models"]}
    assert list(models)[:3] == folders
    for name in folders:
        folder = tmp_path / "out" / name
        facts = json.loads((folder / "training.json").read_text())
        assert models[name]["held_out"] == pytest.approx(held_out_loss(folder, tokenized), abs=1e-5)
        assert facts["held_out"]["bits_per_character"] * math.log(2) == pytest.approx(models[name]["held_out"])
        assert models[name]["parameters"] == facts["parameters"] == load(folder).num_parameters
        assert (facts["finished"], facts["data"]["name"], facts["tokenizer"]) == (True, "chain", tokenizer)
        assert (folder / "README.md").is_file()
    assert (baselines["bigram"], baselines["ngram"]) == (models["bigram"]["held_out"], models["ngram"]["held_out"])
    assert end["winner"] == min(end["models"], key=lambda model: model["held_out"])["name"]
    evaluations = of_type("evaluation", events)
    assert len(evaluations) >= 2
    assert len(of_type("sample", events)) >= 1
    assert all(0 <= step["progress"] <= 1 and step["seconds_left"] >= 0 for step in of_type("step", events))
    best = min(evaluations, key=lambda each: each["held_out"])
    assert best["held_out"] == pytest.approx(models[folders[2]]["held_out"], abs=0.01)  # float16, and all of the text
    curve = json.loads((tmp_path / "out" / folders[2] / "training.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [event["step"] for event in evaluations]


@pytest.mark.slow
def test_lines_are_run_as_lines(job, tmp_path, line_data):
    path = tmp_path / "items.txt"
    path.write_text(line_data.text)
    end = events_of(replace(job, text=str(path), is_lines=True, seconds=0.3))[-1]
    assert load(tmp_path / "out" / "gpt").eos_token_id is not None
    assert all(math.isfinite(model["held_out"]) for model in end["models"])


@pytest.mark.slow
def test_the_mixture_is_offered_only_where_it_wins(job, tmp_path, monkeypatch):
    """Both models err at random in different places; then the same model twice."""
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr("train.short_run.token_nll", lambda model, documents: 2 * torch.rand(399, generator=noise))
    monkeypatch.setattr("train.counting.ngram_nll", lambda model, documents: 2 * torch.rand(399, generator=noise))
    end = events_of(job)[-1]
    assert (end["winner"], end["models"][-1]["name"]) == ("mixture", "mixture")
    facts = json.loads((tmp_path / "out" / "mixture" / "training.json").read_text())
    assert facts["weight"] == load(tmp_path / "out" / "mixture").model.config.weight
    assert facts["held_out"]["nats_per_token"] == pytest.approx(end["models"][-1]["held_out"])
    assert end["models"][-1]["held_out"] < min(model["held_out"] for model in end["models"][:-1])
    assert shlex.split(facts["command"])[4:8] == ["mixture", "--of", "runs/chain-gpt", "runs/chain-ngram"]
    for module in ("train.short_run.token_nll", "train.counting.ngram_nll"):
        monkeypatch.setattr(module, lambda model, documents: torch.ones(399))
    end = events_of(replace(job, out=str(tmp_path / "again")))[-1]
    assert "mixture" not in [model["name"] for model in end["models"]]
    assert not (tmp_path / "again" / "mixture").exists()


@pytest.mark.slow
def test_the_best_model_is_kept_and_memorizing_is_noticed(job, tmp_path, monkeypatch):
    """The held-out loss falls three times, then rises."""
    validate, losses = CausalLMTask.validate, iter([3.0, 2.0, 1.0, *(1.1 + i / 10 for i in range(90))])
    weights = []

    def rising(self, progress, quick=False):
        weights.append(self.model.state_dict()["lm_head.weight"].clone())
        return validate(self, progress, quick) | {"loss": next(losses)}

    monkeypatch.setattr(CausalLMTask, "validate", rising)
    monkeypatch.setattr("train.short_run.EVAL_INTERVAL", 0.001)
    evaluations = []
    for event in run_job(replace(job, seconds=60), lambda: evaluations and evaluations[-1]["memorizing"], time.perf_counter()):
        evaluations.extend(of_type("evaluation", [event]))
    assert [event["best"] for event in evaluations] == [True] * 3 + [False] * (len(evaluations) - 3)
    kept = load(tmp_path / "out" / "gpt").model.state_dict()["lm_head.weight"]
    assert torch.equal(kept, weights[2].half().float())
    assert json.loads((tmp_path / "out" / "gpt" / "training.json").read_text())["steps"] == evaluations[2]["step"]
    assert len(evaluations) > 5  # a rise over three
    assert [event["memorizing"] for event in evaluations] == [False] * (len(evaluations) - 1) + [True]


@pytest.mark.slow
def test_stop_keeps_the_best_model_so_far(job, tmp_path):
    events = []
    run = run_job(replace(job, seconds=100), lambda: bool(of_type("evaluation", events)), time.perf_counter())
    for event in run:
        events.append(event)  # one at a time: the run looks at them
    end = events[-1]
    assert (end["event"], end["stopped"], len(of_type("evaluation", events))) == ("end", True, 1)
    assert load(tmp_path / "out" / "gpt").num_parameters == end["models"][2]["parameters"]


@pytest.mark.parametrize("events", [0, 2])
def test_stop_before_the_first_evaluation_leaves_the_counted_models(job, events):
    seen = []
    for event in run_job(replace(job, seconds=100), lambda: len(seen) >= events, time.perf_counter()):
        seen.append(event)
    assert (seen[-1]["event"], seen[-1]["stopped"]) == ("end", True)
    assert [model["name"] for model in seen[-1]["models"]] == ["bigram", "ngram"]
    assert seen[-1]["winner"] in ("bigram", "ngram")


# The schedule follows the clock


@pytest.mark.parametrize(
    ("budget", "elapsed", "expected"),
    [(15, 2, 15), (15, 6, 15), (15, 10, 10), (15, 16, 1), (15, 60, 1), (120, 6, 120), (120, 20, 100)],
)
def test_what_counting_took_shortens_the_training_of_a_slow_machine(budget, elapsed, expected):
    assert training_seconds(budget, elapsed) == pytest.approx(expected)


def test_a_slow_machine_ends_in_time_with_a_decayed_learning_rate(job, monkeypatch):
    """Counting takes 10 s, a batch 1 s, writing a model 1.5 s; nothing else takes time."""
    now, factors = [100.0], []
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: now[0])

    def takes(seconds, owner, name):
        call = getattr(owner, name)

        def slow(*args, **options):
            now[0] += seconds
            return call(*args, **options)

        monkeypatch.setattr(owner, name, slow)

    takes(5, ShortRun, "_result")  # of each counted model, and of the trained one
    takes(1, CausalLMTask, "sample_batch")
    decayed = trainer_module.learning_rate_factor
    monkeypatch.setattr(trainer_module, "learning_rate_factor", lambda progress: factors.append(decayed(progress)) or factors[-1])
    end = list(run_job(replace(job, seconds=15), lambda: False, 100.0))[-1]
    assert (end["event"], end["stopped"]) == ("end", False)
    assert now[0] - 100 <= 15 + 10
    assert factors[0::2][-1] == pytest.approx(0.1)  # 10 steps, of two optimizers each


# Jobs


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "vae"}, "kind is 'vae'; it must be one of: gpt, lstm, bigram"),
        ({"size": "huge"}, "size is 'huge'; it must be one of: small, medium"),
        ({"seconds": 121}, "seconds is 121; it must be a number above 0, up to 120"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be from 0 to below 1"),
        ({"tokenizer": "gpt2"}, "tokenizer is 'gpt2'; it must be char or bpe:N"),
    ],
)
def test_a_job_out_of_range_is_refused(job, change, expected):
    with pytest.raises(ValueError, match=expected):
        replace(job, **change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokenizer": "bpe:9"}, "bpe:9 is no vocabulary"),
        ({"tokenizer": "bpe:60000"}, "chain is too short for bpe:60000"),
        ({"is_lines": True}, "chain has 0 lines to learn from"),
    ],
)
def test_a_job_that_cannot_be_done_is_a_sentence(job, tmp_path, change, expected):
    with pytest.raises(ValueError, match=expected):
        events_of(replace(job, **change))
    assert not (tmp_path / "out").exists()


def test_too_many_parameters_are_refused(job, monkeypatch):
    monkeypatch.setattr("train.short_run.MAX_PARAMETERS", 100_000)
    with pytest.raises(ValueError, match=r"would have 1\d\d,\d{3} parameters, and 100,000 are allowed. Choose the small size"):
        ShortRun(job, 0.0)


@pytest.mark.parametrize("kind", ["gpt", "lstm", "bigram"])
@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("seconds", [15, 30, 60, 120])
def test_the_command_chooses_the_same_hyperparameters(job, kind, size, seconds):
    job = replace(job, kind=kind, size=size, seconds=seconds)
    config = ShortRun(job, 0.0).choice.config
    words = shlex.split(train_command(job, config))
    assert words[:3] == ["python", "-m", "train"]
    args = build_parser().parse_args(words[3:])
    assert asdict(pick_config(args, kind, load_dataset(job.text))) == asdict(config)
    assert (args.seed, args.minutes, args.data) == (1, seconds / 60, "chain.txt")

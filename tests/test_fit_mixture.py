import json
import math
from dataclasses import replace

import pytest
import torch

from gpt import GPT, LSTM, CheckpointError, load
from gpt.checkpoint import WEIGHTS, save
from train.configs import GPTTrainConfig, LSTMTrainConfig
from train.counting import FIT_FUNCTIONS
from train.data import TextDataset, encode_documents
from train.evaluate import evaluate, token_nll
from train.mixture import fit_mixture, fit_weight
from train.runs import RESUME, fit_counts, train
from train.tokenizers import tokenize
from train.trainer import Budget, EndEvent, EvalEvent, StepEvent

TINY = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
BUDGET = Budget(steps=12)


# The weight


def mixture_nll(weight, first, second):
    return -(weight * (-first.double()).exp() + (1 - weight) * (-second.double()).exp()).log().mean().item()


def test_weight_minimises_the_loss():
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.rand(500, generator=generator) for _ in range(2))
    weight = fit_weight(first, second - 0.2)
    best = min((i / 1_000 for i in range(1_001)), key=lambda w: mixture_nll(w, first, second - 0.2))
    assert weight == pytest.approx(best, abs=1e-3)
    assert 0.1 < weight < 0.5


def test_weight_by_hand():
    """The first model gives half of the tokens 0.8 and the other half 0.2; the second model the reverse."""
    first, second = -torch.tensor([0.8, 0.2]).log(), -torch.tensor([0.2, 0.8]).log()
    assert fit_weight(first, second) == pytest.approx(0.5, abs=1e-4)
    # With three tokens of the first kind and one of the other, the best p of the first kind is 3/4 = 0.8 w + 0.2 (1 - w).
    weight = fit_weight(torch.cat((first, first[:1].repeat(2))), torch.cat((second, second[:1].repeat(2))))
    assert weight == pytest.approx((0.75 - 0.2) / 0.6, abs=1e-4)


def test_a_model_that_is_always_better_has_all_the_weight():
    nll = torch.tensor([0.5, 1.0, 2.0])
    assert fit_weight(nll, nll + 0.1) == 1
    assert fit_weight(nll + 0.1, nll) == 0
    assert fit_weight(nll, torch.full((3,), math.inf)) == 1


# A run


def count(kind, dataset, out):
    list(fit_counts(dataset, out, seed=1, command="a test", kind=kind, fit=FIT_FUNCTIONS[kind]))
    return str(out)


@pytest.fixture(scope="module")
def parts(data, train_tiny, tmp_path_factory):
    """Folders of a GPT, an n-gram and a bigram that were made from one text."""
    folder = tmp_path_factory.mktemp("parts")
    counted = {kind: count(kind, data, folder / kind) for kind in ("ngram", "bigram")}
    return {"gpt": str(train_tiny(folder / "gpt")), **counted}


def start(dataset, out, parts, names=("gpt", "ngram"), config_of=lambda kind: TINY, **options):
    options = {"seed": 5, "command": "a test"} | options
    return fit_mixture(dataset, out, [parts.get(name, name) for name in names], config_of, BUDGET, **options)


def facts_of(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mixed(data, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "both"
    return list(start(data, out, parts)), out


@pytest.mark.slow
def test_a_run_writes_a_weights_folder(mixed, data, parts):
    events, out = mixed
    assert sum(isinstance(event, StepEvent) for event in events) == 12  # the proxy run
    assert isinstance(events[-1], EndEvent)
    facts, lm, tokenized = facts_of(out), load(out), tokenize(data)
    assert (facts["kind"], facts["method"], facts["weight"]) == ("mixture", "mixing", lm.model.config.weight)
    assert [part["name"] for part in facts["parts"]] == ["gpt", "ngram"]
    held_out = evaluate(lm.model, tokenized.held_out).nats_per_token
    assert facts["held_out"]["nats_per_token"] == pytest.approx(held_out, abs=1e-5)
    for part in facts["parts"]:
        held_out = evaluate(load(parts[part["name"]]).model, tokenized.held_out).nats_per_token
        assert part["held_out"]["nats_per_token"] == pytest.approx(held_out, abs=1e-5)
    assert load(parts["gpt"]).num_parameters + load(parts["ngram"]).num_parameters == lm.num_parameters
    assert (out / "README.md").is_file()


@pytest.mark.slow
def test_the_weight_is_fitted_on_text_that_no_proxy_was_trained_or_selected_on(mixed, data, parts):
    _, out = mixed
    proxy_run, proxy = facts_of(out)["proxy_run"], out.with_name("both-proxy-1")
    training_part = data.split()[0].text
    proxy_text, weight_text = training_part[: int(0.9 * 3600)], training_part[int(0.9 * 3600) :]
    assert facts_of(proxy)["data"]["characters"] == len(proxy_text)  # training and held-out part of the proxy run
    assert proxy_run["characters"] == len(weight_text) - 1
    documents = encode_documents(load(proxy).tokenizer, [weight_text], None)
    nll = token_nll(load(proxy).model, documents).mean().item()
    assert proxy_run["nll_of_parts"][0] == pytest.approx(nll, abs=1e-5)
    ngram, _ = FIT_FUNCTIONS["ngram"](tokenize(replace(data, documents=(proxy_text,))))
    assert proxy_run["nll_of_parts"][1] == pytest.approx(token_nll(ngram, documents).mean().item(), abs=1e-5)
    assert proxy_run["nll_of_mixture"] <= min(proxy_run["nll_of_parts"]) + 1e-6
    assert "10 % to fit the weight" in proxy_run["split"]


@pytest.mark.slow
def test_the_held_out_part_changes_nothing(mixed, data, parts, tmp_path):
    train_part, held_out = (part.text for part in data.split())
    list(start(replace(data, documents=(train_part + held_out[::-1],)), tmp_path / "both", parts))
    one, two = facts_of(mixed[1]), facts_of(tmp_path / "both")
    assert (one["weight"], one["proxy_run"]) == (two["weight"], two["proxy_run"])
    assert one["held_out"] != two["held_out"]


def test_counted_models_need_no_proxy_run(data, parts, tmp_path):
    events = list(start(data, tmp_path / "out", parts, ("ngram", "bigram")))
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert facts_of(tmp_path / "out")["weight"] > 0


@pytest.mark.slow
def test_a_stopped_proxy_run_continues(mixed, data, parts, tmp_path):
    out = tmp_path / "both"
    run = start(data, out, parts)
    next(event for event in run if isinstance(event, StepEvent) and event.step == 5)
    run.close()
    assert (tmp_path / "both-proxy-1" / RESUME).is_file()
    events = list(start(data, out, parts, resume=True))
    assert [event.step for event in events if isinstance(event, StepEvent)] == list(range(6, 13))
    assert facts_of(out)["weight"] == facts_of(mixed[1])["weight"]


@pytest.mark.slow
def test_a_finished_proxy_run_is_taken_over_and_another_one_refused(mixed, data, parts, tmp_path):
    out = tmp_path / "both"
    list(start(data, out, parts))
    for path in out.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"both-proxy-1.*same settings"):
        list(start(data, out, parts, resume=True, seed=6))
    assert not [event for event in start(data, out, parts, resume=True) if isinstance(event, StepEvent)]
    assert facts_of(out)["weight"] == facts_of(mixed[1])["weight"]


@pytest.mark.slow
def test_models_of_lines_are_mixed(line_data, tmp_path):
    config = GPTTrainConfig(layers=1, width=32, context=6, batch_tokens=96)
    list(train("gpt", config, line_data, tmp_path / "gpt", BUDGET, seed=1, command="a test"))
    parts = {"ngram": count("ngram", line_data, tmp_path / "ngram"), "gpt": str(tmp_path / "gpt")}
    list(start(line_data, tmp_path / "both", parts, config_of=lambda kind: config))
    facts, lm, tokenized = facts_of(tmp_path / "both"), load(tmp_path / "both"), tokenize(line_data)
    assert lm.eos_token_id == tokenized.eos_token_id
    assert facts["data"]["lines"] == 60
    assert facts_of(tmp_path / "both-proxy-1")["data"]["lines"] == 48  # of 54
    assert facts["proxy_run"]["characters"] == len(line_data.split()[0].split()[1].text)
    first, second = (token_nll(load(parts[name]).model, tokenized.held_out) for name in ("gpt", "ngram"))
    held_out = mixture_nll(facts["weight"], first, second)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(held_out, abs=1e-5)


@pytest.mark.slow
def test_each_trained_model_has_a_proxy_of_its_family(data, parts, tmp_path):
    configs = {"gpt": TINY, "lstm": LSTMTrainConfig(layers=1, width=16, context=16, batch_tokens=64)}
    list(train("lstm", configs["lstm"], data, tmp_path / "lstm", BUDGET, seed=1, command="a test"))
    list(start(data, tmp_path / "both", parts, ("gpt", str(tmp_path / "lstm")), configs.__getitem__))
    models = [load(tmp_path / f"both-proxy-{i}").model for i in (1, 2)]
    assert [type(model) for model in models] == [GPT, LSTM]
    recorded = facts_of(tmp_path / "both")["proxy_run"]["train_configs"]
    assert {kind: config["width"] for kind, config in recorded.items()} == {"gpt": 32, "lstm": 16}


# Refusals


def test_models_of_other_data_are_refused(data, line_data, parts, tmp_path):
    lines = TextDataset.from_lines("chain", "\n".join(data.text[i : i + 20] for i in range(0, 2_000, 20)).encode())
    items = count("bigram", line_data, tmp_path / "items")
    for dataset, names, expected in [
        (replace(data, sha256="1" * 64), ("gpt", "ngram"), "gpt was not trained on this text"),
        (lines, ("gpt", "ngram"), "gpt was trained on a running text; leave out --lines"),
        (data, ("gpt", items), "items was trained on lines; give --lines"),
    ]:
        with pytest.raises(ValueError, match=expected):
            list(start(dataset, tmp_path / "out", parts, names))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_families_that_cannot_be_mixed_are_refused(mixed, data, line_data, parts, tmp_path):
    names = replace(line_data, sha256=facts_of(WEIGHTS / "vae-names")["data"]["sha256"])
    for dataset, name in ((names, "vae-names"), (data, str(mixed[1]))):
        with pytest.raises(ValueError, match=r"mix two other models"):
            list(start(dataset, tmp_path / "out", parts, (name, "ngram")))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"kind": "gpt", "data": {}}'])
def test_a_folder_without_a_training_json_is_refused(data, parts, tmp_path, content):
    lm = load(parts["ngram"])
    save(tmp_path / "odd", lm.model, lm.tokenizer)
    if content is not None:
        (tmp_path / "odd" / "training.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"odd/training.json is missing or damaged"):
        list(start(data, tmp_path / "out", parts, ("gpt", str(tmp_path / "odd"))))


def test_a_folder_in_use_is_refused_before_a_proxy_run(data, parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        list(start(data, tmp_path, parts))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}-*"))

import json
import math
from dataclasses import replace

import pytest
import torch

from gpt import CheckpointError, load
from gpt.checkpoint import WEIGHTS, save
from train.configs import GPTTrainConfig
from train.counting import FIT_FUNCTIONS
from train.data import TextDataset
from train.evaluate import evaluate, token_nll
from train.mixture import cross_fit, fit_mixture, fit_weight
from train.runs import fit_counts, train
from train.tokenizers import tokenize
from train.trainer import Budget, EndEvent, EvalEvent

# The weight


def mean_nll(weight, first, second):
    return -(weight * (-first.double()).exp() + (1 - weight) * (-second.double()).exp()).log().mean().item()


def test_weight_minimizes_the_loss():
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.rand(500, generator=generator) for _ in range(2))
    weight = fit_weight(first, second - 0.2)
    best = min((i / 1_000 for i in range(1_001)), key=lambda w: mean_nll(w, first, second - 0.2))
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


def test_each_half_is_scored_with_the_weight_of_the_other_half():
    """In the first half the first model is the better one, in the second half the second: each weight is wrong elsewhere."""
    sure, unsure = -math.log(0.8), -math.log(0.2)
    first, second = torch.tensor([sure, sure, unsure, unsure]), torch.tensor([unsure, unsure, sure, sure])
    weight, halves, nll = cross_fit(first, second)
    assert weight == pytest.approx(0.5, abs=1e-4)
    assert halves == [1, 0]
    assert nll.tolist() == pytest.approx([unsure] * 4)  # the mixture of both halves would score -log 0.5


def test_cross_fitted_loss_of_like_halves_is_that_of_the_mixture():
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(200, generator=generator).repeat(2) for _ in range(2))
    weight, halves, nll = cross_fit(first, second)
    assert halves == pytest.approx([weight, weight], abs=1e-3)
    assert nll.mean().item() == pytest.approx(mean_nll(weight, first, second), abs=1e-5)


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


def start(dataset, out, parts, names=("gpt", "ngram"), seed=5):
    return fit_mixture(dataset, out, [parts.get(name, name) for name in names], seed=seed, command="a test")


def facts_of(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mixed(data, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "both"
    return list(start(data, out, parts)), out


def test_a_run_writes_a_weights_folder(mixed, data, parts):
    events, out = mixed
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    facts, lm, tokenized = facts_of(out), load(out), tokenize(data)
    assert (facts["kind"], facts["method"], facts["weight"]) == ("mixture", "mixing", lm.model.config.weight)
    assert [part["name"] for part in facts["parts"]] == ["gpt", "ngram"]
    nll = [token_nll(load(parts[name]).model, tokenized.held_out) for name in ("gpt", "ngram")]
    weight, halves, cross_fitted = cross_fit(*nll)
    assert (facts["weight"], facts["cross_fitted_weights"]) == (weight, halves)
    assert facts["held_out"]["nats_per_token"] == pytest.approx(cross_fitted.mean().item(), abs=1e-5)
    for part in facts["parts"]:
        held_out = evaluate(load(parts[part["name"]]).model, tokenized.held_out).nats_per_token
        assert part["held_out"]["nats_per_token"] == pytest.approx(held_out, abs=1e-5)
    assert load(parts["gpt"]).num_parameters + load(parts["ngram"]).num_parameters == lm.num_parameters
    assert "cross-fitted" in (out / "README.md").read_text(encoding="utf-8")


def test_counted_models_are_mixed(data, parts, tmp_path):
    list(start(data, tmp_path / "out", parts, ("ngram", "bigram")))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert facts_of(tmp_path / "out")["weight"] > 0


@pytest.mark.slow
def test_models_of_lines_are_mixed(line_data, tmp_path):
    config = GPTTrainConfig(layers=1, width=32, context=6, batch_tokens=96)
    list(train("gpt", config, line_data, tmp_path / "gpt", Budget(steps=12), seed=1, command="a test"))
    parts = {"ngram": count("ngram", line_data, tmp_path / "ngram"), "gpt": str(tmp_path / "gpt")}
    list(start(line_data, tmp_path / "both", parts))
    facts, lm, tokenized = facts_of(tmp_path / "both"), load(tmp_path / "both"), tokenize(line_data)
    assert lm.eos_token_id == tokenized.eos_token_id
    assert facts["data"]["lines"] == 60
    first, second = (token_nll(load(parts[name]).model, tokenized.held_out) for name in ("gpt", "ngram"))
    assert facts["held_out"]["nats_per_token"] >= mean_nll(facts["weight"], first, second) - 1e-6


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


def test_a_folder_in_use_is_refused(data, parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        list(start(data, tmp_path, parts))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

"""An n-gram that is counted, with its order and singleton cutoff chosen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpt import Bigram, BigramConfig, NGram, Tokenizer, load
from gpt.models.ngram import count_ngrams, discounts
from train.counting import ADD_K_GRID, FIT_FUNCTIONS, fit_baselines, fit_bigram, fit_ngram, ngram_nll, pair_nll
from train.data import TextDataset, TokenizedDataset, concatenate, load_dataset, split_documents
from train.evaluate import evaluate, token_nll
from train.runs import fit_counts
from train.tokenizers import tokenize
from train.trainer import EndEvent, EvalEvent


@pytest.fixture(scope="module", params=["text", "lines"])
def tokenized(request, data, line_data):
    return tokenize(data if request.param == "text" else line_data)


def test_settings_are_the_best_on_the_last_tenth_of_the_training_documents(tokenized):
    counted, validation = split_documents(tokenized.train)
    V, eos = len(tokenized.tokenizer), tokenized.eos_token_id
    model, facts = fit_ngram(tokenized)
    for each in facts["tried"]:
        counts = count_ngrams(concatenate(counted), V, each["order"], eos)
        tried = NGram.from_counts(counts, V, each["singleton_cutoff"], eos)
        assert evaluate(tried, validation).nats_per_token == pytest.approx(each["nll"])
    best = min(facts["tried"], key=lambda each: each["nll"])
    assert (facts["order"], facts["singleton_cutoff"]) == (best["order"], best["singleton_cutoff"])
    assert len({(each["order"], each["singleton_cutoff"]) for each in facts["tried"]}) == len(facts["tried"])
    counts = count_ngrams(concatenate(tokenized.train), V, facts["order"], eos)
    again = NGram.from_counts(counts, V, facts["singleton_cutoff"], eos)
    assert torch.equal(model.ngram_ids, again.ngram_ids)
    assert torch.equal(model.probs, again.probs)
    assert facts["discounts"] == [discounts(each).tolist() for _, each in counts]


def test_the_held_out_part_changes_nothing(data):
    train_part, held_out = (part.text for part in data.split())
    (one, facts), (two, same_facts) = (
        fit_ngram(tokenize(replace(data, documents=(train_part + tail,)))) for tail in (held_out, held_out[::-1])
    )
    assert facts == same_facts
    assert torch.equal(one.probs, two.probs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["names", "shakespeare"])
def test_the_shipped_ngrams_are_counted_again(name):
    tokenized, facts = tokenize(load_dataset(name)), json.loads(Path(f"weights/ngram-{name}/training.json").read_text())
    model, again = fit_ngram(tokenized)
    shipped = load(f"ngram-{name}").model
    assert (again["order"], again["singleton_cutoff"]) == (facts["order"], facts["singleton_cutoff"])
    assert torch.equal(model.ngram_ids, shipped.ngram_ids)
    assert torch.equal(model.probs, shipped.probs)


def test_targets_are_looked_up_as_they_are_predicted(tokenized):
    model, _ = fit_ngram(tokenized)
    for documents in (tokenized.held_out, tokenized.train):  # the training text is longer than a window
        assert torch.allclose(ngram_nll(model, documents), token_nll(model, documents), atol=1e-5)


def test_the_k_of_a_bigram_is_the_best_on_the_last_tenth_of_the_training_documents(tokenized):
    counted, validation = split_documents(tokenized.train)
    model = Bigram(BigramConfig(len(tokenized.tokenizer), tokenized.eos_token_id))
    losses = {k: evaluate(model.fit_counts(concatenate(counted), k), validation).nats_per_token for k in ADD_K_GRID}
    assert pair_nll(model, concatenate(validation)) == pytest.approx(losses[ADD_K_GRID[-1]])
    assert fit_bigram(tokenized)[1]["k"] == min(losses, key=losses.get)


def test_baselines_are_measured_on_the_held_out_part(tokenized):
    for each in fit_baselines(tokenized).values():
        assert each.nll.mean().item() == pytest.approx(evaluate(each.model, tokenized.held_out).nats_per_token, abs=1e-5)


@pytest.mark.slow
def test_a_run_writes_a_weights_folder(data, tmp_path):
    out = tmp_path / "my-ngram"
    events = list(fit_counts(data, out, seed=3, command="a test", kind="ngram", fit=fit_ngram))
    assert isinstance(events[-1], EndEvent)
    assert sum(isinstance(event, EvalEvent) for event in events) == 1
    facts, lm, tokenized = json.loads((out / "training.json").read_text()), load(out), tokenize(data)
    fitted, how = fit_ngram(tokenized)
    assert torch.equal(lm.model.ngram_ids, fitted.ngram_ids)
    assert (facts["kind"], facts["method"], facts["order"]) == ("ngram", "counting", how["order"])
    assert facts["context_length"] == lm.context_length == facts["order"] - 1
    assert facts["held_out"]["nats_per_token"] == pytest.approx(evaluate(lm.model, tokenized.held_out).nats_per_token)
    assert (out / "README.md").is_file()


@pytest.mark.parametrize("text", ["ab" * 10, "a" * 20])
@pytest.mark.parametrize("kind", FIT_FUNCTIONS)
def test_the_shortest_text_can_be_counted(text, kind):
    tokenized = tokenize(TextDataset("short", (text,), ""))
    model, _ = FIT_FUNCTIONS[kind](tokenized)
    assert evaluate(model, tokenized.held_out).tokens == 1


def test_orders_that_a_vocabulary_cannot_have_are_not_tried():
    vocab = {chr(0x4E00 + i): i for i in range(20_000)} | {"\n": 20_000}
    tokenizer = Tokenizer.from_text("".join(vocab))
    tokenized = TokenizedDataset(tokenizer, [torch.arange(300).repeat(3)], [torch.arange(9)], "char", None)
    assert {each["order"] for each in fit_ngram(tokenized)[1]["tried"]} == {2, 3}

"""An n-gram that is counted, with its order and singleton cutoff chosen."""

import json
from dataclasses import replace

import pytest
import torch

from gpt import NGram, Tokenizer, load
from gpt.models.ngram import count_ngrams, discounts
from train.counting import FIT_FUNCTIONS, fit_ngram
from train.data import TextDataset, TokenizedDataset, concatenate, split_documents
from train.evaluate import evaluate
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

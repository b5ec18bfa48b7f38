import json

import pytest
import torch

from gpt import NGram, load
from gpt.models.ngram import discounts
from gpt.models.ngram import fit_counts as sequences
from train.card import card
from train.counting import fit_ngram
from train.data import TextDataset
from train.evaluate import WINDOW, eval_context, evaluate, token_nll
from train.runs import TokenizedDataset, fit_counts
from train.trainer import EndEvent, EvalEvent


@pytest.fixture(scope="module")
def texts(data):
    return TokenizedDataset.of(data, 1)


@pytest.fixture(scope="module")
def counted(texts):
    return fit_ngram(texts.train, len(texts.tokenizer))


def make(texts):
    return fit_ngram(texts.train, len(texts.tokenizer))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("counted") / "my-ngram"
    events = list(fit_counts(data, out, 3, "a test", "ngram", make))
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    return out


def test_order_and_leaving_out_are_the_best_on_the_last_tenth_of_the_training_part(texts, counted):
    cut, V = int(len(texts.train) * 0.9), len(texts.tokenizer)
    model, how = counted
    for each in how["tried"]:
        tried = NGram.smoothed(sequences(texts.train[:cut], V, each["order"]), V, each["whole"])
        assert evaluate(tried, texts.train[cut:], WINDOW).nats_per_token == pytest.approx(each["nats"])
    best = min(how["tried"], key=lambda each: each["nats"])
    assert (how["order"], how["whole"]) == (best["order"], best["whole"])
    assert len({(each["order"], each["whole"]) for each in how["tried"]}) == len(how["tried"])
    counts = sequences(texts.train, V, how["order"])
    again = NGram.smoothed(counts, V, how["whole"])
    assert torch.equal(model.codes, again.codes)
    assert torch.equal(model.shares, again.shares)
    assert how["discounts"] == [discounts(each).tolist() for _, each in counts]


def test_the_held_out_part_changes_nothing(data, counted):
    cut = int(len(data.text) * 0.9)
    other, how = make(TokenizedDataset.of(TextDataset("other", data.text[:cut] + data.text[cut:][::-1], "1" * 64, None), 1))
    assert how == counted[1]
    assert torch.equal(other.shares, counted[0].shares)


def test_a_run_leaves_a_whole_folder(folder, data, texts, counted):
    facts, lm = json.loads((folder / "training.json").read_text()), load(folder)
    assert torch.equal(lm.model.codes, counted[0].codes)
    assert (facts["kind"], facts["method"], facts["order"]) == ("ngram", "counting", counted[1]["order"])
    assert facts["window"] == lm.window == facts["order"] - 1
    assert facts["held_out"]["nats_per_token"] == pytest.approx(evaluate(lm.model, texts.evaluate, WINDOW).nats_per_token)
    text = (folder / "README.md").read_text()
    assert text == card(facts, "my-ngram")
    assert "| counting pairs of characters (bigram) |" in text
    assert "`a test`: all sequences of up to" in text
    assert "library_name: safetensors" in text


def test_the_shortest_text_can_be_counted(tmp_path):
    for text in ("ab" * 10, "a" * 20):
        model, how = make(TokenizedDataset.of(TextDataset("short", text, "", None), 1))
        assert model.config.order == how["order"]


def test_orders_that_a_vocabulary_cannot_have_are_not_tried():
    ids = torch.arange(300).repeat(3)
    assert {each["order"] for each in fit_ngram(ids, 30_000)[1]["tried"]} == {2, 3}


def test_costs_are_those_of_the_held_out_loss(tiny_gpt):
    ids = torch.randint(tiny_gpt.config.vocab_size, (50,), generator=torch.Generator().manual_seed(0))
    each = token_nll(tiny_gpt, ids, 16)
    assert each.shape == (49,)
    assert evaluate(tiny_gpt, ids, 16).nats_per_token == pytest.approx(each.mean().item())
    logprobs = tiny_gpt(ids[None, 16:32])[0][0].detach().log_softmax(-1)
    torch.testing.assert_close(each[16:32], -logprobs.gather(-1, ids[17:33, None])[:, 0])


def test_a_gpt_is_read_in_its_own_window_and_whatever_counts_in_256(tiny_gpt, tiny_bigram, counted):
    assert (eval_context(tiny_gpt), eval_context(tiny_bigram), eval_context(counted[0])) == (tiny_gpt.window, 256, 256)

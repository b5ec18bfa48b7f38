"""Held-out loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from gpt import Bigram, BigramConfig, load
from train import evaluate as module
from train.data import target_text
from train.evaluate import EVAL_CONTEXT, eval_context, evaluate, token_nll


@pytest.fixture
def halves():
    """After 0: 0 or 1 with equal probability. After 1: 0 three times in four."""
    model = Bigram(BigramConfig(2))
    with torch.no_grad():
        model.logits.copy_(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log())
    return model


@pytest.fixture
def ids(tiny_gpt):
    return torch.randint(tiny_gpt.config.vocab_size, (600,), generator=torch.Generator().manual_seed(0))


def test_loss_is_the_mean_over_the_targets(halves):
    result = evaluate(halves, [torch.tensor([0, 1, 0, 0, 1])])  # 1/2, 3/4, 1/2, 1/2
    nats = (3 * math.log(2) + math.log(4 / 3)) / 4
    assert result.nats_per_token == pytest.approx(nats)
    assert result.bits_per_character == result.bits_per_byte == pytest.approx(nats / math.log(2))
    assert (result.tokens, result.eval_context) == (4, EVAL_CONTEXT)


def test_bits_are_per_character_and_byte_of_the_target_text(halves):
    result = evaluate(halves, [torch.tensor([0, 1, 0, 0, 1])], "eight é日")  # 8 characters, 11 bytes
    bits = result.nats_per_token * 4 / math.log(2)
    assert result.bits_per_character == pytest.approx(bits / 8)
    assert result.bits_per_byte == pytest.approx(bits / 11)


def test_target_text_begins_after_the_first_token(bpe):
    for text in ("the lamp 日本", "👍🏽 the", "e\u0301"):
        ids = bpe.encode(text).ids
        assert target_text(bpe, [torch.tensor(ids)]) == text[len(bpe.decode(ids[:1])) :]
    assert target_text(bpe, [torch.tensor(bpe.encode("👍a").ids)]) == "a"  # the first of four tokens began the character


def test_windows_start_afresh(tiny_gpt, ids, monkeypatch):
    monkeypatch.setattr(module, "EVAL_CONTEXT", 20)
    nats = []
    for start in range(0, 599, 20):
        window = ids[start : start + 21]
        logits, _ = tiny_gpt(window[None, :-1])
        nats.append(F.cross_entropy(logits[0], window[1:], reduction="none"))
    torch.testing.assert_close(token_nll(tiny_gpt, [ids]), torch.cat(nats).detach(), atol=1e-5, rtol=0)


def test_window_is_at_least_the_context_of_the_model(make_gpt):
    assert eval_context(make_gpt(sliding_window=16)) == 256
    assert eval_context(make_gpt(sliding_window=300)) == 300


@pytest.mark.parametrize("limits", [{"MAX_BATCH_TOKENS": 1}, {"MAX_BATCH_TOKENS": 600}, {"MAX_BATCH_LOGITS": 1}])
def test_batch_size_does_not_matter(tiny_gpt, ids, monkeypatch, limits):
    expected, shapes = evaluate(tiny_gpt, [ids]).nats_per_token, []
    for name, limit in limits.items():
        monkeypatch.setattr(module, name, limit)
    tiny_gpt.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    assert evaluate(tiny_gpt, [ids]).nats_per_token == pytest.approx(expected, abs=1e-5)
    assert max(rows for rows, _ in shapes) == (2 if limits == {"MAX_BATCH_TOKENS": 600} else 1)


def test_text_may_be_shorter_than_a_window(tiny_gpt, ids):
    assert evaluate(tiny_gpt, [ids[:9]]).tokens == 8


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(tiny_gpt, ids, training):
    tiny_gpt.dropout.p = 0.5
    tiny_gpt.train(training)
    assert evaluate(tiny_gpt, [ids]) == evaluate(tiny_gpt, [ids])
    assert tiny_gpt.training == training


def test_lines_are_scored_one_by_one(line_model, monkeypatch):
    monkeypatch.setattr(module, "MAX_BATCH_TOKENS", 20)  # batches of two
    lines = [torch.tensor([0, *range(1, n + 1), 0]) for n in (1, 7, 3, 5)]
    alone = [F.cross_entropy(line_model(line[None, :-1])[0][0], line[1:], reduction="none") for line in lines]
    state = torch.get_rng_state()
    torch.testing.assert_close(token_nll(line_model, lines), torch.cat(alone).detach(), atol=1e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_padding_changes_nothing(line_model):
    from train.data import pad_documents

    inputs, targets = pad_documents([torch.tensor([0, 1, 2, 0]), torch.tensor([0, 3, 4, 5, 6, 0])])
    other = torch.where(targets < 0, 8, inputs)
    assert (other != inputs).any()
    counts = targets >= 0
    torch.testing.assert_close(line_model(other)[0][counts], line_model(inputs)[0][counts], atol=1e-6, rtol=0)


def test_fingerprint_identifies_weights(run_folder):
    import json

    check = json.loads((run_folder / "training.json").read_text())["check"]
    assert load(run_folder).fingerprint(check["text"]) == pytest.approx(check["nll"], abs=1e-5)

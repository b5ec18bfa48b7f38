import math

import pytest
import torch

from gpt import Bigram, BigramConfig
from train import evaluate
from train.evaluate import evaluate, target_text


@pytest.fixture
def halves():
    """After 0: 0 or 1 alike. After 1: 0 three times in four."""
    model = Bigram(BigramConfig(2))
    with torch.no_grad():
        model.logits.copy_(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log())
    return model


@pytest.mark.parametrize("window", [1, 2, 3, 4, 100])
def test_by_hand(halves, window):
    result = evaluate(halves, torch.tensor([0, 1, 0, 0, 1]), window)  # 1/2, 3/4, 1/2, 1/2
    nats = (3 * math.log(2) + math.log(4 / 3)) / 4
    assert result.nats_per_token == pytest.approx(nats)
    assert result.bits_per_character == result.bits_per_byte == pytest.approx(nats / math.log(2))
    assert (result.tokens, result.window) == (4, window)


def test_bits_are_shared_by_the_characters_that_the_tokens_spell(halves):
    result = evaluate(halves, torch.tensor([0, 1, 0, 0, 1]), 4, "eight é日")  # of 11 bytes
    bits = result.nats_per_token * 4 / math.log(2)
    assert result.bits_per_character == pytest.approx(bits / 8)
    assert result.bits_per_byte == pytest.approx(bits / 11)


def test_what_the_targets_spell_begins_after_the_first_token(bpe):
    for text in ("the lamp 日本", "👍🏽 the", "e\u0301"):
        ids = bpe.encode(text).ids
        first = len(bpe.decode(ids[:1]))
        assert target_text(bpe, ids) == text[first:]
    assert target_text(bpe, bpe.encode("👍a").ids) == "a"  # the first of four tokens began the character


def test_a_large_vocabulary_is_scored_in_smaller_batches(tiny_gpt, monkeypatch):
    ids = torch.randint(tiny_gpt.config.vocab_size, (200,), generator=torch.Generator().manual_seed(0))
    whole, shapes = evaluate(tiny_gpt, ids, 16), []
    monkeypatch.setattr(evaluate, "BATCH_LOGITS", 40 * tiny_gpt.config.vocab_size)
    tiny_gpt.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    assert evaluate(tiny_gpt, ids, 16).nats_per_token == pytest.approx(whole.nats_per_token, abs=1e-5)
    assert set(shapes) == {(2, 16), (1, 7)}


def test_windows_start_afresh(tiny_gpt):
    ids = torch.randint(tiny_gpt.config.vocab_size, (38,), generator=torch.Generator().manual_seed(0))
    nats = 0.0
    for start in range(0, 37, 10):
        piece = ids[start : start + 11]
        logprobs = tiny_gpt(piece[None, :-1])[0][0].detach().log_softmax(-1)
        nats -= float(logprobs.gather(-1, piece[1:, None]).sum())
    result = evaluate(tiny_gpt, ids, 10)
    assert result.nats_per_token == pytest.approx(nats / 37, abs=1e-5)
    assert result.tokens == 37


def test_a_text_shorter_than_a_window(tiny_gpt):
    ids = torch.arange(9)
    assert evaluate(tiny_gpt, ids, 100).nats_per_token == pytest.approx(evaluate(tiny_gpt, ids, 8).nats_per_token)


def test_batches_of_windows_change_nothing(tiny_gpt, monkeypatch):
    ids = torch.randint(tiny_gpt.config.vocab_size, (200,), generator=torch.Generator().manual_seed(0))
    whole = evaluate(tiny_gpt, ids, 16)
    for tokens in (1, 40, 64):
        monkeypatch.setattr(evaluate, "BATCH_TOKENS", tokens)
        assert evaluate(tiny_gpt, ids, 16).nats_per_token == pytest.approx(whole.nats_per_token, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_it_scores_without_dropout_and_leaves_the_mode_as_it_was(tiny_gpt, training):
    tiny_gpt.dropout.p = 0.5
    tiny_gpt.train(training)
    ids = torch.randint(tiny_gpt.config.vocab_size, (50,), generator=torch.Generator().manual_seed(0))
    assert evaluate(tiny_gpt, ids, 16) == evaluate(tiny_gpt, ids, 16)
    assert tiny_gpt.training == training

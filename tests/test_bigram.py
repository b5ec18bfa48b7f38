import json

import pytest
import torch

from gpt import Bigram, BigramConfig, load
from gpt.checkpoint import WEIGHTS

# 0 is followed by 0, 1, 0 and 2; 1 by 0; 2 by nothing.
IDS = torch.tensor([0, 0, 1, 0, 0, 2])


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [[3 / 7, 2 / 7, 2 / 7], [2 / 4, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3]]),
        (0.5, [[2.5 / 5.5, 1.5 / 5.5, 1.5 / 5.5], [1.5 / 2.5, 0.5 / 2.5, 0.5 / 2.5], [1 / 3, 1 / 3, 1 / 3]]),
        (1e-9, [[0.5, 0.25, 0.25], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]),
    ],
)
def test_add_k_smoothing_by_hand(k, expected):
    model = Bigram(BigramConfig(3)).fit_counts(IDS, k)
    torch.testing.assert_close(model.logits.detach().exp(), torch.tensor(expected), atol=1e-6, rtol=0)
    assert torch.isfinite(model.logits).all()


@pytest.mark.parametrize("k", [0, -1, float("nan")])
def test_k_must_be_above_zero(k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be above 0"):
        Bigram(BigramConfig(3)).fit_counts(IDS, k)


def test_forward_looks_up_the_row_of_the_last_token():
    model = Bigram(BigramConfig(3)).fit_counts(IDS, k=1)
    logits, state = model(torch.tensor([[0, 1, 2], [2, 2, 0]]))
    assert torch.equal(logits, torch.stack((model.logits, model.logits[[2, 2, 0]])))
    assert state.nbytes == 0


@pytest.mark.parametrize("size", [None, 0, True, 3.0, "3", 10**12])
def test_vocab_size_out_of_range_is_rejected(size):
    with pytest.raises(ValueError, match=r"^vocab_size is .*; it must be a whole number from 1 to 16,384$"):
        BigramConfig.from_dict({"vocab_size": size})


@pytest.mark.parametrize("k", [0.001, 0.3, 1.0, 3.0])
def test_counts_are_recovered_from_a_counted_table(k):
    ids = torch.randint(12, (5_000,), generator=torch.Generator().manual_seed(0)) ** 2 // 12  # some pairs are rare
    counts = torch.zeros(12, 12, dtype=torch.long)
    for last, following in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        counts[last, following] += 1
    assert torch.equal(Bigram(BigramConfig(12)).fit_counts(ids, k).recover_counts(k), counts)


def test_counts_are_recovered_where_every_pair_occurs():
    ids = torch.randint(3, (9_000,), generator=torch.Generator().manual_seed(0))
    counts = Bigram(BigramConfig(3)).fit_counts(ids, k=0.3).recover_counts(k=0.3)
    assert counts.min() > 900
    assert torch.equal(counts, torch.bincount(ids[:-1] * 3 + ids[1:]).view(3, 3))


@pytest.mark.parametrize("name", ["bigram-shakespeare", "bigram-names"])
def test_the_counts_of_a_shipped_model_add_up_to_its_training_text(name):
    log = json.loads((WEIGHTS / name / "training.json").read_text())
    counts = load(name).model.recover_counts(log["k"])
    assert counts.sum() == log["tokens"] - 1
    assert counts.sum(0).sub(counts.sum(1)).abs().max() <= 1  # what precedes one pair follows in another, except at the ends


def test_a_table_that_was_not_counted_has_no_counts():
    model = Bigram(BigramConfig(12))
    with torch.no_grad():
        model.logits.copy_(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)).log_softmax(1))
    with pytest.raises(ValueError, match=r"cannot be recovered with k = 0\.3"):
        model.recover_counts(k=0.3)

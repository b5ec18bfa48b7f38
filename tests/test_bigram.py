import pytest
import torch

from gpt import Bigram, BigramConfig

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

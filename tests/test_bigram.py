import math
import re
import subprocess
import sys

import pytest
import torch
from browser import ROOT

from gpt import Bigram, BigramConfig
from train.configs import BigramTrainConfig
from train.data import TextDataset
from train.evaluate import evaluate
from train.runs import ADD_K_GRID, WINDOW, TokenizedDataset, fit_bigram, train
from train.trainer import Budget, EvalEvent

# After 0 came 0, 1, 0 and 2; after 1 came 0; after 2 nothing.
TOY = torch.tensor([0, 0, 1, 0, 0, 2])


def test_counts_by_hand():
    model = Bigram(BigramConfig(3)).fit_counts(TOY, k=1)
    expected = torch.tensor([[3 / 7, 2 / 7, 2 / 7], [2 / 4, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(model.logits.detach().exp(), expected)


def test_add_k_by_hand():
    model = Bigram(BigramConfig(3)).fit_counts(TOY, k=0.5)
    torch.testing.assert_close(model.logits[0].detach().exp(), torch.tensor([2.5, 1.5, 1.5]) / 5.5)
    torch.testing.assert_close(model.logits[1].detach().exp(), torch.tensor([1.5, 0.5, 0.5]) / 2.5)


def test_small_k_stays_near_the_plain_counts():
    model = Bigram(BigramConfig(3)).fit_counts(TOY, k=1e-9)
    torch.testing.assert_close(model.logits[0].detach().exp(), torch.tensor([0.5, 0.25, 0.25]))
    assert torch.isfinite(model.logits).all()


@pytest.mark.parametrize("k", [0, -1, float("nan")])
def test_k_that_would_leave_zeros_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}; it must be above 0"):
        Bigram(BigramConfig(3)).fit_counts(TOY, k)


def test_forward_reads_the_row_of_the_last_token():
    model = Bigram(BigramConfig(3)).fit_counts(TOY, k=1)
    logits, state = model(torch.tensor([[0, 1, 2], [2, 2, 0]]))
    assert logits.shape == (2, 3, 3)
    assert torch.equal(logits[0], model.logits)
    assert torch.equal(logits[1], model.logits[[2, 2, 0]])
    assert state is None


@pytest.mark.parametrize("size", [None, 0, -1, True, 3.0, "3", 10**12])
def test_config_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=r"vocab_size is .*; it must be a whole number above 0 and at most 16,384"):
        BigramConfig.from_json({"vocab_size": size})


def test_config_comes_back():
    assert BigramConfig.from_json(BigramConfig(7).to_dict()) == BigramConfig(7)


def test_k_is_the_best_on_the_last_tenth_of_the_training_part(data):
    texts = TokenizedDataset.of(data, 1)
    cut = int(len(texts.train) * 0.9)
    model = Bigram(BigramConfig(len(texts.tokenizer)))
    losses = {k: evaluate(model.fit_counts(texts.train[:cut], k), texts.train[cut:], WINDOW).nats_per_token for k in ADD_K_GRID}
    counted, k = fit_bigram(texts)
    assert k == min(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == len(ADD_K_GRID)
    assert torch.equal(counted.logits, model.fit_counts(texts.train, k).logits)


def test_the_held_out_part_changes_nothing(data):
    cut = int(len(data.text) * 0.9)
    other = TextDataset("other", data.text[:cut] + data.text[cut:][::-1], "1" * 64, None)
    assert other.text != data.text
    (one, k), (two, same_k) = fit_bigram(TokenizedDataset.of(data, 1)), fit_bigram(TokenizedDataset.of(other, 1))
    assert k == same_k
    assert torch.equal(one.logits, two.logits)


def test_gradient_descent_reaches_the_counted_table(chain_text, tmp_path):
    data = TextDataset("chain", chain_text(40_000), "0" * 64, None)
    events = list(train("bigram", BigramTrainConfig(), data, tmp_path / "out", Budget(steps=300), 1, "a test"))
    losses = [event.evaluate for event in events if isinstance(event, EvalEvent)]
    texts = TokenizedDataset.of(data, 1)
    counted = evaluate(fit_bigram(texts)[0], texts.evaluate, WINDOW).nats_per_token
    assert losses[-1] == pytest.approx(counted, abs=0.01)
    uniform = torch.tensor(float(len(texts.tokenizer))).log()
    assert counted < uniform - 0.3  # there was something to learn


def test_nothing_but_tensors_learns_the_table_that_is_counted(text_file):
    """docs/bigram.py, as a reader would run it."""
    command = [sys.executable, "docs/bigram.py", text_file, "500"]
    told = subprocess.run(command, cwd=ROOT, check_posterior_collapse=True, capture_output=True, text=True).stdout
    losses = [float(line.split()[2]) for line in told.splitlines() if line.startswith("step ")]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(math.log(len(set(text_file.read_text()))), abs=1e-3)
    counted, differ = re.search(r"^counted: ([\d.]+) nats .* differ by ([\d.]+) at most$", told, re.MULTILINE).groups()
    assert losses[-1] == pytest.approx(float(counted), abs=5e-3)
    assert float(differ) < 1e-3
    assert "nn" not in re.findall(r"\w+", (ROOT / "docs" / "bigram.py").read_text())

"""A bigram that is counted, and one that is trained by gradient descent."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.configs import TRAIN_CONFIGS
from train.counting import ADD_K_GRID, fit_bigram
from train.data import TextDataset, concatenate
from train.evaluate import evaluate
from train.runs import train
from train.tokenizers import tokenize
from train.trainer import Budget, EvalEvent

ROOT = Path(__file__).resolve().parents[1]


def test_k_is_the_best_on_the_last_tenth_of_the_training_part(data):
    tokenized = tokenize(data)
    ids = tokenized.train[0]
    cut = int(len(ids) * 0.9)
    fitted, facts = fit_bigram(tokenized)
    other, _ = fit_bigram(tokenized)
    losses = {k: evaluate(other.fit_counts(ids[:cut], k), [ids[cut:]]).nats_per_token for k in ADD_K_GRID}
    assert facts == {"method": "counting", "k": min(losses, key=losses.__getitem__)}
    assert len(set(losses.values())) == len(ADD_K_GRID)
    assert torch.equal(fitted.logits, other.fit_counts(ids, facts["k"]).logits)


def test_lines_are_split_by_line(line_data):
    tokenized = tokenize(line_data)
    fitted, facts = fit_bigram(tokenized)
    counted, validation = tokenized.train[:48], tokenized.train[48:]  # 54 lines
    other, _ = fit_bigram(tokenized)
    losses = {k: evaluate(other.fit_counts(concatenate(counted), k), validation).nats_per_token for k in ADD_K_GRID}
    assert facts["k"] == min(losses, key=losses.__getitem__)
    assert torch.equal(fitted.logits, other.fit_counts(concatenate(tokenized.train), facts["k"]).logits)


def test_the_held_out_part_changes_nothing(data):
    train_part, held_out = (part.text for part in data.split())
    other = replace(data, documents=(train_part + held_out[::-1],))
    (one, facts), (two, same_facts) = fit_bigram(tokenize(data)), fit_bigram(tokenize(other))
    assert facts == same_facts
    assert torch.equal(one.logits, two.logits)


@pytest.mark.slow
def test_gradient_descent_reaches_the_counted_table(chain_text, tmp_path):
    data = TextDataset("chain", (chain_text(40_000),), "0" * 64)
    config = TRAIN_CONFIGS["bigram"].preset(1)
    events = list(train("bigram", config, data, tmp_path / "out", Budget(steps=300), seed=1, command="a test"))
    losses = [event.held_out for event in events if isinstance(event, EvalEvent)]
    tokenized = tokenize(data)
    counted = evaluate(fit_bigram(tokenized)[0], tokenized.held_out).nats_per_token
    assert losses[-1] == pytest.approx(counted, abs=0.01)
    assert counted < math.log(len(tokenized.tokenizer)) - 0.3  # the text is not uniform


@pytest.mark.slow
def test_docs_example_trains_the_table_that_is_counted(text_file):
    """docs/bigram.py uses tensors only."""
    command = [sys.executable, "docs/bigram.py", text_file, "500"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    losses = [float(line.split()[2]) for line in output.splitlines() if line.startswith("step ")]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(math.log(len(set(text_file.read_text()))), abs=1e-3)
    counted, differ = re.search(r"^counted: ([\d.]+) nats .* differ by ([\d.]+) at most$", output, re.MULTILINE).groups()
    assert losses[-1] == pytest.approx(float(counted), abs=5e-3)
    assert float(differ) < 1e-3
    assert "nn" not in re.findall(r"\w+", (ROOT / "docs" / "bigram.py").read_text())

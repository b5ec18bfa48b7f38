"""Measures of running text, by hand."""

import math

import pytest
import torch

from gpt import SamplingParams
from train.text_metrics import add_typing_errors, entropy, measure_texts, roc_auc


def test_measures_of_texts_by_hand():
    # The first and the last word of a sample may be cut, so "th cat sat on" counts "cat" and "sat".
    metrics = measure_texts(["th cat sat on", "a cat ran zzz"], "The CAT ran away.", None)
    assert (metrics.texts, metrics.characters) == (2, 26)
    assert metrics.known_words == 3 / 4  # cat, cat, ran
    assert metrics.unique_words == 3 / 4  # cat, sat, ran
    assert (metrics.nll_per_character, metrics.judge) == (None, None)


def test_entropy_by_hand():
    assert entropy("aaaa") == 0
    assert entropy("abab") == pytest.approx(math.log(2))


def test_cost_is_that_of_the_judge(lm):
    texts = [lm.generate("", SamplingParams(seed=seed, max_new_tokens=20)).text for seed in range(2)]
    nll = [sum(lm.score(text).nll) for text in texts]
    assert measure_texts(texts, "a", lm).nll_per_character == pytest.approx(sum(nll) / 40)


def test_typing_errors_replace_letters_by_others():
    text = "The quick brown Fox jumps over the lazy Dog. " * 20
    changed, is_wrong = add_typing_errors(text, 1)
    assert sum(is_wrong) == len(text) // 25
    assert [a != b for a, b in zip(text, changed, strict=True)] == is_wrong
    for before, after in zip(text, changed, strict=True):
        assert (before.isalpha(), before.isupper()) == (after.isalpha(), after.isupper())
    assert add_typing_errors(text, 1) == (changed, is_wrong)
    assert add_typing_errors(text, 2) != (changed, is_wrong)


def test_area_under_the_roc_curve_by_hand():
    is_wrong = torch.tensor([False, False, True, True])
    assert roc_auc(torch.tensor([1.0, 2.0, 3.0, 4.0]), is_wrong) == 1
    assert roc_auc(torch.tensor([4.0, 3.0, 2.0, 1.0]), is_wrong) == 0
    assert roc_auc(torch.tensor([1.0, 3.0, 2.0, 4.0]), is_wrong) == 0.75  # three of four pairs
    assert roc_auc(torch.ones(4), is_wrong) == 0.5
    with pytest.raises(ValueError, match="needs positives and negatives"):
        roc_auc(torch.ones(4), torch.zeros(4, dtype=torch.bool))

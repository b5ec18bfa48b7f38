"""Measures of drawn lines and of texts, by hand."""

import math

import pytest
import torch

from gpt import load
from train.data import TokenizedDataset, load_dataset
from train.sample_metrics import LineMetrics, check_variety, count_ngrams, find_judge, js_divergence, measure_lines, texts_of
from train.tokenizers import tokenize


def test_ngrams_include_the_ends_of_a_line():
    assert count_ngrams(["ab", "b"], 1) == {"\x02": 2, "a": 1, "b": 2, "\x03": 2}
    assert count_ngrams(["ab"], 2) == {"\x02a": 1, "ab": 1, "b\x03": 1}
    assert count_ngrams(["a", "ab"], 3) == {"\x02a\x03": 1, "\x02ab": 1, "ab\x03": 1}
    assert count_ngrams(["a"], 4) == {}


def test_js_divergence_by_hand():
    # A third of the unigrams of "a" and "b" is a letter, which differs: 1/3 of 1 bit.
    assert js_divergence(["a"], ["b"], 1) == pytest.approx(1 / 3)
    assert js_divergence(["a", "b"], ["b", "a"], 2) == 0
    assert js_divergence(["a"], ["b"], 2) == pytest.approx(1)
    assert js_divergence(["", ""], ["abc"], 3) == 1
    # "aa" has start 1/4, a 1/2, end 1/4; "a" has a third of each.
    p, q = (1 / 4, 1 / 2, 1 / 4), (1 / 3, 1 / 3, 1 / 3)
    kl = [sum(x * math.log2(2 * x / (y + z)) for x, y, z in zip(a, p, q, strict=True)) for a in (p, q)]
    assert js_divergence(["aa"], ["a"], 1) == pytest.approx(sum(kl) / 2)


def test_measures_of_lines_by_hand():
    metrics = measure_lines(["ab", "ab", "abc", "zz", ""], ["ab", "b"], ["ab", "cd", "zz"], None)
    assert (metrics.lines, metrics.valid, metrics.unique, metrics.new) == (5, 3 / 5, 4 / 5, 2 / 5)
    assert metrics.js_divergence == [js_divergence(["ab", "ab", "abc", "zz", ""], ["ab", "b"], n) for n in (1, 2, 3, 4)]
    assert metrics.floor[0] == js_divergence(["ab", "cd", "zz"], ["ab", "b"], 1)
    assert (metrics.nll_per_character, metrics.judge) == (None, None)


def test_cost_is_that_of_the_judge():
    judge = load("gpt-names")
    score = judge.score("anna\nlouise\n")
    metrics = measure_lines(["anna", "louise"], ["emma"], ["emma", "oliver"], judge)
    assert metrics.nll_per_character == pytest.approx(sum(score.nll) / len(score.nll), abs=1e-5)
    assert metrics.judge == "gpt-names"


def test_judge_of_a_running_text_reads_each_line_on_its_own():
    judge = load("gpt-shakespeare")
    lines = ["ROMEO:", "To be, or not to be"]
    nll = [cost for line in lines for cost in judge.score(f"{line}\n").nll]
    assert measure_lines(lines, ["a"], ["b"], judge).nll_per_character == pytest.approx(sum(nll) / len(nll), abs=1e-4)


def test_few_different_lines_are_a_collapse():
    zeros = [0.0] * 4
    check_variety(LineMetrics(10, zeros, zeros, 1, 0.5, 1, None, None))
    with pytest.raises(ValueError, match="only 40% of 10 samples are different"):
        check_variety(LineMetrics(10, zeros, zeros, 1, 0.4, 1, None, None))


def test_judge_is_the_gpt_of_the_same_data():
    assert find_judge(tokenize(load_dataset("names"))).name == "gpt-names"
    assert find_judge(TokenizedDataset(load("gpt-names").tokenizer, [], [], "char", 0, "another text")) is None


def test_lines_of_documents():
    dataset = tokenize(load_dataset("names"))
    assert texts_of(dataset, dataset.held_out[:3]) == list(load_dataset("names").split()[1].documents[:3])
    assert texts_of(dataset, [torch.tensor([0, 0])]) == [""]

"""Sampling in C agrees with gpt/sampling.py, which is its reference."""

import itertools
import math

import pytest
import torch

from gpt.engine import Sampler, make_sampler
from gpt.sampling import SamplingParams, sample

SETTINGS = [
    SamplingParams(temperature, top_k, top_p, min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        (0, 1e-300, 1e-3, 0.7, 1, 5), (0, 1, 7, 10**400), (1e-6, 0.5, 0.95, 1), (0, 0.05, 0.999)
    )
]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    sampler = make_sampler()
    if sampler is None:
        pytest.skip("there is no C compiler")
    return sampler


def random_logits(rows: int, vocab_size: int) -> torch.Tensor:
    """Of every scale, many of them equal, some minus infinity."""
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(rows, vocab_size, generator=generator) * torch.logspace(-2, 3, rows)[:, None]
    logits[:, ::5] = logits[:, :1].clone()
    logits[::7, 1::3] = -math.inf
    return logits


@pytest.mark.parametrize("vocab_size", [1, 2, 27, 65, 1000])
def test_tokens_and_their_probabilities_equal_the_reference(sampler, vocab_size):
    count, generator = len(SETTINGS), torch.Generator().manual_seed(vocab_size)
    logits = random_logits(count, vocab_size)
    for uniform in [0.0] * count, [1 - 1e-9] * count, torch.rand(count, generator=generator, dtype=torch.float64).tolist():
        tokens, logprobs = sampler(logits, SETTINGS, uniform, [None] * count)
        assert tokens == sample(logits.double(), SETTINGS, uniform).tolist()
        expected = logits.double().log_softmax(-1)[range(count), tokens]
        torch.testing.assert_close(torch.tensor(logprobs, dtype=torch.float64), expected, rtol=1e-13, atol=1e-13)


def test_frequencies_follow_the_distribution(sampler):
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    uniform = ((torch.arange(800) + 0.5) / 800).tolist()
    tokens, _ = sampler(logits.expand(800, 4), [SamplingParams(temperature=1)] * 800, uniform, [None] * 800)
    assert [tokens.count(token) for token in range(4)] == [400, 200, 100, 100]


def test_a_forced_token_is_taken_with_its_probability(sampler):
    logits = torch.tensor([[0.5, 0.25, 0.25, 0.0]] * 3).log()
    tokens, logprobs = sampler(logits, [SamplingParams(top_k=1)] * 3, [0.1] * 3, [None, 2, 3])
    assert tokens == [0, 2, 3]
    assert logprobs == pytest.approx([math.log(0.5), math.log(0.25), -math.inf])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_not_finite_are_an_error(sampler, bad, place):
    logits = torch.zeros(2, 3)
    logits[1, place] = bad
    with pytest.raises(ValueError, match="are not finite"):
        sampler(logits, [SamplingParams()] * 2, [0.5] * 2, [None] * 2)


def test_logits_that_are_all_minus_infinity_are_an_error(sampler):
    with pytest.raises(ValueError, match="are not finite"):
        sampler(torch.full((1, 3), -math.inf), [SamplingParams()], [0.5], [None])

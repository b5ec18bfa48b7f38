import math
import re

import pytest
import torch

from gpt import SamplingParams
from gpt.sampling import (
    MAX_SEED,
    apply_min_p,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    sample,
    sample_from_probs,
    sampling_probs,
)

INF = math.inf


def logs(*probs: float) -> torch.Tensor:
    """Logits that softmax to these probabilities."""
    return torch.tensor(probs, dtype=torch.float64).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


# Temperature


def test_temperature_two_takes_the_root_of_the_probabilities():
    probs = apply_temperature(logs(0.64, 0.36), 2).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([0.8, 0.6], dtype=torch.float64) / 1.4)


def test_temperature_half_squares_the_probabilities():
    probs = apply_temperature(logs(0.75, 0.25), 0.5).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([0.9, 0.1], dtype=torch.float64))


def test_temperature_one_changes_no_probability():
    probs = apply_temperature(logs(0.5, 0.3, 0.2), 1).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def test_temperature_zero_takes_the_likeliest():
    assert apply_temperature(torch.tensor([1.0, 3.0, 2.0]), 0).softmax(-1).tolist() == [0, 1, 0]


def test_temperature_zero_takes_the_first_of_equals():
    assert apply_temperature(torch.tensor([1.0, 3.0, 3.0]), 0).softmax(-1).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temperature", [1e-40, 5e-324])
def test_a_tiny_temperature_is_like_zero(temperature):
    probs = sampling_probs(torch.tensor([1.0, 3.0, 2.9]), SamplingParams(temperature=temperature))
    assert probs.tolist() == [0, 1, 0]


def test_a_tiny_temperature_shares_between_equals():
    probs = sampling_probs(torch.tensor([1.0, 3.0, 3.0]), SamplingParams(temperature=1e-40))
    assert probs.tolist() == [0, 0.5, 0.5]


def test_great_logits_do_not_overflow():
    probs = sampling_probs(torch.tensor([-1e30, 1e30]), SamplingParams(temperature=0.001))
    assert probs.tolist() == [0, 1]


# Top-k


def test_top_k_keeps_the_k_greatest():
    assert kept(apply_top_k(torch.tensor([1.0, 4.0, 3.0, 2.0]), 2)) == [1, 2]


def test_top_k_keeps_what_equals_the_last():
    assert kept(apply_top_k(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2)) == [1, 2, 3]


@pytest.mark.parametrize("k", [0, 4, 5, 10**30])
def test_top_k_of_zero_or_all_and_more_keeps_all(k):
    logits = torch.tensor([1.0, 4.0, 3.0, 2.0])
    assert torch.equal(apply_top_k(logits, k), logits)


# Top-p


def test_top_p_keeps_until_p_is_held():
    assert kept(apply_top_p(logs(0.2, 0.5, 0.3), 0.6)) == [1, 2]


def test_top_p_stops_when_exactly_p_is_held():
    assert kept(apply_top_p(logs(0.5, 0.25, 0.25), 0.5)) == [0]
    assert kept(apply_top_p(logs(0.5, 0.25, 0.25), 0.75)) == [0, 1]


def test_top_p_takes_equals_in_their_order():
    assert kept(apply_top_p(logs(0.25, 0.25, 0.25, 0.25), 0.5)) == [0, 1]
    assert kept(apply_top_p(torch.zeros(1024), 0.25)) == list(range(256))


@pytest.mark.parametrize("p", [5e-324, 1e-9, 0.1])
def test_top_p_always_keeps_the_first(p):
    assert kept(apply_top_p(logs(0.2, 0.5, 0.3), p)) == [1]


def test_top_p_just_below_one_drops_only_the_tail():
    assert kept(apply_top_p(logs(0.5, 0.3, 0.2 - 1e-12, 1e-12), 1 - 1e-9)) == [0, 1, 2]


def test_top_p_of_one_keeps_all():
    logits = logs(0.5, 0.5 - 1e-300, 1e-300)
    assert torch.equal(apply_top_p(logits, 1), logits)


# Min-p


def test_min_p_keeps_a_share_of_the_likeliest():
    assert kept(apply_min_p(logs(0.5, 0.3, 0.15, 0.05), 0.5)) == [0, 1]
    assert kept(apply_min_p(logs(0.5, 0.3, 0.15, 0.05), 0.2)) == [0, 1, 2]


def test_min_p_keeps_what_is_exactly_at_the_share():
    assert kept(apply_min_p(torch.tensor([0.0, 0.0, -1.0]), 1)) == [0, 1]


def test_min_p_just_below_one_keeps_the_likeliest_and_its_equals():
    assert kept(apply_min_p(logs(0.4, 0.4, 0.2), 1 - 2**-53)) == [0, 1]


def test_min_p_of_zero_keeps_all():
    logits = logs(1 - 1e-300, 1e-300)
    assert torch.equal(apply_min_p(logits, 0), logits)


# All of them


def test_order_of_the_filters():
    # Temperature 0.5 squares: 0.4 0.3 0.2 0.1 -> 16 9 4 1 of 30. Top-k 3 leaves 16 9 4 of 29, top-p 0.8 leaves
    # 16 9 of 25 (16/29 = 0.55, 25/29 = 0.86), and min-p 0.6 only 16, because 9 is less than 0.6 * 16.
    logits = logs(0.4, 0.3, 0.2, 0.1)
    params = {"temperature": 0.5, "top_k": 3}
    torch.testing.assert_close(
        sampling_probs(logits, SamplingParams(**params)), torch.tensor([16, 9, 4, 0], dtype=torch.float64) / 29
    )
    torch.testing.assert_close(
        sampling_probs(logits, SamplingParams(**params, top_p=0.8)), torch.tensor([16, 9, 0, 0], dtype=torch.float64) / 25
    )
    # Top-p measures after top-k: 16/30 + 9/30 = 0.83 is less than 0.85, 25/29 = 0.86 is more.
    assert kept(sampling_probs(logits, SamplingParams(**params, top_p=0.85)).log()) == [0, 1]
    assert sampling_probs(logits, SamplingParams(**params, top_p=0.8, min_p=0.6)).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("params", [{}, {"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}, {"temperature": 1e-40}])
def test_a_vocabulary_of_one(params):
    assert sampling_probs(torch.tensor([-3.0]), SamplingParams(**params)).tolist() == [1]


def test_a_batch_is_filtered_row_by_row():
    logits = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    for params in (SamplingParams(temperature=0), SamplingParams(temperature=0.7, top_k=5, top_p=0.8, min_p=0.05)):
        together = sampling_probs(logits, params)
        apart = torch.stack([torch.stack([sampling_probs(row, params) for row in rows]) for rows in logits])
        assert torch.equal(together, apart)


def test_nothing_is_edited_in_place():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = logits.clone()
    apply_temperature(logits, 0)
    apply_temperature(logits, 0.5)
    apply_top_k(logits, 3)
    apply_top_p(logits, 0.5)
    apply_min_p(logits, 0.5)
    probs = sampling_probs(logits, SamplingParams(temperature=0.5, top_k=20, top_p=0.9, min_p=0.1))
    assert torch.equal(logits, before)
    before = probs.clone()
    sample_from_probs(probs, 0.5)
    assert torch.equal(probs, before)


def test_probabilities_sum_to_one():
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10
    for params in (SamplingParams(), SamplingParams(temperature=5), SamplingParams(top_p=0.5, min_p=0.01)):
        assert sampling_probs(logits, params).sum().item() == pytest.approx(1, abs=1e-12)


# The draw


def test_draw_by_hand():
    probs = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    assert [sample_from_probs(probs, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999)] == [0, 0, 1, 1, 2, 2]


def test_draw_at_zero_passes_over_what_may_not_be_drawn():
    assert sample_from_probs(torch.tensor([0.0, 0.0, 0.6, 0.4], dtype=torch.float64), 0.0) == 2


def test_draw_just_below_one_stays_before_what_may_not_be_drawn():
    assert sample_from_probs(torch.tensor([0.3, 0.7, 0.0, 0.0], dtype=torch.float64), 1 - 2**-53) == 1


def test_draw_just_below_one_stays_in_the_vocabulary_when_the_sum_is_rounded():
    probs = torch.full((10,), 0.1, dtype=torch.float64)
    assert probs.cumsum(0)[-1] < 1  # ten tenths, added up
    assert sample_from_probs(probs, 1 - 2**-53) == 9


def test_draw_from_a_vocabulary_of_one():
    one = torch.ones(1, dtype=torch.float64)
    assert [sample_from_probs(one, u) for u in (0.0, 0.5, 1 - 2**-53)] == [0, 0, 0]


def test_what_was_filtered_out_is_never_drawn():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        probs = sampling_probs(torch.randn(20, generator=generator) * 3, SamplingParams(top_k=4))
        rng = [0.0, 1 - 2**-53, *torch.rand(50, generator=generator, dtype=torch.float64).tolist()]
        assert all(probs[sample_from_probs(probs, u)] > 0 for u in rng)


def test_draws_have_the_frequencies_of_the_probabilities():
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    n = 1000
    drawn = [sample_from_probs(probs, (i + 0.5) / n) for i in range(n)]  # evenly over 0 to 1
    assert [drawn.count(token) for token in range(4)] == [100, 0, 600, 300]


# What may be asked for

WRONG = {
    "temperature": (-0.1, 5.1, math.nan, INF, -INF, True, "0.8", None, "a number from 0 to 5"),
    "top_k": (-1, 1.5, 2.0, math.nan, INF, True, "3", None, "a whole number from 0 (off) up"),
    "top_p": (0, 0.0, -0.5, 1.1, math.nan, INF, True, "1", None, "a number above 0 and at most 1 (off)"),
    "min_p": (-0.1, 1, 1.0, math.nan, INF, False, "0", None, "a number from 0 (off) to below 1"),
    "max_new_tokens": (-1, 100_001, 1.0, math.nan, INF, True, "9", None, "a whole number from 0 to 100,000"),
    "seed": (-1, 2**32, 1.0, math.nan, INF, True, "7", "a whole number from 0 to 4294967295, or None"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values[:-1]])
def test_a_value_out_of_range_is_refused_with_what_is_allowed(name, value):
    said = f"{name} is {value!r}; it must be {WRONG[name][-1]}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 5},
        {"temperature": 5e-324},
        {"top_k": 0},
        {"top_k": 10**400},
        {"top_p": 1},
        {"top_p": 5e-324},
        {"min_p": 0},
        {"min_p": 1 - 2**-53},
        {"max_new_tokens": 0},
        {"max_new_tokens": 100_000},
        {"seed": 0},
        {"seed": MAX_SEED},
    ],
)
def test_the_ends_of_every_range_are_allowed(params):
    probs = sampling_probs(torch.tensor([1.0, 2.0, 3.0]), SamplingParams(**params))
    assert probs.sum().item() == pytest.approx(1)


def test_seeded_keeps_a_seed_and_draws_one_for_none():
    assert SamplingParams(seed=7).seeded() == SamplingParams(seed=7)
    drawn = {SamplingParams(top_k=3).seeded() for _ in range(20)}
    assert len(drawn) > 1
    assert all(p.top_k == 3 and 0 <= p.seed <= MAX_SEED for p in drawn)


def test_rows_are_sampled_each_by_its_own_settings():
    generator = torch.Generator().manual_seed(0)
    logits, rng = torch.randn(40, 30, generator=generator), torch.rand(40, generator=generator).tolist()
    settings = [
        SamplingParams(temperature, top_k, top_p, min_p)
        for temperature in (0, 0.3, 1, 2.5, 0.7)
        for top_k, top_p, min_p in ((0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.7, 0.0), (9, 0.9, 0.1))
    ] * 2
    together = sample(logits, settings, rng).tolist()
    alone = [int(sample_from_probs(sampling_probs(row, p), u)) for row, p, u in zip(logits, settings, rng, strict=True)]
    assert together == alone
    assert together == [int(sample(row[None], [p], [u])) for row, p, u in zip(logits, settings, rng, strict=True)]

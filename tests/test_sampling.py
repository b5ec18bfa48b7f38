import math

import pytest
import torch

from gpt import SamplingParams
from gpt.sampling import (
    MAX_SEED,
    apply_min_p,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    format_forced,
    parse_forced,
    sample,
    sample_from_probs,
    sampling_probs,
)


def logits_of(*probs: float) -> torch.Tensor:
    """Logits that softmax to these probabilities."""
    return torch.tensor(probs, dtype=torch.float64).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("temperature", "probs", "expected"),
    [
        (2, (0.64, 0.36), (0.8 / 1.4, 0.6 / 1.4)),  # square roots
        (0.5, (0.75, 0.25), (0.9, 0.1)),  # squares
        (1, (0.5, 0.3, 0.2), (0.5, 0.3, 0.2)),
        (0, (0.1, 0.6, 0.3), (0, 1, 0)),
        (0, (0.2, 0.4, 0.4), (0, 1, 0)),  # of equal ones, the first
        (5e-324, (0.1, 0.46, 0.44), (0, 1, 0)),
        (1e-40, (0.2, 0.4, 0.4), (0, 0.5, 0.5)),
    ],
)
def test_temperature(temperature, probs, expected):
    assert sampling_probs(logits_of(*probs), SamplingParams(temperature)).tolist() == pytest.approx(expected)


def test_large_logits_do_not_overflow():
    assert sampling_probs(torch.tensor([-1e30, 1e30]), SamplingParams(temperature=0.001)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("apply", "value", "probs", "expected"),
    [
        (apply_top_k, 2, (0.1, 0.4, 0.3, 0.2), [1, 2]),
        (apply_top_k, 2, (0.1, 0.4, 0.25, 0.25), [1, 2, 3]),  # ties with the last one are kept
        (apply_top_k, 0, (0.1, 0.9), [0, 1]),
        (apply_top_k, 10**30, (0.1, 0.9), [0, 1]),
        (apply_top_p, 0.6, (0.2, 0.5, 0.3), [1, 2]),
        (apply_top_p, 0.5, (0.5, 0.25, 0.25), [0]),  # exactly p
        (apply_top_p, 0.5, (0.25,) * 4, [0, 1]),  # ties in the order of their ids
        (apply_top_p, 5e-324, (0.2, 0.5, 0.3), [1]),  # the first is always kept
        (apply_top_p, 1 - 1e-9, (0.5, 0.3, 0.2 - 1e-12, 1e-12), [0, 1, 2]),
        (apply_top_p, 1, (0.5, 0.5 - 1e-300, 1e-300), [0, 1, 2]),
        (apply_min_p, 0.5, (0.5, 0.3, 0.15, 0.05), [0, 1]),
        (apply_min_p, 0.2, (0.5, 0.3, 0.15, 0.05), [0, 1, 2]),
        (apply_min_p, 1 - 2**-53, (0.4, 0.4, 0.2), [0, 1]),
        (apply_min_p, 0, (1 - 1e-300, 1e-300), [0, 1]),
    ],
)
def test_filters_keep(apply, value, probs, expected):
    assert kept(apply(logits_of(*probs), value)) == expected


def test_filters_apply_in_the_order_of_transformers():
    # Temperature 0.5 squares: 0.4 0.3 0.2 0.1 -> 16 9 4 1 of 30. Top-k 3 leaves 16 9 4 of 29, top-p 0.8 leaves
    # 16 9 of 25 (16/29 = 0.55, 25/29 = 0.86), and min-p 0.6 only 16, because 9 is less than 0.6 * 16.
    logits = logits_of(0.4, 0.3, 0.2, 0.1)

    def probs(**filters):
        return sampling_probs(logits, SamplingParams(temperature=0.5, top_k=3, **filters)).tolist()

    assert probs() == pytest.approx([16 / 29, 9 / 29, 4 / 29, 0])
    assert probs(top_p=0.8) == pytest.approx([16 / 25, 9 / 25, 0, 0])
    assert probs(top_p=0.85)[2] == 0  # measured after top-k: 25/30 is less than 0.85, 25/29 is more
    assert probs(top_p=0.8, min_p=0.6) == [1, 0, 0, 0]


ALL_FILTERS = SamplingParams(temperature=0.7, top_k=5, top_p=0.8, min_p=0.05)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0), SamplingParams(1e-40), ALL_FILTERS])
def test_vocabulary_of_one(params):
    assert sampling_probs(torch.tensor([-3.0]), params).tolist() == [1]
    assert sample_from_probs(torch.ones(1, dtype=torch.float64), 1 - 2**-53) == 0


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), ALL_FILTERS])
def test_each_row_of_a_batch_is_filtered_by_itself(params):
    logits = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    together = sampling_probs(logits, params)
    assert torch.equal(together, torch.stack([torch.stack([sampling_probs(row, params) for row in rows]) for rows in logits]))
    torch.testing.assert_close(together.sum(-1), torch.ones(3, 4, dtype=torch.float64))


def test_inputs_are_not_modified():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = logits.clone()
    for apply, value in (
        (apply_temperature, 0),
        (apply_temperature, 0.5),
        (apply_top_k, 3),
        (apply_top_p, 0.5),
        (apply_min_p, 0.5),
    ):
        apply(logits, value)
        assert torch.equal(logits, before)
    probs = sampling_probs(logits, ALL_FILTERS)
    before = probs.clone()
    sample_from_probs(probs, 0.5)
    assert torch.equal(probs, before)


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ([0.25, 0.5, 0.25], {0.0: 0, 0.2499: 0, 0.25: 1, 0.7499: 1, 0.75: 2, 0.9999: 2}),
        ([0.0, 0.0, 0.6, 0.4], {0.0: 2}),  # a removed token at the start
        ([0.3, 0.7, 0.0, 0.0], {1 - 2**-53: 1}),  # and at the end
        ([0.1] * 10, {1 - 2**-53: 9}),  # the sum is rounded to less than 1
    ],
)
def test_sampling_inverts_the_cumulative_distribution(probs, expected):
    probs = torch.tensor(probs, dtype=torch.float64)
    assert {uniform: int(sample_from_probs(probs, uniform)) for uniform in expected} == expected


def test_removed_tokens_are_never_sampled():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        probs = sampling_probs(torch.randn(20, generator=generator) * 3, SamplingParams(top_k=4))
        uniform = [0.0, 1 - 2**-53, *torch.rand(50, generator=generator, dtype=torch.float64).tolist()]
        assert all(probs[sample_from_probs(probs, number)] > 0 for number in uniform)


def test_batch_is_sampled_as_each_sequence_by_itself():
    generator = torch.Generator().manual_seed(0)
    logits, uniform = torch.randn(40, 30, generator=generator), torch.rand(40, generator=generator).tolist()
    params = [
        SamplingParams(temperature, top_k, top_p, min_p)
        for temperature in (0, 0.3, 1, 2.5, 0.7)
        for top_k, top_p, min_p in ((0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.7, 0.0), (9, 0.9, 0.1))
    ] * 2
    each = zip(logits, params, uniform, strict=True)
    alone = [int(sample_from_probs(sampling_probs(row, p), number)) for row, p, number in each]
    assert sample(logits, params, uniform).tolist() == alone


RANGES = {  # allowed values, rejected ones
    "temperature": ((0, 5e-324, 5), (-0.1, 5.1, math.nan, True, "0.8", None)),
    "top_k": ((0, 10**400), (-1, 2.0, True, "3")),
    "top_p": ((5e-324, 1), (0, 1.1, math.nan, True)),
    "min_p": ((0, 1 - 2**-53), (-0.1, 1, math.inf, False)),
    "max_new_tokens": ((0, 100_000), (-1, 100_001, 1.0, True, None)),
    "seed": ((None, 0, MAX_SEED), (-1, 2**32, 1.0, True, "7")),
    "forced": (
        ((), ((0, 5),), ((3, 0), (4, 9))),
        ([(0, 5)], ((5, 1), (5, 2)), ((1, -1),), ((1,),), (3, 7), ((0, True),), ((0.0, 1),)),
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_parameters_are_checked(name):
    allowed, rejected = RANGES[name]
    for value in allowed:
        probs = sampling_probs(torch.tensor([1.0, 2.0, 3.0]), SamplingParams(**{name: value}))
        assert probs.sum().item() == pytest.approx(1)
    for value in rejected:
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be [^\n]*$") as error:
            SamplingParams(**{name: value})
        assert repr(value) in str(error.value)


def test_forced_tokens_are_written_as_in_a_link():
    forced = ((12, 45), (40, 3))
    assert format_forced(forced) == "12.45,40.3"
    assert parse_forced("12.45,40.3") == forced
    assert (format_forced(()), parse_forced("")) == ("", ())


@pytest.mark.parametrize("text", ["12", "12.", ".5", "a.b", "1.2.3", "12.45;3.1"])
def test_another_form_of_forced_tokens_is_refused(text):
    with pytest.raises(ValueError, match=r"must be index\.token pairs"):
        parse_forced(text)


def test_seeded_keeps_a_seed_and_chooses_a_random_one_for_none():
    assert SamplingParams(seed=7).seeded() == SamplingParams(seed=7)
    params = {SamplingParams(top_k=3).seeded() for _ in range(20)}
    assert len(params) > 1
    assert all(p.top_k == 3 and 0 <= p.seed <= MAX_SEED for p in params)

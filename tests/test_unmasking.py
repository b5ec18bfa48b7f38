"""Sampling from masked diffusion: which tokens are drawn, and in which order they are revealed."""

import math
from collections import Counter

import pytest
import torch

import gpt.unmasking
from gpt import UnmaskingParams
from gpt.unmasking import choose_places, draw_tokens, unmask

V, MASK = 4, 4
NEXT = torch.tensor([2, 3, 1, 0])  # a chain: the token after each token


def chain(ids):
    """Each place expects the successor of the token to its left, if it can see it; the first place expects 0."""
    logits = torch.zeros(*ids.shape, V)
    logits[:, 0, 0] = 50.0
    for b, row in enumerate(ids.tolist()):
        for t in range(1, len(row)):
            if row[t - 1] != MASK:
                logits[b, t, NEXT[row[t - 1]]] = 50.0
    return logits


def noise(ids):
    """Different logits at each place, which depend on what is visible."""
    generator = torch.Generator().manual_seed(int((ids * torch.arange(1, ids.shape[1] + 1)).sum()))
    return torch.randn(1, ids.shape[1], V, generator=generator).expand(len(ids), -1, -1)


def reveal(denoise, canvases, params):
    ids = torch.tensor([[MASK if token is None else token for token in canvas] for canvas in canvases])
    steps = list(unmask(denoise, ids, ids == MASK, MASK, params))
    result = ids.clone()
    for each in steps:
        for b, step in enumerate(each):
            if step:
                result[b, step.positions] = torch.tensor(step.token_ids)
    return result.tolist(), steps


def test_one_place_a_step_from_left_to_right_follows_a_chain():
    (tokens,), steps = reveal(chain, [[None] * 6], [UnmaskingParams(6, 1.0, "blocks", 1)])
    assert tokens == [0, 2, 1, 3, 0, 2]
    assert [step.positions for (step,) in steps] == [[0], [1], [2], [3], [4], [5]]


def test_most_confident_places_come_first():
    (tokens,), steps = reveal(chain, [[None] * 4], [UnmaskingParams(4, 0, "confident", 1)])
    assert (tokens, [step.positions for (step,) in steps]) == ([0, 2, 1, 3], [[0], [1], [2], [3]])  # each makes the next one sure


@pytest.mark.parametrize("order", ["confident", "random", "blocks"])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_given_tokens_never_change_and_each_hidden_place_is_revealed_once(order, steps):
    canvas = [None, 3, None, None, 1, None, None, 2]
    (tokens,), taken = reveal(noise, [canvas], [UnmaskingParams(steps, 1.0, order, 7)])
    assert [token for token, given in zip(tokens, canvas, strict=True) if given is not None] == [3, 1, 2]
    places = [place for (step,) in taken for place in step.positions]
    assert sorted(places) == [0, 2, 3, 5, 6]
    sizes = [len(step.positions) for (step,) in taken]
    assert len(sizes) == min(steps, 5)
    assert max(sizes) - min(sizes) <= 1


def test_result_does_not_depend_on_the_other_texts():
    def denoise(ids):
        return torch.cat([noise(row[None]) for row in ids])

    canvases = [[None] * 6, [0, None, None, 1, 2, None], [1, 2, 3, 0, 1, 2]]
    params = [UnmaskingParams(4, 1.0, "confident", 1), UnmaskingParams(2, 0.5, "random", 2), UnmaskingParams(3, 1, "blocks", 3)]
    together, steps = reveal(denoise, canvases, params)
    assert together[2] == canvases[2]
    assert all(each[2] is None for each in steps)
    for canvas, p, tokens in zip(canvases[:2], params, together, strict=False):
        assert reveal(denoise, [canvas], [p])[0] == [tokens]


def test_same_seed_gives_the_same_text():
    def texts(seed):
        return reveal(noise, [[None] * 20], [UnmaskingParams(10, 1.0, "confident", seed)])[0]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_one_step_draws_from_the_distribution_at_each_place():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    canvas = [None] * 20_000
    (tokens,), _ = reveal(lambda ids: probs.log().expand(1, len(canvas), V), [canvas], [UnmaskingParams(1, 1.0, "random", 3)])
    counts = Counter(tokens)
    assert [counts[token] / len(canvas) for token in range(V)] == pytest.approx(probs.tolist(), abs=0.015)


def test_temperature_divides_the_logits():
    logits = torch.tensor([[1.0, 0.0]]).repeat(20_000, 1)
    tokens, logprobs = draw_tokens(logits, 0.5, torch.Generator().manual_seed(0))
    assert (tokens == 0).double().mean() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.015)
    own = torch.tensor([1.0, 0.0], dtype=torch.float64).log_softmax(0)
    assert torch.equal(logprobs, own[tokens])  # the model's own, at any temperature


def test_temperature_zero_takes_the_most_probable_token():
    tokens, _ = draw_tokens(torch.tensor([[0.0, 2.0, 1.0]] * 50), 0, torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {1}


def test_draws_are_exact_beyond_float32(monkeypatch):
    # Half of the last 1e-9 of the line belongs to token 1, which float32 would round away.
    monkeypatch.setattr(gpt.unmasking.torch, "rand", lambda *size, **_: torch.full(size, 1 - 0.4e-9, dtype=torch.float64))
    tokens, _ = draw_tokens(torch.tensor([[0.0, -20.7233]]), 1.0, torch.Generator())  # exp(-20.7233) = 1e-9
    assert tokens.tolist() == [1]
    monkeypatch.setattr(gpt.unmasking.torch, "rand", lambda *size, **_: torch.full(size, 1 - 1.6e-9, dtype=torch.float64))
    tokens, _ = draw_tokens(torch.tensor([[0.0, -20.7233]]), 1.0, torch.Generator())
    assert tokens.tolist() == [0]


def test_order_noise_is_gumbel_noise():
    # The largest of logprobs plus Gumbel noise is place i with probability proportional to exp(logprob).
    logprobs = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
    generator = torch.Generator().manual_seed(0)
    first = Counter(int(choose_places(logprobs, 1, UnmaskingParams(), generator)[0]) for _ in range(20_000))
    assert [first[i] / 20_000 for i in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 to 1,024"),
        ({"steps": True}, "steps is True"),
        ({"temperature": float("nan")}, "temperature is nan; it must be a number from 0 to 5"),
        ({"order": "best"}, "order is 'best'; it must be one of confident, random, blocks"),
        ({"order": ["random"]}, "order is"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_it(values, message):
    with pytest.raises(ValueError, match=message):
        UnmaskingParams(**values)

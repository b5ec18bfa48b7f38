"""From logits to one token: temperature, top-k, top-p, min-p and a random choice, each a pure function.

The order is that of transformers. Each filter takes logits (..., V) and returns new ones, in which the tokens that it
removes are minus infinity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import SystemRandom
from typing import Any

import torch
from torch import Tensor

NOT_FINITE_MESSAGE = "the model computes numbers that are not finite, so it has no probabilities here; use another model"
MAX_NEW_TOKENS = 100_000
MAX_SEED = 2**32 - 1  # an exact number in JavaScript and other languages


@dataclass(frozen=True)
class SamplingParams:
    """How to choose each token.

    Attributes:
        temperature: 0 to 5. Divides the logits; 1 is the model's own distribution, 0 always takes the most probable token.
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Above 0, up to 1. Keep the most probable tokens that together have probability p (Holtzman et al. 2020); 1 keeps
            all.
        min_p: 0 to below 1. Keep tokens with at least this fraction of the highest probability (Nguyen et al. 2024); 0 keeps
            all.
        max_new_tokens: 0 to 100,000.
        seed: 0 to 2**32 - 1, or None for a random one. On one build, the same seed gives the same text. For a VAE it also
            determines the latent vector of each line, so it chooses the text even at temperature 0.
        forced: Pairs (index of a generated token from 0, token id) of tokens that are given instead of sampled, in order: a
            branch of a text. The random numbers of the other tokens stay the same.

    Raises:
        ValueError: If a value is out of its range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 300
    seed: int | None = None
    forced: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_param(self, "temperature", (int, float), lambda value: 0 <= value <= 5, "a number from 0 to 5")
        check_param(self, "top_k", (int,), lambda value: value >= 0, "a whole number from 0 (off) up")
        check_param(self, "top_p", (int, float), lambda value: 0 < value <= 1, "a number above 0 and at most 1 (off)")
        check_param(self, "min_p", (int, float), lambda value: 0 <= value < 1, "a number from 0 (off) to below 1")
        allowed = f"a whole number from 0 to {MAX_NEW_TOKENS:,}"
        check_param(self, "max_new_tokens", (int,), lambda value: 0 <= value <= MAX_NEW_TOKENS, allowed)
        if self.seed is not None:
            allowed = f"a whole number from 0 to {MAX_SEED}, or None"
            check_param(self, "seed", (int,), lambda value: 0 <= value <= MAX_SEED, allowed)
        allowed = "pairs (index, token id) of whole numbers from 0, each index higher than the one before it"
        check_param(self, "forced", (tuple,), _are_forced_tokens, allowed)

    def seeded(self) -> "SamplingParams":
        """The same parameters with a seed: their own, or a random one."""
        return self if self.seed is not None else replace(self, seed=random_seed())


def check_param(params: Any, name: str, types: tuple[type, ...], is_in_range: Callable[[Any], bool], allowed: str) -> None:
    """Raises ValueError if a field of generation parameters has another type, or is out of its range.

    Args:
        params: The parameters.
        name: Of the field.
        types: Of its value; a bool is no number.
        is_in_range: Whether a value is in the range.
        allowed: The range in words, for the message.
    """
    value = getattr(params, name)
    if not isinstance(value, types) or isinstance(value, bool) or not is_in_range(value):
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def random_seed() -> int:
    """A seed from the operating system."""
    return SystemRandom().randint(0, MAX_SEED)


def _are_forced_tokens(pairs: tuple[Any, ...]) -> bool:
    is_pairs = all(isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair) for pair in pairs)
    return is_pairs and all(a[0] < b[0] for a, b in pairwise(pairs))


def parse_forced(text: str) -> tuple[tuple[int, int], ...]:
    """Read forced tokens as links and the command line write them: "12.45,40.3". Raises ValueError for another form."""
    try:
        return tuple((int(index), int(token)) for index, _, token in (pair.partition(".") for pair in text.split(",") if pair))
    except ValueError:
        raise ValueError(f"forced is {text[:60]!r}; it must be index.token pairs such as 12.45,40.3") from None


def format_forced(forced: tuple[tuple[int, int], ...]) -> str:
    """Inverse of `parse_forced`."""
    return ",".join(f"{index}.{token}" for index, token in forced)


def check_no_nan(numbers: Tensor) -> None:
    """Raises ValueError if a number that a model computed is NaN, as after an overflow of huge weights."""
    if numbers.isnan().any():
        raise ValueError(NOT_FINITE_MESSAGE)


def apply_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Divide logits (..., V) by the temperature.

    Args:
        logits: (..., V).
        temperature: A number; at 0 only the most probable token remains (of equal ones, the lowest id). Or a tensor (..., 1) of
            numbers above 0.
    """
    logits = logits - logits.amax(dim=-1, keepdim=True)  # at most 0, so a tiny temperature cannot overflow
    if not isinstance(temperature, Tensor) and temperature == 0:
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(dim=-1, keepdim=True), True)
        return logits.masked_fill(~best, -torch.inf)
    return logits / temperature


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k highest logits, and those equal to the lowest of them; k of 0, or V and more, keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    lowest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable tokens until together they have probability p or more; the first is always kept."""
    if p == 1:
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(dim=-1)
    remove = probs.cumsum(dim=-1) - probs >= p  # those before it have p already
    remove[..., 0] = False
    return logits.masked_fill(remove.scatter(-1, ids, remove), -torch.inf)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens that have at least p times the highest probability."""
    if p == 0:
        return logits
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), -torch.inf)


def sampling_probs(logits: Tensor, params: SamplingParams, temperatures: Tensor | None = None) -> Tensor:
    """The distribution that a token is sampled from: (..., V) in float64.

    Args:
        logits: (..., V).
        params: Temperature and filters.
        temperatures: (..., 1) temperatures above 0 in place of the one of `params`.
    """
    logits = apply_temperature(logits.double(), params.temperature if temperatures is None else temperatures)
    logits = apply_min_p(apply_top_p(apply_top_k(logits, params.top_k), params.top_p), params.min_p)
    return logits.softmax(dim=-1)


def sample_from_probs(probs: Tensor, uniform: Tensor | float) -> Tensor:
    """Sample by inverting the cumulative distribution.

    Each token uses one uniform number, with or without filters, so a seed stays in step for any parameters.

    Args:
        probs: (..., V).
        uniform: (...) numbers in [0, 1).

    Returns:
        Token ids (...).

    Raises:
        ValueError: If they are not probabilities, because the logits of the model are not finite.
    """
    cumulative = probs.cumsum(dim=-1)
    uniform = torch.as_tensor(uniform, dtype=probs.dtype)[..., None]
    check_no_nan(cumulative[..., -1])
    return torch.searchsorted(cumulative / cumulative[..., -1:], uniform, right=True)[..., 0]


def sample(logits: Tensor, params: Sequence[SamplingParams], uniform: Sequence[float]) -> Tensor:
    """Sample a token for each sequence of a batch. Sequences with the same filters are computed together.

    Args:
        logits: (B, V).
        params: One for each sequence.
        uniform: One number in [0, 1) for each sequence.

    Returns:
        Token ids (B,).
    """
    numbers = torch.tensor(uniform, dtype=torch.float64)
    if len(params) == 1:
        return sample_from_probs(sampling_probs(logits, params[0]), numbers)
    groups: dict[tuple[float, ...], list[int]] = {}
    for i, p in enumerate(params):
        groups.setdefault((p.temperature > 0, p.top_k, p.top_p, p.min_p), []).append(i)
    tokens = torch.empty(len(params), dtype=torch.long)
    for group in groups.values():
        first = params[group[0]]
        temperatures = torch.tensor([[params[i].temperature] for i in group], dtype=torch.float64) if first.temperature else None
        tokens[group] = sample_from_probs(sampling_probs(logits[group], first, temperatures), numbers[group])
    return tokens

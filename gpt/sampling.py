"""From logits to one token: temperature, top-k, top-p, min-p, and a draw, each a pure function.

The order is that of transformers: temperature, top-k, top-p, min-p, then the draw. Every filter takes logits
(..., V) and gives new ones, in which what may not be drawn is minus infinity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import Any

import torch
from torch import Tensor

MAX_NEW_TOKENS = 100_000
MAX_SEED = 2**32 - 1  # fits every language's whole numbers, JavaScript's among them


def _number(name: str, value: Any, allowed: str, whole: bool, low: float, high: float, open_low: bool = False) -> None:
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not low <= value <= high or (open_low and value == low):
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


@dataclass(frozen=True)
class SamplingParams:
    """How to choose each token. Raises ValueError for a value out of its range.

    temperature     0 to 5; divides the logits: 0 always takes the likeliest, 1 is the model's own distribution
    top_k           keep the k likeliest; 0 keeps all
    top_p           above 0, to 1; keep the likeliest that together hold p (Holtzman et al. 2020); 1 keeps all
    min_p           0 to below 1; keep those with at least this share of the likeliest's probability
                    (Nguyen et al. 2024); 0 keeps all
    max_new_tokens  0 to 100,000
    seed            0 to 2**32 - 1; the same seed gives the same text; None draws one
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 300
    seed: int | None = None

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, "a number from 0 to 5", False, 0, 5)
        _number("top_k", self.top_k, "a whole number from 0 (off) up", True, 0, float("inf"))
        _number("top_p", self.top_p, "a number above 0 and at most 1 (off)", False, 0, 1, open_low=True)
        _number("min_p", self.min_p, "a number from 0 (off) to below 1", False, 0, 1 - 2**-53)
        _number("max_new_tokens", self.max_new_tokens, f"a whole number from 0 to {MAX_NEW_TOKENS:,}", True, 0, MAX_NEW_TOKENS)
        if self.seed is not None:
            _number("seed", self.seed, f"a whole number from 0 to {MAX_SEED}, or None", True, 0, MAX_SEED)

    def seeded(self) -> "SamplingParams":
        """The same with a seed: its own, or one drawn now."""
        return self if self.seed is not None else replace(self, seed=SystemRandom().randint(0, MAX_SEED))


def apply_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Divide by the temperature, or by (..., 1) of them above 0; at 0 only the likeliest remains (of equals, the lowest id)."""
    logits = logits - logits.amax(dim=-1, keepdim=True)  # the greatest is 0, so a tiny temperature cannot overflow
    if not isinstance(temperature, Tensor) and temperature == 0:
        best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(dim=-1, keepdim=True), True)
        return logits.masked_fill(~best, -torch.inf)
    return logits / temperature


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k greatest, and what equals the last of them; k of 0, or above V, keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the likeliest until together they hold p or more; the first always stays."""
    if p == 1:
        return logits
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(dim=-1)
    drop = probs.cumsum(dim=-1) - probs >= p  # those before it hold p already
    drop[..., 0] = False
    return logits.masked_fill(drop.scatter(-1, ids, drop), -torch.inf)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep those at least p times as likely as the likeliest."""
    if p == 0:
        return logits
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.max(dim=-1, keepdim=True).values, -torch.inf)


def sampling_probs(logits: Tensor, params: SamplingParams, temperatures: Tensor | None = None) -> Tensor:
    """(..., V) logits -> (..., V) float64 probabilities to draw from; `temperatures` (..., 1), if given, replace the one."""
    logits = apply_temperature(logits.double(), params.temperature if temperatures is None else temperatures)
    logits = apply_min_p(apply_top_p(apply_top_k(logits, params.top_k), params.top_p), params.min_p)
    return logits.softmax(dim=-1)


def sample_from_probs(probs: Tensor, uniform: Tensor | float) -> Tensor:
    """The tokens (...) of (..., V) probabilities, each at `uniform` (...), in [0, 1), of the way up their cumulative sum.

    One uniform number a token, whatever the filters: so the same seed stays in step under any settings.
    """
    cumulative = probs.cumsum(dim=-1)
    uniform = torch.as_tensor(uniform, dtype=probs.dtype)[..., None]
    return torch.searchsorted(cumulative / cumulative[..., -1:], uniform, right=True)[..., 0]


def sample(logits: Tensor, params: Sequence[SamplingParams], rng: Sequence[float]) -> Tensor:
    """A token (B,) for each row of logits (B, V), by its own settings; rows with the same filters are computed together."""
    uniform = torch.tensor(rng, dtype=torch.float64)
    if len(params) == 1:
        return sample_from_probs(sampling_probs(logits, params[0]), uniform)
    alike: dict[tuple[float, ...], list[int]] = {}
    for row, p in enumerate(params):
        alike.setdefault((p.temperature > 0, p.top_k, p.top_p, p.min_p), []).append(row)
    tokens = torch.empty(len(params), dtype=torch.long)
    for rows in alike.values():
        one = params[rows[0]]
        temperatures = torch.tensor([[params[row].temperature] for row in rows], dtype=torch.float64) if one.temperature else None
        tokens[rows] = sample_from_probs(sampling_probs(logits[rows], one, temperatures), uniform[rows])
    return tokens

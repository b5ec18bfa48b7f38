"""Sampling from a masked diffusion model: hidden tokens are predicted all at once and revealed a few at a time.

Each step runs the model once, draws a token at every hidden place, and keeps those at some places. The order "confident" keeps
the draws with the highest probability (Chang et al. 2022, MaskGIT); Gumbel noise on the log-probabilities makes the order
random, too, without which a text repeats itself. Everything is computed in float64: float32 Gumbel noise is too rarely
extreme, which acts like a lower temperature (Zheng et al. 2024).

Shapes: B texts, T places, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from gpt.sampling import MAX_SEED, check_no_nan, check_param, random_seed

Order = Literal["confident", "random", "blocks"]
MAX_STEPS = 1024
ORDER_NOISE = 1.0  # scale of the Gumbel noise on log-probabilities that decide the order
TINY = 1e-300  # keeps logarithms finite


@dataclass(frozen=True)
class UnmaskingParams:
    """How to reveal hidden tokens.

    Attributes:
        steps: 1 to 1,024 runs of the model. Each step reveals the same share of the hidden places; with more steps than
            places, each step reveals one.
        temperature: 0 to 5. Divides the logits; 1 is the model's own distribution, 0 always takes the most probable token.
        order: "confident" reveals the most probable draws first, "random" any, "blocks" goes from left to right.
        seed: 0 to 2**32 - 1, or None for a random one. On one build, the same seed gives the same text.

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 64
    temperature: float = 1.0
    order: Order = "confident"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_param(self, "steps", (int,), lambda value: 1 <= value <= MAX_STEPS, f"a whole number from 1 to {MAX_STEPS:,}")
        check_param(self, "temperature", (int, float), lambda value: 0 <= value <= 5, "a number from 0 to 5")
        check_param(self, "order", (str,), lambda value: value in get_args(Order), f"one of {', '.join(get_args(Order))}")
        if self.seed is not None:
            check_param(
                self, "seed", (int,), lambda value: 0 <= value <= MAX_SEED, f"a whole number from 0 to {MAX_SEED}, or None"
            )

    def seeded(self) -> "UnmaskingParams":
        """The same parameters with a seed: their own, or a random one."""
        return self if self.seed is not None else replace(self, seed=random_seed())


@dataclass(frozen=True, eq=False)
class UnmaskingStep:
    """What one step revealed in one text.

    Attributes:
        index: 0 for the first step.
        positions: The places that it revealed, in the order in which they were chosen.
        token_ids: The token at each of them.
        logits: (T, V) of the model before the step, at all places.
    """

    index: int
    positions: list[int]
    token_ids: list[int]
    logits: Tensor


Denoise = Callable[[Tensor], Tensor]  # ids (B, T), hidden ones the mask id -> logits (B, T, V) on the CPU


def unmask(
    denoise: Denoise, ids: Tensor, is_hidden: Tensor, mask_id: int, params: Sequence[UnmaskingParams]
) -> Iterator[list[UnmaskingStep | None]]:
    """Reveal the hidden tokens of several texts in one batch. A given token never changes.

    Results do not depend on the other texts of the batch.

    Args:
        denoise: The model.
        ids: (B, T) tokens; at hidden places they have no meaning.
        is_hidden: (B, T).
        mask_id: What the model reads at a hidden place.
        params: One for each text.

    Yields:
        The step of each text, None for a text that is complete.
    """
    ids, is_hidden = ids.masked_fill(is_hidden, mask_id), is_hidden.clone()
    generators = [torch.Generator().manual_seed(p.seeded().seed or 0) for p in params]
    totals = is_hidden.sum(dim=1).tolist()
    done = [0] * len(params)  # places that are revealed
    for index in range(max(min(p.steps, n) for p, n in zip(params, totals, strict=True))):
        logits = denoise(ids)
        steps: list[UnmaskingStep | None] = [None] * len(params)
        for b, (p, total, generator) in enumerate(zip(params, totals, generators, strict=True)):
            count = min(p.steps, total)
            if index >= count:
                continue
            reveal = total * (index + 1) // count - done[b]
            places = is_hidden[b].nonzero()[:, 0]
            tokens, logprobs = draw_tokens(logits[b, places], p.temperature, generator)
            chosen = choose_places(logprobs, reveal, p, generator)
            positions, revealed = places[chosen], tokens[chosen]
            ids[b, positions], is_hidden[b, positions] = revealed, False
            done[b] += reveal
            steps[b] = UnmaskingStep(index, positions.tolist(), revealed.tolist(), logits[b])
        yield steps


def draw_tokens(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a token at each of N places.

    Args:
        logits: (N, V).
        temperature: 0 takes the most probable token.
        generator: One uniform number for each place is taken from it at any temperature.

    Returns:
        Tokens (N,), and the logarithms (N,) of the model's own probabilities for them, in float64.

    Raises:
        ValueError: If a logit is NaN.
    """
    exact = logits.double()
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator)
    if temperature == 0:
        tokens = exact.argmax(dim=-1, keepdim=True)
    else:
        cumulative = (exact / temperature).softmax(dim=-1).cumsum(dim=-1)
        tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
    logprobs = exact.log_softmax(dim=-1).gather(-1, tokens)[:, 0]
    check_no_nan(logprobs)
    return tokens[:, 0], logprobs


def choose_places(logprobs: Tensor, count: int, params: UnmaskingParams, generator: torch.Generator) -> Tensor:
    """Choose `count` of N hidden places, from left to right in the text, to reveal the tokens drawn there.

    Args:
        logprobs: (N,) of the draws.
        count: How many to choose.
        params: The order; at temperature 0 the order "confident" has no noise.
        generator: One uniform number for each place is taken from it in any order.

    Returns:
        Indices (count,) of places, the first choice first.
    """
    uniform = torch.rand(len(logprobs), dtype=torch.float64, generator=generator)
    if params.order == "blocks":
        return torch.arange(count)
    if params.order == "random":
        return uniform.topk(count).indices
    noise = -(-uniform.clamp(min=TINY).log()).clamp(min=TINY).log() if params.temperature else 0.0
    return (logprobs + ORDER_NOISE * noise).topk(count).indices

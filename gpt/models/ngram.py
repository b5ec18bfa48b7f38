"""N-gram: the next token depends on the last few, by counting, with interpolated modified Kneser-Ney smoothing.

Each count after a context of n - 1 tokens is lowered by a discount, and the probability mass that the discounts free goes
to the context that is one token shorter, down to a uniform distribution. Shorter contexts use continuation counts: after
how many different tokens a token came, not how often. "Francisco" may be frequent and still follow only "San".
Kneser & Ney 1995; Chen & Goodman 1998.

A sequence of tokens is stored as one integer, its n-gram id: its index among all sequences over a vocabulary of V, shorter
ones first. The id of a continuation is the id of its context times V, plus 1 to V. So all continuations of a context are
adjacent in one sorted table and are found by binary search.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.engine.ngram import NGramEngine
from gpt.models.base import CausalLM, TensorState, check_eos_token_id, config_from_dict
from gpt.models.registry import ModelFamily, register

MAX_ORDER = 8  # in a million characters, too few sequences of 9 occur twice
MAX_ENTRIES = 2**26
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # KenLM's, for a text that is too short to estimate them


@dataclass(frozen=True)
class NGramConfig:
    """Vocabulary size, the order (length of the longest sequence) and the number of stored sequences.

    Raises ValueError if one is out of range or n-gram ids of that order do not fit into 64 bits.
    """

    vocab_size: int
    order: int
    entries: int
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("vocab_size", 1, 2**16), ("order", 1, MAX_ORDER), ("entries", 0, MAX_ENTRIES)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} to {most:,}")
        check_eos_token_id(self.eos_token_id, self.vocab_size)
        if first_ngram_id(self.vocab_size, self.order + 1) >= 2**63:
            fits = max(n for n in range(1, MAX_ORDER) if first_ngram_id(self.vocab_size, n + 1) < 2**63)
            raise ValueError(
                f"the order is {self.order}, but for sequences of {self.vocab_size:,} different tokens 64 bits are enough "
                f"up to order {fits}; take that"
            )

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "ngram", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "NGramConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)


def first_ngram_id(vocab_size: int, n: int) -> int:
    """The id of the first sequence of n tokens: the number of shorter ones, the empty one included."""
    return sum(vocab_size**i for i in range(n))


@dataclass(eq=False)
class NGramState(TensorState):
    """The last tokens of each sequence, (B, order - 1), -1 where it has not read as many."""

    ids: Tensor


class NGram(CausalLM):
    """A table of E sequences: sorted `ngram_ids` (E,) and `probs` (E,), the discounted probability of each continuation.

    The weight of the shorter context is 1 minus the sum of the probabilities after a context, so the predictions sum to 1
    in spite of rounding and pruning. `probs` are float16, rounded down: multiples of 2**-24, which float32 sums exactly.
    """

    config: NGramConfig

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config, self.context_length = config, config.order - 1
        # Parameters without gradients, so that they count as parameters and follow `model.to`.
        self.ngram_ids = nn.Parameter(torch.zeros(config.entries, dtype=torch.long), requires_grad=False)
        self.probs = nn.Parameter(torch.zeros(config.entries, dtype=torch.float16), requires_grad=False)
        self.register_load_state_dict_post_hook(_check_table)  # type: ignore[no-untyped-call]

    @classmethod
    def from_counts(
        cls,
        counts: Sequence[tuple[Tensor, Tensor]],
        vocab_size: int,
        singleton_cutoff: int = MAX_ORDER,
        eos_token_id: int | None = None,
    ) -> "NGram":
        """Smooth the counts of `count_ngrams`.

        Args:
            counts: For each length from 1, what `count_ngrams` returned.
            vocab_size: Number of tokens.
            singleton_cutoff: Longer sequences that occur once are pruned: a smaller and mostly a better model, because one
                occurrence is mostly chance.
            eos_token_id: The token that ends a document.

        Returns:
            The model, in eval mode.
        """
        all_ids, all_probs = [], []
        for n, (digits, count) in enumerate(counts, start=1):
            keep = count > 1 if n > singleton_cutoff else torch.ones_like(count, dtype=torch.bool)
            all_ids.append(digits[keep] + first_ngram_id(vocab_size, n))
            all_probs.append(discounted_probs(digits, count, vocab_size)[keep])
        ngram_ids, probs = torch.cat(all_ids), torch.cat(all_probs)
        model = cls(NGramConfig(vocab_size, len(counts), len(ngram_ids), eos_token_id))
        model.load_state_dict({"ngram_ids": ngram_ids, "probs": probs})
        return model.eval()

    def init_state(self, rng: Iterator[float]) -> NGramState:
        """No token was read."""
        return NGramState(self.ngram_ids.new_full((1, self.config.order - 1), -1))

    @torch.no_grad()
    def forward(self, ids: Tensor, state: NGramState | None = None) -> tuple[Tensor, NGramState]:
        """Read ids (B, T) -> logits (B, T, V), which are log-probabilities, and the last tokens."""
        (B, T), V, N = ids.shape, self.config.vocab_size, self.config.order
        past = ids.new_full((B, N - 1), -1) if state is None else state.ids
        seen = torch.cat((past, ids), dim=1)  # (B, N - 1 + T)
        back = [seen[:, N - n : N - n + T] for n in range(1, N)]  # each (B, T): the last token, the one before...
        digits = torch.stack([torch.zeros_like(ids), *((token + 1) * V**n for n, token in enumerate(back))], dim=-1)
        known = torch.stack([torch.ones_like(ids), *back], dim=-1) >= 0  # (B, T, N)
        contexts = torch.where(known, digits.cumsum(dim=-1), -1).flatten()  # of 0 to N - 1 tokens; nothing follows -1

        first, last = torch.searchsorted(self.ngram_ids, torch.stack((contexts * V + 1, contexts * V + V + 1)))  # (B T N,)
        found = last - first
        context = torch.arange(len(found), device=ids.device).repeat_interleave(found)  # of each entry found, (F,)
        entry = torch.arange(len(context), device=ids.device) + (last - found.cumsum(0))[context]
        prob = self.probs[entry].float()

        backoff = 1 - torch.zeros(len(found), device=ids.device).index_add_(0, context, prob)
        weight = backoff.view(-1, N).flip(1).cumprod(1).flip(1)  # of all contexts shorter than n tokens, n from 0
        prob *= F.pad(weight[:, 1:], (0, 1), value=1.0).flatten()[context]
        probs = (weight[:, :1] / V).repeat(1, V)  # (B T, V): the empty context backs off to uniform
        probs.view(-1).index_add_(0, context // N * V + (self.ngram_ids[entry] - 1) % V, prob)
        return probs.log().view(B, T, V), NGramState(seen[:, T:].clone())  # a copy, which does not keep all ids


def count_ngrams(ids: Tensor, vocab_size: int, order: int, eos_token_id: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Count all sequences of 1 to `order` tokens.

    Args:
        ids: (N,) token ids. Documents, if there is an end token, stand between end tokens.
        vocab_size: Number of tokens V.
        order: Length of the longest sequences.
        eos_token_id: The end token. No sequence continues after it, and one that begins with it has its plain count, because
            nothing precedes a document.

    Returns:
        For each length the sequences, sorted, each as an integer with its tokens as digits to the base V, and their counts:
        plain counts of the longest ones, continuation counts of the others.

    Raises:
        ValueError: If the order is out of range for this vocabulary.
    """
    plain, continuation = count_all_ngrams(ids, vocab_size, order, eos_token_id)
    return [*continuation, plain[-1]]


def count_all_ngrams(
    ids: Tensor, vocab_size: int, order: int, eos_token_id: int | None = None
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Count all sequences of 1 to `order` tokens in both ways, from which the counts of every lower order follow.

    Args and Raises are those of `count_ngrams`.

    Returns:
        The plain counts of each length, and the continuation counts of each length but the longest.
    """
    NGramConfig(vocab_size, order, 0)
    plain: list[tuple[Tensor, Tensor]] = []
    continuation: list[tuple[Tensor, Tensor]] = []
    digits = torch.zeros(len(ids) + 1, dtype=torch.long)
    in_document = torch.ones(len(ids) + 1, dtype=torch.bool)  # whether the sequence from each position stays in one document
    for n in range(1, order + 1):
        digits = digits[:-1] * vocab_size + ids[n - 1 :]  # the n tokens from each position
        in_document = in_document[:-1]
        if n > 2 and eos_token_id is not None:
            in_document = in_document & (ids[n - 2 : -1] != eos_token_id)
        plain.append(torch.unique(digits[in_document], return_counts=True))
        if n > 1:  # n tokens without their first
            suffixes, preceding = torch.unique(plain[n - 1][0] % vocab_size ** (n - 1), return_counts=True)
            if n > 2 and eos_token_id is not None:
                shorter, times = plain[n - 2]
                at_start = shorter // vocab_size ** (n - 2) == eos_token_id
                suffixes = torch.cat((suffixes, shorter[at_start]))
                order_of = suffixes.argsort()
                suffixes, preceding = suffixes[order_of], torch.cat((preceding, times[at_start]))[order_of]
            continuation.append((suffixes, preceding))
    return plain, continuation


def discounted_probs(digits: Tensor, count: Tensor, vocab_size: int) -> Tensor:
    """The discounted probability (N,) of each sequence of one length after its context, in float16, rounded down.

    Args:
        digits: (N,) the sequences, sorted, as `count_ngrams` returns them.
        count: (N,) their counts.
        vocab_size: Number of tokens.
    """
    _, context, size = torch.unique_consecutive(digits // vocab_size, return_inverse=True, return_counts=True)
    total = torch.zeros(len(size), dtype=torch.long).index_add_(0, context, count)
    return _round_down((count - discounts(count)[count.clamp(max=3) - 1]) / total[context])


def discounts(counts: Tensor) -> Tensor:
    """Discounts of counts of 1, 2, and 3 or more, (3,) float64 (Chen & Goodman 1998, equation 26).

    Args:
        counts: (N,) the counts of all sequences of one length.
    """
    n1, n2, n3, n4 = torch.bincount(counts, minlength=5)[1:5].tolist()
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < discount < i for i, discount in enumerate(estimates, start=1)):
            return torch.tensor(estimates, dtype=torch.float64)
    return torch.tensor(FALLBACK_DISCOUNTS, dtype=torch.float64)


def _round_down(probs: Tensor) -> Tensor:
    """float64 -> float16, never upwards, so that probabilities still sum to 1 or less."""
    exact = probs.numpy()
    nearest = exact.astype(np.float16)
    return torch.from_numpy(np.where(nearest > exact, np.nextafter(nearest, np.float16(0)), nearest))


def _check_table(model: NGram, _: Any) -> None:
    """Raises ValueError if the table is not sorted or the probabilities after a context do not stay below 1."""
    ids, probs, V = model.ngram_ids, model.probs, model.config.vocab_size
    is_in_range = (ids[:1] > 0).all() and (ids[-1:] < first_ngram_id(V, model.config.order + 1)).all()
    if not (is_in_range and (ids[1:] > ids[:-1]).all()):
        raise ValueError("its ngram_ids are not in order")
    _, context = torch.unique_consecutive((ids - 1) // V, return_inverse=True)
    total = torch.zeros(len(ids)).index_add_(0, context, probs.float())
    if not ((probs >= 0).all() and (total < 1).all()):  # NaN fails both
        raise ValueError("its probs of a context do not sum to less than 1")


def _explain(config: NGramConfig, unit: str) -> str:
    n = config.order - 1
    return (
        f"Looks up what followed the last {n} {unit}s in the text it was made from; if they are not there, the last {n - 1}, "
        "and so on. It only counts, yet a neural network must be trained well to beat it."
    )


def _make_engine(model: NGram, library: ctypes.CDLL) -> NGramEngine:
    return NGramEngine(library, model.config.vocab_size, model.config.order, model.ngram_ids, model.probs)


register(
    ModelFamily(
        name="ngram",
        title="an n-gram",
        model_type="ngram",
        model_class=NGram,
        config_class=NGramConfig,
        task=None,
        description="A table of what followed the last few {unit}s",
        explain=_explain,
        make_engine=_make_engine,
        kernel_dtypes=frozenset({torch.int64, torch.float16}),
    )
)

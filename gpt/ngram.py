"""N-gram: the next token depends on the last few, and all of it is counting: interpolated modified Kneser-Ney.

What followed a context of n - 1 tokens in the text keeps its count less a small discount, and what the discounts leave
goes to the context that is one token shorter, down to all tokens alike (Kneser & Ney 1995; Chen & Goodman 1998). A
shorter context is asked only about what the longer one has not seen, so what counts there is not how often a token
came, but after how many different tokens: "Francisco" may be frequent and still comes after "San" alone.

A sequence of n tokens is stored as its code, the number that has them as its digits to the base V. The codes of one
order stand in their order, so what follows a context stands together, found by binary search, and no two codes are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt.model import CausalModel

LONGEST = 8  # the highest order: a million characters hold too few sequences of 9 twice
LARGEST = 2**26  # sequences of one order
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts give none, as in a text of a few words (KenLM's)


@dataclass(frozen=True)
class NGramConfig:
    """The size of a vocabulary, and how many sequences of 1, 2, 3... tokens are stored; `order` is the longest.

    Raises ValueError for sizes that are out of range, or whose codes do not fit into 64 bits.
    """

    vocab_size: int
    entries: tuple[int, ...]

    def __post_init__(self) -> None:
        if type(self.vocab_size) is not int or not 0 < self.vocab_size <= 2**16:
            raise ValueError(f"vocab_size is {self.vocab_size!r}; it must be a whole number above 0 and at most {2**16:,}")
        check_order(self.vocab_size, self.order)
        for entries in self.entries:
            if type(entries) is not int or not 0 <= entries <= LARGEST:
                raise ValueError(f"entries has {entries!r}; it must hold whole numbers from 0 to {LARGEST:,}")

    @property
    def order(self) -> int:
        return len(self.entries)

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "ngram", "vocab_size": self.vocab_size, "entries": list(self.entries)}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "NGramConfig":
        """The inverse of `to_json`. Raises ValueError if a size is missing or out of range."""
        size, entries = config.get("vocab_size"), config.get("entries")
        if not isinstance(entries, list):
            raise ValueError(f"entries is {str(entries)[:40]!r}; it must be a list of whole numbers")
        return cls(size, tuple(entries))  # type: ignore[arg-type] (which is checked there)


def check_order(vocab_size: int, order: int) -> None:
    """Raises ValueError if there is no model of this order for so many tokens."""
    if not 0 < order <= LONGEST:
        raise ValueError(f"the order is {order}; it must be from 1 to {LONGEST}")
    if vocab_size**order >= 2**63:
        fits = max(n for n in range(1, LONGEST) if vocab_size**n < 2**63)
        raise ValueError(f"sequences of {order} among {vocab_size:,} tokens have no code in 64 bits; take an order up to {fits}")


class Past:
    """The last tokens of each row, (B, order - 1), with -1 where a row has not read as many."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    @classmethod
    def stack(cls, pasts: "list[Past]") -> "Past":
        """The rows of several as the batch of one."""
        return cls(torch.cat([past.ids for past in pasts]))


class NGram(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`; the logits are logarithms of probabilities.

    For each order there are the `codes` (E,) of the sequences and the `shares` (E,): of the probability after a context,
    what its continuation keeps when its discount is taken. What the shares of a context leave of 1 is the weight of the
    shorter context, so the probabilities sum to 1 whatever was rounded or left out. Shares are float16, rounded down:
    each is a multiple of 2**-24, so that float32 sums them exactly, and something is always left.
    """

    config: NGramConfig

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config, self.window = config, config.order - 1
        self.codes, self.shares = nn.ParameterList(), nn.ParameterList()
        for n, entries in enumerate(config.entries, start=1):
            small = config.vocab_size**n < 2**31
            self.codes.append(frozen(torch.zeros(entries, dtype=torch.int32 if small else torch.int64)))
            self.shares.append(frozen(torch.zeros(entries, dtype=torch.float16)))
        self.register_load_state_dict_post_hook(_check)

    @classmethod
    def smoothed(cls, counts: "Sequence[tuple[Tensor, Tensor]]", vocab_size: int, whole: int = LONGEST) -> "NGram":
        """The model of what `count` found. Of sequences longer than `whole`, those that count only once are left out:
        that makes it small, and better, too, for what came once is mostly chance."""
        kept = []
        for n, (codes, each) in enumerate(counts, start=1):
            _, place, size = torch.unique_consecutive(codes // vocab_size, return_inverse=True, return_counts=True)
            total = torch.zeros(len(size), dtype=torch.long).index_add_(0, place, each)  # of each context
            share = (each - discounts(each)[each.clamp(max=3) - 1]) / total[place]  # float64
            keep = each > 1 if n > whole else torch.ones_like(each, dtype=torch.bool)
            kept.append((codes[keep], _rounded_down(share[keep])))
        model = cls(NGramConfig(vocab_size, tuple(len(codes) for codes, _ in kept)))
        with torch.no_grad():
            for i, (codes, shares) in enumerate(kept):
                model.codes[i].copy_(codes)
                model.shares[i].copy_(shares)
        return model.eval()

    @torch.no_grad()
    def forward(self, ids: Tensor, state: Past | None = None) -> tuple[Tensor, Past]:
        (B, T), V, N = ids.shape, self.config.vocab_size, self.config.order
        past = ids.new_full((B, N - 1), -1) if state is None else state.ids
        seen = torch.cat((past, ids), dim=1)  # (B, N - 1 + T)
        probs = torch.full((B * T, V), 1 / V, device=ids.device)
        context = ids.new_zeros(B * T)  # the code of the last n - 1 tokens, -1 where there are not as many
        for n in range(1, N + 1):
            if n > 1:
                token = seen[:, N + 1 - n : N + 1 - n + T].flatten()  # the one before those in the context
                context = torch.where((context < 0) | (token < 0), -1, context + token * V ** (n - 2))
            codes, shares = self.codes[n - 1], self.shares[n - 1]
            ends = torch.stack((context * V, context * V + V)).to(codes.dtype)
            first, last = torch.searchsorted(codes, ends)  # of what follows each context, (B * T,)
            found = last - first
            row = torch.arange(B * T, device=ids.device).repeat_interleave(found)
            place = torch.arange(len(row), device=ids.device) + (last - found.cumsum(0)).repeat_interleave(found)
            share = shares[place].float()
            probs *= (1 - torch.zeros_like(probs[:, 0]).index_add_(0, row, share))[:, None]
            probs.view(-1).index_add_(0, row * V + codes[place] % V, share)
        return probs.log().view(B, T, V), Past(seen[:, T:])


def frozen(numbers: Tensor) -> nn.Parameter:
    """Numbers of a model that gradient descent has no part in."""
    return nn.Parameter(numbers, requires_grad=False)


def count(ids: Tensor, vocab_size: int, order: int) -> list[tuple[Tensor, Tensor]]:
    """The codes of all sequences of 1 to `order` tokens in a text of ids (N,), in their order, and what each counts:
    the longest how often they come, the others after how many different tokens.

    Raises ValueError for an order that this vocabulary cannot have.
    """
    check_order(vocab_size, order)
    found, codes = [], torch.zeros(len(ids) + 1, dtype=torch.long)
    for n in range(1, order + 1):
        codes = codes[:-1] * vocab_size + ids[n - 1 :]  # of each place where n tokens begin
        found.append(torch.unique(codes, return_counts=True))
        if n > 1:  # a longer code less its first digit
            found[n - 2] = torch.unique(found[n - 1][0] % vocab_size ** (n - 1), return_counts=True)
    return found


def discounts(counts: Tensor) -> Tensor:
    """What is taken from a count of 1, of 2, and of 3 or more, (3,) float64, by how many of each count there are (Chen &
    Goodman 1998, equation 26)."""
    n1, n2, n3, n4 = torch.bincount(counts, minlength=5)[1:5].tolist()
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < discount < i for i, discount in enumerate(found, start=1)):
            return torch.tensor(found, dtype=torch.float64)
    return torch.tensor(FALLBACK, dtype=torch.float64)


def _rounded_down(shares: Tensor) -> Tensor:
    exact = shares.numpy()
    near = exact.astype(np.float16)
    return torch.from_numpy(np.where(near > exact, np.nextafter(near, np.float16(0)), near))


def _check(model: NGram, _: Any) -> None:
    """Raises ValueError for tables that no counting can have made."""
    V = model.config.vocab_size
    for n, (codes, shares) in enumerate(zip(model.codes, model.shares, strict=True), start=1):
        if len(codes) and not (codes[0] >= 0 and codes[-1] < V**n and bool((codes[1:] > codes[:-1]).all())):
            raise ValueError(f"codes.{n - 1} is not in order")
        _, place = torch.unique_consecutive(codes // V, return_inverse=True)
        total = torch.zeros(len(codes)).index_add_(0, place, shares.float())
        if not bool((shares >= 0).all() and (total < 1).all()):  # not a number is neither
            raise ValueError(f"shares.{n - 1} is no part of 1")

"""N-gram: the next token depends on the last few, and all of it is counting: interpolated modified Kneser-Ney.

What followed a context of n - 1 tokens in the text keeps its count less a small discount, and what the discounts leave
goes to the context that is one token shorter, down to all tokens alike (Kneser & Ney 1995; Chen & Goodman 1998). A
shorter context is asked only about what the longer one has not seen, so what counts there is not how often a token
came, but after how many different tokens: "Francisco" may be frequent and still comes after "San" alone.

A sequence of tokens is stored as its code: its place among all that a vocabulary of V allows, the shorter ones first. The
code of what follows a context is the code of the context times V, plus 1 to V. So all that follows a context stands
together in one sorted table, found by binary search, and no two sequences share a code.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.model import CausalModel, end_token, fields_from

LONGEST = 8  # the highest order: a million characters hold too few sequences of 9 twice
LARGEST = 2**26  # sequences of one order
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts give none, as in a text of a few words (KenLM's)


@dataclass(frozen=True)
class NGramConfig:
    """The size of a vocabulary, how many tokens the longest sequence has, and how many sequences are stored.

    Raises ValueError for sizes that are out of range, or whose codes do not fit into 64 bits.
    """

    vocab_size: int
    order: int
    entries: int
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("vocab_size", 1, 2**16), ("order", 1, LONGEST), ("entries", 0, LARGEST)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} to {most:,}")
        end_token(self.eos_token_id, self.vocab_size)
        if first_code(self.vocab_size, self.order + 1) >= 2**63:
            fits = max(n for n in range(1, LONGEST) if first_code(self.vocab_size, n + 1) < 2**63)
            raise ValueError(
                f"the order is {self.order}, but for sequences of {self.vocab_size:,} different tokens 64 bits are enough "
                f"up to order {fits}; take that"
            )

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "ngram", **asdict(self)}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "NGramConfig":
        """The inverse of `to_json`. Raises ValueError if a size is missing or out of range."""
        return cls(**fields_from(cls, config))


def first_code(vocab_size: int, n: int) -> int:
    """The code of the first sequence of n tokens: how many shorter ones there are, the empty one among them."""
    return sum(vocab_size**i for i in range(n))


class Past:
    """The last tokens of each row, (B, order - 1), with -1 where a row has not read as many."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    @classmethod
    def stack(cls, pasts: "list[Past]") -> "Past":
        """The rows of several as the batch of one."""
        return cls(torch.cat([past.ids for past in pasts]))

    def split(self) -> "list[Past]":
        """Its rows, each by itself."""
        return [Past(row) for row in self.ids.split(1)]


class NGram(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`; the logits are logarithms of probabilities.

    A table of E sequences: their `codes` (E,), in order, and their `shares` (E,): of the probability after a context, what
    its continuation keeps when its discount is taken. What the shares of a context leave of 1 is the weight of the
    shorter context, so probabilities sum to 1 whatever was rounded or left out. Shares are float16, rounded down: each
    is a multiple of 2**-24, so float32 sums them exactly, and something is always left.
    """

    config: NGramConfig

    def __init__(self, config: NGramConfig) -> None:
        super().__init__()
        self.config, self.window = config, config.order - 1
        # Gradient descent has no part in them.
        self.codes = nn.Parameter(torch.zeros(config.entries, dtype=torch.long), requires_grad=False)
        self.shares = nn.Parameter(torch.zeros(config.entries, dtype=torch.float16), requires_grad=False)
        self.register_load_state_dict_post_hook(_check)

    @classmethod
    def smoothed(
        cls, counts: "Sequence[tuple[Tensor, Tensor]]", vocab_size: int, whole: int = LONGEST, end_id: int | None = None
    ) -> "NGram":
        """The model of what `count` found. Of sequences longer than `whole`, those that count only once are left out:
        that makes it small, and better, too, for what came once is mostly chance."""
        all_codes, all_shares = [], []
        for n, (codes, each) in enumerate(counts, start=1):
            _, context, size = torch.unique_consecutive(codes // vocab_size, return_inverse=True, return_counts=True)
            total = torch.zeros(len(size), dtype=torch.long).index_add_(0, context, each)
            share = (each - discounts(each)[each.clamp(max=3) - 1]) / total[context]  # float64
            keep = each > 1 if n > whole else torch.ones_like(each, dtype=torch.bool)
            all_codes.append(codes[keep] + first_code(vocab_size, n))
            all_shares.append(_rounded_down(share[keep]))
        codes, shares = torch.cat(all_codes), torch.cat(all_shares)
        model = cls(NGramConfig(vocab_size, len(counts), len(codes), end_id))
        model.load_state_dict({"codes": codes, "shares": shares})
        return model.eval()

    @torch.no_grad()
    def forward(self, ids: Tensor, state: Past | None = None) -> tuple[Tensor, Past]:
        (B, T), V, N = ids.shape, self.config.vocab_size, self.config.order
        past = ids.new_full((B, N - 1), -1) if state is None else state.ids
        seen = torch.cat((past, ids), dim=1)  # (B, N - 1 + T)
        back = [seen[:, N - n : N - n + T] for n in range(1, N)]  # each (B, T): the last token, the one before...
        digits = torch.stack([torch.zeros_like(ids), *((token + 1) * V**n for n, token in enumerate(back))], dim=-1)
        known = torch.stack([torch.ones_like(ids), *back], dim=-1) >= 0  # (B, T, N)
        contexts = torch.where(known, digits.cumsum(dim=-1), -1).flatten()  # of 0 to N - 1 tokens; nothing follows -1

        first, last = torch.searchsorted(self.codes, torch.stack((contexts * V + 1, contexts * V + V + 1)))  # (B T N,)
        found = last - first
        which = torch.arange(len(found), device=ids.device).repeat_interleave(found)  # the context of each entry found, (F,)
        entry = torch.arange(len(which), device=ids.device) + (last - found.cumsum(0))[which]
        share = self.shares[entry].float()

        left = 1 - torch.zeros(len(found), device=ids.device).index_add_(0, which, share)
        weight = left.view(-1, N).flip(1).cumprod(1).flip(1)  # of all contexts shorter than n tokens, n from 0
        share *= F.pad(weight[:, 1:], (0, 1), value=1.0).flatten()[which]
        probs = (weight[:, :1] / V).repeat(1, V)  # (B T, V): what even the empty context leaves goes to all alike
        probs.view(-1).index_add_(0, which // N * V + (self.codes[entry] - 1) % V, share)
        return probs.log().view(B, T, V), Past(seen[:, T:])


def count(ids: Tensor, vocab_size: int, order: int, end_id: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """All sequences of 1 to `order` tokens in a text of ids (N,), and what each counts: the longest how often they come,
    the others after how many different tokens. A sequence is the number that has its tokens as digits to the base V.

    If an end token is given, it stands before each line too. No sequence then goes on past it, and one that begins with
    it counts how often it comes: nothing is before it.

    Raises ValueError for an order that this vocabulary cannot have.
    """
    NGramConfig(vocab_size, order, 0)
    found, codes = [], torch.zeros(len(ids) + 1, dtype=torch.long)
    within = torch.ones(len(ids) + 1, dtype=torch.bool)  # no line ends inside of what begins here
    for n in range(1, order + 1):
        codes = codes[:-1] * vocab_size + ids[n - 1 :]  # of each place where n tokens begin
        within = within[:-1] & (ids[n - 2 : -1] != end_id if n > 2 and end_id is not None else True)
        found.append(torch.unique(codes[within], return_counts=True))
        if n > 1:  # a longer code less its first digit
            shorter, each = torch.unique(found[n - 1][0] % vocab_size ** (n - 1), return_counts=True)
            if n > 2 and end_id is not None:
                before, often = found[n - 2]
                starts = before // vocab_size ** (n - 2) == end_id
                place = torch.cat((shorter, before[starts])).argsort()
                shorter, each = torch.cat((shorter, before[starts]))[place], torch.cat((each, often[starts]))[place]
            found[n - 2] = shorter, each
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
    """Raises ValueError for a table that no counting can have made."""
    codes, shares, V = model.codes, model.shares, model.config.vocab_size
    bounds = (codes[:1] > 0).all() and (codes[-1:] < first_code(V, model.config.order + 1)).all()
    if not (bounds and (codes[1:] > codes[:-1]).all()):
        raise ValueError("its codes are not in order")
    _, context = torch.unique_consecutive((codes - 1) // V, return_inverse=True)
    total = torch.zeros(len(codes)).index_add_(0, context, shares.float())
    if not ((shares >= 0).all() and (total < 1).all()):  # what is no number is neither
        raise ValueError("the shares of a context are no part of 1")

"""Bigram: the next token depends on the last one alone. One table of logits, filled by counting or learned.

After counting, row i of the table is the logarithm of how often each token followed token i: the best that any
model can do which sees one token. Gradient descent on the same table arrives at the same numbers, slowly.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt.model import CausalModel, end_token, fields_from, whole_number

LARGEST = 2**14  # tokens; the table has their square


@dataclass(frozen=True)
class BigramConfig:
    """The size of a vocabulary. Raises ValueError if it is out of range."""

    vocab_size: int
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        whole_number("vocab_size", self.vocab_size, LARGEST)
        end_token(self.eos_token_id, self.vocab_size)

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "bigram", "vocab_size": self.vocab_size, "eos_token_id": self.eos_token_id}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "BigramConfig":
        """The inverse of `to_json`. Raises ValueError if vocab_size is missing or out of range."""
        return cls(**fields_from(cls, config))


class Bigram(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), None`: there is nothing to remember but the last token."""

    def __init__(self, config: BigramConfig) -> None:
        super().__init__()
        self.config, self.window = config, 1
        self.logits = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))  # (V, V): row = last, column = next

    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.logits[ids], None

    @torch.no_grad()
    def fit_counts(self, ids: Tensor, k: float) -> "Bigram":
        """Fill the table from a text of ids (T,): p(next | last) = (count(last, next) + k) / (count(last) + k V).

        k above 0 (add-k, Lidstone smoothing) leaves some probability for pairs that the text does not hold.
        """
        if not k > 0:
            raise ValueError(f"k is {k!r}; it must be above 0, or an unseen pair would have no probability")
        V = self.config.vocab_size
        pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V).double()
        self.logits.copy_(((pairs + k) / (pairs.sum(1, keepdim=True) + k * V)).log())
        return self

"""Bigram: the next token depends only on the last one. One table of logits, counted or learned.

After counting, row i of the table holds the log of how often each token followed token i: the best that a model of one
token of context can do. Gradient descent on the same table converges to the same numbers.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt.models.base import CausalLM, EmptyState, check_eos_token_id, check_positive_int, config_from_dict
from gpt.models.registry import ModelFamily, register

MAX_VOCAB_SIZE = 2**14  # the table has its square
MAX_RAREST_COUNT = 1_000  # tried by `recover_counts`
FLOAT32_ERROR = 2e-6  # of a stored logit between -16 and 0, with a margin


@dataclass(frozen=True)
class BigramConfig:
    """The sizes of a bigram model. Raises ValueError if one is out of range."""

    vocab_size: int
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        check_positive_int("vocab_size", self.vocab_size, MAX_VOCAB_SIZE)
        check_eos_token_id(self.eos_token_id, self.vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "bigram", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "BigramConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)


class Bigram(CausalLM):
    """A table of logits (V, V): row = last token, column = next token."""

    def __init__(self, config: BigramConfig) -> None:
        super().__init__()
        self.config, self.context_length = config, 1
        self.logits = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))  # (V, V)

    def forward(self, ids: Tensor, state: EmptyState | None = None) -> tuple[Tensor, EmptyState]:
        """Look up ids (B, T) -> logits (B, T, V)."""
        return self.logits[ids], state or EmptyState()

    @torch.no_grad()
    def fit_counts(self, ids: Tensor, k: float) -> "Bigram":
        """Fill the table from the pairs in ids (N,), with add-k (Lidstone) smoothing.

        p(next | last) = (count(last, next) + k) / (count(last) + k V)

        Args:
            ids: (N,) token ids of the training text.
            k: Added to each count, above 0: unseen pairs keep some probability.

        Returns:
            The model itself.

        Raises:
            ValueError: If `k` is not above 0.
        """
        if not k > 0:
            raise ValueError(f"k is {k!r}; it must be above 0, or an unseen pair would have no probability")
        V = self.config.vocab_size
        pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V).double()
        self.logits.copy_(_smoothed_log_probs(pairs, k))
        return self

    @torch.no_grad()
    def recover_counts(self, k: float) -> Tensor:
        """The inverse of `fit_counts`: the number of times (V, V) that each pair occurred in the training text.

        The probabilities of a row are proportional to its counts + k. So the count of its rarest pair determines all others;
        it is the smallest number that turns them into whole numbers.

        Args:
            k: What `fit_counts` added to each count.

        Raises:
            ValueError: If the table is not one that `fit_counts` fills with this `k`.
        """
        logits = self.logits.double()
        ratios = (logits - logits.amin(1, keepdim=True)).exp()  # (V, V), of count + k to that of the rarest pair
        counts = torch.zeros_like(logits)
        pending = torch.ones(len(logits), dtype=torch.bool)
        for rarest in range(MAX_RAREST_COUNT + 1):
            tried = ((rarest + k) * ratios[pending] - k).round()
            fits = ((_smoothed_log_probs(tried, k) - logits[pending]).abs() < FLOAT32_ERROR).all(1)
            rows = pending.nonzero().squeeze(1)[fits]
            counts[rows], pending[rows] = tried[fits], False
            if not pending.any():
                return counts.long()
        raise ValueError(f"the counts of this table cannot be recovered with k = {k}")


def _smoothed_log_probs(pairs: Tensor, k: float) -> Tensor:
    """Log p(next | last) from the counts of pairs (N, V), with add-k smoothing."""
    return ((pairs + k) / (pairs.sum(1, keepdim=True) + k * pairs.shape[1])).log()


register(
    ModelFamily(
        name="bigram",
        title="a bigram",
        model_type="bigram",
        model_class=Bigram,
        config_class=BigramConfig,
        task="causal_lm",
        description="A table of which {unit} follows which",
        explain=lambda config, unit: (
            f"A table of which {unit} follows which. It looks at the last {unit} only and knows nothing else."
        ),
        functional_state=EmptyState,
        has_pair_table=True,
    )
)

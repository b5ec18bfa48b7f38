"""LSTM: a vector of numbers that is carried along a text, and gates that decide what to keep of it, what to take in and
what to show (Hochreiter & Schmidhuber 1997; with a forget gate, Gers et al. 2000).

Where a bigram knows one token and a GPT looks back at all that it sees, an LSTM has read everything and must have put what
matters into a state of fixed size. So a text of any length costs the same for every token, without a window.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt.model import ENDLESS, CausalModel, end_token, fields_from, whole_number

LARGEST = {"vocab_size": 2**18, "hidden_size": 2**14, "num_hidden_layers": 64}


@dataclass(frozen=True)
class LSTMConfig:
    """The sizes of an LSTM. Raises ValueError for sizes that are out of range."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 2
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            whole_number(name, getattr(self, name), most)
        end_token(self.eos_token_id, self.vocab_size)

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "lstm", **asdict(self)}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "LSTMConfig":
        """The inverse of `to_json`. Raises ValueError if a size is missing or out of range."""
        return cls(**fields_from(cls, config))


class Memory:
    """What an LSTM remembers of each row: what it shows and what it keeps, (L, B, C) each."""

    def __init__(self, shown: Tensor, kept: Tensor) -> None:
        self.shown, self.kept = shown, kept

    @classmethod
    def stack(cls, memories: "list[Memory]") -> "Memory":
        """The rows of several as the batch of one."""
        return cls(torch.cat([m.shown for m in memories], dim=1), torch.cat([m.kept for m in memories], dim=1))

    def split(self) -> "list[Memory]":
        """Its rows, each by itself."""
        return [Memory(*row) for row in zip(self.shown.split(1, dim=1), self.kept.split(1, dim=1), strict=True)]


class LSTM(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`. dropout: between layers and before the logits, in training."""

    config: LSTMConfig

    def __init__(self, config: LSTMConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.window = config, ENDLESS
        size, layers = config.hidden_size, config.num_hidden_layers
        self.embed = nn.Embedding(config.vocab_size, size)
        self.lstm = nn.LSTM(size, size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, config.vocab_size)
        with torch.no_grad():  # it keeps what it has until it learns what to forget (Jozefowicz et al. 2015)
            for layer in range(layers):
                getattr(self.lstm, f"bias_ih_l{layer}")[size : 2 * size] = 1.0

    def forward(self, ids: Tensor, state: Memory | None = None) -> tuple[Tensor, Memory]:
        x, (shown, kept) = self.lstm(self.embed(ids), (state.shown, state.kept) if state else None)
        return self.head(self.dropout(x)), Memory(shown, kept)

"""LSTM: a hidden state of fixed size, updated token by token through forget, input and output gates.

Hochreiter & Schmidhuber 1997; the forget gate is from Gers et al. 2000. A GPT looks back at every token in its window; an
LSTM has to store what matters in its state, so each token costs the same and there is no window.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt.engine.lstm import LSTMEngine
from gpt.models.base import (
    UNBOUNDED_CONTEXT,
    CausalLM,
    TensorState,
    check_eos_token_id,
    check_positive_int,
    config_from_dict,
)
from gpt.models.registry import ModelFamily, register

MAX_SIZES = {"vocab_size": 2**18, "hidden_size": 2**14, "num_hidden_layers": 64}


@dataclass(frozen=True)
class LSTMConfig:
    """The sizes of an LSTM. Raises ValueError if one is out of range."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 2
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, most in MAX_SIZES.items():
            check_positive_int(name, getattr(self, name), most)
        check_eos_token_id(self.eos_token_id, self.vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "lstm", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "LSTMConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)


@dataclass(eq=False)
class LSTMState(TensorState):
    """Hidden state h and cell state c, each (L, B, C), as in `torch.nn.LSTM`."""

    batch_dim = 1
    h: Tensor
    c: Tensor


class LSTM(CausalLM):
    """Embedding, stacked LSTM layers, linear head.

    Args:
        config: The sizes.
        dropout: Probability of dropping a channel between layers and before the head, in training.
    """

    config: LSTMConfig

    def __init__(self, config: LSTMConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.context_length = config, UNBOUNDED_CONTEXT
        size, layers = config.hidden_size, config.num_hidden_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.lstm = nn.LSTM(size, size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(size, config.vocab_size)
        with torch.no_grad():  # Initialize the forget-gate bias to 1 (Jozefowicz et al. 2015).
            for layer in range(layers):
                getattr(self.lstm, f"bias_ih_l{layer}")[size : 2 * size] = 1.0

    def init_state(self, rng: Iterator[float]) -> LSTMState:
        """Zeros."""
        shape = (self.config.num_hidden_layers, 1, self.config.hidden_size)
        return LSTMState(self.lm_head.weight.new_zeros(shape), self.lm_head.weight.new_zeros(shape))

    def forward(self, ids: Tensor, state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """Read ids (B, T) -> logits (B, T, V) and the state after them; without a state, start from zeros."""
        x, (h, c) = self.lstm(self.embed_tokens(ids), (state.h, state.c) if state else None)  # (B, T, C)
        return self.lm_head(self.dropout(x)), LSTMState(h, c)


def _memory(config: LSTMConfig) -> str:
    return f"remembers everything, in {2 * config.num_hidden_layers * config.hidden_size:,} numbers"


def _explain(config: LSTMConfig, unit: str) -> str:
    return f"A network that reads the text once, from left to right. It {_memory(config)}, which each {unit} changes a little."


register(
    ModelFamily(
        name="lstm",
        title="an LSTM",
        model_type="lstm",
        model_class=LSTM,
        config_class=LSTMConfig,
        task="causal_lm",
        description="A recurrent network, an LSTM",
        explain=_explain,
        memory=_memory,
        storage_dtype=torch.float16,
        make_engine=lambda model, library: LSTMEngine(library, model.embed_tokens, model.lstm, model.lm_head),
    )
)

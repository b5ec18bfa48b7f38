"""Mixture: two models read the same text; the next token has the weighted mean of their probabilities.

Two models that err in different places predict better together than either does. The weight is one number, fitted by
`train/mixture.py`.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from gpt.engine import engine_for
from gpt.engine.mixture import MixtureEngine
from gpt.models.base import CausalLM, Config, State
from gpt.models.registry import ModelFamily, build_model, family_of, parse_config, register


@dataclass(frozen=True)
class MixtureConfig:
    """The configs of two models over one vocabulary, and the weight of the first in [0, 1].

    Raises ValueError if the weight is out of range or the models do not share a vocabulary and an end token.
    """

    weight: float
    parts: tuple[Config, Config]

    def __post_init__(self) -> None:
        if type(self.weight) not in (int, float) or not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight!r}; it must be a number from 0 to 1")
        first, second = self.parts
        if first.vocab_size != second.vocab_size:
            raise ValueError(f"a model of {first.vocab_size} tokens does not mix with one of {second.vocab_size}")
        if first.eos_token_id != second.eos_token_id:
            raise ValueError("a model of lines does not mix with one of a running text")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the same for both models."""
        return self.parts[0].vocab_size

    @property
    def eos_token_id(self) -> int | None:
        """The end token, the same for both models."""
        return self.parts[0].eos_token_id

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "mixture", "weight": self.weight, "parts": [part.to_dict() for part in self.parts]}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "MixtureConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing, out of range, or a mixture itself."""
        parts, weight = config.get("parts"), config.get("weight")
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, dict) for part in parts):
            raise ValueError("parts must be the configs of two models")
        if any(part.get("model_type") == "mixture" for part in parts):
            raise ValueError("a part of a mixture cannot be a mixture")
        first, second = (parse_config(part) for part in parts)
        return cls(weight, (first, second))  # type: ignore[arg-type]


@dataclass(eq=False)
class MixtureState:
    """The states of both models."""

    parts: tuple[State, State]

    @classmethod
    def merge(cls, states: "Sequence[MixtureState]") -> "MixtureState":
        """Concatenate the batches of several states."""
        first, second = zip(*(state.parts for state in states), strict=True)
        return cls((type(first[0]).merge(first), type(second[0]).merge(second)))

    def extract(self, i: int) -> "MixtureState":
        """Copy sequence `i`."""
        return MixtureState((self.parts[0].extract(i), self.parts[1].extract(i)))

    def clone(self) -> "MixtureState":
        """Copy all sequences."""
        return MixtureState((self.parts[0].clone(), self.parts[1].clone()))

    @property
    def nbytes(self) -> int:
        """Memory of both states, in bytes."""
        return self.parts[0].nbytes + self.parts[1].nbytes


class Mixture(CausalLM):
    """The weighted mean of two models. It contains both, so its folder needs no other one.

    Args:
        config: The weight and both configs.
        parts: The models to mix; by default new ones with initial weights.
    """

    config: MixtureConfig

    def __init__(self, config: MixtureConfig, parts: Sequence[CausalLM] | None = None) -> None:
        super().__init__()
        models = [build_model(part) for part in config.parts] if parts is None else parts
        self.config, self.context_length = config, max(model.context_length for model in models)
        self.parts = nn.ModuleList(models)

    @classmethod
    def of(cls, first: CausalLM, second: CausalLM, weight: float) -> "Mixture":
        """Mix two models, `weight` of the first."""
        return cls(MixtureConfig(weight, (first.config, second.config)), (first, second)).eval()

    def init_state(self, rng: Iterator[float]) -> MixtureState | None:
        """Both states, or None if a part has no state of its own to start from."""
        first, second = self.parts
        states = cast(CausalLM, first).init_state(rng), cast(CausalLM, second).init_state(rng)
        return MixtureState(states) if all(states) else None

    def forward(self, ids: Tensor, state: MixtureState | None = None) -> tuple[Tensor, MixtureState]:
        """Read ids (B, T) -> logits (B, T, V), which are log-probabilities, and both states."""
        first, second = self.parts
        first_logits, first_state = first(ids, state.parts[0] if state else None)
        second_logits, second_state = second(ids, state.parts[1] if state else None)
        weight = ids.new_tensor([self.config.weight, 1 - self.config.weight], dtype=torch.float32).log()
        log_probs = torch.logaddexp(
            first_logits.float().log_softmax(dim=-1) + weight[0], second_logits.float().log_softmax(dim=-1) + weight[1]
        )
        return log_probs, MixtureState((first_state, second_state))


def _make_engine(model: Mixture, library: ctypes.CDLL) -> MixtureEngine | None:
    first, second = (engine_for(cast(CausalLM, part)) for part in model.parts)
    return MixtureEngine(library, (first, second), model.config.weight) if first and second else None


def _explain(config: MixtureConfig, unit: str) -> str:
    first, second = (family_of(part).title for part in config.parts)
    return f"Averages the probabilities of {first} and {second}: where one is wrong, the other is often right."


register(
    ModelFamily(
        name="mixture",
        title="a mixture",
        model_type="mixture",
        model_class=Mixture,
        config_class=MixtureConfig,
        task=None,
        description="The weighted mean of the predictions of two models",
        explain=_explain,
        storage_dtype=torch.float16,
        make_engine=_make_engine,
        kernel_dtypes=frozenset({torch.float32, torch.int64, torch.float16}),
    )
)

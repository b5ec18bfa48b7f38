"""Mixture: two models read the same text, and the next token has the weighted mean of their probabilities.

What one of them foresees need not surprise the whole, so two models that err in different places do better together
than either alone. The weight is one number for all texts; how it is found is in train/mix.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt.model import CausalModel, Config

KIND = "mixture"


def types() -> dict[str, tuple[Any, Any]]:
    """What can be a part: every type of model but this one."""
    from gpt.checkpoint import MODEL_TYPES  # which knows of this file

    return {name: classes for name, classes in MODEL_TYPES.items() if name != KIND}


@dataclass(frozen=True)
class MixtureConfig:
    """The configs of two models over the same vocabulary, and the weight of the first, from 0 to 1.

    Raises ValueError for a weight out of range, or parts that do not fit together.
    """

    weight: float
    parts: tuple[Config, Config]

    def __post_init__(self) -> None:
        if type(self.weight) not in (int, float) or not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight!r}; it must be a number from 0 to 1")
        first, second = (part.vocab_size for part in self.parts)
        if first != second:
            raise ValueError(f"a model over {first} tokens does not mix with one over {second}")
        if self.parts[0].eos_token_id != self.parts[1].eos_token_id:
            raise ValueError("a model of lines does not mix with one of a running text")

    @property
    def vocab_size(self) -> int:
        return self.parts[0].vocab_size

    @property
    def eos_token_id(self) -> int | None:
        return self.parts[0].eos_token_id

    def to_json(self) -> dict[str, Any]:
        return {"model_type": KIND, "weight": self.weight, "parts": [part.to_json() for part in self.parts]}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "MixtureConfig":
        """The inverse of `to_json`. Raises ValueError if something is missing or out of range."""
        parts, known = config.get("parts"), types()
        if not isinstance(parts, list) or len(parts) != 2:
            raise ValueError("parts must be the configs of two models")
        made: list[Config] = []
        for part in parts:
            kind = part.get("model_type") if isinstance(part, dict) else None
            if not isinstance(kind, str) or kind not in known:
                raise ValueError(f"a part is of the kind {str(kind)[:40]!r}; it can be {', '.join(known)}")
            made.append(known[kind][1].from_json(part))
        weight: Any = config.get("weight")
        return cls(weight, (made[0], made[1]))


class States:
    """What both parts remember of some rows, each in its own way."""

    def __init__(self, parts: list[Any], rows: int) -> None:
        self.parts, self.rows = parts, rows

    @classmethod
    def stack(cls, states: "list[States]") -> "States":
        """The rows of several as the batch of one."""
        pairs = zip(*(state.parts for state in states), strict=True)
        parts = [None if part[0] is None else type(part[0]).stack(list(part)) for part in pairs]
        return cls(parts, sum(state.rows for state in states))

    def split(self) -> "list[States]":
        """Its rows, each by itself."""
        rows = zip(*([None] * self.rows if part is None else part.split() for part in self.parts), strict=True)
        return [States(list(parts), 1) for parts in rows]


class Mixture(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`; the logits are logarithms of probabilities.

    It has its parts whole, so its weights folder needs no other one.
    """

    config: MixtureConfig

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        of = {config_class: model_class for model_class, config_class in types().values()}
        parts: list[CausalModel] = [of[type(part)](part) for part in config.parts]
        self.config, self.window = config, max(part.window for part in parts)
        self.parts = nn.ModuleList(parts)

    @classmethod
    def of(cls, first: CausalModel, second: CausalModel, weight: float) -> "Mixture":
        """Mix two models, `weight` of the first."""
        made = cls(MixtureConfig(weight, (first.config, second.config)))
        made.parts = nn.ModuleList((first, second))
        return made.eval()

    def forward(self, ids: Tensor, state: States | None = None) -> tuple[Tensor, States]:
        states = [None, None] if state is None else state.parts
        read = [part(ids, before) for part, before in zip(self.parts, states, strict=True)]
        weights = ids.new_tensor([self.config.weight, 1 - self.config.weight], dtype=torch.float32).log()
        first, second = (logits.float().log_softmax(dim=-1) + weight for (logits, _), weight in zip(read, weights, strict=True))
        return torch.logaddexp(first, second), States([after for _, after in read], len(ids))

"""The contract of every model that writes from left to right. Sampling, scoring, training and the page use it alone."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

ENDLESS = 2**17  # tokens: the window of a model in which nothing is cut off


class Config(Protocol):
    """The sizes of a model: what its config.json says."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, after which the next one starts afresh; None if there is one text without end."""

    def to_json(self) -> dict[str, Any]: ...


def fields_from(config_class: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of each field of a config; None where it says nothing, which the config then refuses."""
    return {name: config.get(name) for name in config_class.__dataclass_fields__}


def whole_number(name: str, value: Any, most: int) -> None:
    """Raises ValueError for a size that is none."""
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{name} is {value!r}; it must be a whole number above 0 and at most {most:,}")


def end_token(value: Any, vocab_size: int) -> int | None:
    """An eos_token_id as a config.json has it. Raises ValueError if it is none."""
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise ValueError(f"eos_token_id is {value!r}; it must be a whole number below {vocab_size}, or null")
    return value


class CausalModel(nn.Module):
    """A model has a config, a window (how many tokens back it sees at once) and one call:

    forward(ids (B, T), state=None) -> logits (B, T, V), state

    The state is whatever the model remembers of the rows it has read: a KV cache, a hidden vector, nothing. None
    starts a text. It belongs to one request and is handed in and out, never kept on the model. A state that is not
    None can join rows that were read apart, `type(state).stack(states)`, and part them again, `state.split()`.
    """

    config: Config
    window: int

    def start(self, uniforms: Iterator[float]) -> Any:
        """The state that a text starts from, for a model that draws one. uniforms: its seed's numbers in [0, 1)."""
        return None

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        raise NotImplementedError

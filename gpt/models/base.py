"""The contracts of models: a config, and for a causal language model a state and `forward`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

UNBOUNDED_CONTEXT = 2**17  # tokens: the context length of a model without a window
C = TypeVar("C")


class Config(Protocol):
    """The sizes of a model: the content of its config.json."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a document. None for a model of one running text."""

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""


def config_from_dict(config_class: type[C], config: dict[str, Any]) -> C:
    """Build a config dataclass from the fields that it shares with a config.json.

    A missing field is passed as None, which the config's own checks reject with a sentence that names it.
    """
    return config_class(**{field.name: config.get(field.name) for field in fields(config_class)})  # type: ignore[arg-type]


def check_positive_int(name: str, value: Any, most: int) -> None:
    """Raises ValueError if `value` is not an int in [1, most]."""
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {most:,}")


def check_eos_token_id(value: Any, vocab_size: int) -> None:
    """Raises ValueError if `value` is neither None nor an int in [0, vocab_size)."""
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        raise ValueError(f"eos_token_id is {value!r}; it must be a whole number below {vocab_size}, or null")


def check_line_sizes(config: Config, max_sizes: dict[str, int], title: str) -> None:
    """Check the config of a model of lines.

    Args:
        config: The config.
        max_sizes: The highest value of each size.
        title: What to call the model.

    Raises:
        ValueError: If a size is out of range or there is no end token.
    """
    for name, most in max_sizes.items():
        check_positive_int(name, getattr(config, name), most)
    check_eos_token_id(config.eos_token_id, config.vocab_size)
    if config.eos_token_id is None:
        raise ValueError(f"eos_token_id is null; {title} models lines, which end")


@dataclass(frozen=True)
class BaseModel:
    """Another model that a model needs. Raises ValueError if a value is malformed.

    Attributes:
        name: Name of its folder, beside that of the model or under weights/; on the Hub, of a repository of the same user.
        sha256: Of its model.safetensors.
    """

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"(?![.])[\w.-]{1,96}", self.name, re.ASCII):
            raise ValueError(f"the name of its base_model is {str(self.name)[:100]!r}, which is no name of a model")
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError("the sha256 of its base_model is not 64 hexadecimal digits")

    @classmethod
    def from_dict(cls, value: Any) -> "BaseModel":
        """Read "base_model" of a config.json. Raises ValueError if a value is missing or malformed."""
        if not isinstance(value, dict):
            raise ValueError("its base_model is missing")
        return config_from_dict(cls, value)


class State(Protocol):
    """What a model remembers of the sequences of a batch: a KV cache, hidden vectors, the last tokens, or nothing."""

    @classmethod
    def merge(cls, states: "Sequence[Self]") -> Self:
        """Concatenate the batches of several states into one batch. The result shares no memory with `states`."""

    def extract(self, i: int) -> Self:
        """The state of sequence `i` as a batch of one, in memory of its own."""

    def clone(self) -> Self:
        """A copy in memory of its own: stepping it never changes the original."""

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, in bytes."""


class EmptyState:
    """The state of a model that remembers nothing."""

    nbytes = 0

    @classmethod
    def merge(cls, states: "Sequence[EmptyState]") -> "EmptyState":
        """Return an empty state, as for any number of sequences."""
        return cls()

    def extract(self, i: int) -> "EmptyState":
        """Return itself: there is no memory to share."""
        return self

    def clone(self) -> "EmptyState":
        """Return itself: there is nothing to change."""
        return self

    @staticmethod
    def shapes(config: Config) -> list[list[int]]:
        """Shapes of its tensors for one sequence, as `gpt.export` needs them: none."""
        return []

    def tensors(self) -> list[Tensor]:
        """Its tensors: none."""
        return []


class TensorState:
    """Base of a dataclass of tensors that implements `State`; `batch_dim` is the dimension of the batch in each of them."""

    batch_dim: ClassVar[int] = 0

    def tensors(self) -> list[Tensor]:
        """Its tensors, in the order of the dataclass's fields."""
        return [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]

    @classmethod
    def merge(cls, states: "Sequence[Self]") -> Self:
        """Concatenate the batches of several states."""
        columns = zip(*(state.tensors() for state in states), strict=True)
        return cls(*(torch.cat(column, dim=cls.batch_dim) for column in columns))

    def extract(self, i: int) -> Self:
        """Copy sequence `i`."""
        return type(self)(*(tensor.narrow(self.batch_dim, i, 1).clone() for tensor in self.tensors()))

    def clone(self) -> Self:
        """Copy all sequences."""
        return type(self)(*(tensor.clone() for tensor in self.tensors()))

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors())


class StepEngine(Protocol):
    """Computes decode steps of one model in C (`gpt.engine`)."""

    def forward(self, tokens: Sequence[int], states: Sequence[Any]) -> Tensor:
        """Read one token of each sequence.

        Args:
            tokens: One token id for each sequence.
            states: One state with a batch of one for each sequence; updated in place.

        Returns:
            Logits (B, V) of the next token, which do not depend on the other sequences in the batch.

        Raises:
            IndexError: If a token id is not in [0, V).
            MemoryError: If an allocation fails.
        """


class Model(nn.Module):
    """Base of every model: it is built from a config.

    Attributes:
        config: Its sizes.
        context_length: How many tokens it sees at once, `UNBOUNDED_CONTEXT` if there is no limit. For a causal language model,
            how many tokens back.
    """

    config: Config
    context_length: int


class CausalLM(Model):
    """Base of every model that writes from left to right."""

    def init_state(self, rng: Iterator[float]) -> Any:
        """The state that a document starts from, or None for the model's default.

        Args:
            rng: Uniform numbers in [0, 1), for a model that samples its initial state (a VAE its latent vector).
        """
        return None

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read tokens and predict the next one at each position.

        Args:
            ids: (B, T) token ids.
            state: What an earlier call returned for the same sequences, or None at the start of a document. It may be
                updated in place; it belongs to one request and is never stored on the model.

        Returns:
            Logits (B, T, V) and the state after the last token.
        """
        raise NotImplementedError

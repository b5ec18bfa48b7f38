"""ctypes binding of mixture.c."""

import ctypes
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gpt.models.base import State, StepEngine


class PartStates(Protocol):
    """The state of one sequence: those of both models."""

    parts: tuple[State, State]


class MixtureEngine:
    """Computes decode steps of a mixture in C: those of both models, and the weighted mean of their probabilities.

    Args:
        library: The compiled kernels.
        parts: The engines of both models.
        weight: Of the first.
    """

    def __init__(self, library: ctypes.CDLL, parts: tuple[StepEngine, StepEngine], weight: float) -> None:
        self._parts, self._weight, self._mix = parts, weight, library.mix

    def forward(self, tokens: Sequence[int], states: Sequence[PartStates]) -> Tensor:
        """Read one token of each sequence; returns log-probabilities (B, V). The arguments are those of its parts."""
        first, second = (part.forward(tokens, [state.parts[i] for state in states]) for i, part in enumerate(self._parts))
        self._mix(first.data_ptr(), second.data_ptr(), *first.shape, self._weight)
        return first

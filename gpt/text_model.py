"""A model and its tokenizer: what `gpt.load` returns for every family."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from gpt.models.base import Model
from gpt.tokenizer import Tokenizer


class TextModel(ABC):
    """Base of what `gpt.load` returns.

    Args:
        model: The model; it is set to eval mode.
        tokenizer: Its tokenizer.
        name: What to call it in messages.
        device: Where to compute; where the model is by default.
    """

    model: Model

    def __init__(self, model: Model, tokenizer: Tokenizer, name: str = "model", device: str | torch.device | None = None) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        if device is not None:
            model.to(device)
        self.eos_token_id = model.config.eos_token_id
        # The token before a document: the end token of the one before it, or a newline if there is no end token.
        self.start_id = tokenizer.start_id if self.eos_token_id is None else self.eos_token_id
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))  # a compiled program has none

    @property
    def context_length(self) -> int:
        """How many tokens the model sees at once; `gpt.models.base.UNBOUNDED_CONTEXT` if there is no limit."""
        return self.model.context_length

    @property
    def num_parameters(self) -> int:
        """Number of stored numbers, counted tables included."""
        return sum(p.numel() for p in self.model.parameters())

    @abstractmethod
    def example(self, prompt: str, seed: int) -> dict[str, Any]:
        """A text that shows what the model does, for its card: "prompt", "text", "seed", and the other settings."""

    @abstractmethod
    def fingerprint(self, text: str) -> list[float]:
        """Numbers that depend on the weights and on `text`, and identify the weights."""

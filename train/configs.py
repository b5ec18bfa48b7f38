"""What to train and how: sizes and rates that fit the time there is."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gpt import GPT, LSTM, VAE, Bigram, BigramConfig, GPTConfig, LSTMConfig, VAEConfig
from train.optim import Muon


def _at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 1 or more")


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it must be from 0 to below 1")


@dataclass(frozen=True)
class GPTTrainConfig:
    """Sizes and rates of a GPT run. `context` is also the sliding window of the model."""

    compiles: ClassVar[bool] = True
    layers: int
    width: int
    head_size: int = 32
    context: int = 256
    dropout: float = 0.0
    batch_tokens: int = 2048
    muon_rate: float = 0.025
    adam_rate: float = 5e-3
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        _at_least_one(self, "layers", "width", "context")
        if self.width % self.head_size:
            raise ValueError(f"a width of {self.width} does not divide into heads of {self.head_size}; take a multiple")
        _share("dropout", self.dropout)

    @classmethod
    def preset(cls, minutes: float) -> "GPTTrainConfig":
        """The size that reaches the lowest held-out loss in a time. On tiny Shakespeare, nats a character: 1.82 after 15 s
        of one core (2026-11-24; tests/bench_training.py), 1.619 after 1 minute of two (2026-11-24), 1.4235 after 65 minutes
        of two with --compile (2026-11-23); all of an AMD EPYC with bfloat16.

        A small model learns faster, a large one further. A text of a million characters is read over and over in a
        long run: then dropout holds the model back from learning it by heart.
        """
        if minutes <= 0.5:
            return cls(layers=2, width=64, context=128, batch_tokens=1024, muon_rate=0.03, adam_rate=0.012)
        if minutes <= 1.5:
            return cls(layers=2, width=96, context=128, batch_tokens=1024, muon_rate=0.03, adam_rate=0.012)
        if minutes <= 5:
            return cls(layers=3, width=96, muon_rate=0.03, adam_rate=6e-3)
        if minutes <= 15:
            return cls(layers=4, width=128)
        if minutes <= 40:
            return cls(layers=4, width=160)
        return cls(layers=6, width=192, head_size=64, dropout=0.15, batch_tokens=4096)

    def build(self, vocab_size: int, end_id: int | None = None) -> GPT:
        heads = self.width // self.head_size
        return GPT(
            GPTConfig(
                vocab_size=vocab_size,
                hidden_size=self.width,
                intermediate_size=math.ceil(self.width * 8 / 3 / 32) * 32,  # SwiGLU at the cost of 4x without a gate
                num_hidden_layers=self.layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                head_dim=self.head_size,
                sliding_window=self.context,
                eos_token_id=end_id,
            ),
            dropout=self.dropout,
        )

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for the blocks' matrices, which was worth 0.107 nats after 40 s against AdamW on all; AdamW for the rest."""
        matrices = [p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]
        rest = [p for name, p in model.named_parameters() if not ("layers" in name and p.ndim == 2)]
        return [Muon(matrices, lr=self.muon_rate, weight_decay=self.weight_decay), adam(rest, self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length at a point of the run: windows of half the length until 60 %, which cost less to attend to."""
        length = max(1, self.context // 2) if progress < 0.6 else self.context
        return max(1, self.batch_tokens // length), length


@dataclass(frozen=True)
class BigramTrainConfig:
    """The rates of a bigram that is learned by gradient descent, which is only worth it to see that it works."""

    compiles: ClassVar[bool] = True
    context: int = 256
    batch_tokens: int = 16_384
    adam_rate: float = 0.2

    @classmethod
    def preset(cls, minutes: float) -> "BigramTrainConfig":
        return cls()

    def build(self, vocab_size: int, end_id: int | None = None) -> Bigram:
        return Bigram(BigramConfig(vocab_size, end_id))

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return [adam(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        return self.batch_tokens // self.context, self.context


@dataclass(frozen=True)
class LSTMTrainConfig:
    """Sizes and rates of an LSTM run, in windows of `context` tokens that each start afresh."""

    compiles: ClassVar[bool] = False  # PyTorch leaves an LSTM as it is
    layers: int
    width: int
    context: int = 128
    dropout: float = 0.0
    batch_tokens: int = 4096
    adam_rate: float = 4e-3

    def __post_init__(self) -> None:
        _at_least_one(self, "layers", "width", "context")
        _share("dropout", self.dropout)

    @classmethod
    def preset(cls, minutes: float) -> "LSTMTrainConfig":
        if minutes <= 5:
            return cls(layers=1, width=256)
        return cls(layers=2, width=320, dropout=0.15)

    def build(self, vocab_size: int, end_id: int | None = None) -> LSTM:
        return LSTM(LSTMConfig(vocab_size, self.width, self.layers, end_id), self.dropout)

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return [adam(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        return max(1, self.batch_tokens // self.context), self.context


@dataclass(frozen=True)
class VAETrainConfig:
    """Sizes and rates of a text VAE's run; train/tasks/vae.py says what they do. free_bits: nats that each number of the
    space may cost for free."""

    compiles: ClassVar[bool] = False
    width: int = 256
    latent: int = 32
    context: int = 256  # the longest line, with its start
    batch_tokens: int = 4096
    adam_rate: float = 2e-3
    free_bits: float = 0.5
    warmup: float = 0.3  # share of the budget in which the weight of the KL divergence rises to 1
    word_dropout: float = 0.3

    def __post_init__(self) -> None:
        _at_least_one(self, "width", "context")
        if not 0 <= self.free_bits < math.inf:
            raise ValueError(f"free_bits is {self.free_bits}; it must be 0 or more")

    @classmethod
    def preset(cls, minutes: float) -> "VAETrainConfig":
        return cls()

    def build(self, vocab_size: int, end_id: int | None = None) -> VAE:
        if end_id is None:
            raise ValueError("a VAE learns from lines; give --lines, or a set of them like names")
        return VAE(VAEConfig(vocab_size, end_id, self.width, latent_size=self.latent))

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return [adam(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        return max(1, self.batch_tokens // self.context), self.context


TrainConfig = BigramTrainConfig | LSTMTrainConfig | GPTTrainConfig | VAETrainConfig
TRAIN_CONFIGS: dict[str, type[TrainConfig]] = {
    "bigram": BigramTrainConfig,
    "lstm": LSTMTrainConfig,
    "gpt": GPTTrainConfig,
    "vae": VAETrainConfig,
}


def adam(params: Iterable[Tensor], rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)

"""Hyperparameters of training runs, with presets that suit a time budget."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gpt import (
    GAN,
    GPT,
    LSTM,
    VAE,
    Bigram,
    BigramConfig,
    GANConfig,
    GPTConfig,
    LatentDiffusion,
    LatentDiffusionConfig,
    LSTMConfig,
    MaskedDiffusion,
    MaskedDiffusionConfig,
    VAEConfig,
)
from gpt.models.base import BaseModel, Config
from train.optim import Muon

SHORT_WINDOWS_UNTIL = 0.6  # share of the budget in which a GPT trains on windows of half its context
WINDOW_GROWTH = ((0.1, 8), (0.2, 4), (0.45, 2))  # (share of the budget, divisor of the context until then) of a diffusion run


def _check_at_least_one(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be 1 or more")


def _mlp_width(width: int) -> int:
    """Of a SwiGLU with the parameters of a plain MLP that is four times as wide."""
    return math.ceil(width * 8 / 3 / 32) * 32


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it must be from 0 to below 1")


@dataclass(frozen=True)
class GPTTrainConfig:
    """Hyperparameters of a GPT run. `context` is also the sliding window of the model.

    Raises ValueError if a value is out of range, as every class here does.
    """

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
        _check_at_least_one(self, "layers", "width", "context")
        if self.width % self.head_size:
            raise ValueError(f"a width of {self.width} does not divide into heads of {self.head_size}; give a multiple")
        _check_fraction("dropout", self.dropout)

    @classmethod
    def preset(cls, minutes: float) -> "GPTTrainConfig":
        """The size that reaches the lowest held-out loss in a time.

        On tiny Shakespeare, in nats a character: 1.82 after 15 s of one core (2026-11-24; benchmarks/bench_training.py), 1.619
        after 1 minute of two (2026-11-24), 1.4235 after 65 minutes of two with --compile (2026-11-23); all on an AMD
        EPYC with bfloat16. A long run reads a million characters many times; dropout reduces overfitting there.
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

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> GPT:
        """A GPT with initial weights."""
        heads = self.width // self.head_size
        return GPT(
            GPTConfig(
                vocab_size=vocab_size,
                hidden_size=self.width,
                intermediate_size=_mlp_width(self.width),
                num_hidden_layers=self.layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                head_dim=self.head_size,
                sliding_window=self.context,
                eos_token_id=eos_token_id,
            ),
            dropout=self.dropout,
        )

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for the rest: 0.107 nats lower after 40 s than AdamW for everything."""
        return muon_and_adamw(model, self.muon_rate, self.weight_decay, self.adam_rate)

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch. Windows of half the length at first, whose attention costs less."""
        length = max(1, self.context // 2) if progress < SHORT_WINDOWS_UNTIL else self.context
        return max(1, self.batch_tokens // length), length


@dataclass(frozen=True)
class BigramTrainConfig:
    """Hyperparameters of a bigram that is trained by gradient descent, for comparison with counting."""

    compiles: ClassVar[bool] = True
    context: int = 256
    batch_tokens: int = 16_384
    adam_rate: float = 0.2

    @classmethod
    def preset(cls, minutes: float) -> "BigramTrainConfig":
        """The same for any time."""
        return cls()

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> Bigram:
        """A bigram with uniform predictions."""
        return Bigram(BigramConfig(vocab_size, eos_token_id))

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """AdamW."""
        return [adamw(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch."""
        return self.batch_tokens // self.context, self.context


@dataclass(frozen=True)
class LSTMTrainConfig:
    """Hyperparameters of an LSTM run. Each window of `context` tokens starts from the zero state."""

    compiles: ClassVar[bool] = False  # torch.compile leaves nn.LSTM as it is
    layers: int
    width: int
    context: int = 128
    dropout: float = 0.0
    batch_tokens: int = 4096
    adam_rate: float = 4e-3

    def __post_init__(self) -> None:
        _check_at_least_one(self, "layers", "width", "context")
        _check_fraction("dropout", self.dropout)

    @classmethod
    def preset(cls, minutes: float) -> "LSTMTrainConfig":
        """One layer for up to 5 minutes, a narrow one for up to half a minute, else two with dropout."""
        if minutes <= 0.5:
            return cls(layers=1, width=128, context=64, batch_tokens=1024, adam_rate=8e-3)
        if minutes <= 5:
            return cls(layers=1, width=256)
        return cls(layers=2, width=320, dropout=0.15)

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> LSTM:
        """An LSTM with initial weights."""
        return LSTM(LSTMConfig(vocab_size, self.width, self.layers, eos_token_id), self.dropout)

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """AdamW."""
        return [adamw(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch."""
        return max(1, self.batch_tokens // self.context), self.context


@dataclass(frozen=True)
class VAETrainConfig:
    """Hyperparameters of a text VAE's run, which train/tasks/vae.py explains.

    Attributes:
        latent: Size of the latent space.
        context: Tokens of the longest line, its start token included.
        free_bits: KL floor of each latent dimension, in nats.
        warmup: Share of the budget in which the weight of the KL divergence rises to 1.
        word_dropout: Probability that the decoder does not see a token.
    """

    compiles: ClassVar[bool] = False
    width: int = 256
    latent: int = 32
    context: int = 256
    batch_tokens: int = 4096
    adam_rate: float = 2e-3
    free_bits: float = 0.5
    warmup: float = 0.3
    word_dropout: float = 0.3

    def __post_init__(self) -> None:
        _check_at_least_one(self, "width", "context")
        if not 0 <= self.free_bits < math.inf:
            raise ValueError(f"free_bits is {self.free_bits}; it must be 0 or more")

    @classmethod
    def preset(cls, minutes: float) -> "VAETrainConfig":
        """The same for any time."""
        return cls()

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> VAE:
        """A VAE with initial weights. Raises ValueError without an end token."""
        if eos_token_id is None:
            raise ValueError("a VAE is trained on lines; give --lines, or a data set of lines such as names")
        return VAE(VAEConfig(vocab_size, eos_token_id, self.width, latent_size=self.latent))

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """AdamW."""
        return [adamw(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch."""
        return max(1, self.batch_tokens // self.context), self.context


@dataclass(frozen=True)
class DiffusionTrainConfig:
    """Hyperparameters of a masked diffusion model's run. `context` is also the longest text, or line, that it can write."""

    compiles: ClassVar[bool] = True
    layers: int
    width: int
    heads: int = 4
    context: int = 256
    dropout: float = 0.0
    batch_tokens: int = 2048
    muon_rate: float = 0.025
    adam_rate: float = 5e-3
    weight_decay: float = 0.1
    rope_theta: float = 100.0

    def __post_init__(self) -> None:
        _check_at_least_one(self, "layers", "width", "context")
        if self.width % (2 * self.heads):
            raise ValueError(f"a width of {self.width} does not divide into {self.heads} heads of an even size; give a multiple")
        _check_fraction("dropout", self.dropout)

    @classmethod
    def preset(cls, minutes: float) -> "DiffusionTrainConfig":
        """A size that suits a time. A masked diffusion model learns more slowly than a GPT, and overfits later."""
        if minutes <= 1.5:
            return cls(layers=2, width=96, batch_tokens=1024)
        if minutes <= 15:
            return cls(layers=4, width=128, batch_tokens=1024)
        return cls(layers=6, width=160)

    @classmethod
    def starting_from(cls, config: Config) -> "DiffusionTrainConfig":
        """The sizes of a GPT whose weights a run starts from, and lower rates, so that it does not forget them at once.

        Raises ValueError if it is no GPT, or has other proportions than the GPTs of `GPTTrainConfig`.
        """
        gpt = MaskedDiffusionConfig.gpt_config(config)
        layers, width, heads = gpt.num_hidden_layers, gpt.hidden_size, gpt.num_attention_heads
        if (gpt.num_key_value_heads, gpt.head_dim * heads, gpt.intermediate_size) != (heads, width, _mlp_width(width)):
            raise ValueError("a diffusion run cannot start from this GPT, whose layers have other sizes; leave --init out")
        return cls(layers, width, heads, gpt.sliding_window, muon_rate=0.015, adam_rate=3e-3, rope_theta=gpt.rope_theta)

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> MaskedDiffusion:
        """A masked diffusion model with initial weights."""
        return MaskedDiffusion(
            MaskedDiffusionConfig(
                vocab_size=vocab_size,
                context_length=self.context + (eos_token_id is not None),  # the start token and the end of a line
                hidden_size=self.width,
                intermediate_size=_mlp_width(self.width),
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                rope_theta=self.rope_theta,
                eos_token_id=eos_token_id,
            ),
            self.dropout,
        )

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for the rest, as for a GPT."""
        return muon_and_adamw(model, self.muon_rate, self.weight_decay, self.adam_rate)

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch. Windows grow from an eighth of the context, in which spelling is learned sooner."""
        divisor = next((divisor for until, divisor in WINDOW_GROWTH if progress < until), 1)
        length = max(1, self.context // divisor)
        return max(1, self.batch_tokens // length), length


@dataclass(frozen=True)
class LatentDiffusionTrainConfig:
    """Hyperparameters of a run of latent diffusion.

    Attributes:
        context: Tokens of the longest line, its start token included.
        condition_dropout: Probability that a condition of a line is left out, so that the model knows lines without it.
    """

    compiles: ClassVar[bool] = False
    layers: int = 3
    width: int = 128
    context: int = 256
    batch_lines: int = 256
    adam_rate: float = 3e-3
    condition_dropout: float = 0.3

    def __post_init__(self) -> None:
        _check_at_least_one(self, "layers", "width", "context")

    @classmethod
    def preset(cls, minutes: float) -> "LatentDiffusionTrainConfig":
        """The same for any time."""
        return cls()

    def build_model(self, vae: VAEConfig, base_model: BaseModel, conditions: dict[str, list[str]]) -> LatentDiffusion:
        """A denoiser with initial weights for the latent vectors of a VAE."""
        sizes = (vae.vocab_size, vae.eos_token_id, vae.latent_size)
        return LatentDiffusion(LatentDiffusionConfig(*sizes, base_model, conditions, self.width, self.layers))

    def configure_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """AdamW."""
        return [adamw(model.parameters(), self.adam_rate)]

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Lines of a batch, and tokens of the longest line."""
        return self.batch_lines, self.context


@dataclass(frozen=True)
class GANTrainConfig:
    """Hyperparameters of a text GAN's run, which train/tasks/gan.py explains.

    Attributes:
        layers: Residual blocks of each network.
        width: Channels of each.
        latent: Size of the latent space.
        context: Tokens of the longest line, its end included.
        batch_lines: Real lines of a batch, and as many generated ones.
        penalty: Weight of the gradient penalties.
    """

    compiles: ClassVar[bool] = False  # torch.compile has no second derivatives
    layers: int = 3
    width: int = 64
    latent: int = 64
    context: int = 16
    batch_lines: int = 64
    adam_rate: float = 1.5e-3
    penalty: float = 0.5

    def __post_init__(self) -> None:
        _check_at_least_one(self, "layers", "width", "context")

    @classmethod
    def preset(cls, minutes: float) -> "GANTrainConfig":
        """The same for any time."""
        return cls()

    def build_model(self, vocab_size: int, eos_token_id: int | None = None) -> GAN:
        """A GAN with initial weights. Raises ValueError without an end token."""
        if eos_token_id is None:
            raise ValueError("a GAN is trained on lines; give --lines, or a data set of lines such as names")
        return GAN(GANConfig(vocab_size, eos_token_id, self.context, self.width, self.layers, self.latent))

    def configure_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam without momentum, which suits an opponent that moves."""
        return torch.optim.Adam(network.parameters(), lr=self.adam_rate, betas=(0.0, 0.99), fused=True)

    def batch_shape(self, progress: float) -> tuple[int, int]:
        """Rows and length of a batch."""
        return self.batch_lines, self.context


CausalTrainConfig = BigramTrainConfig | LSTMTrainConfig | GPTTrainConfig | VAETrainConfig
TrainConfig = CausalTrainConfig | GANTrainConfig | DiffusionTrainConfig | LatentDiffusionTrainConfig
TRAIN_CONFIGS: dict[str, type[TrainConfig]] = {  # by name of the model family
    "bigram": BigramTrainConfig,
    "lstm": LSTMTrainConfig,
    "gpt": GPTTrainConfig,
    "vae": VAETrainConfig,
    "gan": GANTrainConfig,
    "diffusion": DiffusionTrainConfig,
    "latent-diffusion": LatentDiffusionTrainConfig,
}


def adamw(params: Iterable[Tensor], rate: float) -> torch.optim.AdamW:
    """AdamW with the settings of all runs."""
    return torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)


def muon_and_adamw(model: nn.Module, muon_rate: float, weight_decay: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a transformer's blocks, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]
    rest = [p for name, p in model.named_parameters() if not ("layers" in name and p.ndim == 2)]
    return [Muon(matrices, lr=muon_rate, weight_decay=weight_decay), adamw(rest, adam_rate)]

"""Text GAN: a generator writes all characters of a line at once, a discriminator tells real lines from generated ones.

Sources: Goodfellow et al. 2014; R3GAN (Huang et al. 2024), whose relativistic loss and gradient penalties train it. A character
is a choice, which has no gradient; the straight-through estimator (Bengio et al. 2013) passes on that of the softmax.

Shapes: B batch, T length of a line with its end, V vocabulary, C channels, Z latent size.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.models.base import Model, check_line_sizes, config_from_dict
from gpt.models.registry import ModelFamily, register
from gpt.text_model import TextModel

RESIDUAL_SCALE = 0.3
NEGATIVE_SLOPE = 0.2
MAX_LOGIT_RMS = 6.0  # uncapped, logits grow without end, and the gradient of the softmax vanishes
REFERENCE_SCORES = 201  # quantiles of the discriminator's scores of real lines
EXAMPLE_LINES = 20
BATCH_LINES = 1024  # that are generated or scored together
MAX_SIZES = {"vocab_size": 2**18, "context_length": 2**10, "hidden_size": 2**12, "latent_size": 2**12, "num_hidden_layers": 64}


@dataclass(frozen=True)
class GANConfig:
    """The sizes of a text GAN. Raises ValueError if one is out of range or there is no end token.

    Attributes:
        context_length: Tokens of the longest line, its end included; a shorter line is padded with end tokens.
        hidden_size: Channels of both networks.
        num_hidden_layers: Residual blocks of each.
    """

    vocab_size: int
    eos_token_id: int
    context_length: int = 16
    hidden_size: int = 64
    num_hidden_layers: int = 3
    latent_size: int = 64

    def __post_init__(self) -> None:
        check_line_sizes(self, MAX_SIZES, "a GAN")

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "text-gan", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "GANConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)


class ResidualBlock(nn.Module):
    """Two convolutions over neighboring characters, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        h = self.conv1(F.leaky_relu(x, NEGATIVE_SLOPE))
        h = self.conv2(F.leaky_relu(h, NEGATIVE_SLOPE))
        return torch.add(x, h, alpha=RESIDUAL_SCALE)


class Generator(nn.Module):
    """A latent vector to the logits of all characters of a line at once."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        C, T = config.hidden_size, config.context_length
        self.latent_to_line = nn.Linear(config.latent_size, C * T)
        self.blocks = nn.Sequential(*(ResidualBlock(C) for _ in range(config.num_hidden_layers)))
        self.lm_head = nn.Conv1d(C, config.vocab_size, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Latent vectors (B, Z) -> logits (B, T, V), whose root mean square at each place is at most `MAX_LOGIT_RMS`."""
        x = self.latent_to_line(z).unflatten(1, (self.lm_head.in_channels, -1))  # (B, C, T)
        return cap_logits(self.lm_head(self.blocks(x)).transpose(1, 2))


class Discriminator(nn.Module):
    """A line as one-hot vectors to a score, which is higher for lines that look real; only differences count."""

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        C, T = config.hidden_size, config.context_length
        self.embedding = nn.Conv1d(config.vocab_size, C, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(C) for _ in range(config.num_hidden_layers)))
        self.score_head = nn.Linear(C * T, 1)

    def forward(self, lines: Tensor) -> Tensor:
        """Lines (B, T, V) -> scores (B,)."""
        x = self.blocks(self.embedding(lines.transpose(1, 2)))  # (B, C, T)
        scores: Tensor = self.score_head(F.leaky_relu(x, NEGATIVE_SLOPE).flatten(1))[:, 0]
        return scores


class GAN(Model):
    """Generator and discriminator of lines."""

    config: GANConfig
    reference_scores: Tensor

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config, self.context_length = config, config.context_length
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        self.discriminator.apply(_init_weights)
        # Quantiles of the scores of real lines, in ascending order: the offset and scale of scores drift in training.
        self.register_buffer("reference_scores", torch.linspace(-1, 1, REFERENCE_SCORES))

    def one_hot(self, ids: Tensor) -> Tensor:
        """Tokens (B, T) -> what the discriminator reads (B, T, V)."""
        one_hot: Tensor = F.one_hot(ids, self.config.vocab_size).to(self.reference_scores.dtype)
        return one_hot

    def generate_ids(self, z: Tensor) -> Tensor:
        """The tokens (B, T) of latent vectors (B, Z): the most probable ones, and end tokens after the first end token."""
        return end_lines(self.generator(z).argmax(dim=-1), self.config.eos_token_id)

    def generate_one_hot(self, z: Tensor) -> Tensor:
        """`generate_ids` of latent vectors (B, Z) as one-hot vectors (B, T, V), differentiably.

        The gradient is that of the softmax (straight-through); there is none after the first end token.
        """
        logits = self.generator(z)
        tokens = logits.argmax(dim=-1)
        probs = logits.softmax(dim=-1)
        is_open = ~is_after_end(tokens, self.config.eos_token_id)[..., None]
        lines: Tensor = self.one_hot(end_lines(tokens, self.config.eos_token_id)) + is_open * (probs - probs.detach())
        return lines


@torch.no_grad()
def _init_weights(module: nn.Module) -> None:
    # He et al. 2015: from the smaller initial weights of PyTorch a discriminator learns half as fast. A generator starts from
    # those all the same, so that its logits begin small.
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def cap_logits(logits: Tensor) -> Tensor:
    """Center logits (..., V) and scale them down where their root mean square exceeds `MAX_LOGIT_RMS`."""
    centered = logits - logits.mean(dim=-1, keepdim=True)
    rms = (centered.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt()
    return centered * (MAX_LOGIT_RMS / rms).clamp(max=1.0)


def is_after_end(tokens: Tensor, eos_token_id: int) -> Tensor:
    """Which places of tokens (B, T) stand after an end token."""
    is_end = tokens == eos_token_id
    return (is_end.cumsum(dim=1) - is_end.int()) > 0


def end_lines(tokens: Tensor, eos_token_id: int) -> Tensor:
    """Replace what stands after the first end token of each line (B, T) by end tokens."""
    return tokens.masked_fill(is_after_end(tokens, eos_token_id), eos_token_id)


class TextGAN(TextModel):
    """A text GAN and its tokenizer: what `gpt.load` returns for one."""

    model: GAN

    def latent(self, seed: int) -> Tensor:
        """A random latent vector (Z,) from the standard normal distribution."""
        return torch.randn(self.model.config.latent_size, generator=torch.Generator().manual_seed(seed % 2**32))

    def sample(self, n: int, seed: int, scale: float = 1.0) -> list[str]:
        """Generate `n` lines. Line i is that of `latent(seed + i)`.

        Args:
            n: Number of lines.
            seed: Determines their latent vectors.
            scale: Of the latent vectors. Below 1, lines are more ordinary and less varied, as at a low temperature.
        """
        return self.decode([scale * self.latent(seed + i) for i in range(n)])

    def decode(self, zs: Tensor | Sequence[Tensor | Sequence[float]]) -> list[str]:
        """The lines at latent vectors.

        Args:
            zs: (N, Z) finite numbers.

        Raises:
            ValueError: If one is not Z finite numbers.
        """
        size = self.model.config.latent_size
        rows = [torch.as_tensor(each, dtype=torch.float32) for each in zs]
        for row in rows:
            if row.shape != (size,) or not row.isfinite().all():
                raise ValueError(f"z has shape {tuple(row.shape)}; it must be {size} finite numbers")
        lines: list[list[int]] = []
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH_LINES):
                lines += self.model.generate_ids(torch.stack(rows[start : start + BATCH_LINES]).to(self.device)).tolist()
        return [self.tokenizer.decode(self._up_to_end(line)) for line in lines]

    def _up_to_end(self, line: list[int]) -> list[int]:
        return line[: line.index(self.start_id)] if self.start_id in line else line

    def interpolate(self, z1: Tensor | Sequence[float], z2: Tensor | Sequence[float], steps: int) -> list[str]:
        """The lines at `steps` points on the segment between two latent vectors, both ends included.

        Raises:
            ValueError: If `steps` is below 2, or a vector is not Z finite numbers.
        """
        if steps < 2:
            raise ValueError(f"steps is {steps}; both ends are included, so it must be 2 or more")
        start, end = (torch.as_tensor(z, dtype=torch.float32) for z in (z1, z2))
        return self.decode([torch.lerp(start, end, i / (steps - 1)) for i in range(steps)])

    @torch.inference_mode()
    def scores(self, lines: Sequence[str]) -> list[float]:
        """The discriminator's scores of lines: higher looks more real. Only differences mean something.

        Raises:
            ValueError: If a line is empty, too long, more than one line, or has no character that the model knows.
        """
        ids = [self._ids(line) for line in lines]
        scores: list[float] = []
        for start in range(0, len(ids), BATCH_LINES):
            batch = torch.tensor(ids[start : start + BATCH_LINES], device=self.device)
            scores += self.model.discriminator(self.model.one_hot(batch)).tolist()
        return scores

    def _ids(self, line: str) -> list[int]:
        """The tokens of a line, padded with end tokens."""
        ids, room = self.tokenizer.encode(self.tokenizer.normalize(line)).ids, self.context_length - 1
        if not ids or self.start_id in ids:
            raise ValueError(f"{line[:60]!r} is not a line that this model knows; give one line, with characters that it has")
        if len(ids) > room:
            raise ValueError(f"{line[:60]!r} has {len(ids)} characters; this model reads up to {room}")
        return self._pad(ids)

    def _pad(self, ids: list[int]) -> list[int]:
        return ids + [self.start_id] * (self.context_length - len(ids))

    def discriminate(self, lines: Sequence[str]) -> list[float]:
        """How real lines look to the discriminator: the share of real, held-out lines that have a lower score, from 0 to 1.

        It is no probability of being real: the discriminator only learned to tell real lines from those of its generator.

        Raises:
            ValueError: As `scores`.
        """
        reference = self.model.reference_scores.cpu()
        below = torch.searchsorted(reference, torch.tensor(self.scores(lines), dtype=reference.dtype))
        return (below.double() / len(reference)).tolist()

    def example(self, prompt: str, seed: int) -> dict[str, Any]:
        """Some lines."""
        return {"prompt": "", "seed": seed, "text": "\n".join(self.sample(EXAMPLE_LINES, seed))}

    @torch.inference_mode()
    def fingerprint(self, text: str) -> list[float]:
        """Of the first line of `text`, the cross-entropy of each token with the generator's softmax at z = 0, and its score."""
        line = self.tokenizer.encode(text.partition("\n")[0]).ids[: self.context_length - 1]
        ids = torch.tensor([self._pad(line)], device=self.device)
        z = torch.zeros(1, self.model.config.latent_size, device=self.device)
        nll = F.cross_entropy(self.model.generator(z)[0].double(), ids[0], reduction="none")
        return [*nll.tolist(), self.model.discriminator(self.model.one_hot(ids)).item()]


register(
    ModelFamily(
        name="gan",
        title="a GAN",
        model_type="text-gan",
        model_class=GAN,
        config_class=GANConfig,
        task="gan",
        description="A generative adversarial network of lines, with convolutions as generator and discriminator",
        explain=lambda config, unit: (
            f"Turns {config.latent_size} random numbers into all {unit}s of a line at once. It learned from a second network, "
            "which tells real lines from generated ones."
        ),
        lm_class=TextGAN,
        abilities=frozenset({"draws"}),
        likelihood="none",
        storage_dtype=torch.float16,
    )
)

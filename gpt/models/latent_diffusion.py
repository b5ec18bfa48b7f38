"""Latent diffusion: a line is drawn by denoising a latent vector of a VAE and decoding it.

Sources: latent diffusion (Rombach et al. 2022), EDM (Karras et al. 2022), classifier-free guidance (Ho & Salimans 2022).

The prior of a VAE also has vectors that no line is encoded as. A denoiser learns which vectors lines have: it predicts a vector
from the vector plus noise. Sampling starts from noise and follows the denoiser to ever less noise. Conditions, such as a first
letter, are inputs of the denoiser; some are left out in training, so that it knows vectors with and without them.

Shapes: B batch, Z latent size, C channels (hidden_size), K conditions.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gpt.models.base import UNBOUNDED_CONTEXT, BaseModel, Model, check_line_sizes, check_positive_int, config_from_dict
from gpt.models.registry import ModelFamily, register
from gpt.models.vae import LatentModel
from gpt.text_model import TextModel
from gpt.tokenizer import Tokenizer

MAX_SIZES = {"vocab_size": 2**18, "latent_size": 2**10, "hidden_size": 2**14, "num_hidden_layers": 64}
MAX_CONDITIONS, MAX_VALUES = 8, 64
NOISE_FREQUENCIES = 16
MIN_NOISE, MAX_NOISE = 0.01, 20.0  # standard deviations, in those of the latent vectors
NOISE_SPACING = 7.0  # rho of EDM: higher values take shorter steps where there is little noise
STEPS = 16
GUIDANCE = 2.0  # where there is a condition
EXAMPLE_LINES = 20
MAX_LINES = 100_000
DECODED_LINES = 250  # in one batch


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """The sizes of a denoiser. Raises ValueError if a value is out of range.

    Attributes:
        vocab_size: Of the VAE.
        eos_token_id: Of the VAE.
        latent_size: Of the VAE.
        base_model: The VAE.
        conditions: The values of each condition, by its name in `line_traits`.
    """

    vocab_size: int
    eos_token_id: int
    latent_size: int
    base_model: BaseModel
    conditions: dict[str, list[str]]
    hidden_size: int = 128
    num_hidden_layers: int = 3

    def __post_init__(self) -> None:
        check_line_sizes(self, MAX_SIZES, "a VAE")
        if not isinstance(self.conditions, dict) or not all(map(_is_list_of_values, self.conditions.values())):
            raise ValueError("conditions are not lists of different words by name")
        if unknown := self.conditions.keys() - line_traits("").keys():
            raise ValueError(f"conditions has {min(unknown)[:40]!r}; supported are {', '.join(line_traits(''))}")

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "latent-diffusion", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "LatentDiffusionConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config | {"base_model": BaseModel.from_dict(config.get("base_model"))})


def _is_list_of_values(values: Any) -> bool:
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return is_list and 0 < len(values) == len(set(values)) <= MAX_VALUES


def line_traits(line: str) -> dict[str, str]:
    """What can be asked of a line, as a value of each condition.

    The kind is that of a line of a play: "speaker" for a name with a colon, "prose" for a line that starts with a small letter,
    as prose does where it is wrapped, and "verse" for any other line.
    """
    words = line.split()
    is_speaker = line.endswith(":") and all(word[0].isupper() for word in words)
    tens = max(0, len(line) - 1) // 10
    return {
        "first letter": line[:1].lower(),
        "length": str(len(line)),
        "length range": f"{10 * tens + 1}-{10 * tens + 10}",
        "kind": "speaker" if is_speaker else "prose" if line[:1].islower() else "verse",
    }


def condition_ids(traits: dict[str, str], conditions: dict[str, list[str]]) -> list[int]:
    """K numbers: for each condition the index of its value plus 1, or 0 if it is missing or unknown."""
    return [values.index(traits[name]) + 1 if traits.get(name) in values else 0 for name, values in conditions.items()]


class LatentDiffusion(Model):
    """A denoiser of latent vectors: an MLP with residual blocks, preconditioned as in EDM.

    It works on standardized vectors; the mean and the standard deviation of the vectors are stored with it.
    """

    config: LatentDiffusionConfig
    latent_mean: Tensor
    latent_stddev: Tensor

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        self.config, self.context_length = config, UNBOUNDED_CONTEXT
        Z, C = config.latent_size, config.hidden_size
        self.register_buffer("latent_mean", torch.zeros(Z))
        self.register_buffer("latent_stddev", torch.ones(Z))
        self.in_proj = nn.Linear(Z, C)
        self.noise_embedding = nn.Sequential(nn.Linear(2 * NOISE_FREQUENCIES, C), nn.SiLU(), nn.Linear(C, C))
        values = config.conditions.values()
        self.condition_embeddings = nn.ModuleList(nn.Embedding(len(each) + 1, C) for each in values)  # 0: not given
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 2 * C), nn.SiLU(), nn.Linear(2 * C, C))
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(C)
        self.out_proj = nn.Linear(C, Z)
        nn.init.zeros_(self.out_proj.weight)  # at first it is the denoiser of a normal distribution
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, noise_level: Tensor, conditions: Tensor) -> Tensor:
        """Estimate the standardized vectors that noise was added to.

        Args:
            x: (B, Z) vectors plus noise.
            noise_level: (B, 1) standard deviation of the noise.
            conditions: (B, K) of `condition_ids`.

        Returns:
            (B, Z).
        """
        total = (noise_level.square() + 1).sqrt()  # standard deviation of x
        frequencies = torch.logspace(-0.5, 1.5, NOISE_FREQUENCIES, device=x.device)
        angles = noise_level.log() / 4 * frequencies
        embedding = self.noise_embedding(torch.cat((angles.sin(), angles.cos()), dim=1))  # (B, C)
        for embed, column in zip(self.condition_embeddings, conditions.unbind(dim=1), strict=True):
            embedding = embedding + embed(column)
        hidden = self.in_proj(x / total)
        for layer in self.layers:
            hidden = hidden + layer(hidden + embedding)
        estimate: Tensor = x / total.square() + noise_level / total * self.out_proj(self.norm(hidden))
        return estimate

    def denoise(self, x: Tensor, noise_level: Tensor, conditions: Tensor, guidance: float) -> Tensor:
        """`forward` with classifier-free guidance: 0 ignores the conditions, 1 obeys them, and more exaggerates them."""
        if not conditions.any():
            return self.forward(x, noise_level, conditions)
        both = torch.cat((torch.zeros_like(conditions), conditions))
        without, given = self(x.repeat(2, 1), noise_level.repeat(2, 1), both).chunk(2)
        guided: Tensor = torch.lerp(without, given, guidance)
        return guided


def noise_levels(steps: int) -> Tensor:
    """Standard deviations of the noise (steps + 1,), from `MAX_NOISE` to `MIN_NOISE` and 0 (EDM, equation 5)."""
    high, low = MAX_NOISE ** (1 / NOISE_SPACING), MIN_NOISE ** (1 / NOISE_SPACING)
    return torch.cat((torch.linspace(high, low, steps) ** NOISE_SPACING, torch.zeros(1)))


def sample_vectors(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int = STEPS) -> Tensor:
    """Turn noise into vectors: Heun's method for the probability flow of a denoiser (EDM, algorithm 1). It adds no noise.

    Args:
        denoise: (vectors plus noise (B, Z), noise level (B, 1)) -> estimated vectors.
        noise: (B, Z) standard normal.
        steps: Number of steps.
    """
    levels = noise_levels(steps).to(noise.device)
    x = noise * levels[0]
    for level, next_level in pairwise(levels):
        slope = (x - denoise(x, level.expand(len(x), 1))) / level
        moved = x + (next_level - level) * slope
        if next_level > 0:
            next_slope = (moved - denoise(moved, next_level.expand(len(x), 1))) / next_level
            moved = x + (next_level - level) * (slope + next_slope) / 2
        x = moved
    return x


class TextLatentDiffusion(TextModel):
    """A denoiser, its tokenizer and its VAE: what `gpt.load` returns for latent diffusion.

    Args:
        model: The denoiser.
        tokenizer: The tokenizer of the VAE.
        name: What to call it in messages.
        device: Where to compute; where the model is by default.
        base: The VAE, on the same device.

    Raises:
        ValueError: If `base` is no VAE, or has other sizes.
    """

    model: LatentDiffusion

    def __init__(
        self,
        model: LatentDiffusion,
        tokenizer: Tokenizer,
        name: str = "model",
        device: str | torch.device | None = None,
        *,
        base: LatentModel,
    ) -> None:
        super().__init__(model, tokenizer, name, device)
        config = model.config
        if not isinstance(base, LatentModel):
            raise ValueError(f"{base.name} is not a VAE")
        for size in ("vocab_size", "latent_size", "eos_token_id"):
            if (own := getattr(config, size)) != (other := getattr(base.model.config, size)):
                raise ValueError(f"its {size} is {own}, and that of {base.name} is {other}")
        self.vae = base

    @property
    def conditions(self) -> dict[str, list[str]]:
        """The values that each condition can have, by its name (`line_traits`)."""
        return self.model.config.conditions

    @torch.inference_mode()
    def latents(self, n: int, seed: int, condition: dict[str, str] | None = None, guidance: float = GUIDANCE) -> Tensor:
        """Draw latent vectors (n, Z) on the CPU; vector i uses the seed plus i.

        Args:
            n: How many.
            seed: Chooses the noise.
            condition: Values of some conditions.
            guidance: How strongly to follow them; 0 ignores them, 1 is the learned distribution, and more is more typical lines.

        Raises:
            ValueError: If `n` is no positive number, or a condition or its value is unknown.
        """
        check_positive_int("n", n, MAX_LINES)
        condition = condition or {}
        for name, value in condition.items():
            if value not in self.conditions.get(name, ()):
                allowed = self.conditions.get(name) or self.conditions
                what = f"{name} is {value!r}" if name in self.conditions else f"the condition is {name!r}"
                raise ValueError(f"{what}; it must be one of: {', '.join(allowed)}")
        generators = (torch.Generator().manual_seed((seed + i) % 2**32) for i in range(n))
        noise = torch.stack([torch.randn(self.model.config.latent_size, generator=each) for each in generators])
        ids = torch.tensor([condition_ids(condition, self.conditions)], dtype=torch.long, device=self.device)  # (1, K)
        denoise = partial(self.model.denoise, conditions=ids.expand(n, -1), guidance=guidance)
        x = sample_vectors(denoise, noise.to(self.device))
        return (self.model.latent_mean + self.model.latent_stddev * x).cpu()

    def sample(self, n: int, seed: int, condition: dict[str, str] | None = None, guidance: float = GUIDANCE) -> list[str]:
        """Draw `n` lines. The arguments are those of `latents`; the lines are decoded greedily."""
        return self.decode(self.latents(n, seed, condition, guidance))

    def decode(self, z: Tensor) -> list[str]:
        """The lines at latent vectors z (n, Z), decoded greedily."""
        model = self.vae.model
        ids = [line for part in z.to(self.device).split(DECODED_LINES) for line in model.decode_lines(part)]
        return self.tokenizer.backend.decode_batch(ids, skip_special_tokens=False)

    def example(self, prompt: str, seed: int) -> dict[str, Any]:
        """Some lines; there is no prompt."""
        return {"prompt": "", "seed": seed, "text": "\n".join(self.sample(EXAMPLE_LINES, seed))}

    @torch.inference_mode()
    def fingerprint(self, text: str) -> list[float]:
        """Three estimates, (3 Z,), from noise that depends on `text`, with the conditions of its first line."""
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        x = torch.randn(3, self.model.config.latent_size, generator=generator).to(self.device)
        levels = torch.tensor([[0.1], [1.0], [10.0]], device=self.device)
        ids = torch.tensor([condition_ids(line_traits(text.partition("\n")[0]), self.conditions)], device=self.device)
        estimates: Tensor = self.model(x * levels, levels, ids.expand(3, -1))
        numbers: list[float] = (self.model.latent_mean + self.model.latent_stddev * estimates).flatten().tolist()
        return numbers


register(
    ModelFamily(
        name="latent-diffusion",
        title="a latent diffusion model",
        model_type="latent-diffusion",
        model_class=LatentDiffusion,
        config_class=LatentDiffusionConfig,
        task="latent_diffusion",
        description="A diffusion model on the latent vectors of a VAE, which decodes them to lines",
        explain=lambda config, unit: (
            f"Starts from {config.latent_size} random numbers and removes the noise step by step, until they are numbers such as "
            "a VAE finds for real lines. The VAE turns them into a line."
        ),
        base_family="vae",
        lm_class=TextLatentDiffusion,
        abilities=frozenset({"draws"}),
        likelihood="none",
        storage_dtype=torch.float16,
    )
)

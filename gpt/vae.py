"""Text VAE: a line becomes a few dozen numbers, and they become a line again (Kingma & Welling 2014; Bowman et al. 2016).

The encoder reads a line in both directions and says where in the latent space it lies: a normal distribution, by its mean
and the logarithm of its variance. The decoder is an LSTM that starts from a point of that space and writes from left to
right. In training each line's distribution is drawn towards the standard normal one, so that whatever is drawn from that
is a line as well, and between two lines lie others.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from gpt.lstm import Memory
from gpt.model import ENDLESS, CausalModel, end_token, fields_from, whole_number

LARGEST = {"vocab_size": 2**18, "hidden_size": 2**14, "embedding_size": 2**14, "latent_size": 2**10}


@dataclass(frozen=True)
class VAEConfig:
    """The sizes of a text VAE. Raises ValueError for sizes that are out of range, or if no token ends a line."""

    vocab_size: int
    eos_token_id: int
    hidden_size: int = 256
    embedding_size: int = 64
    latent_size: int = 32

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            whole_number(name, getattr(self, name), most)
        if end_token(self.eos_token_id, self.vocab_size) is None:
            raise ValueError("eos_token_id is null; a VAE is of lines, which end")

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "vae", **asdict(self)}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "VAEConfig":
        """The inverse of `to_json`. Raises ValueError if a size is missing or out of range."""
        return cls(**fields_from(cls, config))


class Course:
    """Where each row is in its line: the point z (B, Z) that it started from, and what the decoder remembers."""

    def __init__(self, z: Tensor, memory: Memory | None = None) -> None:
        self.z, self.memory = z, memory

    @classmethod
    def stack(cls, courses: "list[Course]") -> "Course":
        """The rows of several as the batch of one. All have read something, or none has."""
        memories = [course.memory for course in courses if course.memory]
        return cls(torch.cat([course.z for course in courses]), Memory.stack(memories) if memories else None)

    def split(self) -> "list[Course]":
        """Its rows, each by itself."""
        points = self.z.split(1)
        return [Course(*row) for row in zip(points, self.memory.split() if self.memory else [None] * len(points), strict=True)]


class VAE(CausalModel):
    """`forward(ids (B, T), state) -> logits (B, T, V), state`: the decoder. Without a state it starts from the middle of
    the latent space, z = 0; `start` draws another point."""

    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config, self.window = config, ENDLESS
        V, C, E, Z = config.vocab_size, config.hidden_size, config.embedding_size, config.latent_size
        self.read = nn.Embedding(V, E)
        self.encoder = nn.LSTM(E, C // 2, batch_first=True, bidirectional=True)
        self.posterior = nn.Linear(C // 2 * 2, 2 * Z)
        self.begin = nn.Linear(Z, 2 * C)
        self.embed = nn.Embedding(V + 1, E)  # the last stands for a token that the decoder is not told
        self.decoder = nn.LSTM(E + Z, C, batch_first=True)
        self.head = nn.Linear(C, V)

    def encode(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance (B, Z) of lines (B, T), of which the first `lengths` (B,) tokens count: the
        end before the line, and the line."""
        packed = pack_padded_sequence(self.read(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.encoder(packed)  # (2, B, C / 2): of both directions
        mean, log_variance = self.posterior(torch.cat((last[0], last[1]), dim=-1)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-10, 10)

    def start(self, uniforms: Iterator[float]) -> Course:
        """A point drawn from the standard normal distribution, by one uniform number for each of its numbers."""
        drawn = torch.tensor([next(uniforms) for _ in range(self.config.latent_size)], dtype=torch.float64)
        return Course(torch.special.ndtri(drawn.clamp(1e-12, 1 - 1e-12)).float()[None].to(self.head.weight.device))

    def forward(self, ids: Tensor, state: Course | None = None) -> tuple[Tensor, Course]:
        if state is None:
            state = Course(torch.zeros(len(ids), self.config.latent_size, device=ids.device))
        memory = state.memory
        if memory is None:
            shown, kept = self.begin(state.z)[None].chunk(2, dim=-1)  # (1, B, C) each
            memory = Memory(shown.tanh().contiguous(), kept.contiguous())
        x = torch.cat((self.embed(ids), state.z[:, None].expand(-1, ids.shape[1], -1)), dim=-1)
        x, (shown, kept) = self.decoder(x, (memory.shown, memory.kept))
        return self.head(x), Course(state.z, Memory(shown, kept))

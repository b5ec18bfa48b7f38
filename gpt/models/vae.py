"""Text VAE: a line is encoded as a vector of a few dozen numbers and decoded from it (Kingma & Welling 2014; Bowman et al. 2016).

The encoder is a bidirectional LSTM that gives the mean and variance of a normal posterior q(z | line). The decoder is an
LSTM that starts from z and writes from left to right. Training pulls each posterior towards the standard normal prior, so
a z drawn from the prior decodes to a line, and so does a z between two lines.

Shapes: B batch, T time, V vocabulary, C decoder width (hidden_size), E embedding size, Z latent size.
"""

import ctypes
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.utils.rnn import pack_padded_sequence

from gpt.engine.lstm import LSTMEngine
from gpt.generation import BatchGenerator, LanguageModel, Score
from gpt.models.base import UNBOUNDED_CONTEXT, CausalLM, check_line_sizes, config_from_dict
from gpt.models.lstm import LSTMState
from gpt.models.registry import ModelFamily, register
from gpt.sampling import SamplingParams, check_no_nan

MAX_SIZES = {"vocab_size": 2**18, "hidden_size": 2**14, "embedding_size": 2**14, "latent_size": 2**10}
MAX_DECODED_TOKENS = 256
GREEDY = SamplingParams(temperature=0, max_new_tokens=MAX_DECODED_TOKENS)
IWAE_SAMPLES = 64  # of z for each line, where a line is scored
IWAE_BATCH_SIZE = 256  # lines, each with one z, that are decoded together for the bound


@dataclass(frozen=True)
class VAEConfig:
    """The sizes of a text VAE. Raises ValueError if one is out of range or there is no end token."""

    vocab_size: int
    eos_token_id: int
    hidden_size: int = 256
    embedding_size: int = 64
    latent_size: int = 32

    def __post_init__(self) -> None:
        check_line_sizes(self, MAX_SIZES, "a VAE")

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "vae", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "VAEConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)


@dataclass(eq=False)
class VAEState:
    """The latent vectors z (B, Z) of the lines, and the state of the decoder."""

    z: Tensor
    decoder: LSTMState

    @classmethod
    def merge(cls, states: "Sequence[VAEState]") -> "VAEState":
        """Concatenate the batches of several states."""
        return cls(torch.cat([state.z for state in states]), LSTMState.merge([state.decoder for state in states]))

    def extract(self, i: int) -> "VAEState":
        """Copy sequence `i`."""
        return VAEState(self.z[i : i + 1].clone(), self.decoder.extract(i))

    def clone(self) -> "VAEState":
        """Copy all sequences."""
        return VAEState(self.z.clone(), self.decoder.clone())

    @property
    def nbytes(self) -> int:
        """Memory of z and the decoder's state, in bytes."""
        return self.z.nbytes + self.decoder.nbytes


class VAE(CausalLM):
    """Encoder and decoder of lines. `forward` is the decoder."""

    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config, self.context_length = config, UNBOUNDED_CONTEXT
        V, C, E, Z = config.vocab_size, config.hidden_size, config.embedding_size, config.latent_size
        self.encoder_embedding = nn.Embedding(V, E)
        self.encoder = nn.LSTM(E, C // 2, batch_first=True, bidirectional=True)
        self.posterior_head = nn.Linear(C // 2 * 2, 2 * Z)
        self.latent_to_state = nn.Linear(Z, 2 * C)
        self.decoder_embedding = nn.Embedding(V + 1, E)  # index V: a dropped token (word dropout)
        self.decoder = nn.LSTM(E + Z, C, batch_first=True)
        self.lm_head = nn.Linear(C, V)

    def encode(self, ids: Tensor, lengths: Tensor) -> Normal:
        """The posterior q(z | line) of each line, a normal distribution (B, Z).

        Args:
            ids: (B, T) the start token and the line, padded.
            lengths: (B,) tokens of each line that count, the start token included.
        """
        packed = pack_padded_sequence(self.encoder_embedding(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, _) = self.encoder(packed)  # (2, B, C / 2): the last state of each direction
        mean, log_variance = self.posterior_head(torch.cat((h[0], h[1]), dim=-1)).float().chunk(2, dim=-1)
        return Normal(mean, (log_variance.clamp(-10, 10) / 2).exp(), validate_args=False)

    def prior(self, batch_size: int) -> Normal:
        """The prior p(z), a standard normal distribution (B, Z)."""
        zeros = self.lm_head.weight.new_zeros(batch_size, self.config.latent_size)
        return Normal(zeros, torch.ones_like(zeros), validate_args=False)

    def state_from(self, z: Tensor) -> VAEState:
        """The state of the decoder at the start of a line, from its latent vector z (B, Z)."""
        h, c = self.latent_to_state(z)[None].chunk(2, dim=-1)  # (1, B, C) each
        return VAEState(z.contiguous(), LSTMState(h.tanh().contiguous(), c.contiguous()))

    @torch.inference_mode()
    def init_state(self, rng: Iterator[float]) -> VAEState:
        """Sample z from the prior, with one uniform number for each dimension, so that the seed determines z."""
        uniform = torch.tensor([next(rng) for _ in range(self.config.latent_size)], dtype=torch.float64)
        z = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).float()[None]
        return self.state_from(z.to(self.lm_head.weight.device))

    def forward(self, ids: Tensor, state: VAEState | None = None) -> tuple[Tensor, VAEState]:
        """Read ids (B, T) -> logits (B, T, V) and the state; without a state, start from z = 0, the prior's mean."""
        state = self.state_from(self.prior(len(ids)).mean) if state is None else state
        x = torch.cat((self.decoder_embedding(ids), state.z[:, None].expand(-1, ids.shape[1], -1)), dim=-1)  # (B, T, E + Z)
        x, (h, c) = self.decoder(x, (state.decoder.h, state.decoder.c))  # (B, T, C)
        return self.lm_head(x), VAEState(state.z, LSTMState(h, c))

    def token_nll(self, inputs: Tensor, targets: Tensor, z: Tensor) -> Tensor:
        """-log p(token | z, the tokens before it), (B, T), in nats.

        Args:
            inputs: (B, T) tokens to read.
            targets: (B, T) the tokens that follow, -1 for padding, which costs 0.
            z: (B, Z) a latent vector for each line.
        """
        logits, _ = self(inputs, self.state_from(z))
        return F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=-1, reduction="none")

    @torch.inference_mode()
    def decode_lines(self, z: Tensor, generator: torch.Generator | None = None) -> list[list[int]]:
        """The tokens of the lines at latent vectors z (B, Z), without end tokens, decoded in one batch.

        Args:
            z: (B, Z).
            generator: For sampling at temperature 1, on the CPU; None decodes greedily.

        Raises:
            ValueError: If a logit is NaN.
        """
        eos_token_id = self.config.eos_token_id
        state, token = self.state_from(z), torch.full((len(z), 1), eos_token_id, device=z.device)
        tokens: list[Tensor] = []
        ended = torch.zeros(len(z), 1, dtype=torch.bool, device=z.device)
        while len(tokens) < MAX_DECODED_TOKENS and not ended.all():
            logits, state = self(token, state)
            check_no_nan(logits)
            if generator is None:
                token = logits[:, -1].argmax(dim=-1, keepdim=True)
            else:
                token = torch.multinomial(logits[:, -1].softmax(dim=-1).cpu(), 1, generator=generator).to(z.device)
            tokens.append(token)
            ended |= token == eos_token_id
        return [[*row, eos_token_id][: [*row, eos_token_id].index(eos_token_id)] for row in torch.cat(tokens, dim=1).tolist()]


class VAEEngine:
    """Computes decode steps of a VAE's decoder in C. The arguments are those of `LSTMEngine`."""

    def __init__(self, model: VAE, library: ctypes.CDLL) -> None:
        self._decoder = LSTMEngine(library, model.decoder_embedding, model.decoder, model.lm_head)

    def forward(self, tokens: Sequence[int], states: Sequence[VAEState]) -> Tensor:
        """Read one token of each sequence, as `LSTMEngine.forward` does."""
        return self._decoder.forward(tokens, [state.decoder for state in states], [state.z for state in states])


def reparameterize(posterior: Normal, generator: torch.Generator) -> Tensor:
    """Sample z (B, Z) from the posterior, differentiably: mean + stddev * noise.

    Args:
        posterior: (B, Z).
        generator: On the CPU, so that a seed gives the same noise on any device.
    """
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return posterior.mean + posterior.stddev * noise.to(posterior.mean.device)


def iwae_nll(model: VAE, inputs: Tensor, targets: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """The importance-weighted bound on -log p(line), split over the tokens (B, T), in nats (Burda et al. 2016).

    The bound is -log mean_k [p(line | z_k) p(z_k) / q(z_k | line)], with z_k drawn from q. A token costs the increase of the
    bound from the tokens before it to those up to it, so the tokens of a line sum to its bound, and the first token
    carries the cost of the latent vector. One sample gives the ELBO; more samples give a tighter bound.

    Args:
        model: The VAE.
        inputs: (B, T) tokens to read: the start token, then the line.
        targets: (B, T) the tokens that follow, -1 for padding, which costs 0.
        samples: Number of z for each line.
        generator: On the CPU.
    """
    posterior = model.encode(inputs, (targets >= 0).sum(dim=1))
    z = torch.stack([reparameterize(posterior, generator) for _ in range(samples)])  # (K, B, Z)
    return _iwae_nll(model, inputs, targets, posterior, z)


def _iwae_nll(model: VAE, inputs: Tensor, targets: Tensor, posterior: Normal, z: Tensor) -> Tensor:
    """`iwae_nll` with samples z (K, B, Z) of the posterior."""
    samples, B, _ = z.shape
    prior = model.prior(B)
    nll = []
    for part in z.split(max(1, IWAE_BATCH_SIZE // B)):  # k of the K samples are decoded in one batch
        k = len(part)
        nll.append(model.token_nll(inputs.repeat(k, 1), targets.repeat(k, 1), part.flatten(0, 1)).unflatten(0, (k, B)))
    ratio = (prior.log_prob(z) - posterior.log_prob(z)).sum(dim=-1, keepdim=True)  # (K, B, 1)
    log_weights = ratio - torch.cat(nll).cumsum(dim=2)  # (K, B, T): log of p(tokens so far | z_k) p(z_k) / q(z_k | line)
    bound: Tensor = math.log(samples) - log_weights.logsumexp(dim=0)
    return bound.diff(dim=1, prepend=bound.new_zeros(B, 1))


class LatentModel(LanguageModel):
    """A VAE and its tokenizer: what `gpt.load` returns for a VAE.

    Each line that it generates has a latent vector of its own, sampled from the prior. The seed determines the latent vectors,
    so at temperature 0 the seed still chooses the text.
    """

    model: VAE

    @torch.inference_mode()
    def encode(self, text: str) -> Tensor:
        """The posterior mean (Z,) of a line, on the CPU.

        Raises:
            ValueError: If `text` is empty, more than one line, or has no character that the model knows.
        """
        ids = self.tokenizer.encode(self.tokenizer.normalize(text)).ids
        if not ids or self.eos_token_id in ids:
            raise ValueError(f"{text[:60]!r} is not a line that this model knows; give one line, with characters that it has")
        line = torch.tensor([[self.start_id, *ids]])
        return self.model.encode(line.to(self.device), torch.tensor([line.shape[1]])).mean[0].cpu()

    def decode(self, z: Tensor | Sequence[float], params: SamplingParams = GREEDY) -> str:
        """The line at a latent vector.

        Args:
            z: (Z,) finite numbers.
            params: How to choose each token, greedily by default.

        Raises:
            ValueError: If `z` is not Z finite numbers.
        """
        return self.decode_all([z], params)[0]

    def decode_all(self, zs: Sequence[Tensor | Sequence[float]], params: SamplingParams = GREEDY) -> list[str]:
        """The lines at several latent vectors, decoded in one batch. Line i uses the seed of `params` plus i."""
        params, size = params.seeded(), self.model.config.latent_size
        sequences = []
        for i, each in enumerate(zs):
            z = torch.as_tensor(each, dtype=torch.float32)
            if z.shape != (size,) or not z.isfinite().all():
                raise ValueError(f"z has shape {tuple(z.shape)}; it must be {size} finite numbers")
            with torch.inference_mode():
                state = self.model.state_from(z[None].to(self.device))
            sequences.append(self.prefill("", replace(params, seed=((params.seed or 0) + i) % 2**32), state))
        batch, texts = BatchGenerator(self), [""] * len(sequences)
        active = {i: sequence for i, sequence in enumerate(sequences) if sequence.remaining}
        for sequence in active.values():
            batch.insert(sequence)
        while active:
            for (i, sequence), step in zip(list(active.items()), batch.step(), strict=True):
                ended = step.token_id == self.eos_token_id
                texts[i] += "" if ended else step.text
                if ended or not sequence.remaining:
                    batch.remove(active.pop(i))
        return texts

    def interpolate(self, a: str, b: str, steps: int) -> list[str]:
        """The lines at `steps` points on the segment between the latent vectors of two lines, both ends included.

        Raises:
            ValueError: If `steps` is below 2, or a line cannot be encoded.
        """
        if steps < 2:
            raise ValueError(f"steps is {steps}; both ends are included, so it must be 2 or more")
        start, end = self.encode(a), self.encode(b)
        return self.decode_all([torch.lerp(start, end, i / (steps - 1)) for i in range(steps)])

    def score(self, text: str, samples: int = IWAE_SAMPLES) -> Score:
        """An upper bound on the negative log-likelihood of `text`, as new lines (`iwae_nll`).

        Args:
            text: One or more lines.
            samples: Of z for each line. Fewer are faster, and the bound is higher: by about 5 % with 8.

        Raises:
            ValueError: If `text` has no character that the model knows.
        """
        return self._score(text, partial(self._token_nll, samples=samples))

    @torch.inference_mode()
    def _token_nll(self, ids: Tensor, lengths: list[int], samples: int = IWAE_SAMPLES) -> Tensor:
        """The importance-weighted bound, split over the tokens.

        The posterior is that of a whole line, so a line without its end token is scored as if it ended there, and the cost of
        the end is left out: what remains bounds the cost of the tokens given. The seed of a line's noise is made from the
        line: its bound does not depend on the other lines, and the errors of many lines cancel out.
        """
        lines = F.pad(ids, (0, 1))  # room for the end of an unfinished line
        targets = torch.full_like(ids, -1)
        for i, length in enumerate(lengths):
            end = length + int(lines[i, length - 1] != self.eos_token_id)
            lines[i, length:end] = self.start_id  # the end token
            targets[i, : end - 1] = lines[i, 1:end]
        width = int((targets >= 0).sum(dim=1).max())
        inputs, targets = lines[:, :width].to(self.device), targets[:, :width].to(self.device)
        posterior = self.model.encode(inputs, (targets >= 0).sum(dim=1))
        noise = []
        for line in targets.cpu():
            generator = torch.Generator().manual_seed(zlib.crc32(str(line[line >= 0].tolist()).encode()))
            noise.append(torch.randn(samples, self.model.config.latent_size, generator=generator))
        z = posterior.mean + posterior.stddev * torch.stack(noise, dim=1).to(self.device)  # (K, B, Z)
        return _iwae_nll(self.model, inputs, targets, posterior, z).cpu()


register(
    ModelFamily(
        name="vae",
        title="a VAE",
        model_type="vae",
        model_class=VAE,
        config_class=VAEConfig,
        task="vae",
        description="A variational autoencoder of lines, with LSTMs as encoder and decoder",
        explain=lambda config, unit: (
            f"Turns a line into {config.latent_size} numbers and back into a line. New numbers give new lines, and the numbers "
            "between those of two lines give lines in between."
        ),
        lm_class=LatentModel,
        abilities=frozenset({"writes", "draws", "encodes"}),
        likelihood="bound",
        storage_dtype=torch.float16,
        make_engine=VAEEngine,
    )
)

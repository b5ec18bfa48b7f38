"""What a text VAE is trained by, and how well it uses its latent space.

A line costs what the decoder needs to write it again from its point (the reconstruction), and how far its distribution is
from the standard normal one (the KL divergence). Their sum bounds the line's own cost from above. Left alone, a decoder that
can write without a point learns to, and the KL falls to nothing. So its weight rises slowly (Bowman et al. 2016), each
number of the space may cost a little for free (Kingma et al. 2016), and the decoder is not told some of the tokens
before the next one.
"""

import math
from dataclasses import asdict, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from gpt.latent import GREEDY
from torch import Tensor

from gpt import VAE, LatentModel, load
from gpt.models.vae import VAEState
from train.configs import VAETrainConfig
from train.data import TextDataset
from train.evaluate import EvalResult, eval_context, line_batches, shared

ACTIVE_UNIT_THRESHOLD = 0.01  # variance of a number's mean over the lines, above which it is in use (Burda et al. 2016)
COLLAPSE_THRESHOLD_NATS = 0.5  # nats that the points tell of their lines, below which the latent space is not used
IWAE_SAMPLES = 64  # drawn for each line, to estimate its cost
SHORT = 8  # characters
AMONG = 1_000  # lines, of which a point tells one


def vae_loss(model: VAE, config: VAETrainConfig, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """What is made small, for lines (B, T), in nats a token."""
    rows, tokens = len(inputs), (targets >= 0).sum()
    mean, log_variance = model.encode(inputs, (targets >= 0).sum(dim=1))
    z = reparameterize(mean, log_variance)
    untold = torch.rand(inputs.shape, device=inputs.device) < config.word_dropout
    untold[:, 0] = False  # the start
    logits, _ = model(inputs.masked_fill(untold, model.config.vocab_size), VAEState(z))
    reconstruction = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    each = kl_divergence(mean, log_variance).mean(dim=0)  # (Z,)
    weight = min(1.0, progress / config.warmup)
    return (reconstruction + rows * weight * each.clamp(min=config.free_bits).sum()) / tokens


def reparameterize(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A point (..., Z) of each distribution."""
    noise = torch.randn(mean.shape, generator=generator) if generator else torch.randn_like(mean)  # a seed's are the CPU's
    return mean + (log_variance / 2).exp() * noise.to(mean.device)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || standard normal) of each number (..., Z), in nats."""
    return (mean**2 + log_variance.exp() - 1 - log_variance) / 2


def line_nll(model: VAE, inputs: Tensor, targets: Tensor, z: Tensor) -> Tensor:
    """-log p(line | z) of each line (B,), in nats."""
    logits, _ = model(inputs, VAEState(z))
    each = F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=-1, reduction="none")
    return each.sum(dim=1)


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Logarithm of the density at z (..., Z) of normal distributions, summed over Z."""
    return -((z - mean) ** 2 / log_variance.exp() + log_variance + math.log(2 * math.pi)).sum(dim=-1) / 2


def iwae_nll(model: VAE, inputs: Tensor, targets: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """The importance-weighted bound on each line's cost (B,), in nats: -log of the mean over `points` drawn of
    p(line | z) p(z) / q(z | line) (Burda et al. 2016). With one point, the usual bound; with more, closer to the truth."""
    mean, log_variance = model.encode(inputs, (targets >= 0).sum(dim=1))
    logs = []
    for _ in range(points):
        z = reparameterize(mean, log_variance, generator)
        prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        logs.append(prior - log_normal(z, mean, log_variance) - line_nll(model, inputs, targets, z))
    return math.log(points) - torch.stack(logs).logsumexp(dim=0)


@torch.inference_mode()
def iwae_bound(model: VAE, ids: Tensor, window: int, points: int = IWAE_SAMPLES, target_text: str | None = None) -> EvalResult:
    """Score the lines in ids (N,), by the bound with so many points. spelled: as `held_out` wants it."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    nats, tokens = 0.0, 0
    for inputs, targets in line_batches(ids.to(model.head.weight.device), model.config.eos_token_id):
        nats += iwae_nll(model, inputs, targets, points, generator).double().sum().item()
        tokens += int((targets >= 0).sum())
    model.train(was_training)
    return shared(nats, tokens, window, target_text)


def encode_and_score(model: VAE, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Each line in ids (N,) through a point drawn for it: mean and logarithm of the variance (L, Z), and what the line costs
    from that point (L,), in nats."""
    told = []
    for inputs, targets in line_batches(ids.to(model.head.weight.device), model.config.eos_token_id):
        mean, log_variance = model.encode(inputs, (targets >= 0).sum(dim=1))
        z = reparameterize(mean, log_variance, generator)
        told.append((mean, log_variance, line_nll(model, inputs, targets, z)))
    mean, log_variance, nats = (torch.cat(each) for each in zip(*told, strict=True))
    return mean, log_variance, nats


@torch.inference_mode()
def validation_loss(model: VAE, free_bits: float, ids: Tensor, window: int, target_text: str | None = None) -> EvalResult:
    """What a run makes small, on the lines in ids (N,), with every token told: the bound, but that each number of the space
    costs at least what is free. The least of the bound itself may come early, before the space is in use."""
    was_training = model.training
    mean, log_variance, nats = encode_and_score(model.eval(), ids, torch.Generator().manual_seed(0))
    model.train(was_training)
    each = kl_divergence(mean, log_variance).mean(dim=0).clamp(min=free_bits)
    return shared((nats.double().sum() + len(nats) * each.double().sum()).item(), len(ids) - 1, window, target_text)


@torch.inference_mode()
def measure_latent(lm: LatentModel, data: TextDataset, ids: Tensor) -> dict[str, Any]:
    """How the latent space is used, measured on the held-out lines in ids (N,), and what the prior gives.

    alike: how much of a line comes back from its mean, from 0 to 1, by the characters in common and in order (`difflib`).
    """
    model, generator = lm.model, torch.Generator().manual_seed(0)
    mean, log_variance, nats = encode_and_score(model, ids, generator)
    known, lines = (part[1:-1].split("\n") for part in data.parts)
    again = [text for some in mean.split(500) for text in lm.decode_all(list(some))]
    short = [line == text for line, text in zip(lines, again, strict=True) if len(line) <= SHORT]
    alike = [SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in zip(lines, again, strict=True)]
    space = torch.randn(1_000, model.config.latent_size, generator=generator)
    params = replace(GREEDY, temperature=1.0, seed=0)
    fresh = [text for some in space.split(250) for text in lm.decode_all(list(some), params)]
    longest, seen = max(map(len, known)), set(known)
    new = [text for text in fresh if 0 < len(text) <= longest and text not in seen]
    return {
        "lines": len(lines),
        "reconstruction": nats.mean().item(),
        "divergence": kl_divergence(mean, log_variance).sum(dim=1).mean().item(),
        "information": mutual_information(mean[:AMONG], log_variance[:AMONG], generator),
        "among": min(len(lines), AMONG),
        "active": int((mean.var(dim=0) > ACTIVE_UNIT_THRESHOLD).sum()),
        "alike": sum(alike) / len(alike),
        "short": {"characters": SHORT, "lines": len(short), "exact": sum(short)},
        "prior": {"characters": longest, "lines": len(fresh), "new": len(new), "different": len(set(fresh))},
    }


def mutual_information(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> float:
    """What the points tell of their lines, in nats: the mutual information of both, by which of these lines a point was
    drawn for. It cannot be more than the logarithm of their number."""
    z = reparameterize(mean, log_variance, generator)
    of_all = torch.stack([log_normal(point, mean, log_variance) for point in z])  # (B, B)
    return (of_all.diagonal() - of_all.logsumexp(dim=1) + math.log(len(mean))).mean().item()


def measured(folder: Path, data: TextDataset, ids: Tensor, target_text: str) -> dict[str, Any]:
    """What a finished run says of the model in its folder: the bound on what the held-out lines in ids (N,) cost, and how
    the latent space is used."""
    lm = cast("LatentModel", load(folder))
    result = iwae_bound(lm.model, ids, eval_context(lm.model), target_text=target_text)
    return {"held_out": asdict(result) | {"points": IWAE_SAMPLES}, "latent": measure_latent(lm, data, ids)}


def check_posterior_collapse(use: dict[str, Any]) -> None:
    """Raises ValueError if the latent space is not used: the decoder then writes whatever it likes from any point."""
    if use["information"] < COLLAPSE_THRESHOLD_NATS:
        raise ValueError(
            f"the latent space is not used: its points tell {use['mutual_information']:.2f} nats of their lines, less than {COLLAPSE_THRESHOLD_NATS}; "
            "train longer, or with more free bits"
        )

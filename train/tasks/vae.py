"""Training and measuring a text VAE.

The loss of a line is an upper bound on its -log p: the reconstruction (-log p of the line given its latent vector) plus the KL
divergence of its posterior from the prior (Kingma & Welling 2014). A decoder that does well without the latent vector
ignores it: the KL divergence falls to zero, the posterior collapses. Three measures prevent that: the weight of the KL
divergence rises slowly (Bowman et al. 2016), each latent dimension has a KL floor, the free bits (Kingma et al. 2016),
and the decoder does not see some of its input tokens (word dropout).

Shapes: L lines, B batch, T time, Z latent size.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gpt import VAE
from gpt.models.vae import IWAE_SAMPLES, iwae_nll, reparameterize
from gpt.text_model import TextModel
from train.configs import VAETrainConfig
from train.data import TokenizedDataset, target_text
from train.evaluate import EvalResult, document_batches, eval_context
from train.tasks.causal_lm import CausalLMTask
from train.trainer import Batch

ACTIVE_UNIT_THRESHOLD = 0.01  # variance of a dimension's posterior mean over the lines (Burda et al. 2016)
COLLAPSE_THRESHOLD_NATS = 0.5  # of mutual information
SHORT_LINE_CHARS = 8
MUTUAL_INFORMATION_LINES = 1_000
PRIOR_SAMPLES = 1_000
MIN_IWAE_SAMPLES = 8  # with less time than these need, fewer lines are scored
MIN_MEASURED_LINES = 100
CHUNK_LINES = 250  # decoded in one batch
IWAE_SHARE = 0.7  # of the time to measure a finished run


class VAETask(CausalLMTask):
    """Train a VAE on lines. The arguments are those of `CausalLMTask`."""

    config: VAETrainConfig
    model: VAE

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """See `vae_loss`."""
        inputs, targets = batch
        return vae_loss(self.model, self.config, inputs, targets, progress, generator)

    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """See `validation_loss`."""
        result = validation_loss(self.model, self.config.free_bits, *self.validation_data(quick))
        return {"loss": result.nats_per_token, **asdict(result)}

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """The importance-weighted bound on the held-out loss, and how the latent space is used."""
        model = cast(VAE, lm.model)
        held_out = yield from _scaled(_measure_bound(model, self.dataset, IWAE_SHARE * seconds), 0, IWAE_SHARE)
        latent = yield from _scaled(measure_latent(model, self.dataset, (1 - IWAE_SHARE) * seconds), IWAE_SHARE, 1)
        return {"held_out": held_out, "latent": latent}

    def check_final_metrics(self, metrics: dict[str, Any]) -> None:
        """See `check_posterior_collapse`."""
        check_posterior_collapse(metrics["latent"])


def vae_loss(
    model: VAE, config: VAETrainConfig, inputs: Tensor, targets: Tensor, progress: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """The training loss of lines, in nats a token, and their KL divergence, in nats a line.

    Args:
        model: The VAE.
        config: Sets free bits, KL warm-up and word dropout.
        inputs: (B, T) the start token and the line.
        targets: (B, T) the tokens that follow, -1 for padding.
        progress: Share of the budget that is used.
        generator: On the CPU.
    """
    tokens = (targets >= 0).sum()
    posterior = model.encode(inputs, (targets >= 0).sum(dim=1))
    z = reparameterize(posterior, generator)
    dropped = torch.rand(inputs.shape, generator=generator).to(inputs.device) < config.word_dropout
    dropped[:, 0] = False  # the start token
    reconstruction = model.token_nll(inputs.masked_fill(dropped, model.config.vocab_size), targets, z).sum()
    kl = kl_divergence(posterior, model.prior(len(inputs)))  # (B, Z)
    weight = min(1.0, progress / config.warmup)
    regularizer = len(inputs) * weight * kl.mean(dim=0).clamp(min=config.free_bits).sum()
    return {"loss": (reconstruction + regularizer) / tokens, "kl_divergence": kl.sum(dim=1).mean()}


@torch.no_grad()
def encode_lines(model: VAE, documents: Sequence[Tensor]) -> Normal:
    """The posterior (L, Z) of each line."""
    posteriors = [model.encode(inputs, (targets >= 0).sum(dim=1)) for inputs, targets in _batches(model, documents)]
    means, stddevs = (torch.cat([getattr(each, name) for each in posteriors]) for name in ("mean", "stddev"))
    return Normal(means, stddevs, validate_args=False)


@torch.inference_mode()
def encode_and_score(model: VAE, documents: Sequence[Tensor], generator: torch.Generator) -> tuple[Normal, Tensor]:
    """The posterior (L, Z) of each line, and -log p(line | z) (L,) in nats with one z sampled from it."""
    means, stddevs, nlls = [], [], []
    for inputs, targets in _batches(model, documents):
        posterior = model.encode(inputs, (targets >= 0).sum(dim=1))
        means.append(posterior.mean)
        stddevs.append(posterior.stddev)
        nlls.append(model.token_nll(inputs, targets, reparameterize(posterior, generator)).sum(dim=1))
    return Normal(torch.cat(means), torch.cat(stddevs), validate_args=False), torch.cat(nlls)


@torch.inference_mode()
def validation_loss(model: VAE, free_bits: float, documents: list[Tensor], text: str | None = None) -> EvalResult:
    """The training loss on held-out lines, with the full KL weight and no word dropout.

    The bound itself may have its minimum early, before the latent space is used.

    Args:
        model: The VAE; its mode is restored afterwards.
        free_bits: KL floor of each latent dimension, in nats.
        documents: The lines.
        text: The text of their targets (`target_text`).
    """
    was_training = model.training
    posterior, nll = encode_and_score(model.eval(), documents, torch.Generator().manual_seed(0))
    model.train(was_training)
    kl = kl_divergence(posterior, model.prior(len(documents))).mean(dim=0).clamp(min=free_bits)  # (Z,)
    nats = nll.double().sum() + len(documents) * kl.double().sum()
    return EvalResult.from_total(nats.item(), _num_targets(documents), eval_context(model), text)


def iwae_bound(model: VAE, documents: list[Tensor], text: str | None = None, samples: int = IWAE_SAMPLES) -> EvalResult:
    """The importance-weighted bound on the loss of lines (`gpt.models.vae.iwae_nll`).

    Args:
        model: The VAE; its mode is restored afterwards.
        documents: The lines.
        text: The text of their targets (`target_text`).
        samples: Number of z for each line.
    """
    return _result(_iwae_bound(model, documents, text, samples))


def _iwae_bound(model: VAE, documents: list[Tensor], text: str | None, samples: int) -> Generator[float, None, EvalResult]:
    was_training = model.training
    model.eval()
    generator, nats, done = torch.Generator().manual_seed(0), 0.0, 0
    for inputs, targets in _batches(model, documents):
        with torch.inference_mode():
            nats += iwae_nll(model, inputs, targets, samples, generator).double().sum().item()
        done += len(inputs)
        yield done / len(documents)
    model.train(was_training)
    return EvalResult.from_total(nats, _num_targets(documents), eval_context(model), text)


def _measure_bound(model: VAE, dataset: TokenizedDataset, seconds: float) -> Generator[float, None, dict[str, Any]]:
    """The bound on the held-out lines, with as many samples, and at worst on as many lines, as there is time for."""
    documents = dataset.held_out
    probe = documents[:MIN_MEASURED_LINES]
    cost = min(_seconds_for_one_sample(model, probe) for _ in range(2)) / _num_targets(probe) * _num_targets(documents)
    samples = min(IWAE_SAMPLES, max(MIN_IWAE_SAMPLES, int(seconds / cost)))
    if samples * cost > seconds:
        documents = documents[: max(len(probe), int(len(documents) * seconds / (samples * cost)))]
    result = yield from _iwae_bound(model, documents, target_text(dataset.tokenizer, documents), samples)
    return asdict(result) | {"iwae_samples": samples, "lines": len(documents)}


def _seconds_for_one_sample(model: VAE, documents: list[Tensor]) -> float:
    start = time.perf_counter()
    iwae_bound(model, documents, samples=1)
    return time.perf_counter() - start


def mutual_information(posterior: Normal, generator: torch.Generator) -> float:
    """Mutual information of lines and latent vectors, in nats, estimated with one z for each line.

    It is at most the logarithm of the number of lines.

    Args:
        posterior: (L, Z).
        generator: On the CPU.
    """
    log_q = torch.stack([posterior.log_prob(z).sum(dim=-1) for z in reparameterize(posterior, generator)])  # (L of z, L)
    return (log_q.diagonal() - log_q.logsumexp(dim=1) + torch.tensor(float(len(log_q))).log()).mean().item()


@torch.inference_mode()
def measure_latent(model: VAE, dataset: TokenizedDataset, seconds: float) -> Generator[float, None, dict[str, Any]]:
    """How the latent space is used, measured on held-out lines, and what samples from the prior decode to.

    Args:
        model: The VAE, in eval mode.
        dataset: Its data set.
        seconds: Time to decode; fewer lines and samples are decoded if it is too short.

    Yields:
        The share that is done.

    Returns:
        "latent" of training.json. mean_similarity: how much of a line its greedy reconstruction from the posterior mean
        has in common, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    deadline = time.perf_counter() + seconds
    generator = torch.Generator().manual_seed(0)
    posterior, nll = encode_and_score(model, dataset.held_out, generator)
    n = MUTUAL_INFORMATION_LINES
    first = Normal(posterior.mean[:n], posterior.stddev[:n], validate_args=False)
    information = mutual_information(first, generator)
    lines = _texts(dataset, [document.tolist()[1:-1] for document in dataset.held_out])
    reconstructions: list[str] = []
    for z in posterior.mean.split(CHUNK_LINES):
        reconstructions += _texts(dataset, model.decode_lines(z))
        yield len(reconstructions) / (len(lines) + PRIOR_SAMPLES)
        if time.perf_counter() > deadline:
            break
    known = set(_texts(dataset, [document.tolist()[1:-1] for document in dataset.train]))
    longest = max(map(len, known))
    samples: list[str] = []
    for z in torch.randn(PRIOR_SAMPLES, model.config.latent_size, generator=generator).split(CHUNK_LINES):
        samples += _texts(dataset, model.decode_lines(z.to(posterior.mean.device), generator))
        yield (len(lines) + len(samples)) / (len(lines) + PRIOR_SAMPLES)
        if time.perf_counter() > deadline:
            break
    pairs = list(zip(lines, reconstructions, strict=False))
    short = [line == reconstruction for line, reconstruction in pairs if len(line) <= SHORT_LINE_CHARS]
    new = [text for text in samples if 0 < len(text) <= longest and text not in known]
    return {
        "lines": len(pairs),
        "reconstruction": nll.mean().item(),
        "kl_divergence": kl_divergence(posterior, model.prior(len(lines))).sum(dim=1).mean().item(),
        "mutual_information": information,
        "mutual_information_lines": len(first.mean),
        "active_units": int((posterior.mean.var(dim=0) > ACTIVE_UNIT_THRESHOLD).sum()),
        "mean_similarity": sum(SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in pairs) / len(pairs),
        "short_lines": {"characters": SHORT_LINE_CHARS, "lines": len(short), "exact": sum(short)},
        "prior_samples": {"characters": longest, "lines": len(samples), "new": len(new), "unique": len(set(samples))},
    }


def check_posterior_collapse(latent: dict[str, Any]) -> None:
    """Raises ValueError if latent vectors have less than `COLLAPSE_THRESHOLD_NATS` of mutual information with their lines."""
    if latent["mutual_information"] < COLLAPSE_THRESHOLD_NATS:
        raise ValueError(
            f"the posterior has collapsed: the mutual information of lines and latent vectors is "
            f"{latent['mutual_information']:.2f} nats, below {COLLAPSE_THRESHOLD_NATS}; train longer, or with more --free-bits"
        )


def _batches(model: VAE, documents: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of lines, in their order, on the device of the model."""
    device = model.lm_head.weight.device
    for inputs, targets in document_batches(documents):
        yield inputs.to(device), targets.to(device)


def _num_targets(documents: Sequence[Tensor]) -> int:
    return sum(len(document) - 1 for document in documents)


def _texts(dataset: TokenizedDataset, lines: list[list[int]]) -> list[str]:
    return dataset.tokenizer.backend.decode_batch(lines, skip_special_tokens=False)


T = TypeVar("T")


def _scaled(work: Generator[float, None, T], start: float, end: float) -> Generator[float, None, T]:
    """Map the progress of `work` to the part of a bar from `start` to `end`."""
    try:
        while True:
            yield start + (end - start) * next(work)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _result(work: Generator[float, None, T]) -> T:
    """Run `work` without its progress."""
    try:
        while True:
            next(work)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]

"""Training and measuring a text GAN: a discriminator and a generator learn in turn (`gpt.models.gan`).

The loss is that of R3GAN (Huang et al. 2024): relativistic, so a real line is compared with a generated one, with zero-centered
gradient penalties on both. What is evaluated and stored is an exponential average of the weights: the networks themselves
move with each step of the other one.
"""

import copy
from collections.abc import Generator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt import GAN, TextGAN
from gpt.models.gan import EXAMPLE_LINES, REFERENCE_SCORES
from gpt.text_model import TextModel
from train.configs import GANTrainConfig
from train.data import TokenizedDataset
from train.sample_metrics import (
    ORDERS,
    SAMPLE_LINES,
    LineMetrics,
    check_variety,
    js_divergence,
    measure_samples,
    texts_of,
)
from train.trainer import Batch, TextSample, TrainingTask

DISCRIMINATOR, GENERATOR = 0, 1  # the phases of a step
PENALTY_INTERVAL = 4  # steps; the penalties, which cost a second derivative, weigh as much more
HISTORY_SHARE = 4  # one generated line in this many is an earlier one, so that the generator does not run in circles
HISTORY_LINES = 2048
MAX_AVERAGE_DECAY = 0.999
LOSS_DECAY = 0.99  # of the averages of both losses that are shown
SELECTION_SEED = 2**30  # of the samples that choose the checkpoint, which is then measured with others


class GANModule(nn.Module):
    """Everything that a resumed run needs: both networks, their averages, earlier lines, and where the run is."""

    history: Tensor
    losses: Tensor
    step: Tensor

    def __init__(self, gan: GAN, generator: torch.Generator) -> None:
        super().__init__()
        self.gan = gan
        self.average = copy.deepcopy(gan).requires_grad_(False)
        z = torch.randn(HISTORY_LINES, gan.config.latent_size, generator=generator)
        with torch.no_grad():
            self.register_buffer("history", gan.generate_ids(z.to(gan.reference_scores.device)))
        self.register_buffer("losses", torch.zeros(2))  # running averages of the two losses without the penalties
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


class GANTask(TrainingTask):
    """Train a GAN on lines.

    Args:
        config: The hyperparameters.
        dataset: The tokens of the lines.
        prompt: Unused: a GAN starts from noise.
        seed: The seed of samples.
        device: Where to train.
    """

    module: GANModule
    model: GAN
    pairs: tuple[Tensor, Tensor]  # scores of the real lines of a step, and its generated lines

    def __init__(
        self, config: GANTrainConfig, dataset: TokenizedDataset, prompt: str = "", seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.dataset, self.seed = config, dataset, seed
        gan = config.build_model(len(dataset.tokenizer), dataset.eos_token_id).to(device)
        self.module = GANModule(gan, torch.Generator().manual_seed(seed))
        self.gan, self.model = gan, self.module.average
        self.lines = pad_lines(dataset.train, gan)
        self.held_out = texts_of(dataset, dataset.held_out)

    def configure_optimizers(self) -> list[list[torch.optim.Optimizer]]:
        """Two phases: the discriminator, then the generator."""
        return [[self.config.configure_optimizer(network)] for network in (self.gan.discriminator, self.gan.generator)]

    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Real lines (B, T)."""
        return [self.lines[torch.randint(len(self.lines), (self.config.batch_lines,), generator=generator)]]

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of one network: of the discriminator first, with gradient penalties in some steps.

        The generator's lines and the scores of real lines are computed once, for both phases.
        """
        (ids,) = batch
        if phase == GENERATOR:
            real_scores, generated = self.pairs
            self.gan.discriminator.requires_grad_(False)  # the gradient of its input is enough
            loss = relativistic_loss(self.gan.discriminator(generated), real_scores)
            self.gan.discriminator.requires_grad_(True)
            self._record_loss(phase, loss)
            return {"loss": loss, "generator": loss}
        z = torch.randn(len(ids), self.gan.config.latent_size, generator=generator).to(ids.device)
        generated = self.gan.generate_one_hot(z)
        shown = self._with_history(generated.detach().argmax(dim=-1), generator)
        lines = self.gan.one_hot(torch.cat((ids, shown)))
        has_penalty = self.module.step % PENALTY_INTERVAL == 0
        scores = self.gan.discriminator(lines.requires_grad_() if has_penalty else lines)
        real_scores, generated_scores = scores.chunk(2)
        self.pairs = (real_scores.detach(), generated)
        loss = relativistic_loss(real_scores, generated_scores)
        self._record_loss(phase, loss)
        if not has_penalty:
            return {"loss": loss, "discriminator": loss}
        # The mean over both halves is that of R1, of real lines, and R2, of generated ones: half their sum, as in R3GAN.
        penalty = PENALTY_INTERVAL * self.config.penalty * gradient_penalty(lines, scores)
        return {"loss": loss + penalty, "discriminator": loss}

    def _with_history(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Replace a share of generated lines (B, T) by earlier ones, and remember as many of them in their place."""
        n = len(ids) // HISTORY_SHARE
        places = torch.randperm(len(self.module.history), generator=generator)[:n].to(ids.device)
        earlier = self.module.history[places]
        self.module.history[places] = ids[:n]
        return torch.cat((earlier, ids[n:]))

    def _record_loss(self, phase: int, loss: Tensor) -> None:
        self.module.losses[phase].lerp_(loss.detach(), 1 - min(LOSS_DECAY, int(self.module.step) / (1 + int(self.module.step))))

    def on_step_end(self, step: int) -> None:
        """Average the weights; early in the run over fewer steps."""
        self.module.step.fill_(step)
        weight = 1 - min(MAX_AVERAGE_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.model.parameters()), list(self.gan.parameters()), weight)

    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """The divergence of trigrams from those of held-out lines; a GAN has no likelihood.

        It also measures how the discriminator scores real lines.
        """
        lm = self._lm()
        scores = torch.tensor(lm.scores(self.held_out))
        self.model.reference_scores.copy_(scores.quantile(torch.linspace(0, 1, REFERENCE_SCORES)))
        return {"loss": js_divergence(lm.sample(SAMPLE_LINES, SELECTION_SEED), self.held_out, 3)}

    def sample(self) -> TextSample:
        """Lines from the same latent vectors each time, and both losses."""
        lm = self._lm()
        lines = lm.sample(EXAMPLE_LINES, self.seed)
        samples = lm.sample(SAMPLE_LINES, SELECTION_SEED)
        discriminator, generator = self.module.losses.tolist() if self.module.step else (None, None)
        divergence = [js_divergence(samples, self.held_out, n) for n in ORDERS]
        entries = {"discriminator": discriminator, "generator": generator, "js_divergence": divergence}
        return TextSample("\n".join(lines), {"lines": lines, **entries})

    def _lm(self) -> TextGAN:
        return TextGAN(self.model, self.dataset.tokenizer)

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """What samples of the stored weights are like."""
        yield 0.0
        return {"samples": measure_samples(lm, self.dataset)}

    def check_final_metrics(self, metrics: dict[str, Any]) -> None:
        """Raises ValueError if the generator has collapsed: it writes the same lines again and again."""
        check_variety(LineMetrics(**metrics["samples"]))


def relativistic_loss(higher: Tensor, lower: Tensor) -> Tensor:
    """How far scores (B,) are from being higher than others (B,), in pairs: the mean of log(1 + exp(lower - higher))."""
    return F.softplus(lower - higher).mean()


def gradient_penalty(lines: Tensor, scores: Tensor) -> Tensor:
    """The mean squared norm of the gradient of scores (B,) at lines (B, T, V)."""
    (gradient,) = torch.autograd.grad(scores.sum(), lines, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def pad_lines(documents: Sequence[Tensor], gan: GAN) -> Tensor:
    """Lines (L, T) without their start tokens, padded with end tokens."""
    lines = torch.full((len(documents), gan.context_length), gan.config.eos_token_id)
    for line, document in zip(lines, documents, strict=True):
        line[: len(document) - 1] = document[1:]
    return lines

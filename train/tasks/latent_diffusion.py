"""Training and measuring latent diffusion: remove noise from the latent vectors of a VAE (`gpt.models.latent_diffusion`).

Shapes: L lines, B batch, Z latent size, K conditions.
"""

import copy
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from gpt import LatentModel, TextLatentDiffusion
from gpt.models.base import BaseModel
from gpt.models.latent_diffusion import EXAMPLE_LINES, GUIDANCE, MAX_VALUES, LatentDiffusion, condition_ids, line_traits
from gpt.models.vae import reparameterize
from gpt.text_model import TextModel
from train.configs import LatentDiffusionTrainConfig
from train.data import TokenizedDataset
from train.sample_metrics import SAMPLE_LINES, LineMetrics, check_variety, find_judge, js_divergence, measure_lines, texts_of
from train.tasks.vae import encode_lines
from train.trainer import Batch, TextSample, TrainingTask

NOISE_MEAN, NOISE_SPREAD = -0.6, 1.2  # of the logarithm of the noise level, which is normal
AVERAGE_DECAY = 0.999
MIN_SHARE = 0.001  # of the lines that have a value of a condition, for it to be one
MAX_LENGTHS = 20  # more lengths are grouped in tens
CONDITION_LINES = 50  # for each value of a condition, to measure how many obey it
SELECTION_SEED, SAMPLE_SEED, PRIOR_SEED = 2**30, 2**31, 3 * 2**30  # far enough apart, as line i uses the seed plus i


class LatentDiffusionTask(TrainingTask):
    """Train a denoiser on vectors sampled from the posteriors of lines.

    Args:
        config: The hyperparameters.
        dataset: The lines.
        prompt: Not used: lines are drawn.
        seed: The seed of samples.
        device: Where to train.
        vae: The VAE, which is not trained.
        base_model: What the config calls the VAE.
    """

    model: LatentDiffusion

    def __init__(
        self,
        config: LatentDiffusionTrainConfig,
        dataset: TokenizedDataset,
        prompt: str,
        seed: int,
        device: str,
        vae: LatentModel,
        base_model: BaseModel,
    ) -> None:
        self.config, self.dataset, self.seed, self.vae = config, dataset, seed, vae
        self.train_lines, self.held_out_lines = (texts_of(dataset, side) for side in (dataset.train, dataset.held_out))
        self.posterior = encode_lines(vae.model, dataset.train)  # (L, Z)
        means, variances = self.posterior.mean, self.posterior.variance
        conditions = find_conditions(self.train_lines)
        self.network = config.build_model(vae.model.config, base_model, conditions).to(device)
        self.network.latent_mean.copy_(means.mean(dim=0))
        self.network.latent_stddev.copy_((means.var(dim=0) + variances.mean(dim=0)).sqrt())
        self.model = copy.deepcopy(self.network)  # an exponential average of the weights
        self.module = nn.ModuleList((self.network, self.model))
        ids = [condition_ids(line_traits(line), conditions) for line in self.train_lines]
        self.ids = torch.tensor(ids, dtype=torch.long, device=device)  # (L, K)

    def configure_optimizers(self) -> list[list[torch.optim.Optimizer]]:
        """One phase."""
        return [self.config.configure_optimizers(self.network)]

    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Indices (B,) of lines."""
        return [torch.randint(len(self.train_lines), (self.config.batch_lines,), generator=generator)]

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """See `denoising_loss`. Each condition of a line is left out with the probability `condition_dropout`."""
        chosen, network = batch[0], self.network
        z = reparameterize(Normal(self.posterior.mean[chosen], self.posterior.stddev[chosen]), generator)
        x, ids = (z - network.latent_mean) / network.latent_stddev, self.ids[chosen]
        is_left_out = torch.rand(ids.shape, generator=generator) < self.config.condition_dropout
        return {"loss": denoising_loss(network, x, ids.masked_fill(is_left_out.to(ids.device), 0), generator)}

    @torch.no_grad()
    def on_step_end(self, step: int) -> None:
        """Update the average; early weights are forgotten sooner."""
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        for average, own in zip(self.model.parameters(), self.network.parameters(), strict=True):
            average.lerp_(own, 1 - decay)

    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """The Jensen-Shannon divergence of 3-grams of drawn lines from those of held-out lines."""
        lines = self._text_model().sample(SAMPLE_LINES, SELECTION_SEED)  # also if quick: it depends on their number
        return {"loss": js_divergence(lines, self.held_out_lines, 3)}

    def sample(self) -> TextSample:
        """Draw lines from the same noise each time."""
        lines = self._text_model().sample(EXAMPLE_LINES, self.seed)
        return TextSample("\n".join(lines), {"lines": lines})

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """Measure drawn lines, lines from the VAE's prior, and how many lines obey a condition."""
        lm = cast(TextLatentDiffusion, lm)
        judge = find_judge(self.dataset)
        drawn = lm.sample(SAMPLE_LINES, SAMPLE_SEED)
        yield 0.2
        samples = asdict(measure_lines(drawn, self.held_out_lines, self.train_lines, judge))
        yield 0.4
        z = torch.randn(SAMPLE_LINES, lm.model.config.latent_size, generator=torch.Generator().manual_seed(PRIOR_SEED))
        samples["prior"] = asdict(measure_lines(lm.decode(z), self.held_out_lines, self.train_lines, judge))
        yield 0.7
        shares = {name: measure_condition(lm, name) for name in lm.conditions}
        return {"samples": samples, "conditions": {"guidance": GUIDANCE, "lines": CONDITION_LINES, "shares": shares}}

    def check_final_metrics(self, metrics: dict[str, Any]) -> None:
        """See `check_variety`."""
        check_variety(LineMetrics(**{name: value for name, value in metrics["samples"].items() if name != "prior"}))

    def _text_model(self) -> TextLatentDiffusion:
        return TextLatentDiffusion(self.model, self.dataset.tokenizer, base=self.vae)


def denoising_loss(model: LatentDiffusion, x: Tensor, conditions: Tensor, generator: torch.Generator) -> Tensor:
    """The mean squared error of estimates from vectors plus noise, weighted by noise level so that each level counts alike (EDM).

    Args:
        model: The denoiser.
        x: (B, Z) standardized vectors.
        conditions: (B, K).
        generator: On the CPU.
    """
    level = (NOISE_MEAN + NOISE_SPREAD * torch.randn(len(x), 1, generator=generator)).exp().to(x.device)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    error = model(x + level * noise, level, conditions) - x
    loss: Tensor = ((level.square() + 1) / level.square() * error.square()).mean()
    return loss


def find_conditions(lines: Sequence[str]) -> dict[str, list[str]]:
    """The conditions that tell these lines apart, and the values that at least `MIN_SHARE` of the lines have."""
    values: dict[str, list[str]] = {}
    traits = [line_traits(line) for line in lines]
    for name in line_traits(""):
        counts = Counter(each[name] for each in traits)
        frequent = [value for value, count in counts.most_common(MAX_VALUES) if count >= MIN_SHARE * len(lines)]
        if name == "first letter":
            frequent = [value for value in frequent if value.isalpha()]
        values[name] = sorted(frequent, key=lambda value: (int(value.partition("-")[0]) if value[:1].isdigit() else 0, value))
    del values["length range" if len(values["length"]) <= MAX_LENGTHS else "length"]
    return {name: options for name, options in values.items() if len(options) > 1}


def measure_condition(lm: TextLatentDiffusion, name: str) -> float:
    """The share of lines that obey a condition: the mean over its values."""
    values = lm.conditions[name]
    obeyed = 0
    for i, value in enumerate(values):
        lines = lm.sample(CONDITION_LINES, SAMPLE_SEED + i * CONDITION_LINES, {name: value})
        obeyed += sum(line_traits(line)[name] == value for line in lines)
    return obeyed / (CONDITION_LINES * len(values))

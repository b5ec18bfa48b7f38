"""Next-token prediction by cross-entropy."""

import base64
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt import LanguageModel, SamplingParams
from gpt.distribution import encode_distribution
from gpt.models.base import UNBOUNDED_CONTEXT, CausalLM
from gpt.text_model import TextModel
from train.configs import CausalTrainConfig
from train.data import LineSampler, TokenizedDataset, first_documents, random_windows, target_text
from train.evaluate import evaluate
from train.trainer import Batch, TextSample, TrainingTask

SAMPLE_TOKENS = 150
QUICK_TOKENS = 8192  # of the first evaluation


class CausalLMTask(TrainingTask):
    """Train a model on random windows of a running text, or on lines.

    Args:
        config: The hyperparameters.
        dataset: The tokens.
        prompt: The prompt of samples.
        seed: The seed of samples.
        device: Where to train.
    """

    model: CausalLM

    def __init__(
        self, config: CausalTrainConfig, dataset: TokenizedDataset, prompt: str = "", seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.dataset, self.prompt = config, dataset, prompt
        self.params = SamplingParams(max_new_tokens=SAMPLE_TOKENS, seed=seed)
        model = config.build_model(len(dataset.tokenizer), dataset.eos_token_id).to(device)
        self.module = self.model = cast(CausalLM, model)
        is_lines = dataset.eos_token_id is not None
        self.line_sampler = LineSampler(dataset.train, config.batch_tokens) if is_lines else None

    def configure_optimizers(self) -> list[list[torch.optim.Optimizer]]:
        """One phase."""
        return [self.config.configure_optimizers(self.model)]

    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Inputs and targets (B, T); targets are -1 where they do not count."""
        if self.line_sampler:
            return self.line_sampler.sample(generator)
        return random_windows(self.dataset.train[0], *self.config.batch_shape(progress), generator)

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean -log p of the targets, in nats a token."""
        inputs, targets = batch
        logits, _ = self.model(inputs)
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)}

    def validation_data(self, quick: bool) -> tuple[list[Tensor], str]:
        """The held-out documents, or the first of them, and the text of their targets."""
        documents = first_documents(self.dataset.held_out, QUICK_TOKENS) if quick else self.dataset.held_out
        return documents, target_text(self.dataset.tokenizer, documents)

    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """The loss in nats a token, and all of an `EvalResult`.

        A GPT reads a running text in windows of the length that it is trained on at this time.
        """
        _, length = self.config.batch_shape(progress)
        has_short_windows = self.line_sampler is None and length < self.model.context_length < UNBOUNDED_CONTEXT
        result = evaluate(self.model, *self.validation_data(quick), window=length if has_short_windows else None)
        return {"loss": result.nats_per_token, **asdict(result)}

    def sample(self) -> TextSample:
        """Continue the prompt."""
        steps = list(LanguageModel(self.model, self.dataset.tokenizer).stream(self.prompt, self.params))
        text, ids = "".join(step.text for step in steps), [step.token_id for step in steps]
        return TextSample(text, replay_entries(text, ids, torch.stack([step.logits for step in steps]), self.params))

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """The held-out loss of the weights as they are stored."""
        yield 0.0
        return {"held_out": asdict(evaluate(cast(CausalLM, lm.model), *self.validation_data(quick=False)))}


def replay_entries(text: str, token_ids: list[int], logits: Tensor, params: SamplingParams) -> dict[str, Any]:
    """What a generated text adds to a point of replay.json.

    Args:
        text: The text.
        token_ids: Its T tokens.
        logits: (T, V) of the model, one row for each token.
        params: How it was generated.

    Returns:
        "distributions" is what `encode_distribution` returns for the model's own distribution of each token, in base64.
    """
    return {
        "temperature": params.temperature,
        "seed": params.seed,
        "text": text,
        "token_ids": token_ids,
        "distributions": base64.b64encode(encode_distribution(logits)).decode(),
    }

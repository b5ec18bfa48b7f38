"""Training and measuring a masked diffusion model: predict hidden tokens from those that are left (`gpt.models.diffusion`)."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor

from gpt import MaskedDiffusion, TextDiffusion
from gpt.models.diffusion import PROOFREADING_PASSES, hide_tokens, nelbo
from gpt.text_model import TextModel
from train.configs import DiffusionTrainConfig
from train.data import TokenizedDataset, first_documents, target_text
from train.evaluate import MAX_BATCH_TOKENS, EvalResult, evaluate
from train.sample_metrics import SAMPLE_LINES, find_judge, measure_lines, texts_of
from train.tasks.causal_lm import QUICK_TOKENS, SAMPLE_TOKENS
from train.text_metrics import TYPING_ERRORS, measure_texts, typing_error_auc
from train.trainer import Batch, TextSample, TrainingTask

BOUND_SAMPLES = 4  # of the hidden tokens of each text, where a finished run is measured
REPLAY_LINES = 15
BATCH_LINES = 500  # drawn at once where samples are measured
SAMPLE_TEXTS, BATCH_TEXTS = 32, 4
TYPING_ERROR_CHARS = 20_000


class DiffusionTask(TrainingTask):
    """Train a masked diffusion model on random windows of a running text, or on lines padded with end tokens.

    Args:
        config: The hyperparameters.
        dataset: The tokens.
        prompt: The prompt of samples.
        seed: The seed of samples.
        device: Where to train.
    """

    model: MaskedDiffusion

    def __init__(
        self, config: DiffusionTrainConfig, dataset: TokenizedDataset, prompt: str = "", seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.dataset, self.prompt, self.seed = config, dataset, prompt, seed
        self.model = config.build_model(len(dataset.tokenizer), dataset.eos_token_id).to(device)
        self.module = self.model
        self.lines = None if dataset.eos_token_id is None else pad_lines(dataset.train, self.model)

    def configure_optimizers(self) -> list[list[torch.optim.Optimizer]]:
        """One phase."""
        return [self.config.configure_optimizers(self.model)]

    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Inputs and targets (B, T) of `hide_tokens`."""
        if self.lines is not None:
            rows = max(1, self.config.batch_tokens // self.config.context)
            ids = self.lines[torch.randint(len(self.lines), (rows,), generator=generator)]
        else:
            rows, length = self.config.batch_shape(progress)
            text = self.dataset.train[0]
            starts = torch.randint(len(text) - length + 1, (rows, 1), generator=generator)
            ids = text[starts + torch.arange(length)]
        return hide_tokens(ids, self.model.mask_id, fixed_places(ids, self.model), generator)

    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound on -log p, in nats a token."""
        inputs, targets = batch
        return {"loss": nelbo(self.model, inputs, targets).mean()}

    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """The bound on held-out text in nats a token, and all of an `EvalResult`; a running text in windows as in training."""
        documents = first_documents(self.dataset.held_out, QUICK_TOKENS) if quick else self.dataset.held_out
        length = self.config.context if self.lines is not None else self.config.batch_shape(progress)[1]
        text = target_text(self.dataset.tokenizer, documents)
        result = evaluate_bound(self.model, documents, text, samples=1, window=length)
        return {"loss": result.nats_per_token, **asdict(result)}

    def sample(self) -> TextSample:
        """Continue the prompt, or write some lines."""
        lm = TextDiffusion(self.model, self.dataset.tokenizer)
        params = replace(lm.default_params, seed=self.seed)
        if self.lines is not None:
            lines = lm.sample(REPLAY_LINES, self.seed, params)
            return TextSample("\n".join(lines), {"lines": lines})
        text = lm.generate(self.prompt, params, min(SAMPLE_TOKENS, lm.context_length))
        return TextSample(text, {"text": text, "seed": self.seed})

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """The bound of the weights as they are stored, the exact loss of the GPT of the same text, and measures of samples."""
        yield 0.0
        documents, text = self.dataset.held_out, self.dataset.held_out_text
        result = evaluate_bound(cast(MaskedDiffusion, lm.model), documents, text)
        yield 0.2
        measure = measure_line_samples if self.lines is not None else measure_text_samples
        samples = yield from measure(cast(TextDiffusion, lm), self.dataset, seconds)
        metrics = {"held_out": asdict(result) | {"bound_samples": BOUND_SAMPLES}, "samples": samples}
        if judge := find_judge(self.dataset):  # to compare the bound with
            metrics["autoregressive"] = {"name": judge.name, "held_out": asdict(evaluate(judge.model, documents, text))}
        return metrics


def measure_line_samples(lm: TextDiffusion, dataset: TokenizedDataset, seconds: float) -> Generator[float, None, dict[str, Any]]:
    """`LineMetrics` of drawn lines, as many as there is time for."""
    deadline, lines = time.perf_counter() + seconds, list[str]()
    while len(lines) < SAMPLE_LINES and (not lines or time.perf_counter() < deadline):
        lines += lm.sample(min(BATCH_LINES, SAMPLE_LINES - len(lines)), len(lines))
        yield 0.2 + 0.8 * len(lines) / SAMPLE_LINES
    held_out, train = texts_of(dataset, dataset.held_out), texts_of(dataset, dataset.train)
    return asdict(measure_lines(lines, held_out, train, find_judge(dataset)))


def measure_text_samples(lm: TextDiffusion, dataset: TokenizedDataset, seconds: float) -> Generator[float, None, dict[str, Any]]:
    """`TextMetrics` of texts without a prompt, as many as there is time for, and how well typing errors are found.

    "held_out" has the same measures for passages of held-out text.
    """
    deadline, texts = time.perf_counter() + seconds, list[str]()
    while len(texts) < SAMPLE_TEXTS and (not texts or time.perf_counter() < deadline):
        texts += lm.sample(BATCH_TEXTS, len(texts))
        yield 0.2 + 0.7 * len(texts) / SAMPLE_TEXTS
    train, held_out = (dataset.tokenizer.decode(part[0].tolist()) for part in (dataset.train, dataset.held_out))
    judge, length = find_judge(dataset), lm.context_length
    stride = max(1, (len(held_out) - length) // len(texts))
    passages = [held_out[start : start + length] for start in range(0, stride * len(texts), stride)]
    typing_errors = {"characters": min(TYPING_ERROR_CHARS, len(held_out)), "passes": PROOFREADING_PASSES}
    passage = held_out[: typing_errors["characters"]]
    return {
        **asdict(measure_texts(texts, train, judge)),
        "steps": lm.default_params.steps,
        "held_out": asdict(measure_texts(passages, train, judge)),
        "typing_errors": typing_errors | {"one_in": TYPING_ERRORS, "auc": typing_error_auc(lm, passage, PROOFREADING_PASSES)},
    }


def pad_lines(documents: Sequence[Tensor], model: MaskedDiffusion) -> Tensor:
    """Lines (L, context_length), padded with end tokens."""
    eos_token_id = model.config.eos_token_id
    lines = torch.full((len(documents), model.context_length), -1 if eos_token_id is None else eos_token_id)
    for line, document in zip(lines, documents, strict=True):
        line[: len(document)] = document
    return lines


def fixed_places(ids: Tensor, model: MaskedDiffusion) -> Tensor:
    """Which of T places of ids (B, T) are never hidden: the start token of lines."""
    is_fixed = torch.zeros(ids.shape[1], dtype=torch.bool)
    is_fixed[0] = model.config.eos_token_id is not None
    return is_fixed


def evaluate_bound(
    model: MaskedDiffusion,
    documents: list[Tensor],
    text: str | None = None,
    samples: int = BOUND_SAMPLES,
    window: int | None = None,
) -> EvalResult:
    """An upper bound on the loss of documents: the negative evidence lower bound, estimated with hidden tokens at random.

    Args:
        model: The model; its mode is restored afterwards.
        documents: (T,) each. A running text is read in consecutive windows, whose tokens all count.
        text: The text of their targets (`train.data.target_text`).
        samples: Numbers of hidden tokens for each window or line, stratified. More make the estimate more precise.
        window: Tokens of a window of a running text; by default, as many as the model sees.
    """
    was_training = model.training
    model.eval()
    window = min(window or model.context_length, model.context_length)
    generator = torch.Generator().manual_seed(0)
    nats = 0.0
    for ids in _rows(model, documents, window):
        is_fixed = fixed_places(ids, model)
        places = ids.shape[1] - int(is_fixed.sum())
        for _ in range(samples):
            inputs, targets = hide_tokens(ids, model.mask_id, is_fixed, generator)
            nats += places * _sum_of_bounds(model, inputs, targets) / samples
    model.train(was_training)
    tokens = sum(len(document) for document in documents) - len(documents)
    counted = tokens if model.config.eos_token_id is not None else tokens + len(documents)  # the first one is hidden, too
    return EvalResult.from_total(nats / counted * tokens, tokens, window, text)


@torch.inference_mode()
def _sum_of_bounds(model: MaskedDiffusion, inputs: Tensor, targets: Tensor) -> float:
    device, rows = model.lm_head.weight.device, max(1, MAX_BATCH_TOKENS // inputs.shape[1])
    batches = zip(inputs.split(rows), targets.split(rows), strict=True)
    return sum(nelbo(model, x.to(device), y.to(device)).double().sum().item() for x, y in batches)


def _rows(model: MaskedDiffusion, documents: list[Tensor], window: int) -> Iterator[Tensor]:
    """Texts (B, T) of the same length: lines, or consecutive windows and what is left after them."""
    if model.config.eos_token_id is not None:
        yield pad_lines([document[: model.context_length] for document in documents], model)
        return
    ids = documents[0]
    whole = len(ids) - len(ids) % window
    if whole:
        yield ids[:whole].view(-1, window)
    if whole < len(ids):
        yield ids[whole:][None]

"""Fit the weight of a mixture of two models.

The models know their training text in part by heart, so the weight is fitted on the held-out text: one number, on thousands
of tokens. So that the mixture's loss has no advantage from it, the loss is cross-fitted: each half of the text is scored with
the weight that was fitted on the other half.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt import LanguageModel, Mixture, SamplingParams
from gpt.models.registry import MODEL_REGISTRY
from train.configs import TRAIN_CONFIGS
from train.counting import FIT_FUNCTIONS
from train.data import TextDataset, last_documents
from train.evaluate import EvalResult, eval_context, evaluate, token_nll
from train.runs import FolderWriter, load_trained, now, refuse_if_used, write_fitted
from train.tokenizers import tokenize
from train.trainer import Event

WEIGHT_ITERATIONS = 30  # bisection down to 1e-9


def fit_mixture(dataset: TextDataset, out: Path, names_of_parts: Sequence[str], *, seed: int, command: str) -> Generator[Event]:
    """Mix two models that were made from `dataset`, and write the weights folder `out`.

    Args:
        dataset: The text of both models.
        out: The folder to write.
        names_of_parts: The two models: names under weights/, or folders.
        seed: Of the sample.
        command: The command to record.

    Raises:
        ValueError: If the two cannot be mixed, or `out` is in use.
        CheckpointError: If one of them cannot be read.
    """
    SamplingParams(seed=seed)  # refuses a seed out of range before anything is written
    refuse_if_used(out)
    started, clock = now(), time.perf_counter()
    (first, first_facts), (second, second_facts) = (_load_part(name, dataset) for name in names_of_parts)
    if first.tokenizer.files() != second.tokenizer.files():
        raise ValueError(f"{names_of_parts[0]} and {names_of_parts[1]} do not share a tokenizer; mix two models that do")
    tokenized = tokenize(dataset, first_facts["tokenizer"])
    nll = [token_nll(lm.model, tokenized.held_out) for lm in (first, second)]
    weight, halves, mixed = cross_fit(*nll)
    model = Mixture.of(first.model, second.model, weight)
    results = [
        EvalResult.from_total(each.double().sum().item(), len(each), eval_context(model), tokenized.held_out_text)
        for each in (*nll, mixed)
    ]
    parts = [(first.name, first_facts["kind"], results[0]), (second.name, second_facts["kind"], results[1])]
    train_loss = evaluate(model, last_documents(tokenized.train, tokenized.held_out)).nats_per_token
    facts = {
        "command": command,
        "started": started,
        "seconds": time.perf_counter() - clock,
        **mixing_facts(weight, halves, parts),
        "train_loss": train_loss,
    }
    yield from write_fitted(FolderWriter(out, "mixture", dataset, tokenized, seed), model, results[-1], facts)


def mixing_facts(weight: float, halves: list[float], parts: Sequence[tuple[str, str, EvalResult]]) -> dict[str, Any]:
    """The facts of a mixture for training.json.

    Args:
        weight: The weight of the first model.
        halves: The weights that were fitted on each half of the held-out text.
        parts: Name, family and held-out loss of both models.
    """
    return {
        "method": "mixing",
        "weight": weight,
        "cross_fitted_weights": halves,
        "parts": [{"name": name, "kind": kind, "held_out": asdict(result)} for name, kind, result in parts],
    }


def cross_fit(first: Tensor, second: Tensor) -> tuple[float, list[float], Tensor]:
    """Fit the weight of a mixture, and score the mixture on the same tokens without an advantage.

    Args:
        first: (N,) -log p of each token by the first model, in nats.
        second: (N,) the same by the second model.

    Returns:
        The weight of the first model from all tokens; those from each half; -log p (N,) of each token by the mixture whose
        weight was fitted on the other half.
    """
    half = len(first) // 2
    halves = slice(None, half), slice(half, None)
    weights = [fit_weight(first[part], second[part]) for part in halves]
    nll = [mixture_nll(first[part], second[part], weight) for weight, part in zip(reversed(weights), halves, strict=True)]
    return fit_weight(first, second), weights, torch.cat(nll)


def mixture_nll(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """-log p (N,) of each token by a mixture, from those of its parts."""
    first_share, second_share = first.new_tensor([weight, 1 - weight]).log()
    return -torch.logaddexp(first_share - first, second_share - second)


def fit_weight(first: Tensor, second: Tensor) -> float:
    """The weight of the first model that minimizes the loss of the mixture.

    The loss is convex in the weight, so the zero of its slope is found by bisection.

    Args:
        first: (N,) -log p of each token by the first model, in nats.
        second: (N,) the same by the second model.
    """
    ratio = (second - first).double().clamp(-60, 60).exp()  # p of the first model over p of the second
    low, high = 0.0, 1.0
    for _ in range(WEIGHT_ITERATIONS):
        weight = (low + high) / 2
        if ((ratio - 1) / (weight * ratio + 1 - weight)).mean() > 0:  # the loss falls with the weight
            low = weight
        else:
            high = weight
    return round((low + high) / 2, 4)


def _load_part(name: str, dataset: TextDataset) -> tuple[LanguageModel, dict[str, Any]]:
    """A model to be mixed, and its training.json."""
    lm, facts = load_trained(name, dataset)
    kind = facts["kind"]
    family = MODEL_REGISTRY[kind]
    if kind not in FIT_FUNCTIONS and kind not in TRAIN_CONFIGS:
        raise ValueError(f"{name} is {family.title} itself; mix two other models")
    if family.likelihood != "exact":
        raise ValueError(f"{name} is {family.title}, which predicts no token without a latent vector; mix two other models")
    return lm, facts

"""Fit the weight of a mixture of two trained models.

The weight cannot be fitted on the training text, which the models know in part by heart, nor on the held-out part, which
measures the result. So two proxy models of the same families are made from less text: the training part is split again, in
81 % to train the proxies, 9 % on which their checkpoints and hyperparameters may be selected, and 10 % on which the weight
is fitted. The last part is new to both proxies in every way. The mixture itself takes the models that know all of the
training part. Proxies are weaker than these, by less text and mostly a smaller budget; near its optimum the loss is flat in
the weight.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt import LanguageModel, Mixture, load
from gpt.models.base import CausalLM
from gpt.models.registry import MODEL_REGISTRY
from train.configs import TRAIN_CONFIGS, TrainConfig
from train.counting import FIT_FUNCTIONS
from train.data import TextDataset, TokenizedDataset, encode_documents, target_text
from train.evaluate import evaluate, token_nll
from train.runs import RESUME, TRAINING, fit_counts, load_trained, refuse_if_used, train
from train.tokenizers import tokenize
from train.trainer import Budget, Event

PROXY_SPLIT = "the first 81 % of the training text to train them, the next 9 % to select, the last 10 % to fit the weight"
WEIGHT_ITERATIONS = 30  # bisection down to 1e-9


def fit_mixture(
    dataset: TextDataset,
    out: Path,
    names_of_parts: list[str],
    config_of: Callable[[str], TrainConfig],
    budget: Budget,
    *,
    seed: int,
    command: str,
    resume: bool = False,
    device: str = "cpu",
    compile: bool = False,
) -> Generator[Event]:
    """Mix two models that were made from `dataset`, and write the weights folder `out`.

    Args:
        dataset: The text of both models.
        out: The folder to write. The proxy of a model that was trained is kept in a folder beside it.
        names_of_parts: The two models: names under weights/, or folders.
        config_of: (family name) -> the configuration of a proxy run.
        budget: The budget of a proxy run.
        seed: Seed of the proxy runs and of the sample.
        command: The command to record.
        resume: Continue proxy runs that were stopped and take over finished ones.
        device: Device of the proxy runs.
        compile: Compile the models of the proxy runs, where the family allows it.

    Raises:
        ValueError: If the two cannot be mixed, or a folder is in use.
        CheckpointError: If one of them cannot be read.
    """
    refuse_if_used(out)
    parts = [_load_part(name, dataset) for name in names_of_parts]
    if parts[0][0].tokenizer.files() != parts[1][0].tokenizer.files():
        raise ValueError(f"{names_of_parts[0]} and {names_of_parts[1]} do not share a tokenizer; mix two models that do")
    tokenizer = parts[0][1]["tokenizer"]
    proxy_dataset, weight_dataset = dataset.split()[0].split()
    tokenized = tokenize(proxy_dataset, tokenizer)
    documents = encode_documents(tokenized.tokenizer, weight_dataset.documents, tokenized.eos_token_id)
    proxy_run: dict[str, Any] = {"split": PROXY_SPLIT, "characters": len(target_text(tokenized.tokenizer, documents))}
    proxies: list[CausalLM] = []
    for i, (_, facts) in enumerate(parts, start=1):
        kind = facts["kind"]
        if kind in FIT_FUNCTIONS:
            proxies.append(FIT_FUNCTIONS[kind](tokenized)[0])
            continue
        folder, config = out.with_name(f"{out.name}-proxy-{i}"), config_of(kind)
        settings = {"train_config": asdict(config), "budget": {n: v for n, v in asdict(budget).items() if v is not None}}
        if not (resume and _is_finished(folder, {"seed": seed, "tokenizer": tokenizer, **settings})):
            yield from train(
                kind,
                config,
                proxy_dataset,
                folder,
                budget,
                seed=seed,
                command=command,
                resume=resume and (folder / RESUME).exists(),
                device=device,
                compile=compile and config.compiles,
                tokenizer=tokenizer,
            )
        proxies.append(load(folder).model)
        configs = proxy_run.get("train_configs", {}) | {kind: settings["train_config"]}
        proxy_run |= {"budget": settings["budget"], "train_configs": configs}
    nll = [token_nll(proxy, documents) for proxy in proxies]
    weight = fit_weight(*nll)
    mixed = evaluate(Mixture.of(proxies[0], proxies[1], weight), documents).nats_per_token
    proxy_run |= {"nll_of_parts": [each.double().mean().item() for each in nll], "nll_of_mixture": mixed}

    def fit(tokenized: TokenizedDataset) -> tuple[CausalLM, dict[str, Any]]:
        held_out = [evaluate(lm.model, tokenized.held_out, tokenized.held_out_text) for lm, _ in parts]
        facts = {
            "method": "mixing",
            "weight": weight,
            "parts": [
                {"name": lm.name, "kind": facts["kind"], "held_out": asdict(result)}
                for (lm, facts), result in zip(parts, held_out, strict=True)
            ],
            "proxy_run": proxy_run,
        }
        return Mixture.of(parts[0][0].model, parts[1][0].model, weight), facts

    yield from fit_counts(dataset, out, seed=seed, command=command, kind="mixture", fit=fit, tokenizer=tokenizer)


def fit_weight(first: Tensor, second: Tensor) -> float:
    """The weight of the first model that minimises the loss of the mixture.

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


def _is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds a finished proxy run with these settings. Other runs there are refused when they are resumed."""
    if not (folder / TRAINING).is_file():
        return False
    facts = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    return bool(facts["finished"]) and all(facts.get(name) == value for name, value in settings.items())

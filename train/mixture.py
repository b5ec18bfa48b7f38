"""A mixture of two models, with a weight that is fitted honestly.

The weight cannot be fitted on the text that the parts learned from, where whichever knows more of it by heart looks
better than it is, nor on the held-out part, which is to measure the result. So both parts are made once more, in a
rehearsal: on the first 90 % of the training part alone. Its last tenth is new to both, and there the weight is fitted; the
parts that are mixed are those that know it all. A rehearsal of minutes gives a model that is weaker than one of hours,
and its part somewhat less weight than it deserves; near its best value the loss is flat.
"""

import hashlib
import json
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt import CheckpointError, LanguageModel, Mixture, NGram, load
from gpt.checkpoint import WEIGHTS, names
from gpt.models.base import CausalLM
from gpt.models.mixture import KIND
from gpt.models.ngram import fit_counts as count_sequences
from train.configs import TrainConfig
from train.data import TextDataset
from train.evaluate import WINDOW, evaluate, token_nll
from train.runs import RESUME, TRAINING, TokenizedDataset, fit_bigram, fit_counts, refuse_if_used, train
from train.trainer import Budget, Event


def fit_mixture(
    data: TextDataset,
    out: Path,
    of: list[str],
    recipe_of: Callable[[str], TrainConfig],
    budget: Budget,
    seed: int,
    command: str,
    resume: bool = False,
    device: str = "cpu",
    compile: bool = False,
) -> Generator[Event]:
    """Mix two models that learned from `data`: names under weights/, or folders. Writes the folder `out`.

    A part that was learned is rehearsed with the recipe of its kind and `budget`, in a folder beside `out`, which stays;
    what was counted is counted. Raises ValueError or CheckpointError if the two cannot be mixed.
    """
    refuse_if_used(out)
    parts = [_part(name, data) for name in of]
    if parts[0][0].tokenizer.files() != parts[1][0].tokenizer.files():
        raise ValueError(f"{of[0]} and {of[1]} do not share a tokenizer; mix two models that do")
    tokenizer = parts[0][1]["tokenizer"]
    rehearsal = replace(data, text=data.parts[0], sha256=hashlib.sha256(data.parts[0].encode()).hexdigest())
    texts = TokenizedDataset.of(rehearsal, 1, tokenizer)
    models: list[CausalLM] = []
    how: dict[str, Any] = {"characters": len(texts.target_text)}
    for i, (_, facts) in enumerate(parts, start=1):
        if facts["kind"] == "bigram":
            models.append(fit_bigram(texts)[0])
        elif facts["kind"] == "ngram":
            counts = count_sequences(texts.train, len(texts.tokenizer), facts["order"], texts.end_id)
            models.append(NGram.smoothed(counts, len(texts.tokenizer), facts["whole"], texts.end_id))
        else:
            folder, config = out.with_name(f"{out.name}-rehearsal-{i}"), recipe_of(facts["kind"])
            settings = {"recipe": asdict(config), "budget": {n: v for n, v in asdict(budget).items() if v is not None}}
            if not (resume and _is_done(folder, {"seed": seed, "tokenizer": tokenizer, **settings}, rehearsal)):
                go_on = resume and (folder / RESUME).exists()
                options = {"resume": go_on, "device": device, "compile": compile and config.compiles, "tokenizer": tokenizer}
                yield from train(facts["kind"], config, rehearsal, folder, budget, seed, command, **options)
            models.append(load(folder).model)
            how |= {"budget": settings["budget"], "recipes": how.get("recipes", {}) | {facts["kind"]: settings["recipe"]}}
    nats = [token_nll(model, texts.evaluate, WINDOW) for model in models]
    weight = fit_weight(*nats)
    mixed = evaluate(Mixture.of(models[0], models[1], weight), texts.evaluate, WINDOW).nats_per_token
    how |= {"nats": [each.double().mean().item() for each in nats], "mixed": mixed}

    def make(texts: TokenizedDataset) -> tuple[CausalLM, dict[str, Any]]:
        results = [evaluate(lm.model, texts.evaluate, WINDOW, texts.target_text) for lm, _ in parts]
        told = [
            {"name": lm.name, "kind": facts["kind"], "held_out": asdict(result)}
            for (lm, facts), result in zip(parts, results, strict=True)
        ]
        mixture = Mixture.of(parts[0][0].model, parts[1][0].model, weight)
        return mixture, {"method": "mixing", "weight": weight, "parts": told, "rehearsal": how}

    yield from fit_counts(data, out, seed, command, KIND, make, tokenizer)


def fit_weight(first: Tensor, second: Tensor) -> float:
    """The weight of the first at which a text costs the mixture least, if it costs the parts `first` and `second`, (N,)
    each, in nats a token.

    The cost of the mixture is convex in the weight, so the place where its slope turns is found by halving.
    """
    ratio = (second - first).double().clamp(-60, 60).exp()  # of the probabilities: first to second
    low, high = 0.0, 1.0
    for _ in range(30):
        weight = (low + high) / 2
        if ((ratio - 1) / (weight * ratio + 1 - weight)).mean() > 0:  # more of the first costs less
            low = weight
        else:
            high = weight
    return round((low + high) / 2, 4)


def _part(name: str, data: TextDataset) -> tuple[LanguageModel, dict[str, Any]]:
    """A model to be mixed, and what its run wrote of it."""
    lm = load(name)
    path = (WEIGHTS / name if name in names() else Path(name)) / TRAINING
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, learned_from, lines, _ = facts["kind"], facts["data"]["sha256"], "lines" in facts["data"], facts["tokenizer"]
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{path} is missing or damaged; mix what `python -m train run` wrote here") from None
    if kind == KIND:
        raise ValueError(f"{name} is a mixture itself; mix two other models")
    if kind == "vae":
        raise ValueError(f"{name} starts each line from a point of its own, which no other model has; mix two other models")
    if lines != data.lines:
        raise ValueError(f"{name} learned from {'lines; give' if lines else 'a running text; leave out'} --lines")
    if learned_from != data.sha256:
        raise ValueError(f"{name} did not learn from this text; mix two models that both did")
    return lm, facts


def _is_done(folder: Path, settings: dict[str, Any], rehearsal: TextDataset) -> bool:
    """Whether a rehearsal is finished. Raises ValueError if it is another one."""
    if (folder / RESUME).exists() or not (folder / TRAINING).is_file():
        return False
    facts = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    if facts["data"]["sha256"] != rehearsal.sha256 or any(facts.get(name) != value for name, value in settings.items()):
        raise ValueError(f"{folder} holds a rehearsal with other settings; repeat them, or remove it")
    return True

"""What `python -m train run` says about a text and a model, from the same functions as the page."""

import json
import math
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from gpt.models.registry import MODEL_REGISTRY
from train.advice import SIZES, choose_config, describe_baselines, describe_verdict, is_memorizing
from train.configs import TrainConfig
from train.counting import fit_baselines
from train.data import TextDataset
from train.runs import TRAINING
from train.text_report import report_text
from train.tokenizers import tokenize
from train.trainer import Budget, Event, MessageEvent


def compare(
    events: Generator[Event], kind: str, config: TrainConfig, dataset: TextDataset, tokenizer: str, budget: Budget, out: Path
) -> Generator[Event]:
    """Add to the events of a training run what the text is like, what counting reaches on it, and which model won.

    Args:
        events: The run.
        kind: Name of the model family.
        config: The hyperparameters of the run.
        dataset: The data.
        tokenizer: See `train.tokenizers.make_tokenizer`.
        budget: How long the run trains.
        out: The folder that the run writes.
    """
    tokenized = tokenize(dataset, tokenizer)
    characters, tokens = (len(tokenized.held_out_text), sum(len(document) - 1 for document in tokenized.held_out))
    counted = fit_baselines(tokenized)
    losses = {name: each.nll.double().sum().item() / characters for name, each in counted.items()}
    uniform = math.log(len(tokenized.tokenizer)) * tokens / characters
    report = report_text(dataset.text, dataset.is_lines, tokenizer)
    what = f"{report.lines:,} lines" if dataset.is_lines else "one running text"
    messages = [
        f"{dataset.name}: {report.characters:,} characters, {report.distinct_characters:,} different, {what}.",
        *report.warnings,
        report.expectation,
        describe_baselines(uniform, losses["bigram"], losses["ngram"], counted["ngram"].facts["order"]),
    ]
    if budget.minutes and MODEL_REGISTRY[kind].likelihood == "exact":
        choice = choose_config(
            kind,
            SIZES[0],
            tokens=sum(len(document) - 1 for document in tokenized.train),
            vocab_size=len(tokenized.tokenizer),
            seconds=60 * budget.minutes,
            longest_line=max(map(len, tokenized.train + tokenized.held_out)) if dataset.is_lines else None,
        )
        names = ("layers", "width", "context", "dropout")
        chosen = {name: getattr(choice.config, name) for name in names if hasattr(config, name)}
        changes = [f"--{name} {value:g}" for name, value in chosen.items() if value != getattr(config, name)]
        options = f"Try {' '.join(changes)}." if changes else "The settings suit this text and time."
        messages.append(" ".join(["Advice:", options, *choice.reasons]))
    with closing(events):
        first = next(events)  # raises what is wrong with the settings
        yield from map(MessageEvent, messages)
        yield first
        yield from events
    if MODEL_REGISTRY[kind].likelihood == "exact":
        facts = json.loads((out / TRAINING).read_text(encoding="utf-8"))
        by_title = {"bigram": losses["bigram"], "n-gram": losses["ngram"]}
        title = f"trained {kind}" if kind in counted else kind.upper()
        counted_titles = list(by_title)
        by_title[title] = facts["held_out"]["bits_per_character"] * math.log(2)
        has_memorized = is_memorizing(*([point[side] for point in facts["curve"]] for side in ("train", "held_out")))
        yield MessageEvent(describe_verdict(by_title, counted_titles, title, has_memorized))

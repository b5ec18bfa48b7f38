"""What to choose for a text and a time, what a loss means, and when a model begins to memorize.

The page and `python -m train run` say the same sentences, which are made here.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from train.configs import TRAIN_CONFIGS, CausalTrainConfig

SIZES = ("small", "medium")
MEDIUM_TIME = 4  # a medium model is the one that suits so many times the time
TRAINING_FLOPS = 2.5e10  # multiplications and additions a second that training reaches on one core of an AMD EPYC
# From so many epochs on, so much dropout. On 20,000 characters of tiny Shakespeare, read 34 times, a GPT reached 1.99 nats a
# character without dropout, 1.86 with 0.1, 1.81 with 0.2 and 1.84 with 0.3; read 11 times, 1.97, 1.96 and 1.99 (2026-11-25).
DROPOUTS = ((60, 0.3), (20, 0.2), (8, 0.1))
MIN_CONTEXT, WINDOWS = 8, 20  # a context is at least the first, and so short that the text has the second number of windows
RISE = 0.02  # nats: a smaller rise of the held-out loss is chance
RISEN_EVALUATIONS = 3  # a rise that lasts for fewer is, too


@dataclass(frozen=True)
class Choice:
    """The hyperparameters for a text and a time.

    Attributes:
        config: The hyperparameters.
        parameters: Parameters of the model.
        epochs: About how often the text is read.
        reasons: Why, in sentences.
    """

    config: CausalTrainConfig
    parameters: int
    epochs: float
    reasons: list[str]


def choose_config(
    kind: str,
    size: str,
    *,
    tokens: int,
    vocab_size: int,
    seconds: float,
    longest_line: int | None = None,
    dropout: float | None = None,
) -> Choice:
    """Choose hyperparameters that suit a text and a time.

    A small model is the preset of the time; a medium one has the layers and the width of four times the time. The context is
    that of the preset, but a twentieth of the text at most, in powers of two; that of lines is the longest line. Dropout
    rises with the number of times that the text is read.

    Args:
        kind: Name of the model family.
        size: One of `SIZES`.
        tokens: Number of training tokens.
        vocab_size: Number of different tokens.
        seconds: Training time.
        longest_line: Tokens of the longest document, its start token included; None for a running text.
        dropout: A dropout probability to use; by default by the rule.
    """
    config = cast(CausalTrainConfig, TRAIN_CONFIGS[kind].preset(seconds / 60))
    names = {field.name for field in fields(config)}
    options: dict[str, Any] = {}
    reasons = []
    if "layers" in names:
        shape = asdict(TRAIN_CONFIGS[kind].preset(MEDIUM_TIME * seconds / 60) if size == "medium" else config)
        options |= {"layers": shape["layers"], "width": shape["width"]}
        why = "more than this time can train to the end" if size == "medium" else "the size that learns most in this time"
        reasons.append(f"{shape['layers']} layer{'s' if shape['layers'] > 1 else ''} of {shape['width']} channels: {why}.")
    shorter = 2 ** int(math.log2(max(MIN_CONTEXT, tokens / WINDOWS)))
    if longest_line:
        options["context"] = longest_line
    elif shorter < config.context:
        options["context"] = shorter
        reasons.append(f"Windows of {shorter} tokens, because the text is short.")
    model = replace(config, **options).build_model(vocab_size, 0 if longest_line else None)
    parameters = sum(p.numel() for p in model.parameters())
    epochs = seconds * TRAINING_FLOPS / (6 * parameters * tokens)
    if "dropout" in names and dropout is None:
        times = f"the text is read about {epochs:.0f} times" if epochs >= 2 else "hardly any of the text is read twice"
        dropout = next((each for least, each in DROPOUTS if epochs >= least), 0.0)
        reasons.append(f"Dropout {dropout:g}, because {times}." if dropout else f"No dropout, because {times}.")
    if "dropout" in names:
        options["dropout"] = dropout
    return Choice(replace(config, **options), parameters, epochs, reasons)


def describe_baselines(uniform: float, bigram: float, ngram: float, order: int) -> str:
    """The held-out losses that a trained model is compared with, in one sentence."""
    return f"Held out, in nats a character: uniform {uniform:.2f}, bigram {bigram:.2f}, n-gram of order {order} {ngram:.2f}."


def is_memorizing(train: Sequence[float], held_out: Sequence[float]) -> bool:
    """Whether the held-out loss has stayed above its lowest point while the training loss went on falling.

    Args:
        train: Training loss of each evaluation so far.
        held_out: Held-out loss of each.
    """
    best = min(range(len(held_out)), key=held_out.__getitem__)
    since = held_out[best + 1 :][-RISEN_EVALUATIONS:]
    return len(since) == RISEN_EVALUATIONS and min(since) > held_out[best] + RISE and train[-1] < train[best]


def describe_loss(nats: float) -> str:
    """What a loss in nats a character means."""
    return f"{nats:.2f} nats a character, as unsure as choosing among {math.exp(nats):.1f} equally likely characters"


def describe_verdict(losses: dict[str, float], counted: Sequence[str], trained: str | None, has_memorized: bool = False) -> str:
    """Which model predicts the held-out text best, and what that says, in two sentences.

    Args:
        losses: Held-out loss of each model in nats a character, by its title.
        counted: Titles of the models that were counted.
        trained: Title of the one that was trained by gradient descent, if one was.
        has_memorized: Whether it began to memorize (`is_memorizing`).
    """
    winner = min(losses, key=losses.__getitem__)
    best_counted = min(counted, key=losses.__getitem__)
    sentences = [f"The {winner} predicts the held-out text best: {describe_loss(losses[winner])}."]
    if trained and trained != winner:
        help = "More text" if has_memorized else "More text or more time"
        hint = f" {help} would help it." if losses[best_counted] < losses[trained] else ""
        sentences.append(f"The {trained} by itself reaches {losses[trained]:.2f}.{hint}")
    elif winner not in counted:
        sentences.append(f"The {best_counted}, which only counts, reaches {losses[best_counted]:.2f}.")
    return " ".join(sentences)

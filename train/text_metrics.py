"""How well a model writes running text, judged by its samples, and finds typing errors.

A low cost under a judge is not enough: the dullest text is the most predictable. So three figures belong together: the cost,
the share of words that exist, and the share of words that are not repeated.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt import LanguageModel, TextDiffusion

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
WORDS = 700  # the share of different words falls with the length of a text, so it is that of as many words
TYPING_ERRORS = 25  # one in this many characters


@dataclass(frozen=True)
class TextMetrics:
    """What samples are like.

    Attributes:
        texts: Number of samples.
        characters: Their characters.
        nll_per_character: Their cost under the judge, in nats; None without a judge.
        judge: Its name.
        known_words: Share of the words that stand in the training text.
        unique_words: Share of different words among the first `WORDS`.
        entropy: Of the distribution of characters within a sample, the mean over samples, in nats; low where a sample repeats
            itself.
    """

    texts: int
    characters: int
    nll_per_character: float | None
    judge: str | None
    known_words: float
    unique_words: float
    entropy: float


def measure_texts(samples: Sequence[str], train: str, judge: LanguageModel | None) -> TextMetrics:
    """Measure samples of running text.

    Words at the ends of a sample, which may be cut, do not count.

    Args:
        samples: The texts.
        train: The training text.
        judge: A model whose cost is reported.
    """
    known = {word.lower() for word in WORD.findall(train)}
    words = [word.lower() for text in samples for word in WORD.findall(text)[1:-1]]
    characters = sum(map(len, samples))
    nll = None
    if judge:
        scores = [judge.score(text) for text in samples]
        nll = sum(math.fsum(score.nll) for score in scores) / characters
    return TextMetrics(
        len(samples),
        characters,
        nll,
        judge.name if judge else None,
        sum(word in known for word in words) / max(1, len(words)),
        len(set(words[:WORDS])) / max(1, len(words[:WORDS])),
        sum(map(entropy, samples)) / max(1, len(samples)),
    )


def entropy(text: str) -> float:
    """Of the distribution of characters in a text, in nats."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log(n / len(text)) for n in counts.values())


def add_typing_errors(text: str, seed: int) -> tuple[str, list[bool]]:
    """Replace one letter in `TYPING_ERRORS` characters by another one, at random.

    Returns:
        The text, and for each character whether it was replaced.
    """
    rng = random.Random(seed)  # noqa: S311 (not for secrets)
    letters = [i for i, character in enumerate(text) if character.isalpha()]
    wrong = set(rng.sample(letters, min(len(letters), len(text) // TYPING_ERRORS)))
    alphabet = sorted({character for character in text if character.isalpha()})
    result = [
        rng.choice([other for other in alphabet if other != character and other.isupper() == character.isupper()])
        if i in wrong
        else character
        for i, character in enumerate(text)
    ]
    return "".join(result), [i in wrong for i in range(len(text))]


def typing_error_auc(lm: TextDiffusion, text: str, passes: int, seed: int = 0) -> float:
    """How well proofreading finds typing errors: the area under the ROC curve of the costs of characters.

    It is the probability that a replaced character costs more than one that was not: 0.5 is guessing, 1 is perfect.

    Args:
        lm: A model of a running text with a token for each character.
        text: Held-out text.
        passes: See `TextDiffusion.proofread`.
        seed: Of the errors.
    """
    changed, is_wrong = add_typing_errors(text, seed)
    costs = torch.tensor(lm.proofread(changed, passes).nll)
    return roc_auc(costs, torch.tensor(is_wrong))


def roc_auc(scores: Tensor, is_positive: Tensor) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative that the scores (N,) order; ties count half."""
    order = scores.argsort()
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    values, inverse = scores.unique(return_inverse=True)
    sums = torch.zeros(len(values), dtype=torch.float64).index_add_(0, inverse, ranks)
    means = sums / inverse.bincount(minlength=len(values))
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        raise ValueError("the area under the ROC curve needs positives and negatives")
    rank_sum = means[inverse][is_positive].sum().item()
    area: float = (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
    return area

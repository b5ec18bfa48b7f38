"""How well a model draws lines, judged by its samples: for families without a likelihood, and to compare all of them."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gpt import LanguageModel, load
from gpt.checkpoint import WEIGHTS, names
from gpt.models.registry import MODEL_REGISTRY
from train.data import TokenizedDataset, encode_documents
from train.evaluate import line_nll

SAMPLE_LINES = 3_203
SAMPLE_SEED = 2**31
ORDERS = (1, 2, 3, 4)
START, END = "\x02", "\x03"  # mark the ends of a line in n-grams
MIN_UNIQUE = 0.5  # share of different lines below which a model has collapsed


@dataclass(frozen=True)
class LineMetrics:
    """What drawn lines are like.

    Attributes:
        lines: Number of samples.
        js_divergence: Jensen-Shannon divergence of their character 1-, 2-, 3- and 4-grams from held-out lines (`js_divergence`).
        floor: The same for as many training lines: about the least that any model can reach.
        valid: Share of the samples that are not empty and no longer than the longest training line.
        unique: Share of different samples.
        new: Share of the samples that are no training line.
        nll_per_character: Their mean cost under the judge, in nats, ends included; None without a judge.
        judge: Its name.
    """

    lines: int
    js_divergence: list[float]
    floor: list[float]
    valid: float
    unique: float
    new: float
    nll_per_character: float | None
    judge: str | None


def count_ngrams(lines: Iterable[str], n: int) -> Counter[str]:
    """Character n-grams of lines, each with a mark at its start and one at its end, which count as characters."""
    counts: Counter[str] = Counter()
    for line in lines:
        marked = START + line + END
        counts.update(marked[i : i + n] for i in range(len(marked) - n + 1))
    return counts


def js_divergence(a: Iterable[str], b: Iterable[str], n: int) -> float:
    """The Jensen-Shannon divergence of the character n-grams of two sets of lines, in bits: 0 if equal, 1 if disjoint."""
    counts_a, counts_b = count_ngrams(a, n), count_ngrams(b, n)
    if not (counts_a and counts_b):  # all lines of one are shorter than n
        return float(counts_a != counts_b)
    total_a, total_b = counts_a.total(), counts_b.total()
    result = 0.0
    for ngram in counts_a.keys() | counts_b.keys():
        p, q = counts_a[ngram] / total_a, counts_b[ngram] / total_b
        middle = (p + q) / 2
        result += sum(x * math.log2(x / middle) for x in (p, q) if x) / 2
    return result


def measure_lines(
    samples: Sequence[str], held_out: Sequence[str], train: Sequence[str], judge: LanguageModel | None
) -> LineMetrics:
    """Measure drawn lines.

    Args:
        samples: The lines, without their ends.
        held_out: Lines that the model has not seen.
        train: The lines that it was trained on, in random order.
        judge: A language model whose cost of the samples is reported; it reads each line on its own.
    """
    known, longest = set(train), max(map(len, train))
    nll = None
    if judge:
        documents = encode_documents(judge.tokenizer, samples, judge.start_id)
        nll = line_nll(judge.model, documents).double().mean().item()
    return LineMetrics(
        lines=len(samples),
        js_divergence=[js_divergence(samples, held_out, n) for n in ORDERS],
        floor=[js_divergence(train[: len(samples)], held_out, n) for n in ORDERS],
        valid=sum(0 < len(line) <= longest for line in samples) / len(samples),
        unique=len(set(samples)) / len(samples),
        new=sum(line not in known for line in samples) / len(samples),
        nll_per_character=nll,
        judge=judge.name if judge else None,
    )


def measure_samples(lm: Any, dataset: TokenizedDataset) -> dict[str, Any]:
    """Draw and measure lines, as many as there are training lines, but at most `SAMPLE_LINES`; "samples" of training.json.

    Args:
        lm: A text model with a method `sample(n, seed)`.
        dataset: Its data.
    """
    train, held_out = texts_of(dataset, dataset.train), texts_of(dataset, dataset.held_out)
    samples = lm.sample(min(SAMPLE_LINES, len(train)), SAMPLE_SEED)
    return asdict(measure_lines(samples, held_out, train, find_judge(dataset)))


def check_variety(metrics: LineMetrics) -> None:
    """Raises ValueError if a model has collapsed: fewer than half of its samples are different."""
    if metrics.unique < MIN_UNIQUE:
        raise ValueError(
            f"the model has collapsed: only {metrics.unique:.0%} of {metrics.lines:,} samples are different; train it again "
            "with another --seed"
        )


def find_judge(dataset: TokenizedDataset) -> LanguageModel | None:
    """The GPT of characters under weights/ that was trained on the same data; None if there is none."""
    for name in names():
        facts = json.loads((WEIGHTS / name / "training.json").read_text(encoding="utf-8"))
        is_gpt = MODEL_REGISTRY[facts["kind"]].has_attention
        if is_gpt and (facts["tokenizer"], facts["data"]["sha256"]) == ("char", dataset.sha256):
            return load(name)  # type: ignore[no-any-return]
    return None


def texts_of(dataset: TokenizedDataset, documents: Sequence[Tensor]) -> list[str]:
    """The lines of tokenized documents, without start and end tokens."""
    ids = [document.tolist()[1:-1] for document in documents]
    return dataset.tokenizer.backend.decode_batch(ids, skip_special_tokens=False)

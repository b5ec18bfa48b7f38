"""What a text is like, before a model is trained on it."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from train.data import MIN_LINES, TextDataset

MIN_CHARS = 100  # a tenth of it is held out
SHORT_CHARS = 2_000
MANY_CHARACTERS = 300  # different ones, from which on sub-words are suggested
MAX_CHARACTERS = 1_500  # different ones that can be tokens: a bigram of them has the square as parameters
MAX_ITEM_WORDS, MAX_ITEM_CHARS = 5, 60
SENTENCE_ENDS = ".,;:!?…。，！？"
MAX_SENTENCE_SHARE = 0.25  # of lines that end like a sentence, in a list of items
MAX_LINE_SHARE = 0.5  # of one line that occurs many times
TEXT_SIZES = Path(__file__).with_name("text_sizes.json")  # benchmarks/bench_text_size.py writes it


@dataclass(frozen=True)
class TextReport:
    """What a text is like.

    Attributes:
        characters: Number of characters.
        bytes: Number of bytes in UTF-8.
        distinct_characters: Number of different characters.
        is_lines: Whether each line is a document.
        lines: Number of documents if each line is one, else of lines that are not empty.
        skipped: Number of lines that are skipped, by reason; empty for a running text.
        tokenizer: The tokenizer to use, unless another is chosen.
        subwords: The sub-word tokenizer that suits the size of the text.
        expectation: What models reached on about as much text.
        warnings: What may disappoint, a sentence each.
        problem: Why no model can be trained on it, as a sentence; empty if one can.
    """

    characters: int
    bytes: int
    distinct_characters: int
    is_lines: bool
    lines: int
    skipped: dict[str, int]
    tokenizer: str
    subwords: str
    expectation: str
    warnings: list[str] = field(default_factory=list)
    problem: str = ""


def report_text(text: str, is_lines: bool | None = None, tokenizer: str | None = None) -> TextReport:
    """Describe a text.

    Args:
        text: The text, as `decode_text` returns it.
        is_lines: Whether each line is a document; by default a guess.
        tokenizer: "char" or "bpe:N"; by default what suits the text.
    """
    is_lines = looks_like_lines(text) if is_lines is None else is_lines
    size, distinct = len(text.encode()), len(set(text))
    subwords = suggest_subwords(size)
    tokenizer = tokenizer or (subwords if distinct > MANY_CHARACTERS else "char")
    lines, skipped, problem = sum(1 for line in text.split("\n") if line.strip()), {}, ""
    if is_lines and text:
        try:
            dataset = TextDataset.from_lines("the text", text.encode())
            lines, skipped = len(dataset.documents), {reason: n for reason, n in dataset.skipped.items() if n}
        except ValueError as error:
            problem = f"{as_sentence(str(error))} Take it as one running text instead."
    if not text.strip():
        problem = "The text is empty. Paste a text, or choose a file."
    elif len(text) < MIN_CHARS and not is_lines:
        problem = f"The text has {len(text)} characters. Give {MIN_CHARS} or more, better thousands."
    elif tokenizer == "char" and distinct > MAX_CHARACTERS:
        problem = f"{distinct:,} different characters are too many to give each its own token. Choose sub-words."
    return TextReport(
        characters=len(text),
        bytes=size,
        distinct_characters=distinct,
        is_lines=is_lines,
        lines=lines,
        skipped=skipped,
        tokenizer=tokenizer,
        subwords=subwords,
        expectation=describe_expectation(len(text)),
        warnings=find_warnings(text, tokenizer),
        problem=as_sentence(problem),
    )


def as_sentence(message: str) -> str:
    """The message of an exception with a capital and a full stop."""
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "?", "!")) or not message else ".")


def looks_like_lines(text: str) -> bool:
    """Whether a text is a list: many short lines, few of which end like a sentence."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) < MIN_LINES:
        return False
    are_short = median(len(line.split()) for line in lines) <= MAX_ITEM_WORDS and median(map(len, lines)) <= MAX_ITEM_CHARS
    return are_short and sum(line[-1] in SENTENCE_ENDS for line in lines) < MAX_SENTENCE_SHARE * len(lines)


def suggest_subwords(size: int) -> str:
    """A sub-word tokenizer for a text of `size` bytes: few merges if there is little to learn them from."""
    return f"bpe:{288 if size < 2_000 else 512 if size < 200_000 else 1024}"


def find_warnings(text: str, tokenizer: str) -> list[str]:
    """What may disappoint about a text, a sentence each."""
    distinct, warnings = len(set(text)), []
    lines = [line for line in text.split("\n") if line.strip()]
    if distinct == 1:
        warnings.append("It is one character, repeated: there is nothing to learn but that.")
    elif len(lines) >= MIN_LINES:
        line, times = Counter(lines).most_common(1)[0]
        if times > MAX_LINE_SHARE * len(lines):
            warnings.append(f"One line occurs {times:,} times, so the models learn it by heart and little else: {line[:40]}")
    if MIN_CHARS <= len(text) < SHORT_CHARS:
        warnings.append("It is short. The models will know few words; a page of text or more works better.")
    if distinct > MANY_CHARACTERS and tokenizer == "char":
        warnings.append(f"It has {distinct:,} different characters, many of them rare. Sub-words work better.")
    if text.lstrip()[:15].lower().startswith(("<!doctype html", "<html")):
        warnings.append("It looks like HTML. The models will learn the tags, too.")
    return warnings


def describe_expectation(characters: int) -> str:
    """What models reached on about as much text, from the measurements in `TEXT_SIZES`."""
    rows = json.loads(TEXT_SIZES.read_text(encoding="utf-8"))["rows"]
    row = min(rows, key=lambda row: abs(math.log(row["characters"] / max(1, characters))))
    models = {"a bigram": row["bigram"], "an n-gram": row["ngram"], f"a GPT after {row['seconds']:g} s": row["gpt"]}
    reached = ", ".join(f"{name} {loss:.2f}" for name, loss in models.items())
    best = min(models.values())
    return (
        f"On {row['characters']:,} characters of Shakespeare, held out, in nats a character: {reached}. "
        f"The best was as unsure as choosing among {math.exp(best):.1f} equally likely characters."
    )

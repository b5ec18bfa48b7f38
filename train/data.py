"""A text to learn from: downloaded with a checked sha256 or read from a file, split, and cut into batches."""

import hashlib
import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from random import Random
from urllib.error import HTTPError

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from tqdm import tqdm

from gpt.checkpoint import atomic_write

LONGEST_LINE = 255  # characters of an item; a longer one is left out


@dataclass(frozen=True)
class DatasetSource:
    """A text with a public address, its id as a data set on the Hub if it is one, and a prompt that suits it."""

    url: str
    sha256: str
    licence: str
    dataset: str | None
    prompt: str
    lines: bool = False


SOURCES = {
    "shakespeare": DatasetSource(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "public domain",
        "karpathy/tiny_shakespeare",
        "ROMEO:",
    ),
    "names": DatasetSource(
        "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        "public domain",
        None,
        "",
        lines=True,
    ),
}


@dataclass(frozen=True)
class TextDataset:
    """A text and where it is from.

    The first 90 % of a running text are to train on, the last 10 % are held out. Lines, one item each, are shuffled first;
    each stands between two new lines, its start and its end. left_out: how many lines are no items, by what they are.
    """

    name: str
    text: str
    sha256: str
    source: DatasetSource | None
    lines: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_lines(cls, name: str, content: bytes, source: DatasetSource | None = None) -> "Data":
        """Raises ValueError if there are fewer than 20 items."""
        left_out = {"empty": 0, f"longer than {LONGEST_LINE} characters": 0, "not UTF-8": 0}
        empty, long, broken = left_out
        items = []
        for line in content.removesuffix(b"\n").split(b"\n"):
            try:
                item = line.removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError:
                left_out[broken] += 1
                continue
            if not item.strip():
                left_out[empty] += 1
            elif len(item) > LONGEST_LINE:
                left_out[long] += 1
            else:
                items.append(item)
        if len(items) < 20:
            raise ValueError(f"{name} has {len(items)} lines to learn from; a run needs 20 or more")
        Random(1337).shuffle(items)  # noqa: S311 (the seed that everyone's figures on names use)
        return cls(name, "\n".join(["", *items, ""]), hashlib.sha256(content).hexdigest(), source, True, left_out)

    @property
    def prompt(self) -> str:
        """A prompt that suits the text; lines are begun from nothing."""
        return self.source.prompt if self.source and not self.lines else ""

    @property
    def parts(self) -> tuple[str, str]:
        if self.lines:
            items = self.text[1:-1].split("\n")
            cut = int(len(items) * 0.9)
            first, last = ("\n".join(["", *part, ""]) for part in (items[:cut], items[cut:]))
            return first, last
        cut = int(len(self.text) * 0.9)
        return self.text[:cut], self.text[cut:]

    @property
    def split(self) -> str:
        """How it is split, in words."""
        return f"{'shuffled, ' if self.lines else ''}the first 90 % to train, the last 10 % held out"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "from-bigram-to-gpt"


def read(data: str, lines: bool = False) -> TextDataset:
    """Open a text by the name of a source, or from a file; with `lines`, each line of it is an item of its own.

    Raises ValueError, in one sentence, if it cannot be read or is no text, OSError never.
    """
    if data in SOURCES:
        content = _download(data, SOURCES[data])
    else:
        try:
            content = Path(data).read_bytes()
        except OSError as error:
            raise ValueError(
                f"no text could be read from {data!r} ({error.strerror}); give a file, or one of: {', '.join(SOURCES)}"
            ) from None
    source, name = SOURCES.get(data), Path(data).stem
    if lines or (source and source.lines):
        return TextDataset.from_lines(name, content, source)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{data} is not UTF-8 text (byte {error.start} is no part of it); convert it first") from None
    return TextDataset(name, text, hashlib.sha256(content).hexdigest(), source)


def _download(name: str, source: DatasetSource) -> bytes:
    """The bytes of a source: from the cache, or from its address, once."""
    path = cache_folder() / f"{name}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256:
        return path.read_bytes()
    try:
        with urllib.request.urlopen(source.url, timeout=20) as response:  # noqa: S310 (an address from SOURCES)
            total = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"downloading {name}") as bar:
                content = b""
                while chunk := response.read(1 << 16):
                    content += chunk
                    bar.update(len(chunk))
    except (OSError, HTTPException) as error:  # OSError: URLError, a time-out, a broken connection
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(getattr(error, "reason", error)).split())  # a server's own words may have any form
        raise ValueError(
            f"{source.url} could not be downloaded ({reason}); fetch it some other way and give --data FILE"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{source.url} gave a text with sha256 {found}, expected {source.sha256}; nothing was kept")
    with suppress(OSError):  # a cache that cannot be written costs another download, no more
        atomic_write(path, content)
    return content


def random_batch(ids: Tensor, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens (rows, length) from random places of a text of ids (N,)."""
    starts = torch.randint(len(ids) - length, (rows, 1), generator=generator)
    window = ids[starts + torch.arange(length + 1)]
    return window[:, :-1], window[:, 1:]


def lines_of(ids: Tensor, end_id: int) -> list[Tensor]:
    """The lines in ids (N,), which begin and end with an end token, each with the one before it and its own."""
    ends = (ids == end_id).nonzero()[:, 0].tolist()
    return [ids[start : end + 1] for start, end in pairwise(ends)]


def padded(lines: Sequence[Tensor], length: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens (B, T) of lines of different lengths, T that of the longest, or `length` if that is more.

    After the end of a line the next token is -1, which does not count; no position before it sees what stands there.
    """
    whole = pad_sequence(list(lines), batch_first=True, padding_value=-1)
    whole = F.pad(whole, (0, max(0, length + 1 - whole.shape[1])), value=-1)
    return whole[:, :-1].clamp(min=0), whole[:, 1:]


class LineBatches:
    """Random batches of lines, all padded to one length, so that they are compiled once. The generator of the next one is
    whichever was last given."""

    def __init__(self, lines: list[Tensor], rows: int) -> None:
        self.lines, self.rows, self.generator = len(lines), rows, torch.Generator()
        pad = partial(padded, length=max(map(len, lines)) - 1)
        self.batches = iter(DataLoader(lines, batch_sampler=self, collate_fn=pad))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield torch.randint(self.lines, (self.rows,), generator=self.generator).tolist()

    def next(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.generator = generator
        inputs, targets = next(self.batches)
        return inputs, targets

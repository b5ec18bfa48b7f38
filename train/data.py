"""Data sets as lists of documents: downloaded or read, split, tokenized, and cut into batches.

A running text is one document; a data set of lines has one document a line. The text of a document has no end; its tokens
stand between two end tokens, of which the first is the start. A running text has no end tokens.
"""

import hashlib
import lzma
import math
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from random import Random
from urllib.error import HTTPError

import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from gpt import Tokenizer
from gpt.checkpoint import WEIGHTS, CheckpointError, atomic_write
from train.text_files import MAX_FILE_BYTES, decode_text, read_text_file

SHIPPED_TEXTS = WEIGHTS / "texts"  # the sources, compressed; only in a checkout of the repository, like the models
TRAIN_SHARE = 0.9
MAX_LINE_CHARS = 255
MIN_LINES = 20  # so that a tenth of the training part is a line
MIN_TRAIN_TOKENS, MIN_HELD_OUT_TOKENS = 18, 2  # of a running text: a tenth of either part is a pair of tokens
DOWNLOAD_TIMEOUT_S = 20
SHUFFLE_SEED = 1337
BUCKETS = (8, 16, 32, 64, 128, 256)  # tokens to which a line is padded


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set is published.

    Attributes:
        url: Its address.
        sha256: Of its bytes.
        license: Under which it is published.
        dataset_id: Its id as a data set on the Hub, if it is one.
        prompt: A prompt that suits it.
        is_lines: Whether each line is a document.
    """

    url: str
    sha256: str
    license: str
    dataset_id: str | None
    prompt: str
    is_lines: bool = False


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
        is_lines=True,
    ),
}


@dataclass(frozen=True)
class TextDataset:
    """The documents of a text.

    Attributes:
        name: What to call it.
        documents: One running text, or one line each, shuffled.
        sha256: Of the bytes that it was read from.
        source: Where it is published, if it is one of `SOURCES`.
        is_lines: Whether each line is a document.
        skipped: Number of lines that were skipped, by reason.
    """

    name: str
    documents: tuple[str, ...]
    sha256: str
    source: DatasetSource | None = None
    is_lines: bool = False
    skipped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, name: str, content: bytes, is_lines: bool = False, source: DatasetSource | None = None) -> "TextDataset":
        """The data set of a file's content. Raises ValueError if it is no text (`decode_text`), or has too few lines."""
        if is_lines:
            return cls.from_lines(name, content, source)
        return cls(name, (decode_text(content),), hashlib.sha256(content).hexdigest(), source)

    @classmethod
    def from_lines(cls, name: str, content: bytes, source: DatasetSource | None = None) -> "TextDataset":
        """Take each line of `content` as a document; empty, overlong and undecodable lines are skipped and counted.

        Raises:
            ValueError: If it is no text (`decode_text`), or if fewer than `MIN_LINES` lines are left.
        """
        skipped = {"empty": 0, f"longer than {MAX_LINE_CHARS} characters": 0, "not UTF-8": 0}
        empty, overlong, undecodable = skipped
        lines = []
        for line in decode_text(content, errors="surrogateescape").removesuffix("\n").split("\n"):
            if not line.strip():
                skipped[empty] += 1
            elif not _is_valid(line):
                skipped[undecodable] += 1
            elif len(line) > MAX_LINE_CHARS:
                skipped[overlong] += 1
            else:
                lines.append(line)
        if len(lines) < MIN_LINES:
            raise ValueError(f"{name} has {len(lines)} lines to learn from; a run needs {MIN_LINES} or more")
        Random(SHUFFLE_SEED).shuffle(lines)  # noqa: S311 (not for secrets)
        return cls(name, tuple(lines), hashlib.sha256(content).hexdigest(), source, True, skipped)

    @property
    def text(self) -> str:
        """All documents; a line ends in a new line."""
        return "".join(f"{line}\n" for line in self.documents) if self.is_lines else self.documents[0]

    @property
    def prompt(self) -> str:
        """A prompt that suits it; empty for lines, which start from nothing."""
        return self.source.prompt if self.source and not self.is_lines else ""

    def split(self) -> tuple["TextDataset", "TextDataset"]:
        """The training part and the held-out part: the first 90 % and the last 10 % of the lines, or of the characters."""
        if self.is_lines:
            cut = int(len(self.documents) * TRAIN_SHARE)
            parts = self.documents[:cut], self.documents[cut:]
        else:
            cut = int(len(self.documents[0]) * TRAIN_SHARE)
            parts = (self.documents[0][:cut],), (self.documents[0][cut:],)
        train, held_out = (
            TextDataset(self.name, part, hashlib.sha256("\n".join(part).encode()).hexdigest(), self.source, self.is_lines)
            for part in parts
        )
        return train, held_out

    @property
    def split_description(self) -> str:
        """How `split` splits it, in words."""
        return f"{'shuffled, ' if self.is_lines else ''}the first 90 % to train, the last 10 % held out"


def _is_valid(line: str) -> bool:
    """Whether a line that was decoded with "surrogateescape" had no invalid byte."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def cache_dir() -> Path:
    """The folder of downloaded texts."""
    return user_cache_path("from-bigram-to-gpt")


def load_dataset(data: str, is_lines: bool = False) -> TextDataset:
    """Open a data set.

    Args:
        data: A name in `SOURCES`, which is shipped or downloaded once, or a text file (`decode_text`).
        is_lines: Whether each line is a document.

    Raises:
        ValueError: If it cannot be read or is no text.
    """
    source, name = SOURCES.get(data), Path(data).stem
    if source:
        content = _read_shipped(data, source) if _shipped_path(data).is_file() else _download(data, source)
    else:
        try:
            content = read_text_file(Path(data))
        except OSError as error:
            raise ValueError(
                f"no text could be read from {data!r} ({error.strerror}); give a file, or one of: {', '.join(SOURCES)}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{data} cannot be used: {error}") from None
    try:
        return TextDataset.from_bytes(name, content, is_lines or bool(source and source.is_lines), source)
    except ValueError as error:
        raise ValueError(f"{data} cannot be used: {error}") from None


def load_shipped_dataset(sha256: str, is_lines: bool) -> TextDataset | None:
    """Open a text under weights/texts; None if the text with this sha256 is not shipped.

    Raises:
        CheckpointError: If its file is missing or damaged.
    """
    for name, source in SOURCES.items():
        if source.sha256 == sha256:
            return TextDataset.from_bytes(name, _read_shipped(name, source), is_lines, source)
    return None


def _shipped_path(name: str) -> Path:
    return SHIPPED_TEXTS / f"{name}.txt.xz"


def _read_shipped(name: str, source: DatasetSource) -> bytes:
    path = _shipped_path(name)
    try:
        content = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError):
        content = b""
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise CheckpointError(f"{path} is missing or damaged; restore it with `git checkout -- weights/texts`")
    return content


def _download(name: str, source: DatasetSource) -> bytes:
    """The bytes of a source: from the cache, or from its address, once."""
    path = cache_dir() / f"{name}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256:
        return path.read_bytes()
    try:
        with (
            urllib.request.urlopen(source.url, timeout=DOWNLOAD_TIMEOUT_S) as response,  # noqa: S310 (from SOURCES)
            tqdm(total=response.length, unit="B", unit_scale=True, desc=f"downloading {name}") as bar,
        ):
            content = b""
            while len(content) <= MAX_FILE_BYTES and (chunk := response.read(1 << 16)):
                content += chunk
                bar.update(len(chunk))
    except (OSError, HTTPException) as error:  # OSError: URLError, a timeout, a broken connection
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(getattr(error, "reason", error)).split())  # of any length and form: a server sent it
        raise ValueError(
            f"{source.url} could not be downloaded ({reason}); download it in another way and give --data FILE"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise ValueError(f"{source.url} gave a text with sha256 {digest}, expected {source.sha256}; nothing was kept")
    with suppress(OSError):  # without a cache it is downloaded again the next time
        atomic_write(path, content)
    return content


@dataclass(frozen=True)
class TokenizedDataset:
    """The tokens of a data set.

    Attributes:
        tokenizer: Its tokenizer.
        train: Training documents: one (N,) of a running text, or (T,) each from the start token to the end token.
        held_out: Held-out documents.
        tokenizer_name: What `--tokenizer` named.
        eos_token_id: The token that ends a line; None for a running text.
        sha256: Of the bytes that the data set was read from.
    """

    tokenizer: Tokenizer
    train: list[Tensor]
    held_out: list[Tensor]
    tokenizer_name: str
    eos_token_id: int | None
    sha256: str = ""

    @classmethod
    def from_dataset(
        cls, dataset: TextDataset, tokenizer: Tokenizer, tokenizer_name: str = "char", context_length: int = 1
    ) -> "TokenizedDataset":
        """Split and encode a data set.

        Args:
            dataset: The data set.
            tokenizer: Its tokenizer.
            tokenizer_name: What `--tokenizer` named.
            context_length: Tokens of a training window of a running text.

        Raises:
            ValueError: If a running text is too short for one window.
        """
        eos_token_id = tokenizer.start_id if dataset.is_lines else None
        train, held_out = (encode_documents(tokenizer, part.documents, eos_token_id) for part in dataset.split())
        tokens, held_out_tokens = len(train[0]), len(held_out[0])
        least = max(context_length + 1, MIN_TRAIN_TOKENS)
        if not dataset.is_lines and (tokens < least or held_out_tokens < MIN_HELD_OUT_TOKENS):
            raise ValueError(
                f"{dataset.name} has {tokens + held_out_tokens} {tokenizer.unit}s; "
                f"a run with windows of {context_length} needs {math.ceil(least / TRAIN_SHARE)} or more"
            )
        return cls(tokenizer, train, held_out, tokenizer_name, eos_token_id, dataset.sha256)

    @property
    def held_out_text(self) -> str:
        """The text of the held-out targets (`target_text`)."""
        return target_text(self.tokenizer, self.held_out)


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str], eos_token_id: int | None) -> list[Tensor]:
    """Encode documents, each between two end tokens if there is one."""
    end = [] if eos_token_id is None else [eos_token_id]
    return [torch.tensor([*end, *tokenizer.encode(document).ids, *end]) for document in documents]


def target_text(tokenizer: Tokenizer, documents: Sequence[Tensor]) -> str:
    """The text of all tokens but the first of each document: what the model is scored on."""
    texts = []
    for document in documents:
        ids = document.tolist()
        texts.append(tokenizer.decode(ids)[len(tokenizer.decode(ids[:1])) :])
    return "".join(texts)


def split_documents(documents: list[Tensor], share: float = TRAIN_SHARE) -> tuple[list[Tensor], list[Tensor]]:
    """Split documents in two, neither of them empty; a single document is split by position."""
    if len(documents) == 1:
        cut = int(len(documents[0]) * share)
        return [documents[0][:cut]], [documents[0][cut:]]
    cut = min(max(1, int(len(documents) * share)), len(documents) - 1)
    return documents[:cut], documents[cut:]


def last_documents(documents: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """The end of `documents`: as many documents as `like` has, or as many tokens of a single one."""
    return [documents[0][-len(like[0]) :]] if len(documents) == 1 else documents[-len(like) :]


def first_documents(documents: list[Tensor], tokens: int) -> list[Tensor]:
    """The start of `documents`: about `tokens` targets, at least one document or all of a shorter text."""
    if len(documents) == 1:
        return [documents[0][: tokens + 1]]
    ends = torch.tensor([len(document) - 1 for document in documents]).cumsum(0)
    return documents[: max(1, int((ends <= tokens).sum()))]


def concatenate(documents: Sequence[Tensor]) -> Tensor:
    """One stream (N,) of all tokens, in which the end of a document is the start of the next one."""
    return torch.cat([documents[0], *(document[1:] for document in documents[1:])])


def random_windows(ids: Tensor, batch_size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) from random positions of a text of ids (N,)."""
    starts = torch.randint(len(ids) - length, (batch_size, 1), generator=generator)
    window = ids[starts + torch.arange(length + 1)]
    return window[:, :-1], window[:, 1:]


def pad_documents(documents: Sequence[Tensor], length: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of documents of different lengths, T that of the longest, or `length` if that is more.

    Targets after the end of a document are -1, which the loss ignores. No earlier position sees the padding.
    """
    whole = pad_sequence(list(documents), batch_first=True, padding_value=-1)
    whole = F.pad(whole, (0, max(0, length + 1 - whole.shape[1])), value=-1)
    return whole[:, :-1].clamp(min=0), whole[:, 1:]


class LineSampler:
    """Random batches of lines of similar length.

    Lines are grouped in buckets by the length that they are padded to, so that little of a batch is padding and a compiled
    model sees few shapes. A bucket is drawn in proportion to its tokens, then lines of it uniformly: each token of the data
    set has the same expected weight in the mean loss of a batch.

    Args:
        documents: The lines, (T,) each.
        batch_tokens: Tokens of a batch, padding included.
    """

    def __init__(self, documents: Sequence[Tensor], batch_tokens: int) -> None:
        self.batch_tokens = batch_tokens
        self.buckets: dict[int, list[Tensor]] = {}
        for document in documents:
            targets = len(document) - 1
            length = next((length for length in BUCKETS if targets <= length), targets)
            self.buckets.setdefault(length, []).append(document)
        self.weights = torch.tensor([float(sum(len(d) - 1 for d in bucket)) for bucket in self.buckets.values()])

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T); targets are -1 where a line has ended."""
        length = list(self.buckets)[int(torch.multinomial(self.weights, 1, generator=generator))]
        lines = self.buckets[length]
        chosen = torch.randint(len(lines), (max(1, self.batch_tokens // length),), generator=generator)
        return pad_documents([lines[i] for i in chosen.tolist()], length)

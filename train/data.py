"""A text to learn from: downloaded with a checked sha256 or read from a file, split, and cut into batches."""

import hashlib
import os
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import torch
from torch import Tensor
from tqdm import tqdm

from gpt.checkpoint import write_aside


@dataclass(frozen=True)
class Source:
    """A text with a public address, its id as a data set on the Hub, and a prompt that suits it."""

    url: str
    sha256: str
    licence: str
    dataset: str
    prompt: str


SOURCES = {
    "shakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "public domain",
        "karpathy/tiny_shakespeare",
        "ROMEO:",
    ),
}


@dataclass(frozen=True)
class Data:
    """A text and where it is from. The first 90 % of its characters are to train on, the last 10 % are held out."""

    name: str
    text: str
    sha256: str
    source: Source | None

    @property
    def prompt(self) -> str:
        """A prompt that suits the text."""
        return self.source.prompt if self.source else ""

    @property
    def parts(self) -> tuple[str, str]:
        cut = int(len(self.text) * 0.9)
        return self.text[:cut], self.text[cut:]


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "from-bigram-to-gpt"


def read(data: str) -> Data:
    """Open a text by the name of a source, or from a file.

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
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{data} is not UTF-8 text (byte {error.start} is no part of it); convert it first") from None
    return Data(Path(data).stem, text, hashlib.sha256(content).hexdigest(), SOURCES.get(data))


def _download(name: str, source: Source) -> bytes:
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
        write_aside(path, content)
    return content


def random_batch(ids: Tensor, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens (rows, length) from random places of a text of ids (N,)."""
    starts = torch.randint(len(ids) - length, (rows, 1), generator=generator)
    window = ids[starts + torch.arange(length + 1)]
    return window[:, :-1], window[:, 1:]

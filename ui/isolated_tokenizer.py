"""A stranger's tokenizer: it encodes the texts of visitors in a process of its own, with limits of time and memory."""

import json
import os
import subprocess
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import tokenizers

from gpt import Tokenizer
from ui.jobs import SECRETS

WORKER = (sys.executable, "-P", str(Path(__file__).with_name("encode_worker.py")))
ENCODE_TIMEOUT_S = 5.0
CACHED_TEXTS = 16  # a text is encoded several times: for its tokens, its unknown characters, and the model


class IsolatedTokens(NamedTuple):
    """What the process returns; see `gpt.tokenizer.Tokens`."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class IsolatedTokenizer(Tokenizer):
    """A tokenizer of a model from the Hub. `Tokenizer.from_json` has checked it; this bounds what a check can miss.

    Args:
        backend: That of a tokenizer which `gpt.load` opened.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        super().__init__(backend)
        self._run_cached = lru_cache(CACHED_TEXTS)(self._run)

    @cached_property
    def _content(self) -> str:
        return self.backend.to_str()

    def _tokenize(self, text: str) -> IsolatedTokens:
        return IsolatedTokens(*json.loads(self._run_cached(text))) if text else IsolatedTokens([], [])

    def _run(self, text: str) -> bytes:
        """The ids and offsets of a text, as JSON. Raises ValueError if the process fails or takes too long."""
        env = {name: value for name, value in os.environ.items() if not SECRETS.search(name)}
        content = json.dumps([self._content, text]).encode()
        try:
            process = subprocess.run(  # noqa: S603 (our own program)
                WORKER, input=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, timeout=ENCODE_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise ValueError("The tokenizer of this model takes too long for this text; try a shorter one.") from None
        if process.returncode:
            raise ValueError("The tokenizer of this model fails on this text; try another text, or another model.")
        return process.stdout

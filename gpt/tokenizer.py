"""Text <-> ids, over the `tokenizers` library, in the files that transformers opens."""

import json
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models

START = "\n"  # what a text without a prompt follows: a new line


class Encoded(NamedTuple):
    """ids, and the different characters that were left out because the tokenizer has no token for them."""

    ids: list[int]
    left_out: str


class Tokenizer:
    """One vocabulary. `decode(encode(text).ids)` is the text again, less the characters left out."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.vocab: dict[str, int] = backend.get_vocab()

    @classmethod
    def from_text(cls, text: str) -> "Tokenizer":
        """A token for each different character of `text`, and for the new line.

        Byte-pair encoding without a single merge: every engine reads that, and it passes over what it never saw.
        """
        vocab = {character: i for i, character in enumerate(sorted(set(text) | {START}))}
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
        backend.decoder = decoders.Fuse()  # without it, decoding puts spaces between the characters
        return cls(backend)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Open a tokenizer.json. Raises ValueError if it is not one, or not one that can write here."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError("it is not a tokenizer file") from None

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Open the content of a tokenizer.json. Raises ValueError like `from_file`."""
        try:
            tokenizer = cls(tokenizers.Tokenizer.from_str(content))
        except Exception:  # the library raises no narrower class, and tells of its own insides
            raise ValueError("it is not a tokenizer file") from None
        if sorted(tokenizer.vocab.values()) != list(range(len(tokenizer))):
            raise ValueError("its ids do not count up from 0")
        if START not in tokenizer.vocab:
            raise ValueError("it has no token for a new line, which every text starts after")
        return tokenizer

    def files(self) -> dict[str, str]:
        """The text of each file of this tokenizer, by name."""
        config = {
            "tokenizer_class": "TokenizersBackend",  # without it, transformers may take a class that drops spaces
            "clean_up_tokenization_spaces": False,
        }
        return {"tokenizer.json": self.backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=2)}

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def start_id(self) -> int:
        """The token that stands before a text that has no prompt."""
        return self.vocab[START]

    def encode(self, text: str) -> Encoded:
        """Text -> ids, and what was left out, each character once in the order of the text."""
        left_out = "".join(dict.fromkeys(c for c in text if c not in self.vocab))
        known = text.translate(dict.fromkeys(map(ord, left_out)))
        return Encoded(self.backend.encode(known).ids, left_out)

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)

"""Text <-> ids, over the `tokenizers` library, in the files that transformers opens."""

import json
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

START = "\n"  # what a text without a prompt follows: a new line
BYTE_START = "Ċ"  # the same where a vocabulary has a letter for each byte, as GPT-2 began it


class Encoded(NamedTuple):
    """ids, and the different characters that were left out because the tokenizer has no token for them."""

    ids: list[int]
    unknown_chars: str


class Tokenizer:
    """One vocabulary. `decode(encode(text).ids)` is the text again, less the characters left out."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.vocab: dict[str, int] = backend.get_vocab()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        self.lowercase_only = any(map(str.islower, self.vocab)) and all(token == token.lower() for token in self.vocab)
        self.byte_level = isinstance(backend.decoder, decoders.ByteLevel) and self.vocab.keys() >= set(alphabet)

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
    def bpe(cls, text: str, size: int) -> "Tokenizer":
        """`size` tokens, 257 or more: the 256 bytes, and pieces of words of `text`, made by joining the pair that is most
        frequent, again and again. Any text has an encoding. Raises ValueError if `text` has too few pairs to join.
        """
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # words keep the space before them
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
        if (found := backend.get_vocab_size()) != size:
            raise ValueError(f"the text gives {found} tokens, not {size}: it has no more pairs to join")
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
        if tokenizer._start not in tokenizer.vocab:
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
    def _start(self) -> str:
        return BYTE_START if self.byte_level else START

    @property
    def start_id(self) -> int:
        """The token that stands before a text that has no prompt."""
        return self.vocab[self._start]

    @property
    def unit(self) -> str:
        """What to call one of its tokens."""
        return "character" if max(map(len, self.vocab)) == 1 else "token"

    def normalize(self, text: str) -> str:
        """Lower-case `text` if the vocabulary has small letters and no capitals, as that of names; else return it as it is."""
        return text.lower() if self.lowercase_only else text

    def encode(self, text: str) -> Encoded:
        """Text -> ids, and what was left out, each character once in the order of the text."""
        unknown_chars = "".join(dict.fromkeys(c for c in text if not self._knows(c)))
        known = text.translate(dict.fromkeys(map(ord, unknown_chars)))
        return Encoded(self.backend.encode(known).ids, unknown_chars)

    def _knows(self, character: str) -> bool:
        """Whether it has an encoding: in bytes all have one but half of a character pair, which is no text."""
        return not "\ud800" <= character <= "\udfff" if self.byte_level else character in self.vocab

    def decode(self, ids: list[int]) -> str:
        """Ids -> text. Bytes that are no character, as where a token is a part of one, become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=False)

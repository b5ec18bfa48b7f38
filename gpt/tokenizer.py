"""Text <-> token ids, over the `tokenizers` library, in the files that transformers opens."""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

NEWLINE = "\n"  # a text without a prompt starts after it
BYTE_LEVEL_NEWLINE = "Ċ"  # the same in a byte-level vocabulary, in which a letter stands for each byte (as in GPT-2)
# A tokenizer must encode and decode these without a change. They show a prefix space, collapsed or stripped spaces, changed
# case, normalized characters and tokens that are not text.
ROUND_TRIP_SAMPLES = ("a", " a  B\n\n\tc. \r\n", "don't . , !", "e\u0301 ﬁ Å 日本語\u3000👩\u200d👧 \ufffd")


class Encoded(NamedTuple):
    """An encoded text.

    Attributes:
        ids: Token ids.
        unknown_chars: Each different character that the vocabulary does not have, in the order of the text; they were skipped.
    """

    ids: list[int]
    unknown_chars: str


class Tokenizer:
    """One vocabulary. `decode(encode(text).ids)` is the text again, less its unknown characters.

    Args:
        backend: A tokenizer of the `tokenizers` library. Its truncation and padding are turned off.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.vocab: dict[str, int] = backend.get_vocab()
        byte_letters = set(pre_tokenizers.ByteLevel.alphabet())
        self.is_byte_level = isinstance(backend.decoder, decoders.ByteLevel) and self.vocab.keys() >= byte_letters
        self.is_lower_case = any(map(str.islower, self.vocab)) and all(token == token.lower() for token in self.vocab)
        self._newline = BYTE_LEVEL_NEWLINE if self.is_byte_level else NEWLINE

    @classmethod
    def from_text(cls, text: str) -> "Tokenizer":
        """A token for each different character of `text`, and for the newline.

        It is stored as byte-pair encoding without merges, which every engine reads and which skips unknown characters.
        """
        vocab = {character: i for i, character in enumerate(sorted(set(text) | {NEWLINE}))}
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
        backend.decoder = decoders.Fuse()  # without it, decoding puts spaces between the characters
        return cls(backend)

    @classmethod
    def bpe(cls, text: str, size: int) -> "Tokenizer":
        """Train byte-level byte-pair encoding, which encodes any text.

        Args:
            text: The training text.
            size: Number of tokens, 257 or more: the 256 bytes and the most frequent merges.

        Raises:
            ValueError: If `text` has too few pairs to merge.
        """
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # words keep the space before them
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
        if (actual := backend.get_vocab_size()) != size:
            raise ValueError(f"the text gives {actual} tokens, not {size}: it has no more pairs to merge")
        return cls(backend)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Open a tokenizer.json. Raises ValueError like `from_json`."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError("it is not a tokenizer file") from None

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Open the content of a tokenizer.json.

        Raises:
            ValueError: If it is not a tokenizer, if its ids do not count up from 0, if it has no token for a newline, or if
                a text changes when it is encoded and decoded.
        """
        with _library_errors("it is not a tokenizer file"):
            tokenizer = cls(tokenizers.Tokenizer.from_str(content))
        if sorted(tokenizer.vocab.values()) != list(range(len(tokenizer))):
            raise ValueError("its ids do not count up from 0")
        if tokenizer._newline not in tokenizer.vocab:
            raise ValueError("it has no token for a newline, after which every text starts")
        tokenizer._check_round_trip()
        return tokenizer

    def _check_round_trip(self) -> None:
        """Raises ValueError if a sample, a character of the vocabulary or an added token changes in encoding and decoding."""
        characters = "".join(token for token in self.vocab if len(token) == 1)
        added = "".join(f" {token.content} a" for token in self.backend.get_added_tokens_decoder().values())
        for sample in (*ROUND_TRIP_SAMPLES, characters, added):
            ids, unknown_chars = self.encode(sample)
            text = "".join(c for c in sample if c not in unknown_chars)
            if (decoded := self.decode(ids)) != text:
                raise ValueError(f"it does not keep a text as it is: {text[:20]!r} comes back as {decoded[:20]!r}")

    def files(self) -> dict[str, str]:
        """The content of each file of this tokenizer, by name."""
        config = {
            "tokenizer_class": "TokenizersBackend",  # without it, transformers may choose a class that drops spaces
            "clean_up_tokenization_spaces": False,
        }
        return {"tokenizer.json": self.backend.to_str(pretty=True), "tokenizer_config.json": json.dumps(config, indent=2)}

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def start_id(self) -> int:
        """The token of a newline, after which a text without a prompt starts."""
        return self.vocab[self._newline]

    @property
    def unit(self) -> str:
        """What to call a token: "character" if each is one, else "token"."""
        return "character" if max(map(len, self.vocab)) == 1 else "token"

    def normalize(self, text: str) -> str:
        """Lower-case `text` if the vocabulary has letters but no capitals, as that of names; else return it unchanged."""
        return text.lower() if self.is_lower_case else text

    def encode(self, text: str) -> Encoded:
        """Encode a text without special tokens.

        Raises:
            ValueError: If the tokenizer's own pattern fails on the text.
        """
        unknown_chars = "".join(c for c in dict.fromkeys(text) if not self._is_known(c))
        known = text.translate(dict.fromkeys(map(ord, unknown_chars)))
        with _library_errors("the tokenizer fails on this text; give another one"):
            return Encoded(self.backend.encode(known, add_special_tokens=False).ids, unknown_chars)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of `text` that each token of `encode(normalize(text))` stands for: the first, and the one after.

        Unknown characters are in no span, or inside that of a token around them. Tokens for parts of a character share its
        span.
        """
        characters = [(i, c) for i, original in enumerate(text) for c in self.normalize(original)]
        known = [(i, c) for i, c in characters if self._is_known(c)]
        with _library_errors("the tokenizer fails on this text; give another one"):
            offsets = self.backend.encode("".join(c for _, c in known), add_special_tokens=False).offsets
        spans, last = [], 0
        for start, end in offsets:
            start = min(start, last)  # a post-processor may leave out the spaces around a word
            last = max(end, start + 1)
            spans.append((known[start][0], known[last - 1][0] + 1))
        return spans

    def _is_known(self, character: str) -> bool:
        """Whether a character has an encoding. In bytes, all have one except surrogates, which UTF-8 cannot encode."""
        return not "\ud800" <= character <= "\udfff" if self.is_byte_level else character in self.vocab

    def decode(self, ids: list[int]) -> str:
        """Decode token ids. Bytes that are not UTF-8, as in a token for a part of a character, become U+FFFD."""
        with _library_errors("the tokenizer fails to decode these tokens"):
            return self.backend.decode(ids, skip_special_tokens=False)


class StreamDecoder:
    """Decodes token ids one at a time.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._stream = decoders.DecodeStream(skip_special_tokens=False)

    def step(self, token_id: int) -> str:
        """What a token adds to the text: "" while a multi-byte character is incomplete."""
        try:  # not `_library_errors`, whose cost shows here: this runs for every token
            return self._stream.step(self._backend, token_id) or ""
        except BaseException as error:
            raise _translate_error(error, "the tokenizer fails to decode these tokens") from None


def name_characters(characters: str, most: int = 20) -> str:
    """Characters for a message: visible ones as they are, others by name, such as "space"; "…" after the first `most`."""
    names = [
        c
        if c.isprintable() and not c.isspace() and not unicodedata.combining(c)
        else {"\n": "line break", "\t": "tab"}.get(c) or unicodedata.name(c, "").lower() or f"U+{ord(c):04X}"
        for c in characters[:most]
    ]
    return " ".join(names) + (" …" if len(characters) > most else "")


@contextmanager
def _library_errors(message: str) -> Iterator[None]:
    """Turn what the `tokenizers` library raises into a ValueError with this message."""
    try:
        yield
    except BaseException as error:
        raise _translate_error(error, message) from None


def _translate_error(error: BaseException, message: str) -> BaseException:
    """A ValueError in place of an error of the `tokenizers` library; any other error unchanged.

    The library raises plain Exception for a bad file, and a Rust panic, as for a regular expression that backtracks too far,
    is a BaseException whose class cannot be imported.
    """
    is_library_error = isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"
    return ValueError(message) if is_library_error else error

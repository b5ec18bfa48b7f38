"""Text <-> token ids, over the `tokenizers` library, in the files that transformers opens."""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from gpt.files import read_text

NEWLINE = "\n"  # a text without a prompt starts after it
BYTE_LEVEL_NEWLINE = "Ċ"  # the same in a byte-level vocabulary, in which a letter stands for each byte (as in GPT-2)
# A tokenizer must encode and decode these without a change. They show a prefix space, collapsed or stripped spaces, changed
# case, normalized characters and tokens that are not text.
ROUND_TRIP_SAMPLES = ("a", " a  B\n\n\tc. \r\n", "don't . , !", "e\u0301 ﬁ Å 日本語\u3000👩\u200d👧 \ufffd")

MAX_FILE_BYTES = 16_000_000  # of a tokenizer.json; GPT-2's has 3.6 million
MAX_TOKENS = 2**18  # the largest vocabulary that a config allows
MAX_ADDED_TOKENS = 1_000
MAX_TOKEN_CHARS = 256  # GPT-2's longest token has 128
# What a tokenizer.json may contain: what this project and GPT-2's authors write, and a word for each character. Other components
# can change, repeat or lose a part of a text, take hours, or crash the process. Switches (booleans) are not compared.
COMPONENTS: dict[str, tuple[Any, ...]] = {
    "normalizer": ({},),
    "pre_tokenizer": ({}, {"type": "ByteLevel"}, {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated"}),
    "decoder": ({"type": "Fuse"}, {"type": "ByteLevel"}),
}
MODELS = {"BPE": {"vocab", "merges", "unk_token"}, "WordLevel": {"vocab", "unk_token"}}  # and their options
NOT_A_TOKENIZER = "it is not a tokenizer file"


class Tokens(Protocol):
    """The tokens of a text: their ids, and the characters that each stands for."""

    @property
    def ids(self) -> list[int]:
        """The ids."""

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """For each token the index of its first character, and of the one after its last."""


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
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, max_token_length=MAX_TOKEN_CHARS, show_progress=False
        )
        backend.train_from_iterator([text], trainer)
        if (actual := backend.get_vocab_size()) != size:
            raise ValueError(f"the text gives {actual} tokens, not {size}: it has no more pairs to merge")
        return cls(backend)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Open a tokenizer.json. Raises ValueError like `from_json`, and OSError if it cannot be read."""
        return cls.from_json(read_text(path, MAX_FILE_BYTES))

    @classmethod
    def from_json(cls, content: str) -> "Tokenizer":
        """Open the content of a tokenizer.json, which may come from a stranger.

        Truncation, padding and post-processors are left out: this project encodes without special tokens.

        Raises:
            ValueError: If it is not a tokenizer, if it has components that `COMPONENTS` and `MODELS` do not list, if a size is
                out of range, if its ids do not count up from 0, if it has no token for a newline, or if a text changes when
                it is encoded and decoded.
        """
        document = _checked_document(content)
        with _library_errors(NOT_A_TOKENIZER):
            tokenizer = cls(tokenizers.Tokenizer.from_str(json.dumps(document)))
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
        return Encoded(self._tokenize(known).ids, unknown_chars)

    def _tokenize(self, text: str) -> Tokens:
        """Encode a text of known characters."""
        with _library_errors("the tokenizer fails on this text; give another one"):
            return self.backend.encode(text, add_special_tokens=False)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of `text` that each token of `encode(normalize(text))` stands for: the first, and the one after.

        Unknown characters are in no span, or inside that of a token around them. Tokens for parts of a character share its
        span.
        """
        characters = [(i, c) for i, original in enumerate(text) for c in self.normalize(original)]
        known = [(i, c) for i, c in characters if self._is_known(c)]
        offsets = self._tokenize("".join(c for _, c in known)).offsets
        return [(known[start][0], known[max(end, start + 1) - 1][0] + 1) for start, end in offsets]

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


def _checked_document(content: str) -> dict[str, Any]:
    """The parts of a tokenizer.json that are used, as `from_json` allows them. Raises ValueError for others."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES:,} characters")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(NOT_A_TOKENIZER) from None
    if not isinstance(document, dict) or not isinstance(model := document.get("model"), dict):
        raise ValueError(NOT_A_TOKENIZER)
    added = document.get("added_tokens") or []
    _check_tokens(model.get("vocab"), added)
    _check_merges(model.get("merges", []), model["vocab"])
    for name, allowed in COMPONENTS.items():
        if _without_switches(document.get(name)) not in allowed:
            raise ValueError(f"its {name} is not supported; a byte-level tokenizer like GPT-2's, or one of characters, is")
    kind = model.get("type", "BPE" if "merges" in model else None)  # GPT-2's own file does not name it
    if not isinstance(kind, str) or not _without_switches(model).keys() <= MODELS.get(kind, set()) | {"type"}:
        raise ValueError(f"its model is not supported; plain {' and '.join(MODELS)} are")
    return {"version": "1.0", "added_tokens": added, "model": model} | {name: document.get(name) for name in COMPONENTS}


def _without_switches(component: Any) -> Any:
    """A component of a tokenizer.json without its booleans and empty values; {} for null."""
    if not isinstance(component, dict):
        return {} if component is None else component
    return {name: value for name, value in component.items() if value not in (None, "") and type(value) is not bool}


def _check_tokens(vocab: Any, added: Any) -> None:
    """Raises ValueError if the vocabulary or the added tokens of a tokenizer.json are malformed, too many or too long."""
    if not isinstance(vocab, dict) or not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError(NOT_A_TOKENIZER)
    if len(vocab) > MAX_TOKENS or len(added) > MAX_ADDED_TOKENS:
        raise ValueError(f"it has more than {MAX_TOKENS:,} tokens, or more than {MAX_ADDED_TOKENS:,} added ones")
    for token in (*vocab, *(token.get("content") for token in added)):
        if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN_CHARS:
            raise ValueError(f"a token has no text, or more than {MAX_TOKEN_CHARS} characters")
    if any(token.get(name) for token in added for name in ("single_word", "lstrip", "rstrip")):
        raise ValueError("an added token takes in the spaces around it, or only matches a word, which is not supported")


def _check_merges(merges: Any, vocab: dict[str, int]) -> None:
    """Raises ValueError if the merges of a tokenizer.json are not pairs of tokens that make a token."""
    pairs: list[Any] = (
        [merge.split(" ") if isinstance(merge, str) else merge for merge in merges] if isinstance(merges, list) else [None]
    )
    for pair in pairs:
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(token, str) for token in pair)
        if not is_pair or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError("its merges are not pairs of tokens that make a token")


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

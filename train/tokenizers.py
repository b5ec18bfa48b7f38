"""The vocabulary of a run, as `--tokenizer` names it."""

from pathlib import Path

from gpt import Tokenizer, hub
from train.data import TextDataset

LEAST, MOST = 257, 65_536  # tokens of bpe:N; fewer would be bytes alone
GPT2 = "openai-community/gpt2"
FILE = "tokenizer.json"


def tokenizer_for(asked: str, data: TextDataset) -> Tokenizer:
    """asked: char, bpe:N (learned from the training part of `data` alone), gpt2 (from the Hub, once), or a tokenizer.json.

    Raises ValueError, in one sentence, if there is no such tokenizer, HubError if GPT-2's cannot be had.
    """
    kind, _, size = asked.partition(":")
    if asked == "char":
        return Tokenizer.from_text(data.text)
    if kind == "bpe":
        if not size.isdecimal() or not LEAST <= int(size) <= MOST:
            raise ValueError(f"{asked} is no vocabulary; give bpe:N with N from {LEAST} to {MOST:,}, as in bpe:512")
        try:
            return Tokenizer.bpe(data.parts[0], int(size))
        except ValueError as error:
            raise ValueError(f"{data.name} is too short for {asked} ({error}); ask for fewer tokens") from None
    if asked == "gpt2":
        return _gpt2()
    try:
        return Tokenizer.from_file(Path(asked))
    except OSError as error:
        raise ValueError(
            f"no tokenizer could be read from {asked!r} ({error.strerror}); give a {FILE}, or one of: char, bpe:N, gpt2"
        ) from None
    except ValueError as error:
        raise ValueError(f"{asked} cannot be used ({error}); give another {FILE}") from None


def _gpt2() -> Tokenizer:
    if folder := hub.cached(GPT2, None, (FILE,)):
        return Tokenizer.from_file(folder / FILE)
    hub.find(GPT2)  # says what is wrong if the Hub cannot be asked, which a download of a part does not
    with hub.aside() as aside:
        path = hub.fetch(GPT2, None, (FILE,), aside) / FILE
        tokenizer = Tokenizer.from_file(path)
        hub.keep(aside)
    return tokenizer

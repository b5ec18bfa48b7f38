"""The vocabulary of a run, as `--tokenizer` names it."""

from pathlib import Path

from gpt import Tokenizer, hub
from train.data import TextDataset, TokenizedDataset

MIN_BPE_TOKENS, MAX_BPE_TOKENS = 257, 65_536  # fewer would be only bytes
GPT2_REPO = "openai-community/gpt2"
TOKENIZER_FILE = "tokenizer.json"


def tokenize(dataset: TextDataset, name: str = "char", context_length: int = 1) -> TokenizedDataset:
    """Split and encode a data set with the tokenizer that `name` stands for.

    Args:
        dataset: The data set.
        name: See `make_tokenizer`.
        context_length: Tokens of a training window of a running text.

    Raises:
        ValueError: If there is no such tokenizer, or the text is too short.
        HubError: If GPT-2's tokenizer cannot be downloaded.
    """
    recorded = Path(name).name if Path(name).is_absolute() else name  # a path of this machine is private
    return TokenizedDataset.from_dataset(dataset, make_tokenizer(name, dataset), recorded, context_length)


def make_tokenizer(name: str, dataset: TextDataset) -> Tokenizer:
    """Make or open a tokenizer.

    Args:
        name: "char"; "bpe:N", learned from the training part of `dataset`; "gpt2", from the Hub; or a tokenizer.json.
        dataset: The data set.

    Raises:
        ValueError: If there is no such tokenizer.
        HubError: If GPT-2's tokenizer cannot be downloaded.
    """
    kind, _, size = name.partition(":")
    if name == "char":
        return Tokenizer.from_text(dataset.text)
    if kind == "bpe":
        if not size.isdecimal() or not MIN_BPE_TOKENS <= int(size) <= MAX_BPE_TOKENS:
            raise ValueError(
                f"{name} is no vocabulary; give bpe:N with N from {MIN_BPE_TOKENS} to {MAX_BPE_TOKENS:,}, as in bpe:512"
            )
        try:
            return Tokenizer.bpe(dataset.split()[0].text, int(size))
        except ValueError as error:
            raise ValueError(f"{dataset.name} is too short for {name} ({error}); ask for fewer tokens") from None
    if name == "gpt2":
        return _gpt2()
    try:
        path = Path(name)
        if path.exists() and not path.is_file():  # a pipe or device may never end
            raise ValueError("it is not a file")
        return Tokenizer.from_file(path)
    except OSError as error:
        raise ValueError(
            f"no tokenizer could be read from {name!r} ({error.strerror}); give a {TOKENIZER_FILE}, or one of: char, bpe:N, gpt2"
        ) from None
    except ValueError as error:
        raise ValueError(f"{name} cannot be used ({error}); give another {TOKENIZER_FILE}") from None


def _gpt2() -> Tokenizer:
    folder = hub.find_snapshot(GPT2_REPO, None, (TOKENIZER_FILE,)) or hub.download(GPT2_REPO, None, (TOKENIZER_FILE,))
    return Tokenizer.from_file(folder / TOKENIZER_FILE)

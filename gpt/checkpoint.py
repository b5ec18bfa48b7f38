"""A weights folder <-> a model and its tokenizer: safetensors and JSON, the files that transformers reads."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gpt.bigram import Bigram, BigramConfig
from gpt.generate import LanguageModel
from gpt.model import CausalModel
from gpt.sampling import SamplingParams
from gpt.tokenizer import Tokenizer
from gpt.transformer import GPT, GPTConfig

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"

# The model_type of config.json -> the classes that it means. A new model is one more line.
MODEL_TYPES: dict[str, tuple[Any, Any]] = {
    "bigram": (Bigram, BigramConfig),
    "qwen3": (GPT, GPTConfig),
}

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


class CheckpointError(Exception):
    """Weights that cannot be had: not there, or damaged. Its text is one sentence that says what to do."""


def write_aside(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it, so that whoever looks finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return sha.hexdigest()


def save(folder: Path, model: CausalModel, tokenizer: Tokenizer) -> None:
    """Write the weights folder of a model: what `load`, and transformers for a GPT, opens.

    The weights carry a sha256 of themselves in their header, which `load` checks.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    generation = {
        "do_sample": True,  # without it, engines write greedily whatever the temperature
        "temperature": SamplingParams().temperature,
        "top_k": 0,  # transformers' own default is 50
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": tokenizer.start_id,
    }
    files: dict[str, bytes | str] = {
        **tokenizer.files(),
        "config.json": json.dumps(model.config.to_json(), indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt", "sha256": _digest(tensors)}),
    }
    for name, content in files.items():
        write_aside(folder / name, content)


def names() -> list[str]:
    """The models under weights/."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def load(model: str | os.PathLike[str], revision: str | None = None) -> LanguageModel:
    """Open a model: a name under weights/, a folder, or a Hub id "user/repo" (at `revision`: a branch, tag or commit).

    A name wins over a folder of the same name, and neither needs the network. A Hub id is downloaded once and from
    then on opened from the cache, as it was. Raises CheckpointError, in one sentence, if it cannot be had.
    """
    name = os.fspath(model)
    if revision is not None and (name in names() or os.path.isdir(name)):
        raise CheckpointError(f"{name} is on this machine and has no revision {revision!r}; leave it out, or give a Hub id")
    if name in names():
        return _open(WEIGHTS / name, name)
    if os.path.isdir(name):  # unlike Path.is_dir, no error for what can be no path
        return _open(Path(name), Path(name).resolve().name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) and not name.startswith("."):
        return _open(_download(name, revision), name)
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"weights/ has {', '.join(names()) or 'none'}."
    raise CheckpointError(f"there is no model {name!r}; {hint} A folder or a Hub id like user/repo also serves")


def _download(repo: str, revision: str | None) -> Path:
    """The folder of a Hub repo in the local cache; asks the Hub only for what is not there yet."""
    import huggingface_hub  # slow to import, and most models are local
    from huggingface_hub import errors

    wanted = [*NEEDED, "training.json", "generation_config.json", "tokenizer_config.json"]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted, local_files_only=True))
        if all((folder / name).is_file() for name in NEEDED):
            return folder
    except errors.LocalEntryNotFoundError:
        pass  # not in the cache: ask the Hub
    except errors.HFValidationError:
        raise CheckpointError(f"{repo} cannot be a Hub id; give one like user/repo, as its page shows it") from None
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{repo} has no revision {revision!r} on the Hub; leave it out, or name a branch, tag or commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{repo} is not on the Hub, or is private; check its name, or log in with `hf auth login`"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError):
        raise CheckpointError(f"{repo} could not be fetched from the Hub; check the network, and try again") from None


def _open(folder: Path, name: str) -> LanguageModel:
    mend = (
        f"restore it with `git checkout -- weights/{folder.name}`"
        if folder.parent == WEIGHTS
        else "train or download the model again"
    )
    for file in NEEDED:
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / file} is missing; {mend}")
    with _blaming(folder / "config.json", mend):
        config = _json_object(folder / "config.json")
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
            raise ValueError(f"model_type is {model_type!r}; known here: {', '.join(MODEL_TYPES)}")
        model_class, config_class = MODEL_TYPES[model_type]
        sizes = config_class.from_json(config)
    with _blaming(folder / "tokenizer.json", mend):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        if len(tokenizer) != sizes.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens, config.json says {sizes.vocab_size}")
    with _blaming(folder / "model.safetensors", mend):
        with torch.device("meta"):  # shapes without memory, to compare before any is taken
            expected = {name: tuple(tensor.shape) for name, tensor in model_class(sizes).state_dict().items()}
        tensors = _read_tensors(folder / "model.safetensors", expected)
    opened = model_class(sizes)
    opened.load_state_dict(tensors)
    return LanguageModel(opened, tokenizer, name)


@contextmanager
def _blaming(path: Path, mend: str) -> Iterator[None]:
    """Whatever is wrong with a file becomes a CheckpointError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {mend}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or does not fit ({error}); {mend}") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested without end
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _read_tensors(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, if their names and shapes are as expected and their own sha256 agrees."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            if odd:
                has, wants = found.get(odd[0], "not there"), expected.get(odd[0], "none")
                raise ValueError(f"{odd[0]} is {has}, config.json wants {wants}")
            tensors = {name: file.get_tensor(name) for name in found}
            digest = (file.metadata() or {}).get("sha256")
    except safetensors.SafetensorError:  # its text tells of the library's insides
        raise ValueError("it is cut short, or no safetensors file") from None
    if digest is not None and digest != _digest(tensors):
        raise ValueError("its content does not match its own sha256")
    return tensors

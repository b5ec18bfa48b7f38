"""A weights folder <-> a model and its tokenizer: safetensors and JSON, the files that transformers reads."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from gpt.files import read_text
from gpt.generation import LanguageModel
from gpt.models.base import BaseModel, Config, Model
from gpt.models.registry import build_model, family_of, parse_config
from gpt.sampling import SamplingParams
from gpt.tokenizer import Tokenizer

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"  # only in a checkout of the repository

HUB_ID = re.compile(r"(?![.])[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)  # the Hub itself has a few more rules
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
REPLAY = "replay.json"  # the same text after 0, 10, 30, 100... training steps, with its distributions
# Those downloaded from the Hub; a model need not have the last four.
FILES = (*NEEDED, "tokenizer_config.json", "generation_config.json", "training.json", REPLAY)
BASE_HINT = "train or download the model again"
MAX_CONFIG_BYTES = 1_000_000
MAX_HEADER_BYTES = 10_000_000  # of a safetensors file: the names and shapes of its tensors
RESUME = "resume.pt"  # written by a training run until it has finished


class CheckpointError(Exception):
    """A model cannot be opened. The message is one sentence that says what to do."""


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file under another name and rename it, so that readers see the old file or the new one, complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # such as a full disk, whose error names no file
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # mostly it does not exist any more
            temporary.unlink()


def _digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return sha.hexdigest()


def save(folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Write the weights folder of a model, which `load` opens, and transformers for a GPT.

    The header of the weights contains their sha256, which `load` checks.

    Args:
        folder: Created if it does not exist.
        model: Stored in the dtype of its parameters.
        tokenizer: Its tokenizer.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    generation = {
        "do_sample": True,  # without it, engines ignore the temperature
        "temperature": SamplingParams().temperature,
        "top_k": 0,  # transformers' own default is 50
        "bos_token_id": None,
        "eos_token_id": model.config.eos_token_id,
        "pad_token_id": tokenizer.start_id,
    }
    files: dict[str, bytes | str] = {
        **tokenizer.files(),
        "config.json": json.dumps(model.config.to_dict(), indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt", "sha256": _digest(tensors)}),
    }
    for name, content in files.items():
        atomic_write(folder / name, content)


def names() -> list[str]:
    """The models under weights/."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def load(
    model: str | os.PathLike[str],
    revision: str | None = None,
    *,
    device: str | torch.device | None = None,
    local_files_only: bool = False,
) -> Any:
    """Open a model.

    Args:
        model: A name under weights/, a folder, or a Hub id "user/repo", in this order. A Hub id is downloaded into the
            cache of `huggingface_hub`. Later calls ask the Hub whether there is a newer commit, and use the cache if it
            cannot be reached.
        revision: A branch, tag or commit of a Hub id. A cached commit is opened without a request.
        device: Where to compute; the CPU by default.
        local_files_only: Open a Hub id from the cache, without a request.

    Returns:
        A `TextModel`: a `LanguageModel`, or the class of its family (`ModelFamily.lm_class`).

    Raises:
        CheckpointError: If it cannot be found, downloaded or opened.
    """
    name = os.fspath(model)
    is_shipped = name in names()
    if is_shipped or os.path.isdir(name):  # unlike Path.is_dir, no error for a string that cannot be a path
        if revision is not None:
            raise CheckpointError(f"{name} is a local folder and has no revision {revision!r}; leave it out, or give a Hub id")
        if is_shipped:
            return open_folder(WEIGHTS / name, name, hint=f"restore it with `git checkout -- weights/{name}`", device=device)
        return open_folder(Path(name), Path(name).resolve().name, device=device)
    if name.endswith(".pt2") and os.path.isfile(name):
        raise CheckpointError(f"{name} is a program, which runs code when it is opened; `python -m gpt --model {name}` does that")
    # "runs/mine" has the form of a Hub id; where runs/ is a folder, and no revision is given, it is a path.
    if HUB_ID.fullmatch(name) and (revision is not None or not os.path.isdir(os.path.dirname(name))):
        return _load_from_hub(name, revision, device, local_files_only)
    raise CheckpointError(_not_found(name))


def _not_found(name: str) -> str:
    """The message for a name that is neither a model nor a Hub id."""
    parent, base = os.path.split(name.rstrip("/"))
    if parent or name.startswith((".", "~")):
        siblings = [path.name for path in Path(parent).glob("*")] if os.path.isdir(parent) else []
        near = difflib.get_close_matches(base, siblings, n=1)
        if near:
            return f"there is no folder {name[:200]!r}; did you mean {os.path.join(parent, near[0])!r}?"
        hub_id = "a Hub id with its revision, such as main" if HUB_ID.fullmatch(name) else "a Hub id like user/repo"
        return f"there is no folder {name[:200]!r}; give a folder that exists, or {hub_id}"
    if not WEIGHTS.is_dir():
        return (
            f"there is no folder {name[:200]!r}, and this installation has no weights/, which comes with a clone of the "
            "repository; give a folder or a Hub id like user/repo, or run from a clone"
        )
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"weights/ has {', '.join(names()) or 'no models'}."
    return f"there is no model {name[:200]!r}; {hint} A folder or a Hub id like user/repo also works"


def _load_from_hub(repo: str, revision: str | None, device: str | torch.device | None, local_files_only: bool) -> Any:
    hint = f"remove it with `hf cache rm model/{repo}` and load it again, or tell its author"
    folder = _find_or_download(repo, revision, local_files_only)
    base, base_folder = read_base_model(folder, repo, hint), None
    if base and not find_base_folder(folder, base):
        base_folder = _find_or_download(base_repo(repo, base), None, local_files_only)
    return open_folder(folder, repo, repo, hint, device, base_folder)


def _find_or_download(repo: str, revision: str | None, local_files_only: bool) -> Path:
    """The folder of a model of the Hub. Raises CheckpointError if it cannot be downloaded."""
    from gpt import hub  # slow to import, and most models are local

    try:
        return hub.find_snapshot(repo, revision, NEEDED, local_files_only) or download(repo, revision)
    except hub.HubError as error:
        raise CheckpointError(str(error)) from None


def download(
    repo: str,
    revision: str | None,
    cache_dir: Path | None = None,
    tqdm_class: type[tqdm] | None = None,
    token: str | bool | None = None,
) -> Path:
    """Download the files of a model from the Hub, the weights last: an unsupported model is refused before.

    The arguments are those of `gpt.hub.download`.

    Returns:
        The folder, to open with `open_folder`; its name is the commit.

    Raises:
        CheckpointError: If a file is missing or the model is not supported.
        HubError: If the download fails.
    """
    from gpt import hub

    hint = f"a model on the Hub needs {', '.join(NEEDED)}"
    folder = hub.download(repo, revision, NEEDED[:2], cache_dir, hub.NullProgress, token)
    _require(folder, NEEDED[:2], repo, hint)
    _read_config(folder, repo, "give another model, or tell its author")
    folder = hub.download(repo, folder.name, FILES, cache_dir, tqdm_class, token)
    _require(folder, NEEDED, repo, hint)
    return folder


def base_repo(repo: str, base: BaseModel) -> str:
    """The Hub id of the base model of a model on the Hub: a repository of the same user."""
    return f"{repo.partition('/')[0]}/{base.name}"


def read_base_model(folder: Path, source: str, hint: str) -> BaseModel | None:
    """The base model that a folder names, or None if its model needs none. Raises CheckpointError if the folder is damaged."""
    _require(folder, NEEDED, source, hint)
    return getattr(_read_config(folder, source, hint)[0], "base_model", None)


def find_base_folder(folder: Path, base: BaseModel) -> Path | None:
    """The folder of a base model: beside `folder`, else under weights/. None if neither has the weights that are needed."""
    for candidate in (folder.resolve().parent / base.name, WEIGHTS / base.name):
        if (path := candidate / "model.safetensors").is_file() and sha256_of_file(path) == base.sha256:
            return candidate
    return None


def sha256_of_file(path: Path) -> str:
    """The sha256 of the content of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_base(folder: Path, base: BaseModel, source: str, device: str | torch.device | None) -> Any:
    """Open the base model in `folder`. Raises CheckpointError if it has other weights."""
    if (path := folder / "model.safetensors").is_file() and sha256_of_file(path) != base.sha256:
        raise CheckpointError(
            f"{source} was trained with another {base.name} than there is now; train it again, or tell its author"
        )
    if read_base_model(folder, str(folder), BASE_HINT):
        raise CheckpointError(f"{source} names {base.name} as its base model, which needs one itself; {BASE_HINT}")
    return open_folder(folder, base.name, device=device)


def open_folder(
    folder: Path,
    name: str,
    source: str | None = None,
    hint: str = "train or download the model again",
    device: str | torch.device | None = None,
    base_folder: Path | None = None,
) -> Any:
    """Open a weights folder.

    Args:
        folder: The folder.
        name: What to call the model in messages.
        source: What to call the folder in messages; its path by default.
        hint: What to do if a file is missing or damaged.
        device: Where to compute; the CPU by default.
        base_folder: The folder of its base model, if it needs one; by default that of `find_base_folder`.

    Returns:
        As `load`.

    Raises:
        CheckpointError: If a file is missing, damaged, or does not fit the others.
    """
    source = source or str(folder)
    if (folder / RESUME).is_file() and not (folder / "config.json").is_file():
        hint = "the run was stopped before its first evaluation; continue it with the same command and `--resume`"
    _require(folder, NEEDED, source, hint)
    config, tokenizer = _read_config(folder, source, hint)
    options: dict[str, Any] = {}
    if base := getattr(config, "base_model", None):
        base_folder = base_folder or find_base_folder(folder, base)
        if base_folder is None:
            raise CheckpointError(
                f"{source} needs {base.name} with the weights that it was trained with, which are neither beside it nor under "
                "weights/; put the folder of that model there, or train both again"
            )
        options["base"] = _open_base(base_folder, base, source, device)
    with _checkpoint_errors(f"{source}/model.safetensors", hint):
        with torch.device("meta"), skip_init():  # shapes without memory, to compare before any is allocated
            model = build_model(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tensors = _read_tensors(folder / "model.safetensors", expected)
        state_dict = {name: _convert(name, tensors[name], own.dtype) for name, own in model.state_dict().items()}
        model.load_state_dict(state_dict, assign=True)  # memory-mapped, not copied, where the dtype is the same
    with _checkpoint_errors(f"{source}/config.json", hint):
        return (family_of(config).lm_class or LanguageModel)(model, tokenizer, name, device, **options)


class skip_init(TorchFunctionMode):  # noqa: N801 (named after torch.nn.utils.skip_init)
    """Build a model without initializing its parameters.

    Random numbers on the device "meta" make PyTorch import torch._dynamo and sympy, which takes as long as torch itself.
    """

    functions = (
        torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor unchanged where `func` would initialize it."""
        kwargs = kwargs or {}
        if func in self.functions:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _require(folder: Path, files: Sequence[str], source: str, hint: str) -> None:
    """Raise CheckpointError if one of `files` is missing."""
    for file in files:
        if not (folder / file).is_file():
            raise CheckpointError(f"{source}/{file} is missing; {hint}")


def _read_config(folder: Path, source: str, hint: str) -> tuple[Config, Tokenizer]:
    """The config and the tokenizer of a folder."""
    with _checkpoint_errors(f"{source}/config.json", hint):
        config = parse_config(_json_object(folder / "config.json"))
    with _checkpoint_errors(f"{source}/tokenizer.json", hint):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        if len(tokenizer) != config.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens, config.json says {config.vocab_size}")
    return config, tokenizer


@contextmanager
def _checkpoint_errors(path: str, hint: str) -> Iterator[None]:
    """Raise a CheckpointError that names the file for an OSError or ValueError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {hint}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or does not fit ({error}); {hint}") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, MAX_CONFIG_BYTES))
    except (ValueError, RecursionError):  # not JSON, not UTF-8, too long, or nested too deeply
        raise ValueError("it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _convert(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the dtype that the model computes in. Raises ValueError if it does not fit, or is not finite then."""
    if tensor.is_floating_point() != dtype.is_floating_point:
        raise ValueError(f"{name} is stored as {tensor.dtype}, which does not fit {dtype}")
    tensor = tensor.to(dtype)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} contains numbers that are not finite")
    return tensor


def _read_tensors(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError if their names, shapes or sha256 are not as expected."""
    with open(path, "rb") as start:
        if int.from_bytes(start.read(8), "little") > MAX_HEADER_BYTES:
            raise ValueError("it is truncated, or not a safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            if wrong:
                has, needs = str(shapes.get(wrong[0], "missing")), expected.get(wrong[0], "no such tensor")
                raise ValueError(f"{_printable(wrong[0])} is {has[:80]}, config.json needs {needs}")
            tensors = {name: file.get_tensor(name) for name in shapes}
            digest = (file.metadata() or {}).get("sha256")
    except safetensors.SafetensorError:  # its message is about the format's internals
        raise ValueError("it is truncated, or not a safetensors file") from None
    if digest is not None and digest != _digest(tensors):
        raise ValueError("its content does not match its own sha256")
    return tensors


def _printable(name: str) -> str:
    """The name of a tensor for a message: a stranger's can be long, or contain line breaks."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name[:80])

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
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from gpt.generation import LanguageModel
from gpt.models.base import CausalLM, Config
from gpt.models.registry import build_model, family_of, parse_config
from gpt.sampling import SamplingParams
from gpt.tokenizer import Tokenizer

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"

HUB_ID = re.compile(r"(?![.])[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)  # as far as it can be told without the Hub
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
FILES = (*NEEDED, "tokenizer_config.json", "generation_config.json", "training.json")  # fetched source they are


class CheckpointError(Exception):
    """Weights that cannot be had: not there, or damaged. Its text is one sentence that says what to do."""


def atomic_write(path: Path, content: bytes | str) -> None:
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


def save(folder: Path, model: CausalLM, tokenizer: Tokenizer) -> None:
    """Write the weights folder of a model: what `load`, and transformers for a GPT, opens.

    The weights carry a sha256 of themselves in their header, which `load` checks.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    generation = {
        "do_sample": True,  # without it, engines write greedily whatever the temperature
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


def load(model: str | os.PathLike[str], revision: str | None = None) -> LanguageModel:
    """Open a model: a name under weights/, a folder, or a Hub id "user/repo" (at `revision`: a branch, tag or commit).

    A name wins over a folder of the same name, and neither needs the network. A Hub id is downloaded once and from
    then on opened from the cache, as it was. Raises CheckpointError, in one sentence, if it cannot be had.
    """
    name = os.fspath(model)
    if revision is not None and (name in names() or os.path.isdir(name)):
        raise CheckpointError(f"{name} is on this machine and has no revision {revision!r}; leave it out, or give a Hub id")
    if name in names():
        return open_folder(WEIGHTS / name, name, hint=f"restore it with `git checkout -- weights/{name}`")
    if os.path.isdir(name):  # unlike Path.is_dir, no error for what can be no path
        return open_folder(Path(name), Path(name).resolve().name)
    if name.endswith(".pt2") and os.path.isfile(name):
        raise CheckpointError(f"{name} is a program, which runs code when it is opened; `python -m gpt --model {name}` does that")
    if HUB_ID.fullmatch(name):
        return _from_hub(name, revision)
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"weights/ has {', '.join(names()) or 'none'}."
    raise CheckpointError(f"there is no model {name!r}; {hint} A folder or a Hub id like user/repo also serves")


def _from_hub(repo: str, revision: str | None) -> LanguageModel:
    """Open a model from the cache; if it is not there, from the Hub, and keep it if it could be opened."""
    from gpt import hub  # slow to import, and most models are local

    try:
        if folder := hub.cached(repo, revision, NEEDED):
            return open_folder(folder, repo, hint=f"remove it with `hf cache rm model/{repo}`, and open it again")
        with hub.staging_dir() as staging:
            _, lm = download(repo, revision, hub.list_files(repo, revision), staging)
            hub.commit_to_cache(staging)
    except hub.HubError as error:
        raise CheckpointError(str(error)) from None
    return lm


def download(
    repo: str, revision: str | None, sizes: dict[str, int], into: Path, bar: Any = None, token: bool | None = None
) -> tuple[Path, LanguageModel]:
    """Download a model from the Hub, which has files of these `sizes` (`hub.find`), and open it.

    The weights come last: a model of an unknown kind is refused before. Raises CheckpointError or HubError.
    """
    from gpt import hub

    for name in NEEDED:
        if name not in sizes:
            raise CheckpointError(f"{repo} has no {name} on the Hub; what opens here has {', '.join(NEEDED)}")
    hint = "nothing was kept; tell its author, or open another"
    _read_config(hub.download(repo, revision, NEEDED[:2], into, NullProgress, token), repo, hint)
    folder = hub.download(repo, revision, FILES, into, bar, token)
    return folder, open_folder(folder, repo, repo, hint)


class NullProgress(tqdm):
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def open_folder(
    folder: Path,
    name: str,
    source: str | None = None,
    hint: str = "train or download the model again",
    device: str | torch.device | None = None,
) -> LanguageModel:
    """Open a weights folder.

    Args:
        folder: The folder.
        name: What to call the model in messages.
        source: What to call the folder in messages; its path by default.
        hint: What to do if something is missing or damaged.
        device: Where to compute; the CPU by default.

    Raises:
        CheckpointError: If a file is missing, damaged, or does not fit the others.
    """
    source = source or str(folder)
    for file in NEEDED:
        if not (folder / file).is_file():
            raise CheckpointError(f"{source}/{file} is missing; {hint}")
    config, tokenizer = _read_config(folder, source, hint)
    with _checkpoint_errors(f"{source}/model.safetensors", hint):
        with torch.device("meta"), skip_init():  # shapes without memory, to compare before any is allocated
            model = build_model(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tensors = _read_tensors(folder / "model.safetensors", expected)
        state_dict = {name: tensors[name].to(own.dtype) for name, own in model.state_dict().items()}
        model.load_state_dict(state_dict, assign=True)  # memory-mapped, not copied, where the dtype is the same
    return (family_of(config).lm_class or LanguageModel)(model, tokenizer, name, device)


class skip_init(TorchFunctionMode):  # noqa: N801 (named after torch.nn.utils.skip_init)
    """Build a model without initialising its parameters.

    To sample numbers on the device "meta", PyTorch imports torch._dynamo and sympy, which takes as long as torch itself.
    """

    functions = (
        torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the tensor unchanged where `func` would initialise it."""
        kwargs = kwargs or {}
        if func in self.functions:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _read_config(folder: Path, source: str, hint: str) -> tuple[Config, Tokenizer]:
    """The config and the tokenizer of a folder: everything but the weights."""
    with _checkpoint_errors(f"{source}/config.json", hint):
        config = parse_config(_json_object(folder / "config.json"))
    with _checkpoint_errors(f"{source}/tokenizer.json", hint):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
        if len(tokenizer) != config.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens, config.json says {config.vocab_size}")
    return config, tokenizer


@contextmanager
def _checkpoint_errors(path: str, hint: str) -> Iterator[None]:
    """Whatever is wrong with a file becomes a CheckpointError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {hint}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or does not fit ({error}); {hint}") from None


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

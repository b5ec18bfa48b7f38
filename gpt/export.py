"""Export a model as a PyTorch program: one .pt2 file, which runs without this project.

    program(ids (B, T), state) -> logits (B, T, V), state

The state is an input and an output of the program: a list of float tensors with the batch in the first dimension. A text
starts with zeros, in the shapes that model.json inside the file lists, and may have any length; it equals what the
weights folder generates. (A program of ids only would be shorter, but as each layer sees further back than the one below,
it would have to read the last L (W - 1) + 1 tokens again for each new one.)

Opening a .pt2 file runs code: PyTorch evaluates and unpickles parts of it, and loads the machine code of a compiled one.
So only `open_program` opens one, never `load`, and none is downloaded from the Hub.

Shapes: B batch, T time, V vocabulary, L layers, W sliding window.
"""

import copy
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gpt.checkpoint import CheckpointError, atomic_write
from gpt.generation import LanguageModel
from gpt.models.base import CausalLM, Config
from gpt.models.registry import MODEL_REGISTRY, family_of, parse_config
from gpt.models.transformer import GPT
from gpt.tokenizer import Tokenizer

EXTRA = "archive/extra/"  # where PyTorch stores extra files in the zip archive that a .pt2 is
COMPILE_OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    "cpp.threads": 1,  # one token is too little work for two
}


class _FunctionalModel(nn.Module):
    """The model as a function of tensors."""

    def __init__(self, model: CausalLM, state_class: Any) -> None:
        super().__init__()
        self.model, self.state_class = model, state_class

    def forward(self, ids: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Ids (B, T) and the state -> logits (B, T, V) and the new state."""
        logits, new_state = self.model(ids, self.state_class(*state))
        return logits, new_state.tensors()


def export(lm: LanguageModel, out: Path, compiled: bool = False) -> None:
    """Write a model as a .pt2 file. The file appears complete or not at all.

    Args:
        lm: The model.
        out: The file, which must not exist.
        compiled: Write machine code for this kind of processor instead of a torch.export program.

    Raises:
        ValueError: If the model cannot be exported, `out` is no name for a new .pt2 file or cannot be written, or
            `compiled` is set and no C++ compiler works.
    """
    check_out(out, ".pt2")
    family = family_of(lm.model.config)
    state_class = family.functional_state
    if state_class is None:
        exportable = " and ".join(other.name for other in MODEL_REGISTRY.values() if other.functional_state)
        raise ValueError(f"{lm.name} is {family.title}, which cannot be exported; models of the kinds {exportable} can")
    if compiled:  # before a minute of work
        from torch._inductor.cpp_builder import get_cpp_compiler

        with _compiler_errors():
            get_cpp_compiler()
    shapes = state_class.shapes(lm.model.config)
    metadata = {
        "name": lm.name,
        "config": lm.model.config.to_dict(),
        "context_length": lm.context_length,
        "state": shapes,
        "compiled": compiled,
        "torch": torch.__version__,
    }
    files = {"model.json": json.dumps(metadata, indent=2) + "\n", "tokenizer.json": lm.tokenizer.files()["tokenizer.json"]}
    program = _trace(_FunctionalModel(copy.deepcopy(lm.model).cpu().eval().requires_grad_(False), state_class), shapes)
    content = io.BytesIO()  # PyTorch would write a path into the file
    if compiled:
        from torch.export.pt2_archive import _package

        _package.package_pt2(content, aoti_files=_compile(program), extra_files=files)
    else:
        program._example_inputs = None  # they are as large as a cache, and pickled
        torch.export.save(program, content, extra_files=files)
    with write_errors(out):
        atomic_write(out, content.getvalue())


def check_out(out: Path, suffix: str) -> None:
    """Raises ValueError if `out` exists or does not end in `suffix`."""
    if out.suffix != suffix:
        raise ValueError(f"{out} must end in {suffix or 'no suffix: it is a folder'}; choose another --out")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; remove it, or choose another --out")


def check_is_gpt(lm: LanguageModel) -> GPT:
    """The network of a language model. Raises ValueError if it is no GPT: other programs do not know the other families."""
    family = family_of(lm.model.config)
    if not family.in_transformers:
        known = " and ".join(other.name for other in MODEL_REGISTRY.values() if other.in_transformers)
        raise ValueError(
            f"{lm.name} is {family.title}, which other programs do not know; models of the kind {known} can be exported"
        )
    return cast(GPT, lm.model)


@contextmanager
def write_errors(out: Path) -> Iterator[None]:
    """Turn an OSError into a ValueError that names `out`."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror or error}); choose another --out") from None


def _trace(model: nn.Module, shapes: list[list[int]]) -> torch.export.ExportedProgram:
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
    example = torch.zeros(2, 3, dtype=torch.long), [torch.zeros(2, *shape) for shape in shapes]
    program = torch.export.export(model, example, dynamic_shapes=({0: batch, 1: time}, [{0: batch} for _ in shapes]))
    for node in program.graph.nodes:  # they hold paths of this machine
        for key in ("stack_trace", "nn_module_stack", "torch_fn"):
            node.meta.pop(key, None)
    return program


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """Turn the errors of a missing or broken C++ compiler into a ValueError."""
    from torch._inductor import exc

    try:
        yield
    except (exc.InvalidCxxCompiler, exc.CppCompileError, exc.InductorError) as error:
        if not isinstance(getattr(error, "inner_exception", error), (exc.InvalidCxxCompiler, exc.CppCompileError)):
            raise
        raise ValueError("--compile needs a C++ compiler that works; install g++, or name yours in CXX") from None


def _compile(program: torch.export.ExportedProgram) -> list[Any]:
    from torch._inductor import aot_compile

    args, _ = program.example_inputs or ((), {})
    with _compiler_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own use of itself
        files: Any = aot_compile(program.module(), args, options=dict(COMPILE_OPTIONS))
    return [file for file in files if not str(file).endswith(".cpp")]  # without the generated source


class FunctionalState(list[Tensor]):
    """The state of a program: a list of tensors with the batch in the first dimension."""

    @classmethod
    def merge(cls, states: "Sequence[FunctionalState]") -> "FunctionalState":
        """Concatenate the batches of several states."""
        return cls(map(torch.cat, zip(*states, strict=True)))

    def extract(self, i: int) -> "FunctionalState":
        """Copy sequence `i`."""
        return FunctionalState(tensor[i : i + 1].clone() for tensor in self)

    def clone(self) -> "FunctionalState":
        """Copy all sequences."""
        return FunctionalState(tensor.clone() for tensor in self)

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self)


class Program(CausalLM):
    """An opened program with the interface of every model.

    Args:
        run: (ids, state) -> (logits, new state).
        config: The config of the model that was exported.
        context_length: Its context length.
        shapes: Shapes of the state's tensors for one sequence.
    """

    def __init__(self, run: Callable[..., Any], config: Config, context_length: int, shapes: list[list[int]]) -> None:
        super().__init__()
        self.run, self.config, self.context_length, self.shapes = run, config, context_length, shapes

    def train(self, mode: bool = True) -> "Program":
        """Return itself: a program has no training mode, and PyTorch's own raise an error here."""
        return self

    def forward(self, ids: Tensor, state: FunctionalState | None = None) -> tuple[Tensor, FunctionalState]:
        """Read ids (B, T) -> logits (B, T, V) and the new state; `state` is not changed."""
        if state is None:
            state = FunctionalState(torch.zeros(len(ids), *shape) for shape in self.shapes)
        logits, new_state = self.run(ids, list(state))
        return logits, FunctionalState(new_state)


def open_program(path: str | os.PathLike[str]) -> LanguageModel:
    """Open a .pt2 file that `export` wrote. This runs code that is in the file.

    Raises:
        CheckpointError: If the file is missing, damaged, not written by `export`, or cannot run with this PyTorch.
    """
    path = Path(path)
    hint = f"make it with `python -m gpt export FOLDER --out {path.name}`"
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; {hint}")
    try:
        metadata, config, tokenizer = _read_metadata(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {hint}") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{path} is damaged or was not written by `python -m gpt export`; {hint}") from None
    from torch.export.pt2_archive import _package

    try:
        archive = _package.load_pt2(str(path))
        run = archive.aoti_runners["model"] if metadata["compiled"] else archive.exported_programs["model"].module()
    except Exception:  # PyTorch has no class of its own for a program that it cannot run
        raise CheckpointError(
            f"PyTorch {torch.__version__} on this machine cannot run {path}, which PyTorch {metadata['torch']} wrote; "
            f"{hint} on this machine"
        ) from None
    return LanguageModel(Program(run, config, metadata["context_length"], metadata["state"]), tokenizer, metadata["name"])


def _read_metadata(path: Path) -> tuple[dict[str, Any], Config, Tokenizer]:
    """Read model.json, config and tokenizer of a .pt2 file, before any code in it runs."""
    with zipfile.ZipFile(path) as archive:
        if any(file.compress_type != zipfile.ZIP_STORED for file in archive.infolist()):  # its content could have any size
            raise ValueError("PyTorch compresses nothing")
        if damaged := archive.testzip():  # compares every byte with its checksum
            raise ValueError(f"{damaged} is damaged")
        content = json.loads(archive.read(EXTRA + "model.json"))
        tokenizer = Tokenizer.from_json(archive.read(EXTRA + "tokenizer.json").decode())
    types = {"name": str, "config": dict, "context_length": int, "state": list, "compiled": bool, "torch": str}
    metadata = {key: content[key] for key in types}
    config = parse_config(metadata["config"])
    if any(type(metadata[key]) is not kind for key, kind in types.items()) or len(tokenizer) != config.vocab_size:
        raise ValueError("its facts do not fit")
    if any(type(size) is not int or size < 1 for shape in metadata["state"] for size in shape) or metadata["context_length"] < 1:
        raise ValueError("its sizes do not fit")
    return metadata, config, tokenizer

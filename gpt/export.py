"""A model as a program of PyTorch alone: one .pt2 file, which runs without any class or file of this project.

    program(ids (B, T), state) -> logits (B, T, V), state

What the program remembers of a text is no part of it: `state` is a list of float tensors, rows first, which goes in
and comes out. A text starts with zeros, in the shapes that model.json inside the file tells, and so goes on for ever,
exactly as the folder writes it. (A program of ids alone would be shorter, but each layer sees further back than the one
below: for the exact text it had to read the last L (W - 1) + 1 tokens again for every new one.)

A .pt2 is a program: to open it is to run it, as PyTorch evaluates and unpickles parts of it and loads the machine code
of a compiled one. So only `open_program` opens one, never `load`, and the Hub is never asked for one.

Shapes: B batch, T time, V vocabulary, L layers, nkv key/value heads, hs head size, W sliding window.
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
from typing import Any

import torch
from torch import Tensor, nn

from gpt.checkpoint import CheckpointError, atomic_write
from gpt.generation import LanguageModel
from gpt.models.base import CausalLM, Config
from gpt.models.registry import MODEL_REGISTRY, family_of, parse_config
from gpt.tokenizer import Tokenizer

EXTRA = "archive/extra/"  # where PyTorch puts files of ours in the zip that a .pt2 is
COMPILE: dict[str, Any] = {
    "aot_inductor.package": True,
    "cpp.threads": 1,  # one token is too little work for two
}


class _Stateless(nn.Module):
    """The model as the function of tensors that is exported."""

    def __init__(self, model: CausalLM, state_class: Any) -> None:
        super().__init__()
        self.model, self.state_class = model, state_class

    def forward(self, ids: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        logits, after = self.model(ids, self.state_class(*state))
        return logits, after.tensors()


def export(lm: LanguageModel, out: Path, compiled: bool = False) -> None:
    """Write a model as a .pt2 file: a torch.export program or, if `compiled`, machine code for this kind of processor.

    The file appears whole or not at all, and none is replaced. Raises ValueError, in one sentence.
    """
    if out.suffix != ".pt2":
        raise ValueError(f"{out} must end in .pt2, as every program of PyTorch does")
    if out.exists():
        raise ValueError(f"{out} is there already; remove it, or choose another --out")
    state_class = family_of(lm.model.config).functional_state
    if state_class is None:
        exportable = " or ".join(family.name for family in MODEL_REGISTRY.values() if family.functional_state)
        raise ValueError(f"{lm.name} is {family_of(lm.model.config).title}, which cannot be exported; give a {exportable}")
    if compiled:  # not known only after a minute
        from torch._inductor.cpp_builder import get_cpp_compiler

        with _compiler():
            get_cpp_compiler()
    shapes = state_class.shapes(lm.model.config)
    about = {"name": lm.name, "config": lm.model.config.to_dict(), "context_length": lm.context_length, "state": shapes}
    about["compiled"] = compiled
    about["torch"] = torch.__version__
    files = {"model.json": json.dumps(about, indent=2) + "\n", "tokenizer.json": lm.tokenizer.files()["tokenizer.json"]}
    program = _trace(_Stateless(copy.deepcopy(lm.model).cpu().eval().requires_grad_(False), state_class), shapes)
    content = io.BytesIO()  # not a path, which PyTorch would write into the file
    if compiled:
        from torch.export.pt2_archive import _package

        _package.package_pt2(content, aoti_files=_compile(program), extra_files=files)
    else:
        program._example_inputs = None  # they are as large as a cache, and pickled
        torch.export.save(program, content, extra_files=files)
    try:
        atomic_write(out, content.getvalue())
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror or error}); choose another --out") from None


def _trace(model: nn.Module, shapes: list[list[int]]) -> torch.export.ExportedProgram:
    rows, time = torch.export.Dim("rows", min=1), torch.export.Dim("time", min=1)
    example = torch.zeros(2, 3, dtype=torch.long), [torch.zeros(2, *shape) for shape in shapes]
    program = torch.export.export(model, example, dynamic_shapes=({0: rows, 1: time}, [{0: rows} for _ in shapes]))
    for node in program.graph.nodes:  # where our source lies on this machine is nobody's business
        for fact in ("stack_trace", "nn_module_stack", "torch_fn"):
            node.meta.pop(fact, None)
    return program


@contextmanager
def _compiler() -> Iterator[None]:
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
    with _compiler(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its own use of itself
        files: Any = aot_compile(program.module(), args, options=dict(COMPILE))
    return [file for file in files if not str(file).endswith(".cpp")]  # their source, which nothing reads


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
    """A program behind the contract of every model."""

    def __init__(self, run: Callable[..., Any], config: Config, context_length: int, shapes: list[list[int]]) -> None:
        super().__init__()
        self.run, self.config, self.context_length, self.shapes = run, config, context_length, shapes

    def train(self, mode: bool = True) -> "Program":
        """A program is what it is, and PyTorch's raise an error if they are asked to change."""
        return self

    def forward(self, ids: Tensor, state: FunctionalState | None = None) -> tuple[Tensor, FunctionalState]:
        if state is None:
            state = FunctionalState(torch.zeros(len(ids), *shape) for shape in self.shapes)
        logits, after = self.run(ids, list(state))
        return logits, FunctionalState(after)


def open_program(path: str | os.PathLike[str]) -> LanguageModel:
    """Open a .pt2 that `export` wrote, which runs code that is in it. Raises CheckpointError, in one sentence."""
    path = Path(path)
    make = f"make it with `python -m gpt export FOLDER --out {path.name}`"
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; {make}")
    try:
        facts, config, tokenizer = _about(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); {make}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged, or no program that `python -m gpt export` wrote; {make}") from None
    from torch.export.pt2_archive import _package

    try:
        opened = _package.load_pt2(str(path))
        run = opened.aoti_runners["model"] if facts["compiled"] else opened.exported_programs["model"].module()
    except Exception:  # whatever PyTorch stumbles over in it; it has no class of its own for that
        here = f"PyTorch {torch.__version__} on this machine cannot run {path}, which {facts['torch']} wrote"
        raise CheckpointError(f"{here}; {make}, here") from None
    return LanguageModel(Program(run, config, facts["context_length"], facts["state"]), tokenizer, facts["name"])


def _about(path: Path) -> tuple[dict[str, Any], Config, Tokenizer]:
    """What a file tells of itself, before anything in it runs."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # compares every byte with its checksum
            raise ValueError(f"{damaged} is damaged")
        facts = json.loads(archive.read(EXTRA + "model.json"))
        tokenizer = Tokenizer.from_json(archive.read(EXTRA + "tokenizer.json").decode())
    return facts, parse_config(facts["config"]), tokenizer

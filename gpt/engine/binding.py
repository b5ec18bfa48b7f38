"""ctypes binding of kernel.c, and the library of all kernels, which is compiled on this machine at its first use.

PyTorch spends most of a small model's time on the overhead of calling operators. The kernel computes one decode step, a
token for each sequence, in one call, on the model's own weights and states, and releases the GIL meanwhile. Where it
cannot run (no C compiler, another model, device or dtype), `CausalLM.forward` computes the same.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import torch
from torch import Tensor

from gpt.models.base import CausalLM, StepEngine
from gpt.models.registry import family_of

if TYPE_CHECKING:
    from gpt.models.transformer import GPT, RotatingKVCache

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
COMPILERS = ("cc", "gcc", "clang")
# The last two flags let the compiler vectorize loops with exp and max. None of them lets it reorder a sum.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math")
COMPILE_TIMEOUT_S = 60  # compiling takes one or two

# The fields of GPTConfig in the order of `Model` in kernel.c.
SIZES = (
    "num_hidden_layers",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
)
# The weights of a layer in the order of `Layer` in kernel.c.
LAYER_WEIGHTS = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class _Model(ctypes.Structure):
    """`Model` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("inverse_frequencies", "embed_tokens", "norm", "lm_head", "layers")),
    )


class _Sequence(ctypes.Structure):
    """`Sequence` of kernel.c."""

    _fields_ = (
        ("token", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("length", "keys", "values")),
        ("layer_stride", ctypes.c_int64),
    )


class Engine:
    """Computes decode steps of one GPT with the C kernel.

    Args:
        model: The model; its weights must be contiguous float32 on the CPU.
        library: The compiled kernel.
    """

    def __init__(self, model: "GPT", library: ctypes.CDLL) -> None:
        config = model.config
        self.vocab_size, self._step = config.vocab_size, library.step
        # The kernel has only pointers: these references keep the memory alive.
        self._weights = {name: p.detach() for name, p in model.named_parameters()}
        self._weights["inverse_frequencies"] = model.rotary_emb.inverse_frequencies
        pointers = {name: tensor.data_ptr() for name, tensor in self._weights.items()}
        layers = [pointers[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers) for name in LAYER_WEIGHTS]
        self._layers = (ctypes.c_void_p * len(layers))(*layers)
        self._model = _Model(
            *(getattr(config, name) for name in SIZES),
            config.rms_norm_eps,
            pointers["inverse_frequencies"],
            pointers["model.embed_tokens.weight"],
            pointers["model.norm.weight"],
            pointers["lm_head.weight"],
            ctypes.addressof(self._layers),
        )

    def forward(self, tokens: Sequence[int], caches: "Sequence[RotatingKVCache]") -> Tensor:
        """Read one token of each sequence.

        Results do not depend on the other sequences in the batch, to the last bit.

        Args:
            tokens: One token id for each sequence.
            caches: One cache with a batch of one for each sequence; updated in place.

        Returns:
            Logits (B, V) of the next token.

        Raises:
            IndexError: If a token id is not in [0, V).
            MemoryError: If an allocation fails.
        """
        check_tokens(tokens, self.vocab_size)
        logits = torch.empty(len(tokens), self.vocab_size)
        sequences = (_Sequence * len(tokens))()
        for sequence, token, cache in zip(sequences, tokens, caches, strict=True):
            sequence.token, sequence.length, sequence.layer_stride = token, cache.length.data_ptr(), cache.keys.stride(0)
            sequence.keys, sequence.values = cache.keys.data_ptr(), cache.values.data_ptr()
            cache.is_empty = False
        if self._step(ctypes.byref(self._model), sequences, len(tokens), logits.data_ptr(), cores()):
            raise MemoryError(f"not enough memory to step {len(tokens)} sequences")
        return logits


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises IndexError if a token id is not in [0, vocab_size)."""
    if not all(0 <= token < vocab_size for token in tokens):
        raise IndexError(f"the tokens are {list(tokens)}; each must be from 0 to {vocab_size - 1}")


def cores() -> int:
    """Number of CPUs that this process may use, which PyTorch's number of threads does not limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_for(model: CausalLM) -> StepEngine | None:
    """The engine of a model, or None where no kernel can run it.

    The engine sees in-place changes of the weights, but not parameters that are replaced by others.
    """
    family = family_of(model.config)
    # A subclass, or a compiled program with the same config, may compute something else.
    if not family.make_engine or type(model) is not family.model_class:
        return None
    if any(p.device.type != "cpu" or p.dtype not in family.kernel_dtypes or not p.is_contiguous() for p in model.parameters()):
        return None
    library = load_library()
    return family.make_engine(model, library) if library else None


_libraries: dict[str | None, ctypes.CDLL | None] = {}  # by compiler
_libraries_lock = threading.Lock()


def load_library() -> ctypes.CDLL | None:
    """The compiled kernel, from the cache or compiled now; None if there is no compiler or it fails."""
    compiler = _find_compiler()
    with _libraries_lock:
        if compiler not in _libraries:
            try:
                _libraries[compiler] = _load_or_compile(compiler) if compiler else None
            except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: no home directory (platformdirs)
                _libraries[compiler] = None
        return _libraries[compiler]


def _find_compiler() -> str | None:
    """Path of $CC if it is set, else of the first C compiler found. None on Windows, which has no pthreads."""
    if os.name != "posix":
        return None
    names = [cc] if (cc := os.environ.get("CC")) else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def _load_or_compile(compiler: str) -> ctypes.CDLL:
    cache_dir = _private_dir(platformdirs.user_cache_path("from-bigram-to-gpt"))
    key = _cache_key(compiler)
    for path in cache_dir.glob(f"engine-{key}-*.so"):  # the name ends in the file's sha256, so a truncated file is not loaded
        if path.stem.endswith(_sha256(path.read_bytes())):
            return _load(path)
    with tempfile.TemporaryDirectory(dir=cache_dir) as build_dir:
        output = Path(build_dir) / "engine.so"
        sources = (os.fspath(path) for path in SOURCES if path.suffix == ".c")
        command = [compiler, *FLAGS, "-o", os.fspath(output), *sources, "-lm"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMPILE_TIMEOUT_S)  # noqa: S603
        path = cache_dir / f"engine-{key}-{_sha256(output.read_bytes())}.so"
        os.replace(output, path)
    return _load(path)


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(os.fspath(path))
    library.step.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    library.sample.argtypes = (ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 5)
    for step in (library.lstm_step, library.ngram_step):
        step.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    library.mix.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_float)
    return library


def _private_dir(folder: Path) -> Path:
    """Create a folder in which only this user can write, as what is in it is executed.

    Raises:
        OSError: If it cannot be created, belongs to another user, is a link, or others may write in it.
    """
    if not folder.is_absolute():  # older platformdirs return "~" as it is for a user without a home directory
        raise FileNotFoundError(f"{folder} is not an absolute path")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not private to this user")
    return folder


def _cache_key(compiler: str) -> str:
    """Hash of what the library depends on: sources, flags, compiler and CPU (several machines may share a home directory)."""
    status = os.stat(compiler)  # size and time stand for its version, which takes longer to ask for
    facts = [*FLAGS, os.path.realpath(compiler), str(status.st_size), str(status.st_mtime_ns), platform.machine(), *_cpu_model()]
    return _sha256(b"".join(path.read_bytes() for path in SOURCES) + "\n".join(facts).encode())


def _cpu_model() -> list[str]:
    """Name and instruction set extensions of this CPU, as far as the system reports them."""
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in fields:  # the second core repeats them
                    break
                fields[name.strip()] = value.strip()
    except OSError:
        return [platform.processor()]
    return [fields.get(name, "") for name in ("model name", "model", "flags", "Features", "CPU part")]


def _sha256(content: bytes) -> str:
    """The first 128 bits, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()[:32]

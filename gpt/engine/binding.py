"""ctypes binding of kernel.c, and the library of all kernels, which is compiled on this machine at its first use.

PyTorch spends most of a small model's time on the overhead of calling operators. The kernel reads a prompt, or decodes and
samples several tokens of each sequence, in one call, on the model's own KV caches, and releases the GIL meanwhile. Where it
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.engine.structures import Sampling, check_status
from gpt.models.base import CausalLM, StepEngine
from gpt.models.registry import family_of

if TYPE_CHECKING:
    from gpt.models.transformer import GPT, RotatingKVCache
    from gpt.sampling import SamplingParams

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
COMPILERS = ("cc", "gcc", "clang")
# The last two flags let the compiler vectorize loops with exp and max. None of them lets it reorder a sum.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math")
COMPILE_TIMEOUT_S = 120  # compiling takes about three, and longer on a busy machine

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
# The weights of a layer in the order of `Layer` in kernel.c. The rows of several matrices are packed as one.
LAYER_NORMS = ("input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm")
LAYER_MATRICES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


class _Matrix(ctypes.Structure):
    """`Matrix` of packed.h."""

    _fields_ = (("panels", ctypes.c_void_p), ("is_half", ctypes.c_int64))


class _Layer(ctypes.Structure):
    """`Layer` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input_norm", "q_norm", "k_norm", "mlp_norm")),
        *((name, _Matrix) for name in ("qkv", "o", "gate_up", "down")),
    )


class _Model(ctypes.Structure):
    """`Model` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in (*SIZES, "eos_token_id")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("inverse_frequencies", "embed_tokens", "norm")),
        ("lm_head", _Matrix),
        ("layers", ctypes.c_void_p),
    )


class _Sequence(ctypes.Structure):
    """`Sequence` of kernel.c."""

    _fields_ = (
        ("token", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("length", "keys", "values")),
        ("layer_stride", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("has_logits", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tokens", "logprobs", "uniforms")),
        ("sampling", Sampling),
    )


@dataclass
class Request:
    """What `Engine.generate` needs to know of a sequence.

    Attributes:
        token: The last token, which the model has yet to read.
        cache: Its cache, with a batch of one; updated in place.
        logits: (V,) of the next token if the model has read the last one, else None.
        params: How to choose each token.
        uniforms: One number in [0, 1) for each token to generate.
        forced: For each token to generate, the one to take instead, or None.
    """

    token: int
    cache: "RotatingKVCache"
    logits: Tensor | None
    params: "SamplingParams"
    uniforms: list[float]
    forced: list[int | None]


class _PackedModel:
    """Weights of a GPT as kernel.c reads them. The kernel has only pointers: an instance must live as long as a call.

    Matrices are copied, in float16 where that is exact: reading them dominates the cost of a step.
    """

    def __init__(self, model: "GPT", library: ctypes.CDLL) -> None:
        config, self._library = model.config, library
        self._weights = {name.removesuffix(".weight"): p.detach() for name, p in model.named_parameters()}
        self._tensors = [*self._weights.values(), model.rotary_emb.inverse_frequencies]
        layers = [
            _Layer(
                *(self._weights[f"model.layers.{i}.{name}"].data_ptr() for name in LAYER_NORMS),
                *(self._pack(*(f"model.layers.{i}.{name}" for name in names)) for names in LAYER_MATRICES),
            )
            for i in range(config.num_hidden_layers)
        ]
        self._layers = (_Layer * len(layers))(*layers)
        self.model = _Model(
            *(getattr(config, name) for name in SIZES),
            -1 if config.eos_token_id is None else config.eos_token_id,
            config.rms_norm_eps,
            model.rotary_emb.inverse_frequencies.data_ptr(),
            self._weights["model.embed_tokens"].data_ptr(),
            self._weights["model.norm"].data_ptr(),
            self._pack("lm_head"),
            ctypes.addressof(self._layers),
        )

    def _pack(self, *names: str) -> _Matrix:
        """The rows of matrices (outs, n) in panels of some outputs, (panels, n, width)."""
        matrix, width = torch.cat([self._weights[name] for name in names]), self._library.panel_width()
        padded = F.pad(matrix, (0, 0, 0, -len(matrix) % width))
        half = padded.half()
        is_half = bool(self._library.reads_half()) and torch.equal(half.float(), padded)
        panels = (half if is_half else padded).view(-1, width, matrix.shape[1]).transpose(1, 2).contiguous()
        self._tensors.append(panels)
        return _Matrix(panels.data_ptr(), is_half)


class Engine:
    """Reads prompts and generates tokens of one GPT with the C kernel.

    Args:
        model: The model; its weights must be contiguous float32 on the CPU.
        library: The compiled kernel.
    """

    def __init__(self, model: "GPT", library: ctypes.CDLL) -> None:
        self.vocab_size, self._model, self._library = model.config.vocab_size, model, library
        self._parameters = [p for p in model.parameters() if not p.is_inference()]  # those can count their changes
        self._packed, self._versions = _PackedModel(model, library), self._count_changes()

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
        logits = torch.empty(len(tokens), self.vocab_size)
        sequences = (_Sequence * len(tokens))()
        for sequence, token, cache, row in zip(sequences, tokens, caches, logits, strict=True):
            self._set_cache(sequence, token, cache)
            sequence.logits = row.data_ptr()
        self._run(sequences, 1)
        return logits

    def prefill(self, tokens: Sequence[int], cache: "RotatingKVCache") -> Tensor:
        """Read tokens of one sequence, on all cores.

        Args:
            tokens: One or more token ids.
            cache: A cache with a batch of one; updated in place.

        Returns:
            Logits (V,) of the next token.

        Raises:
            IndexError: If a token id is not in [0, V).
            MemoryError: If an allocation fails.
        """
        check_tokens(tokens, self.vocab_size)
        logits, ids, sequence, packed = torch.empty(self.vocab_size), torch.tensor(tokens), _Sequence(), self._current_weights()
        self._set_cache(sequence, 0, cache)
        sequence.logits = logits.data_ptr()
        model = ctypes.byref(packed.model)
        check_status(self._library.prefill(model, ctypes.byref(sequence), ids.data_ptr(), len(tokens), cores()))
        return logits

    def generate(self, requests: Sequence[Request]) -> list[tuple[list[int], list[float], Tensor]]:
        """Generate tokens of several sequences, as many of each.

        After an end token, a sequence starts the next document.

        Args:
            requests: One for each sequence.

        Returns:
            For each sequence its tokens, the natural logarithm of the model's own probability for each, and the logits (T, V).

        Raises:
            IndexError: If a token id is not in [0, V).
            ValueError: If a logit is NaN or infinity.
            MemoryError: If an allocation fails.
        """
        steps, sequences = len(requests[0].uniforms), (_Sequence * len(requests))()
        results = []
        for sequence, request in zip(sequences, requests, strict=True):
            self._set_cache(sequence, 0 if request.logits is not None else request.token, request.cache)
            tokens = (ctypes.c_int64 * steps)(*(-1 if token is None else token for token in request.forced))
            logprobs, uniforms = (ctypes.c_double * steps)(), (ctypes.c_double * steps)(*request.uniforms)
            logits = torch.empty(steps, self.vocab_size)
            if request.logits is not None:
                logits[0], sequence.has_logits = request.logits, True
            sequence.logits, sequence.sampling = logits.data_ptr(), Sampling.of(request.params)
            sequence.tokens, sequence.logprobs = ctypes.addressof(tokens), ctypes.addressof(logprobs)
            sequence.uniforms = ctypes.addressof(uniforms)
            results.append((tokens, logprobs, logits, uniforms))
        self._run(sequences, steps)
        return [(list(tokens), list(logprobs), logits) for tokens, logprobs, logits, _ in results]

    def _run(self, sequences: "ctypes.Array[_Sequence]", steps: int) -> None:
        check_tokens([sequence.token for sequence in sequences], self.vocab_size)
        packed = self._current_weights()
        check_status(self._library.generate(ctypes.byref(packed.model), sequences, len(sequences), steps, cores()))

    def _set_cache(self, sequence: _Sequence, token: int, cache: "RotatingKVCache") -> None:
        sequence.token, sequence.length, sequence.layer_stride = token, cache.length.data_ptr(), cache.keys.stride(0)
        sequence.keys, sequence.values = cache.keys.data_ptr(), cache.values.data_ptr()
        cache.is_empty = False

    def _current_weights(self) -> _PackedModel:
        """The packed weights, packed again if the model's own have changed in place, as in training."""
        if (versions := self._count_changes()) != self._versions:
            self._packed, self._versions = _PackedModel(self._model, self._library), versions
        return self._packed

    def _count_changes(self) -> int:
        return sum(p._version for p in self._parameters)


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises IndexError if a token id is not in [0, vocab_size)."""
    if not all(0 <= token < vocab_size for token in tokens):
        raise IndexError(f"the tokens are {list(tokens)[:20]}; each must be from 0 to {vocab_size - 1}")


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
    library.generate.argtypes = (ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3)
    library.prefill.argtypes = (*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
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

"""The fast way to a GPT's next token: engine.c, compiled on this machine at its first use.

PyTorch spends most of a small model's time on the cost of calling operators. The engine does one step, a token for
each row, in one call, on the model's own weights and caches. It frees Python's lock meanwhile. Where it cannot run
(no C compiler, another model, device or dtype) the model's own `forward`, which it agrees with, does the same.
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
from typing import Any

import torch
from torch import Tensor

from gpt.models.base import CausalLM
from gpt.models.registry import family_of
from gpt.models.transformer import GPT, RotatingKVCache

SOURCE = Path(__file__).with_name("kernel.c")
COMPILERS = ("cc", "gcc", "clang")
# For this very CPU. The last two let loops over exp and max be done several numbers at once; none reorders a sum.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math")
COMPILE_TIMEOUT_S = 60  # seconds for the compiler, which needs one or two

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
LAYER = (
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
    """`Model` of engine.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("frequencies", "embed", "norm", "out", "layers")),
    )


class _Sequence(ctypes.Structure):
    """`Row` of engine.c."""

    _fields_ = (
        ("token", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("length", "keys", "values")),
        ("stride", ctypes.c_int64),
    )


class Engine:
    """One step of a GPT, for rows that each have a cache of their own; made by `engine_for`."""

    def __init__(self, model: GPT, library: Any) -> None:
        config = model.config
        self.vocab, self.step = config.vocab_size, library.step
        self.weights = {name: p.detach() for name, p in model.named_parameters()}  # keeps the memory that C is told of
        self.weights["frequencies"] = model.rotary_emb.inverse_frequencies
        at = {name: tensor.data_ptr() for name, tensor in self.weights.items()}
        layers = [at[f"model.layers.{i}.{name}.weight"] for i in range(config.num_hidden_layers) for name in LAYER]
        self.layers = (ctypes.c_void_p * len(layers))(*layers)
        self.model = _Model(
            *(getattr(config, name) for name in SIZES),
            config.rms_norm_eps,
            at["frequencies"],
            at["model.embed_tokens.weight"],
            at["model.norm.weight"],
            at["lm_head.weight"],
            ctypes.addressof(self.layers),
        )

    def forward(self, tokens: Sequence[int], caches: Sequence[RotatingKVCache]) -> Tensor:
        """Logits (B, V) after one more token for each cache of one row, which remembers it.

        They are the same to the last bit whichever other rows there are.
        """
        if not all(0 <= token < self.vocab for token in tokens):
            raise IndexError(f"the tokens are {list(tokens)}; each must be below {self.vocab}")
        logits = torch.empty(len(tokens), self.vocab)
        rows = (_Sequence * len(tokens))()
        for row, token, cache in zip(rows, tokens, caches, strict=True):
            row.token, row.length, row.stride = token, cache.length.data_ptr(), cache.keys.stride(0)
            row.keys, row.values = cache.keys.data_ptr(), cache.values.data_ptr()
            cache.is_empty = False
        if self.step(ctypes.byref(self.model), rows, len(tokens), logits.data_ptr(), cores()):
            raise MemoryError(f"there is no memory for a step of {len(tokens)} rows")
        return logits


def cores() -> int:
    """The CPUs that this process may use. PyTorch's own number of threads says what is good for its operators."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_for(model: CausalLM) -> Engine | None:
    """The engine of a model, or None where it cannot run. It sees changes of the weights, not their replacement."""
    if not isinstance(model, GPT) or not family_of(model.config).has_c_kernel:
        return None
    if any(p.device.type != "cpu" or p.dtype != torch.float32 or not p.is_contiguous() for p in model.parameters()):
        return None
    opened = library()
    return Engine(model, opened) if opened else None


_opened: dict[str | None, Any] = {}  # by compiler
_opening = threading.Lock()


def library() -> Any:
    """engine.c as a library, from the cache or compiled now; None if there is no compiler, or it fails."""
    cc = _compiler()
    with _opening:
        if cc not in _opened:
            try:
                _opened[cc] = _open(cc) if cc else None
            except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: this user has no home
                _opened[cc] = None
        return _opened[cc]


def _compiler() -> str | None:
    """The path of $CC, if it is set, or of the first C compiler there is. None on Windows, which has no pthreads."""
    if os.name != "posix":
        return None
    wanted = [given] if (given := os.environ.get("CC")) else COMPILERS
    return next((path for name in wanted if (path := shutil.which(name))), None)


def _open(cc: str) -> Any:
    folder = _private(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "from-bigram-to-gpt")
    key = _key(cc)
    for path in folder.glob(f"engine-{key}-*.so"):  # its name ends in its own sha256: half a library is not opened
        if path.stem.endswith(_sha(path.read_bytes())):
            return _load(path)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        made = Path(aside) / "engine.so"
        command = [cc, *FLAGS, os.fspath(SOURCE), "-o", os.fspath(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMPILE_TIMEOUT_S)  # noqa: S603
        path = folder / f"engine-{key}-{_sha(made.read_bytes())}.so"
        os.replace(made, path)
    return _load(path)


def _load(path: Path) -> Any:
    opened = ctypes.CDLL(os.fspath(path))
    opened.step.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return opened


def _private(folder: Path) -> Path:
    """A folder in which nobody else could have put a library. Raises OSError if it cannot be had."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's own")
    return folder


def _key(cc: str) -> str:
    """What a compiled library depends on: source, flags, compiler and CPU (a home may be shared by several machines)."""
    about = os.stat(cc)  # quicker than to ask for its version
    facts = [*FLAGS, os.path.realpath(cc), str(about.st_size), str(about.st_mtime_ns), platform.machine(), *_cpu()]
    return _sha(SOURCE.read_bytes() + "\n".join(facts).encode())


def _cpu() -> list[str]:
    """The name and the features of this CPU, as far as the system tells."""
    told: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in told:  # the second core says the same
                    break
                told[name.strip()] = value.strip()
    except OSError:
        return [platform.processor()]
    return [told.get(name, "") for name in ("model name", "model", "flags", "Features", "CPU part")]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]

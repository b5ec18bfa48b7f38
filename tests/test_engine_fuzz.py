"""The C kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on random shapes, against PyTorch.

A memory error ends the process that runs the kernel, so each test starts one: this file as a script.
"""

import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import randomized

from gpt import GPT, LSTM, VAE, GPTConfig, LSTMConfig, Mixture, NGram, RotatingKVCache, VAEConfig
from gpt.engine import binding
from gpt.models.base import CausalLM
from gpt.models.ngram import MAX_ORDER, count_ngrams

CASES = 80
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
X86 = platform.machine() in ("x86_64", "AMD64")


def sanitizers():
    """The sanitizers' libraries, which must be loaded before Python itself; skips the test where they are not installed."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed, whose sanitizers run the kernel")
    paths = []
    for name in ("libasan.so", "libubsan.so"):
        path = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"gcc's {name} is not installed")
        paths.append(path)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["native", pytest.param("x86-64", marks=pytest.mark.skipif(not X86, reason="not an x86 CPU"))])
def test_kernels_have_no_memory_error_and_agree_with_pytorch(tmp_path, arch):
    """For the widest vectors of this CPU, and for the narrowest."""
    env = os.environ | {
        "LD_PRELOAD": " ".join(sanitizers()),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and PyTorch leave memory to the end of the process
        "CC": "gcc",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    command = [sys.executable, __file__, arch, str(CASES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
    assert done.stdout == f"{CASES} cases\n"


def random_config(rng: random.Random) -> GPTConfig:
    kv_heads = rng.randint(1, 3)
    return GPTConfig(
        vocab_size=rng.randint(1, 80),
        hidden_size=rng.randint(1, 100),
        intermediate_size=rng.randint(1, 100),
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=kv_heads * rng.randint(1, 4),
        num_key_value_heads=kv_heads,
        head_dim=2 * rng.randint(1, 40),
        sliding_window=rng.choice([1, 2, rng.randint(3, 40)]),
    )


def check_random_model(seed: int) -> None:
    """Steps a random model with the kernel, from random lengths up to three times its window."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    config = random_config(rng)
    model = GPT(config).eval()
    for p in model.parameters():
        p.normal_(mean=float(p.ndim == 1), std=p.shape[-1] ** -0.5 if p.ndim == 2 else 0.3, generator=generator)
    engine = binding.engine_for(model)
    assert engine is not None
    batch_size, steps = rng.choice([1, 2, rng.randint(3, 40), 300]), rng.randint(1, 2 * config.sliding_window)
    steps = min(steps, 3) if batch_size == 300 else steps
    lengths = [rng.randint(0, config.sliding_window) for _ in range(batch_size)]
    ids = torch.randint(config.vocab_size, (batch_size, max(lengths) + steps), generator=generator)
    expected = model(ids)[0]
    caches = [
        model(row[None, :length])[1] if length else RotatingKVCache.empty(config, 1, like=model.lm_head.weight)
        for row, length in zip(ids, lengths, strict=True)
    ]
    rows = torch.arange(batch_size)
    for _ in range(steps):
        threads = rng.choice([-1, 0, 1, 2, 3, 64, 65, 1_000])
        binding.cores = lambda threads=threads: threads
        positions = torch.tensor(lengths)
        logits = engine.forward(ids[rows, positions].tolist(), caches)
        torch.testing.assert_close(logits, expected[rows, positions], atol=1e-4, rtol=0, msg=lambda text: f"{config}: {text}")
        lengths = [length + 1 for length in lengths]


def random_ngram(rng: random.Random, generator: torch.Generator, vocab_size: int) -> NGram:
    ids = torch.randint(vocab_size, (rng.randint(20, 500),), generator=generator)
    return NGram.from_counts(count_ngrams(ids, vocab_size, rng.randint(1, MAX_ORDER)), vocab_size, rng.randint(1, MAX_ORDER))


def random_family(rng: random.Random, generator: torch.Generator) -> CausalLM:
    """A random model of one of the other families that have a kernel."""
    V, size = rng.randint(2, 40), rng.randint(1, 70)
    kind = rng.choice(["lstm", "vae", "ngram", "mixture"])
    if kind == "vae":
        return randomized(VAE(VAEConfig(V, rng.randrange(V), 2 * size, rng.randint(1, 20), rng.randint(1, 20))))
    if kind == "ngram":
        return random_ngram(rng, generator, V)
    lstm = randomized(LSTM(LSTMConfig(V, size, rng.randint(1, 3))))
    return lstm if kind == "lstm" else Mixture.of(lstm, random_ngram(rng, generator, V), rng.random())


def check_random_family(seed: int) -> None:
    """Steps a random model of another family with its kernel."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    model = random_family(rng, generator)
    engine = binding.engine_for(model)
    assert engine is not None
    batch_size, steps = rng.choice([1, 2, rng.randint(3, 40)]), rng.randint(1, 20)
    ids = torch.randint(model.config.vocab_size, (batch_size, steps + 1), generator=generator)
    expected, states = model(ids)[0], [model(row[None, :1])[1] for row in ids]
    for i in range(1, steps + 1):
        logits = engine.forward(ids[:, i].tolist(), states)
        torch.testing.assert_close(logits, expected[:, i], atol=1e-4, rtol=0, msg=lambda text: f"{model.config}: {text}")


def main() -> None:
    arch, cases = sys.argv[1:]
    binding.FLAGS = tuple(f"-march={arch}" if flag.startswith("-march=") else flag for flag in binding.FLAGS) + SANITIZE
    binding.COMPILE_TIMEOUT_S = 300  # the sanitizers take their time
    torch.set_num_threads(1)
    with torch.no_grad():
        for seed in range(int(cases)):
            check_random_model(seed)
            check_random_family(seed)
    print(f"{cases} cases")


if __name__ == "__main__":
    main()

"""Generation speed of gpt, PyTorch and transformers, and how much of the machine they use.

    python benchmarks/bench_generation.py [--quick]

Four backends generate greedily with the same weights, in turns: A B C D, A B C D, ... A figure is the median of its runs.
A run that exceeds its time limit is stopped; the table shows the positions that were measured. It is not a test: no result
is a failure.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

import torch

from gpt import GPT, GPTConfig, LanguageModel, SamplingParams, load
from gpt.checkpoint import WEIGHTS, save
from train.runs import machine as describe_machine

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = WEIGHTS / "gpt-shakespeare"
WIDE = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 64}
PROMPT = 6  # characters


@dataclass(frozen=True)
class Plan:
    """What to measure: every shape with every batch size and length.

    Attributes:
        shapes: Names of models.
        batch_sizes: Sequences per batch.
        lengths: Tokens to generate.
        rounds: Runs of each backend.
        seconds: Time limit of a run.
        process_rounds: Fresh processes of each kind.
        long_length: Characters that a process generates whose memory is measured.
    """

    shapes: tuple[str, ...] = ("shipped", "wide")
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (200, 2_000)
    rounds: int = 3
    seconds: float = 3.0
    process_rounds: int = 3
    long_length: int = 2_000


QUICK = Plan(shapes=("shipped",), batch_sizes=(1, 32), rounds=2, seconds=0.2, process_rounds=1, long_length=600)


# Backends


@dataclass(frozen=True)
class Run:
    """One run of a backend.

    Attributes:
        times: When each step of the batch was done, in seconds from the call.
        tokens: The token ids, (steps, batch).
    """

    times: list[float]
    tokens: list[list[int]]

    @property
    def steps_per_second(self) -> float:
        """Without the first step, which includes the prompt."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def exceeds(self, seconds: float) -> bool:
        """Whether the steps after the first took longer."""
        return self.times[-1] - self.times[0] > seconds


class GptBackend:
    """`lm.stream_batch`, which also computes the probability of each token, with the engine that runs here."""

    def __init__(self, folder: Path) -> None:
        self.lm = load(folder)
        self.name = f"gpt ({self.lm.engine})"

    def run(self, texts: list[str], length: int, seconds: float) -> Run:
        """Generate `length` tokens after each text, for at most about `seconds`."""
        run, start = Run([], []), time.perf_counter()
        for tokens in self.generate(texts, length):
            run.times.append(time.perf_counter() - start)
            run.tokens.append(tokens)
            if run.exceeds(seconds):
                break
        return run

    def generate(self, texts: list[str], length: int) -> Iterator[list[int]]:
        """Yield the token ids (B) of each step."""
        params = SamplingParams(temperature=0, max_new_tokens=length, seed=0)
        for steps in self.lm.stream_batch(texts, [params] * len(texts)):
            yield [step.token_id for step in steps if step]

    def ids(self, texts: list[str]) -> torch.Tensor:
        """Token ids (B, T) of texts of one length."""
        return torch.tensor([self.lm.tokenizer.encode(text).ids for text in texts])


class PyTorchBackend(GptBackend):
    """The model in PyTorch with its KV cache, in a minimal loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = "PyTorch, cache"

    @torch.inference_mode()
    def generate(self, texts: list[str], length: int) -> Iterator[list[int]]:
        """As in `GptBackend`."""
        ids, state = self.ids(texts), None
        for _ in range(length):
            logits, state = self.lm.model(ids, state)
            ids = logits[:, -1:].argmax(-1)
            yield ids[:, 0].tolist()


class UncachedBackend(GptBackend):
    """PyTorch without a cache, like nanoGPT's `generate`: each token reads the whole window again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = "PyTorch, no cache"

    @torch.inference_mode()
    def generate(self, texts: list[str], length: int) -> Iterator[list[int]]:
        """As in `GptBackend`."""
        ids = self.ids(texts)
        for _ in range(length):
            logits, _ = self.lm.model(ids[:, -self.lm.context_length :])
            ids = torch.cat((ids, logits[:, -1:].argmax(-1)), dim=1)
            yield ids[:, -1].tolist()


class TransformersBackend(GptBackend):
    """`generate` of transformers with its KV cache."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(folder)
        self.name, self.hf_model = "transformers, cache", AutoModelForCausalLM.from_pretrained(folder)

    def run(self, texts: list[str], length: int, seconds: float) -> Run:
        """As in `GptBackend`."""
        run, start = Run([], []), time.perf_counter()

        def stop(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            run.times.append(time.perf_counter() - start)
            run.tokens.append(ids[:, -1].tolist())
            return torch.full((len(ids),), run.exceeds(seconds))

        ids = self.ids(texts)
        self.hf_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            stopping_criteria=[stop],
        )
        return run


BACKENDS = (GptBackend, PyTorchBackend, TransformersBackend, UncachedBackend)


# The machine


@dataclass(frozen=True)
class Machine:
    """What the machine can do.

    Attributes:
        processor: Its name.
        cores: Number of CPUs.
        bandwidth: Bytes per second that one thread reads from memory.
        multiply_adds: Per second of one thread, in float32.
        multiply_adds_of_all: Per second of all threads.
    """

    processor: str
    cores: int
    bandwidth: float
    multiply_adds: float
    multiply_adds_of_all: float


def min_seconds(call: Callable[[], Any], repeat: int = 5) -> float:
    """Time of the fastest call."""
    return min(timeit.repeat(call, number=1, repeat=repeat))


def measure_machine(megabytes: int = 512, size: int = 1024) -> Machine:
    """Measure the sum of an array of so many megabytes and the product of matrices of this size."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    array, square = torch.ones(megabytes * 2**18), torch.ones(size, size)
    rates = []
    for n in (1, cores):
        torch.set_num_threads(n)
        rates.append(size**3 / min_seconds(lambda: square @ square))
    torch.set_num_threads(1)
    bandwidth = array.nbytes / min_seconds(array.sum)
    torch.set_num_threads(threads)
    return Machine(describe_machine()["processor"], cores, bandwidth, *rates)


# Speed


@dataclass(frozen=True)
class Speed:
    """The speed of one backend in one case.

    Attributes:
        shape: Name of the model.
        batch_size: Sequences in the batch.
        length: Tokens to generate.
        backend: Its name.
        positions: The first and the last that all its runs generated, counted from the start of the text.
        tokens_per_second: Of all sequences together.
        gpt_speedup: Speed of gpt divided by the speed of this backend.
        first_token_ms: From the call to the first token, which includes the prompt.
        bandwidth: Share of what one thread can read: the weights once per step and the cache of each sequence.
        multiply_adds: Share of what the threads can compute: those that a token needs with a cache.
    """

    shape: str
    batch_size: int
    length: int
    backend: str
    positions: tuple[int, int]
    tokens_per_second: float
    gpt_speedup: float
    first_token_ms: float
    bandwidth: float
    multiply_adds: float


def save_wide_gpt(folder: Path) -> Path:
    """Write the weights folder of a larger GPT with random weights."""
    tokenizer = load(SHIPPED).tokenizer
    model, generator = GPT(GPTConfig(len(tokenizer), **WIDE)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim == 2):
            weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)
    save(folder, model, tokenizer)
    return folder


def make_prompts(lm: LanguageModel, count: int, length: int) -> list[str]:
    """Different texts of one length, of characters that the model knows."""
    known = [c for c in Path(__file__).read_text(encoding="utf-8") if c in lm.tokenizer.vocab]
    return ["".join(known[(97 * row + i) % len(known)] for i in range(length)) for row in range(count)]


def utilization(model: GPT, machine: Machine, batch_size: int, position: int, steps_per_second: float) -> tuple[float, float]:
    """The shares of the machine's bandwidth and multiply-adds that steps of a batch at `position` use."""
    c, context = model.config, min(position, model.context_length)
    weights = sum(p.numel() for p in model.parameters()) - c.vocab_size * c.hidden_size  # a step reads one row of the embedding
    cache = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * context
    adds = weights + 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * context
    peak = machine.multiply_adds if torch.get_num_threads() == 1 else machine.multiply_adds_of_all
    return 4 * (weights + batch_size * cache) * steps_per_second / machine.bandwidth, batch_size * adds * steps_per_second / peak


def measure(shape: str, folder: Path, plan: Plan, machine: Machine) -> Iterator[Speed]:
    """Measure all backends in all cases of a plan, with the weights in `folder`."""
    backends = [backend(folder) for backend in BACKENDS]
    lm = backends[0].lm
    for batch_size in plan.batch_sizes:
        steps_per_second = dict.fromkeys(BACKENDS, 0.0)
        for length in sorted(plan.lengths):
            print(f"{shape}, batch size {batch_size}, {length:,} tokens", file=sys.stderr, flush=True)
            starts = dict.fromkeys(BACKENDS, PROMPT)
            if length > lm.context_length:  # a backend too slow for the whole length starts with a full window
                slow = {kind for kind in BACKENDS if steps_per_second[kind] * plan.seconds < length}
                starts.update(dict.fromkeys(slow, lm.context_length))
            runs: dict[type, list[Run]] = {kind: [] for kind in BACKENDS}
            for n in range(plan.rounds + 1):
                for backend in backends:
                    texts = make_prompts(lm, batch_size, starts[type(backend)] if n else PROMPT)
                    run = backend.run(texts, length if n else 3, plan.seconds)
                    if n:  # the first one is a warm-up
                        runs[type(backend)].append(run)
            for kind in BACKENDS:
                steps_per_second[kind] = statistics.median(run.steps_per_second for run in runs[kind])
            for backend in backends:
                kind, speed = type(backend), steps_per_second[type(backend)]
                start, steps = starts[kind], min(len(run.times) for run in runs[kind])
                yield Speed(
                    shape,
                    batch_size,
                    length,
                    backend.name,
                    (start + 1, start + steps),
                    batch_size * speed,
                    steps_per_second[GptBackend] / speed,
                    1000 * statistics.median(run.times[0] for run in runs[kind]),
                    *utilization(lm.model, machine, batch_size, start + steps // 2, speed),
                )


# Fresh processes


@dataclass(frozen=True)
class ProcessResult:
    """A fresh process.

    Attributes:
        process: What it does.
        seconds: From its start to the first generated character.
        times_import_torch: `seconds` divided by those of a process that imports torch.
        peak_mb: Its peak memory.
    """

    process: str
    seconds: float
    times_import_torch: float
    peak_mb: float


TRANSFORMERS_SCRIPT = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.generate(torch.tensor([[0]]), attention_mask=torch.tensor([[1]]), do_sample=False, max_new_tokens=int(sys.argv[2]))
print("A")
"""


def process_commands(folder: Path, long_length: int) -> dict[str, tuple[list[str], int]]:
    """The arguments of python, and how many characters are printed once the first is generated, by name of the process."""
    generate = ["-m", "gpt", "--model", str(folder), "--prompt", "A", "--seed", "1", "--length"]
    return {
        "import torch": (["-c", "import torch; print(1)"], 1),
        "gpt, 1 character": ([*generate, "1"], 2),
        "transformers, 1 character": (["-c", TRANSFORMERS_SCRIPT, str(folder), "1"], 1),
        **{f"gpt, {n:,} characters": ([*generate, str(n)], 2) for n in (200, long_length)},
        "transformers, 200 characters": (["-c", TRANSFORMERS_SCRIPT, str(folder), "200"], 1),
    }


# The peak memory of a process includes that of its parent when it forks, so a small process starts it.
LAUNCH = """
import os, subprocess, sys, time
characters, args = int(sys.argv[1]), sys.argv[2:]
start = time.perf_counter()
process = subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
read = len(process.stdout.read(characters))
seconds = time.perf_counter() - start
process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
print(read, os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def time_process(args: Sequence[str], characters: int) -> tuple[float, float]:
    """Seconds until python with `args` has printed so many characters, and its peak memory in megabytes."""
    launch = [sys.executable, "-c", LAUNCH, str(characters), *args]
    output = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if output[:2] != [str(characters), "0"]:
        raise RuntimeError(f"python {' '.join(args)} printed {output[0]} characters and ended with {output[1]}")
    return float(output[2]), int(output[3]) / 1e6


def measure_processes(folder: Path, plan: Plan) -> list[ProcessResult]:
    """Measure each kind of process; the result is the median time and the peak memory."""
    commands = process_commands(folder, plan.long_length)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for n in range(plan.process_rounds):
        for name, (args, characters) in commands.items():
            if n == 0 or " 1 " in name or name == "import torch":  # the others measure memory, which varies little
                results[name].append(time_process(args, characters))
    seconds = {name: statistics.median(elapsed for elapsed, _ in runs) for name, runs in results.items()}
    return [
        ProcessResult(name, seconds[name], seconds[name] / seconds["import torch"], max(peak for _, peak in runs))
        for name, runs in results.items()
    ]


# The report


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns; cells that start with a letter are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    print(f"\n{title}")
    for row in (headers, *rows):
        print("  ".join(cell.ljust(w) if cell[:1].isalpha() else cell.rjust(w) for cell, w in zip(row, widths, strict=True)))


def report(machine: Machine, speeds: list[Speed], processes: list[ProcessResult]) -> None:
    """Print all results."""
    print_table(
        "Generation, backends in turns",
        ("shape", "batch", "length", "backend", "positions", "tokens/s", "gpt is", "first ms", "bandwidth", "multiply-adds"),
        [
            (
                s.shape,
                f"{s.batch_size}",
                f"{s.length:,}",
                s.backend,
                "{:,} to {:,}".format(*s.positions),
                f"{s.tokens_per_second:,.0f}",
                f"{s.gpt_speedup:.1f}x",
                f"{s.first_token_ms:.1f}",
                f"{s.bandwidth:.1%}",
                f"{s.multiply_adds:.1%}",
            )
            for s in speeds
        ],
    )
    print(
        f"\nPercentages are shares of this machine's peak: one thread reads {machine.bandwidth / 1e9:.1f} GB/s from memory "
        f"(weights that fit the processor's cache can exceed 100%) and computes {machine.multiply_adds / 1e9:.1f} billion "
        f"multiply-adds per second; all {machine.cores} compute {machine.multiply_adds_of_all / 1e9:.1f}."
    )
    print_table(
        "Fresh processes with the shipped model",
        ("process", "first character", "import torch is 1", "peak memory"),
        [(s.process, f"{s.seconds:.2f} s", f"{s.times_import_torch:.2f}x", f"{s.peak_mb:,.0f} MB") for s in processes],
    )


def versions() -> dict[str, str]:
    """Versions that the results depend on."""
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def main() -> None:
    """Run the benchmark, print tables and write JSON."""
    top = argparse.ArgumentParser(
        prog="python benchmarks/bench_generation.py", description="Measure generation speed on this machine."
    )
    top.add_argument(
        "--quick", action="store_true", help="take about a minute: the shipped shape, batch sizes 1 and 32, shorter runs"
    )
    top.add_argument("--shapes", nargs="+", choices=Plan.shapes, help="only these shapes (default: all)")
    top.add_argument(
        "--threads", type=int, default=1, help="PyTorch threads; models this small gain nothing from more (default: %(default)s)"
    )
    top.add_argument("--out", type=Path, default=Path("bench_generation.json"), help="JSON file to write (default: %(default)s)")
    args = top.parse_args()
    torch.set_num_threads(args.threads)
    plan = QUICK if args.quick else Plan()
    plan = replace(plan, shapes=tuple(args.shapes or plan.shapes))
    command = " ".join(["python", "benchmarks/bench_generation.py", *sys.argv[1:]])
    machine, date = measure_machine(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{command}, {date}; {machine.processor}, {machine.cores} cores; threads {args.threads}; {versions()}")
    with tempfile.TemporaryDirectory() as folder:
        folders = {"shipped": SHIPPED, "wide": save_wide_gpt(Path(folder))}
        speeds = [speed for shape in plan.shapes for speed in measure(shape, folders[shape], plan, machine)]
    processes = measure_processes(SHIPPED, plan)
    report(machine, speeds, processes)
    results = {"command": command, "date": date, "threads": args.threads, "versions": versions(), "plan": asdict(plan)}
    results |= {"machine": asdict(machine), "generation": [asdict(s) for s in speeds]}
    results |= {"processes": [asdict(s) for s in processes]}
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # before transformers is imported: no requests, no bars
    main()

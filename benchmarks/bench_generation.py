"""How fast the models write, and how near to what the machine can do: `python tests/bench.py`, or `--quick` for a minute.

Four writers of greedy text take turns on the same weights, A B C D, A B C D, ...; a figure is the median of its turns. A
writer that is not done when its turn is over is stopped, and the table tells at which positions it was measured.
It is no test: it fails on no time.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python tests/bench.py` finds tests/ alone

import torch

from gpt import GPT, GPTConfig, LanguageModel, SamplingParams, load
from gpt.checkpoint import WEIGHTS, save

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = WEIGHTS / "gpt-shakespeare"
WIDE = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 64}
PROMPT = 6  # characters


@dataclass(frozen=True)
class Plan:
    """Every shape with every batch and length, each writer `rounds` times and at most about `seconds` a time."""

    shapes: tuple[str, ...] = ("shipped", "wide")
    batches: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (200, 2_000)
    rounds: int = 3
    seconds: float = 3.0
    starts: int = 3  # fresh processes of each kind
    long: int = 2_000  # characters that a process writes whose memory is looked at


QUICK = Plan(shapes=("shipped",), batches=(1, 32), rounds=2, seconds=0.2, starts=1, long=600)


# The writers


@dataclass(frozen=True)
class Turn:
    """times: when each step of the batch was done, in seconds from the call; tokens: what it wrote, (steps, rows)."""

    times: list[float]
    tokens: list[list[int]]

    @property
    def steps_per_second(self) -> float:
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])

    def over(self, seconds: float) -> bool:
        return self.times[-1] - self.times[0] > seconds  # the first also reads the prompt


class Ours:
    """`lm.stream_batch` with everything that it tells of each token, by the engine that runs here."""

    def __init__(self, folder: Path) -> None:
        self.lm = load(folder)
        self.name = f"gpt ({getattr(self.lm, 'engine', 'torch')})"

    def turn(self, texts: list[str], length: int, seconds: float) -> Turn:
        turn, begin = Turn([], []), time.perf_counter()
        for tokens in self.write(texts, length):
            turn.times.append(time.perf_counter() - begin)
            turn.tokens.append(tokens)
            if turn.over(seconds):
                break
        return turn

    def write(self, texts: list[str], length: int) -> Iterator[list[int]]:
        params = SamplingParams(temperature=0, max_new_tokens=length, seed=0)
        for steps in self.lm.stream_batch(texts, [params] * len(texts)):
            yield [step.token_id for step in steps if step]

    def ids(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([self.lm.tokenizer.encode(text).ids for text in texts])


class Reference(Ours):
    """The model in PyTorch with its cache, in a bare loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = "PyTorch, cache"

    @torch.inference_mode()
    def write(self, texts: list[str], length: int) -> Iterator[list[int]]:
        ids, state = self.ids(texts), None
        for _ in range(length):
            logits, state = self.lm.model(ids, state)
            ids = logits[:, -1:].argmax(-1)
            yield ids[:, 0].tolist()


class Naive(Ours):
    """The same without a cache, like nanoGPT's `generate`: each token reads the whole window again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = "PyTorch, no cache"

    @torch.inference_mode()
    def write(self, texts: list[str], length: int) -> Iterator[list[int]]:
        ids = self.ids(texts)
        for _ in range(length):
            logits, _ = self.lm.model(ids[:, -self.lm.window :])
            ids = torch.cat((ids, logits[:, -1:].argmax(-1)), dim=1)
            yield ids[:, -1].tolist()


class Transformers(Ours):
    """`generate` of transformers with its cache."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(folder)
        self.name, self.theirs = "transformers, cache", AutoModelForCausalLM.from_pretrained(folder)

    def turn(self, texts: list[str], length: int, seconds: float) -> Turn:
        turn, begin = Turn([], []), time.perf_counter()

        def stop(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            turn.times.append(time.perf_counter() - begin)
            turn.tokens.append(ids[:, -1].tolist())
            return torch.full((len(ids),), turn.over(seconds))

        ids = self.ids(texts)
        self.theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            stopping_criteria=[stop],
        )
        return turn


WRITERS = (Ours, Reference, Transformers, Naive)


# The machine


@dataclass(frozen=True)
class Machine:
    """bandwidth: bytes a second that one thread reads; multiply_adds: in float32, a second of one thread, and of all."""

    processor: str
    cores: int
    bandwidth: float
    multiply_adds: float
    multiply_adds_of_all: float


def quickest(call: Callable[[], Any], times: int = 5) -> float:
    def once() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return min(once() for _ in range(times))


def measure_machine(megabytes: int = 512, size: int = 1024) -> Machine:
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    many, square = torch.ones(megabytes * 2**18), torch.ones(size, size)
    rates = []
    for n in (1, cores):
        torch.set_num_threads(n)
        rates.append(size**3 / quickest(lambda: square @ square))
    torch.set_num_threads(1)
    bandwidth = many.nbytes / quickest(many.sum)
    torch.set_num_threads(threads)
    told = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(": ")[2] for line in told if line.startswith("model name")]
    return Machine((names or [platform.processor()])[0], cores, bandwidth, *rates)


# Speed


@dataclass(frozen=True)
class Speed:
    """How fast one writer wrote.

    positions        the first and last that all its turns wrote, counted from the start of the text
    tokens           a second, of all rows together
    times_as_fast    as this writer is `gpt`
    first_ms         from the call to the first token, which reads the prompt
    bandwidth        share of what one thread can read: the weights once a step, and each row's cache
    multiply_adds    share of what the threads can do: those that a token needs with a cache
    """

    shape: str
    batch: int
    length: int
    writer: str
    positions: tuple[int, int]
    tokens: float
    times_as_fast: float
    first_ms: float
    bandwidth: float
    multiply_adds: float


def wide(folder: Path) -> Path:
    """A larger GPT of random weights, in a weights folder."""
    tokenizer = load(SHIPPED).tokenizer
    model, generator = GPT(GPTConfig(len(tokenizer), **WIDE)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim == 2):
            weight.normal_(std=weight.shape[1] ** -0.5, generator=generator)
    save(folder, model, tokenizer)
    return folder


def prompts(lm: LanguageModel, rows: int, length: int) -> list[str]:
    """Different texts of one length, of characters that the model knows."""
    known = [c for c in Path(__file__).read_text(encoding="utf-8") if c in lm.tokenizer.vocab]
    return ["".join(known[(97 * row + i) % len(known)] for i in range(length)) for row in range(rows)]


def shares(model: GPT, machine: Machine, rows: int, position: int, steps_per_second: float) -> tuple[float, float]:
    """The share of the machine's bandwidth and multiply-adds that a step of `rows` at `position` needs."""
    c, seen = model.config, min(position, model.window)
    weights = sum(p.numel() for p in model.parameters()) - c.vocab_size * c.hidden_size  # of the embedding, a row is read
    cache = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * seen
    adds = weights + 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * seen
    can = machine.multiply_adds if torch.get_num_threads() == 1 else machine.multiply_adds_of_all
    return 4 * (weights + rows * cache) * steps_per_second / machine.bandwidth, rows * adds * steps_per_second / can


def measure(shape: str, folder: Path, plan: Plan, machine: Machine) -> Iterator[Speed]:
    writers = [make(folder) for make in WRITERS]
    lm = writers[0].lm
    for batch in plan.batches:
        steps_per_second = dict.fromkeys(WRITERS, 0.0)
        for length in sorted(plan.lengths):
            print(f"{shape}, batch {batch}, {length:,} tokens", file=sys.stderr, flush=True)
            starts = dict.fromkeys(WRITERS, PROMPT)
            if length > lm.window:  # who cannot write so much in time starts with a full window
                starts.update({kind: lm.window for kind in WRITERS if steps_per_second[kind] * plan.seconds < length})
            turns: dict[type, list[Turn]] = {kind: [] for kind in WRITERS}
            for n in range(plan.rounds + 1):
                for writer in writers:
                    texts = prompts(lm, batch, starts[type(writer)] if n else PROMPT)
                    turn = writer.turn(texts, length if n else 3, plan.seconds)
                    if n:  # the first warms up
                        turns[type(writer)].append(turn)
            for kind in WRITERS:
                steps_per_second[kind] = statistics.median(turn.steps_per_second for turn in turns[kind])
            for writer in writers:
                kind, speed = type(writer), steps_per_second[type(writer)]
                start, steps = starts[kind], min(len(turn.times) for turn in turns[kind])
                yield Speed(
                    shape,
                    batch,
                    length,
                    writer.name,
                    (start + 1, start + steps),
                    batch * speed,
                    steps_per_second[Ours] / speed,
                    1000 * statistics.median(turn.times[0] for turn in turns[kind]),
                    *shares(lm.model, machine, batch, start + steps // 2, speed),
                )


# Fresh processes


@dataclass(frozen=True)
class Start:
    """What a fresh process took until its first character (beyond the prompt), and its greatest memory."""

    process: str
    seconds: float
    times_import_torch: float
    peak_mb: float


THEIRS = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.generate(torch.tensor([[0]]), attention_mask=torch.tensor([[1]]), do_sample=False, max_new_tokens=int(sys.argv[2]))
print("A")
"""


def processes(folder: Path, long: int) -> dict[str, tuple[list[str], int]]:
    """Arguments of python, and how many characters it has printed when the first new one is there."""
    write = ["-m", "gpt", "--model", str(folder), "--prompt", "A", "--seed", "1", "--length"]
    return {
        "import torch": (["-c", "import torch; print(1)"], 1),
        "gpt, 1 character": ([*write, "1"], 2),
        "transformers, 1 character": (["-c", THEIRS, str(folder), "1"], 1),
        **{f"gpt, {n:,} characters": ([*write, str(n)], 2) for n in (200, long)},
        "transformers, 200 characters": (["-c", THEIRS, str(folder), "200"], 1),
    }


# A process counts among its memory what its parent had, so a small one in between starts it.
LAUNCH = """
import os, subprocess, sys, time
characters, args = int(sys.argv[1]), sys.argv[2:]
begin = time.perf_counter()
process = subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
read = len(process.stdout.read(characters))
seconds = time.perf_counter() - begin
process.stdout.read()
_, status, used = os.wait4(process.pid, 0)
print(read, os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def start_once(args: Sequence[str], characters: int) -> tuple[float, float]:
    """Seconds until a python has printed so many characters, and the megabytes that it had at most."""
    launch = [sys.executable, "-c", LAUNCH, str(characters), *args]
    said = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if said[:2] != [str(characters), "0"]:
        raise RuntimeError(f"python {' '.join(args)} printed {said[0]} characters and ended with {said[1]}")
    return float(said[2]), int(said[3]) / 1e6


def measure_starts(folder: Path, plan: Plan) -> list[Start]:
    kinds = processes(folder, plan.long)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for n in range(plan.starts):
        for name, (args, characters) in kinds.items():
            if n == 0 or " 1 " in name or name == "import torch":  # the others are there for their memory, which varies little
                found[name].append(start_once(args, characters))
    seconds = {name: statistics.median(took for took, _ in runs) for name, runs in found.items()}
    return [
        Start(name, seconds[name], seconds[name] / seconds["import torch"], max(peak for _, peak in runs))
        for name, runs in found.items()
    ]


# The report


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(f"\n{title}")
    for row in (heads, *rows):
        print("  ".join(cell.ljust(w) if cell[:1].isalpha() else cell.rjust(w) for cell, w in zip(row, widths, strict=True)))


def report(machine: Machine, speeds: list[Speed], starts: list[Start]) -> None:
    table(
        "GenerationSession, each writer in turn",
        ("shape", "batch", "length", "writer", "positions", "tokens/s", "gpt is", "first ms", "bandwidth", "multiply-adds"),
        [
            (
                s.shape,
                f"{s.batch}",
                f"{s.length:,}",
                s.writer,
                "{:,} to {:,}".format(*s.positions),
                f"{s.tokens:,.0f}",
                f"{s.times_as_fast:.1f}x",
                f"{s.first_ms:.1f}",
                f"{s.bandwidth:.1%}",
                f"{s.multiply_adds:.1%}",
            )
            for s in speeds
        ],
    )
    print(
        f"\nShares are of what was measured here: {machine.bandwidth / 1e9:.1f} GB/s read from memory by one thread (weights "
        f"that fit the processor's cache can pass 100%), {machine.multiply_adds / 1e9:.1f} billion multiply-adds a second by one "
        f"thread, {machine.multiply_adds_of_all / 1e9:.1f} by all {machine.cores}."
    )
    table(
        "Fresh processes, of the shipped model",
        ("process", "first character", "import torch is 1", "peak memory"),
        [(s.process, f"{s.seconds:.2f} s", f"{s.times_import_torch:.2f}x", f"{s.peak_mb:,.0f} MB") for s in starts],
    )


def versions() -> dict[str, str]:
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def main() -> None:
    top = argparse.ArgumentParser(prog="python tests/bench.py", description="Measure how fast the models write here.")
    top.add_argument("--quick", action="store_true", help="about a minute: the shipped shape, batch 1 and 32, shorter turns")
    top.add_argument("--shapes", nargs="+", choices=Plan.shapes, help="these shapes alone")
    top.add_argument(
        "--threads", type=int, default=1, help="of every writer (%(default)s: models so small gain nothing from more)"
    )
    top.add_argument("--out", type=Path, default=Path("bench.json"), help="every figure as JSON (%(default)s)")
    args = top.parse_args()
    torch.set_num_threads(args.threads)
    plan = QUICK if args.quick else Plan()
    plan = replace(plan, shapes=tuple(args.shapes or plan.shapes))
    command = " ".join(["python", "tests/bench.py", *sys.argv[1:]])
    machine, date = measure_machine(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{command}, {date}; {machine.processor}, {machine.cores} cores; threads {args.threads}; {versions()}")
    with tempfile.TemporaryDirectory() as aside:
        folders = {"shipped": SHIPPED, "wide": wide(Path(aside))}
        speeds = [speed for shape in plan.shapes for speed in measure(shape, folders[shape], plan, machine)]
    starts = measure_starts(SHIPPED, plan)
    report(machine, speeds, starts)
    facts = {"command": command, "date": date, "threads": args.threads, "versions": versions(), "plan": asdict(plan)}
    facts |= {"machine": asdict(machine), "writing": [asdict(s) for s in speeds], "processes": [asdict(s) for s in starts]}
    args.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # before transformers reads them: no requests, no bars
    main()

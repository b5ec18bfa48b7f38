"""Time to a held-out loss: nanoGPT's recipe for a CPU, and `python -m train run gpt` in a tenth of its time.

    python tests/bench_training.py --threads 2 --runs 3

The recipe (github.com/karpathy/nanoGPT, README, "I only have a macbook"): 4 layers, 128 wide, context 64, batch 12, 2,000
steps of AdamW; it reports 1.88. Its steps cost all the same, so some before our run and some after it are timed, and the
median is scaled; `--full` makes them all, and scores what they give. Only training steps count, on either side. Held out
is the whole last tenth. It prints a table, writes JSON, and fails on no time. Run it on a quiet machine: two threads wait for
each other at every operation, so that one busy neighbour makes either side ten times slower; one thread bears it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpt import BigramConfig  # noqa: E402
from train import data as texts  # noqa: E402
from train.evaluate import evaluate  # noqa: E402
from train.runs import TokenizedDataset, machine  # noqa: E402

GOAL = 1.88  # nats a character: what nanoGPT's README reports, from random batches
LAYERS, HEADS, WIDTH, CONTEXT, ROWS, STEPS = 4, 4, 128, 64, 12, 2_000
SAMPLE = 150  # steps that are timed before our run, and after it


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class NanoGPT(nn.Module):
    """GPT-2's shape without biases, its head tied to the embeddings; opened and trained as nanoGPT does it."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.config = BigramConfig(vocabulary)  # held_out asks it how many tokens there are, and whether they end lines
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # what adds to the stream starts smaller
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight), None


class Baseline:
    """The recipe, a few steps at a time."""

    def __init__(self, data: TokenizedDataset) -> None:
        torch.manual_seed(1337)
        self.data, self.model = data, NanoGPT(len(data.tokenizer))
        decayed = [p for p in self.model.parameters() if p.ndim == 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
        self.seconds: list[float] = []  # of each step

    def run(self, steps: int) -> None:
        for _ in range(steps):
            started = time.perf_counter()
            self.step(len(self.seconds))
            self.seconds.append(time.perf_counter() - started)

    def step(self, n: int) -> None:
        cosine = 1e-4 + 9e-4 * (1 + math.cos(math.pi * (n - 100) / (STEPS - 100))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3 * (n + 1) / 101 if n < 100 else cosine
        starts = torch.randint(len(self.data.train) - CONTEXT, (ROWS,))
        inputs, targets = (torch.stack([self.data.train[i + shift :][:CONTEXT] for i in starts]) for shift in (0, 1))
        loss = F.cross_entropy(self.model(inputs)[0].flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()  # it prints the loss of every step


def ours(data: str, minutes: float, threads: int, seed: int) -> dict:
    """What `python -m train run gpt` reports of a run of its own choice for a time."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with TemporaryDirectory() as folder:
        options = f"--data {data} --out {folder} --minutes {minutes:.4f} --seed {seed} --device cpu".split()
        command = [sys.executable, "-m", "train", "run", "gpt", *options]
        subprocess.run(command, cwd=ROOT, env=env, check_posterior_collapse=True, capture_output=True)
        facts = json.loads((Path(folder) / "training.json").read_text())
    assert facts["machine"]["threads"] == threads
    seconds = sum(timings for part, timings in facts["spent"].items() if part not in ("evaluation", "saving"))
    kept = {name: facts[name] for name in ("seed", "recipe", "parameters", "run_steps", "tokens", "spent")}
    return {"minutes": minutes, "seconds": seconds, "held_out": facts["held_out"]["nats_per_token"], **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shakespeare", help="a text file, or a name that `train run` knows (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both (%(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="of its time that ours may take (%(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="of ours, each with a seed of its own (%(default)s)")
    parser.add_argument("--full", action="store_true", help="make all steps of the recipe, and score what they give")
    parser.add_argument("--json", type=Path, default=Path("bench_training.json"), help="what to write (%(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    data = TokenizedDataset.of(texts.read(args.data), CONTEXT)
    baseline = Baseline(data)
    baseline.run(5)
    baseline.seconds.clear()  # the first ones allocate
    runs = []
    baseline.run(SAMPLE)
    for n in range(args.runs):
        budget = args.share * STEPS * median(baseline.seconds[-SAMPLE:])  # seconds
        run = ours(args.data, budget / 60, args.threads, 1337 + n)
        before = len(baseline.seconds) - SAMPLE
        baseline.run(SAMPLE)
        run["baseline_seconds"] = STEPS * median(baseline.seconds[before:])
        runs.append(run | {"ratio": run["seconds"] / run["baseline_seconds"]})
    timed = len(baseline.seconds)
    result = {"seconds": STEPS * median(baseline.seconds), "steps_timed": timed, "reported": GOAL}
    if args.full:
        baseline = Baseline(data)
        baseline.run(STEPS)
        scored = evaluate(baseline.model, data.evaluate, CONTEXT).nats_per_token
        result |= {"seconds": sum(baseline.seconds), "steps_timed": STEPS, "held_out": scored}

    print("| recipe | parameters | steps | seconds | of its time | held out, nats a character |\n|---|---|---|---|---|---|")
    scored, parameters = result.get("held_out"), sum(p.numel() for p in baseline.model.parameters())
    told = f"{scored:.3f}; " if scored else ""
    print(f"| nanoGPT, CPU | {parameters:,} | {STEPS:,} | {result['seconds']:.1f} | 1 | {told}its README {GOAL} |")
    for run in runs:
        name = f"train run gpt --minutes {run['minutes']:.3f} --seed {run['seed']}"
        sizes = f"{run['parameters']:,} | {run['run_steps']:,} | {run['seconds']:.1f}"
        print(f"| `{name}` | {sizes} | {run['ratio']:.3f} | {run['evaluate']:.4f} |")
    command = " ".join(["python", "tests/bench_training.py", *sys.argv[1:]])
    where = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command, "machine": machine()}
    args.json.write_text(json.dumps({**where, "baseline": result, "runs": runs}, indent=1) + "\n")
    at = where["machine"]
    print(f"\n{at['threads']} threads on {at['cores']} cores of {at['processor']}, {where['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

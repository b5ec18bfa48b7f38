"""Training time to a held-out loss: nanoGPT's CPU recipe, and `python -m train run gpt` in a tenth of its time.

    python benchmarks/bench_training.py --threads 2 --runs 3

The recipe (github.com/karpathy/nanoGPT, README, "I only have a macbook"): 4 layers, width 128, context 64, batch size 12, 2,000
steps of AdamW; its README reports a loss of 1.88. All its steps cost the same, so some are timed before each of our runs and
some after it, and their median is scaled; `--full` makes all steps and scores the result. Only training steps count, for both.

`train run` chooses its own context, usually 128 here, which is part of its recipe; the table shows it. So that both predict
from as much text, both are scored in windows of the recipe's 64 characters; for ours, the loss in its own windows is shown too.

Prints a table and writes JSON. It is not a test. Run it on an idle machine: two threads wait for each other at every operation,
so one busy neighbor slows either side down tenfold. One thread is less sensitive.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import run_facts  # noqa: E402
from gpt import Tokenizer, load  # noqa: E402
from train.data import TokenizedDataset, load_dataset  # noqa: E402

REPORTED_LOSS = 1.88  # nats per character in nanoGPT's README, estimated from random batches
LAYERS, HEADS, WIDTH, CONTEXT, BATCH_SIZE, STEPS = 4, 4, 128, 64, 12, 2_000
TIMED_STEPS = 150  # before each of our runs, and after it
TRAINING = ("data", "compiling", "forward", "backward", "exchange", "optimizer")  # of the timings in training.json


class Block(nn.Module):
    """Attention and MLP, each with a LayerNorm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class NanoGPT(nn.Module):
    """The shape of GPT-2 without biases, the head tied to the embeddings, initialized as in nanoGPT."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # projections into the residual stream start smaller
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        """Read ids (B, T) -> logits (B, T, V), and no state."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight), None


class Baseline:
    """nanoGPT's recipe, a few steps at a time."""

    def __init__(self, data: TokenizedDataset) -> None:
        torch.manual_seed(1337)
        (self.train_ids,) = data.train
        self.model = NanoGPT(len(data.tokenizer))
        decayed = [p for p in self.model.parameters() if p.ndim == 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
        self.seconds: list[float] = []  # of each step

    def run(self, steps: int) -> None:
        """Make and time so many steps."""
        for _ in range(steps):
            start = time.perf_counter()
            self.step(len(self.seconds))
            self.seconds.append(time.perf_counter() - start)

    def step(self, n: int) -> None:
        """Make step `n`."""
        cosine = 1e-4 + 9e-4 * (1 + math.cos(math.pi * (n - 100) / (STEPS - 100))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3 * (n + 1) / 101 if n < 100 else cosine
        starts = torch.randint(len(self.train_ids) - CONTEXT, (BATCH_SIZE,))
        inputs, targets = (torch.stack([self.train_ids[i + shift :][:CONTEXT] for i in starts]) for shift in (0, 1))
        loss = F.cross_entropy(self.model(inputs)[0].flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()  # nanoGPT prints the loss of every step


@torch.inference_mode()
def held_out_loss(model: nn.Module, ids: Tensor) -> float:
    """Mean loss in nats per token in consecutive windows of CONTEXT tokens that each start afresh."""
    tokens = (len(ids) - 1) // CONTEXT * CONTEXT
    inputs, targets = ids[:tokens].view(-1, CONTEXT), ids[1 : tokens + 1].view(-1, CONTEXT)
    batches = zip(inputs.split(256), targets.split(256), strict=True)
    return sum(F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten(), reduction="sum").item() for x, y in batches) / tokens


def train_ours(data: str, held_out_ids: Tensor, minutes: float, threads: int, seed: int) -> dict[str, Any]:
    """Train with `python -m train run gpt` for a time, with the hyperparameters that it chooses."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with TemporaryDirectory() as folder:
        options = f"--data {data} --out {folder} --minutes {minutes:.4f} --seed {seed} --device cpu".split()
        command = [sys.executable, "-m", "train", "run", "gpt", *options]
        subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        training = json.loads((Path(folder) / "training.json").read_text())
        loss = held_out_loss(load(folder).model, held_out_ids)
    if training["machine"]["threads"] != threads:
        raise RuntimeError(f"the run used {training['machine']['threads']} threads, not {threads}")
    seconds = sum(training["timings"].get(name, 0) for name in TRAINING)
    names = ("seed", "train_config", "parameters", "context_length", "run_steps", "tokens", "timings", "held_out")
    return {"minutes": minutes, "seconds": seconds, "loss": loss, **{name: training[name] for name in names}}


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shakespeare", help="a text file or a data set of `train run` (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for both (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="of nanoGPT's time for our run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1, help="number of our runs, each with another seed (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="make all steps of nanoGPT's recipe and score the result")
    parser.add_argument("--json", type=Path, default=Path("bench_training.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    dataset = load_dataset(args.data)
    data = TokenizedDataset.from_dataset(dataset, Tokenizer.from_text(dataset.text), context_length=CONTEXT)
    (held_out_ids,) = data.held_out
    baseline = Baseline(data)
    baseline.run(5)
    baseline.seconds.clear()  # the first steps allocate memory
    runs = []
    baseline.run(TIMED_STEPS)
    for n in range(args.runs):
        budget = args.share * STEPS * median(baseline.seconds[-TIMED_STEPS:])  # seconds
        run = train_ours(args.data, held_out_ids, budget / 60, args.threads, 1337 + n)
        before = len(baseline.seconds) - TIMED_STEPS
        baseline.run(TIMED_STEPS)
        run["baseline_seconds"] = STEPS * median(baseline.seconds[before:])
        runs.append(run | {"ratio": run["seconds"] / run["baseline_seconds"]})
    result = {"seconds": STEPS * median(baseline.seconds), "steps_timed": len(baseline.seconds), "reported": REPORTED_LOSS}
    if args.full:
        baseline = Baseline(data)
        baseline.run(STEPS)
        loss = held_out_loss(baseline.model, held_out_ids)
        result |= {"seconds": sum(baseline.seconds), "steps_timed": STEPS, "loss": loss}

    print(
        f"| recipe | parameters | context | steps | seconds | share of time | loss in windows of {CONTEXT} | in its own windows |"
    )
    print("|---|---|---|---|---|---|---|---|")
    loss, parameters = result.get("loss"), sum(p.numel() for p in baseline.model.parameters())
    losses = f"{loss:.4f} | {loss:.4f}" if loss else f"not run; its README: {REPORTED_LOSS} | "
    print(f"| nanoGPT, CPU | {parameters:,} | {CONTEXT} | {STEPS:,} | {result['seconds']:.1f} | 1 | {losses} |")
    for run in runs:
        name = f"train run gpt --minutes {run['minutes']:.3f} --seed {run['seed']}"
        sizes = f"{run['parameters']:,} | {run['context_length']} | {run['run_steps']:,} | {run['seconds']:.1f}"
        own = f"{run['held_out']['nats_per_token']:.4f} ({run['held_out']['eval_context']})"
        print(f"| `{name}` | {sizes} | {run['ratio']:.3f} | {run['loss']:.4f} | {own} |")
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "baseline": result, "runs": runs}, indent=1) + "\n")
    hardware = f"{args.threads} threads on {os.cpu_count()} cores of {facts['machine']['processor']}"
    print(f"\nLoss: held out, nats per character. {hardware}, {facts['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

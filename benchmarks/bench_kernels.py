"""Characters per second of every shipped model that writes, one sequence at a time: with the C kernels and with PyTorch.

    python benchmarks/bench_kernels.py

Both take turns and write the same text for the same seed. Sampling, the text and its log-probabilities are included. A figure
is the median of its runs, the first of which is not counted. Prints a table and writes JSON. It is not a test.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.record import run_facts
from gpt import LanguageModel, SamplingParams, load
from gpt.checkpoint import names
from gpt.generation import ENGINES

CHARACTERS = 300


def shipped_models() -> list[LanguageModel]:
    """The models under weights/ that write from left to right."""
    return [lm for lm in map(load, names()) if isinstance(lm, LanguageModel)]


def measure(lm: LanguageModel, runs: int) -> dict[str, float]:
    """Characters per second with each engine that runs the model, and the share of runs whose texts were equal."""
    speeds: dict[str, list[float]] = {}
    equal = []
    for seed in range(1 + runs):
        texts = set()
        for name in ENGINES:
            lm.engine = name
            start = time.perf_counter()
            text = lm.generate("", SamplingParams(max_new_tokens=CHARACTERS, seed=seed)).text
            speeds.setdefault(lm.engine, []).append(len(text) / (time.perf_counter() - start))
            texts.add(text)
        equal.append(len(texts) == 1)
    return {name: median(values[1:]) for name, values in speeds.items()} | {"equal_texts": sum(equal) / len(equal)}


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each engine (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench_kernels.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    print("| model | C, characters/s | PyTorch, characters/s | ratio | equal texts |")
    print("|---|---|---|---|---|")
    for lm in shipped_models():
        row = rows[lm.name] = measure(lm, args.runs)
        c, pytorch = row.get("C"), row["PyTorch"]
        figures = f"{c:,.0f} | {pytorch:,.0f} | {c / pytorch:.1f}" if c else f"- | {pytorch:,.0f} | -"
        print(f"| {lm.name} | {figures} | {row['equal_texts']:.0%} |", flush=True)
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "characters": CHARACTERS, "models": rows}, indent=1) + "\n")
    print(f"\n1 thread of {facts['machine']['processor']}, {facts['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

"""How long masked diffusion takes for a text, and how good it is, by the number of steps and the order, next to a GPT.

    python benchmarks/bench_unmasking.py --json bench_unmasking.json

A text has 256 characters and no prompt. The time is the median over the texts, one at a time on one thread. The measures are
those of `train/text_metrics.py`, with the GPT as the judge; the first row is held-out text. Prints a table and writes JSON. It is
not a test. Run it on an idle machine.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import run_facts  # noqa: E402
from gpt import SamplingParams, UnmaskingParams, load  # noqa: E402
from train.data import load_dataset  # noqa: E402
from train.text_metrics import measure_texts  # noqa: E402

CHARACTERS = 256
SETTINGS = (
    *(UnmaskingParams(steps) for steps in (16, 32, 64, 128)),
    UnmaskingParams(64, 0.7),
    UnmaskingParams(64, 1.0, "random"),
    UnmaskingParams(64, 1.0, "blocks"),
    UnmaskingParams(256, 1.0, "blocks"),
)


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="diffusion-shakespeare", help="a masked diffusion model (default: %(default)s)")
    parser.add_argument("--judge", default="gpt-shakespeare", help="a GPT of the same text (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=32, help="for each setting (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench_unmasking.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    lm, judge = load(args.model), load(args.judge)
    train, held_out = (part.text for part in load_dataset("shakespeare").split())
    stride = (len(held_out) - CHARACTERS) // args.texts
    passages = [held_out[start : start + CHARACTERS] for start in range(0, stride * args.texts, stride)]
    rows: list[dict[str, Any]] = []
    print("| model | steps | order | temperature | seconds | cost under the judge | known words | unique words | entropy |")
    print("|---|---|---|---|---|---|---|---|---|")

    def add(settings: dict[str, Any], write: Callable[[int], str]) -> None:
        texts, seconds = [], []
        for seed in range(args.texts):
            start = time.perf_counter()
            texts.append(write(seed))
            seconds.append(time.perf_counter() - start)
        metrics = measure_texts(texts, train, judge)
        row = {**settings, "seconds": round(median(seconds), 3), **vars(metrics)}
        rows.append(row)
        measures = (metrics.nll_per_character, metrics.known_words, metrics.unique_words, metrics.entropy)
        names = " | ".join(str(row.get(name, "")) for name in ("model", "steps", "order", "temperature", "seconds"))
        print(f"| {names} | " + " | ".join(f"{value:.2f}" for value in measures if value is not None) + " |", flush=True)

    add({"model": "held-out text"}, passages.__getitem__)
    gpt = SamplingParams(max_new_tokens=CHARACTERS)
    add({"model": judge.name, "temperature": gpt.temperature}, lambda seed: judge.generate("", replace(gpt, seed=seed)).text)
    for params in SETTINGS:
        settings = {"steps": params.steps, "order": params.order, "temperature": params.temperature}
        add({"model": lm.name, **settings}, lambda seed, params=params: lm.generate("", replace(params, seed=seed)))  # type: ignore[misc]
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(f"\n1 thread of {facts['machine']['processor']}, {facts['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

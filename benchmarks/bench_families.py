"""Lines drawn by the shipped models of every family, measured in one run with the same code.

    python benchmarks/bench_families.py

For each text, the best model of each family draws the same number of lines from its own distribution. They are compared with
the held-out lines; lines of the training text, drawn without replacement, are the floor. Whether a line is new is judged by
the training part of its model. Speed is that of one core, for as many lines as the page draws at a time.

Prints a table and writes `ui/family_measures.json`, from which the tab "Three families" takes its bars. It is not a test.
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpt.lines import sample_lines  # noqa: E402
from gpt.text_model import TextModel  # noqa: E402
from train.data import TextDataset, load_dataset  # noqa: E402
from train.runs import machine  # noqa: E402
from train.sample_metrics import measure_lines  # noqa: E402
from ui.families import MEASURES, TEXTS, identify, stage_models  # noqa: E402

SAMPLES = {"names": 3_203, "shakespeare": 1_000}  # lines of each model; masked diffusion takes half a second for one
SEED = 1
TIMED_DRAWS = 3
FIGURES = ("lines", "js_divergence", "valid", "unique", "new", "nll_per_character", "judge")  # of `LineMetrics`


def lines_per_second(lm: TextModel, lines: int) -> float:
    """The median speed of a few draws."""
    seconds = []
    for seed in range(TIMED_DRAWS):
        begun = time.perf_counter()
        sample_lines(lm, lines, seed)
        seconds.append(time.perf_counter() - begun)
    return lines / sorted(seconds)[TIMED_DRAWS // 2]


def training_lines(dataset: TextDataset) -> list[str]:
    """The lines of the training part of a data set."""
    train, _ = dataset.split()
    return [line for line in train.text.split("\n") if line]


def measure_text(name: str, samples: int) -> dict[str, Any]:
    """Measure all models of a text, and the floor."""
    running, lines = load_dataset(name), load_dataset(name, is_lines=True)
    (train, held_out), entries = lines.split(), stage_models(name)
    judge = next((entry.lm for entry in entries if entry.family.name == "gpt"), None)

    def measure(drawn: list[str], known: list[str]) -> dict[str, Any]:
        metrics = vars(measure_lines(drawn, held_out.documents, known, judge))
        return {name: metrics[name] for name in FIGURES}

    models = {}
    for entry in entries:
        known = training_lines(lines if entry.lm.eos_token_id is not None else running)
        models[entry.id] = {
            **measure(sample_lines(entry.lm, samples, SEED), known),
            "lines_per_second": lines_per_second(entry.lm, TEXTS[name][1]),
            "training_log": identify(entry),
        }
        print(f"{entry.id:28} {row(models[entry.id])}", flush=True)
    rng = Random(SEED)  # noqa: S311 (not for secrets)
    floor = measure(rng.sample(train.documents, min(samples, len(train.documents))), training_lines(lines))
    print(f"{f'training lines of {name}':28} {row(floor)}", flush=True)
    return {"floor": floor, "models": models}


def row(measures: dict[str, Any]) -> str:
    """The figures of one model as a line of the table."""
    divergences = " ".join(f"{value:.4f}" for value in measures["js_divergence"])
    shares = " ".join(f"{measures[name]:.3f}" for name in ("valid", "unique", "new"))
    nll = measures["nll_per_character"]
    return f"{divergences}  {shares}  {'-' if nll is None else f'{nll:.3f}'}  {measures.get('lines_per_second', 0):.1f} lines/s"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help=f"lines of each model, for a quick look (default: {SAMPLES})")
    parser.add_argument("--json", type=Path, default=MEASURES, help="file to write (default: ui/family_measures.json)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # the C kernel takes each core that the process may use
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/bench_families.py", *sys.argv[1:]]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "texts": {},
    }
    print(f"{'':28} JSD 1 to 4                   valid unique new    nll")
    for name in TEXTS:
        result["texts"][name] = measure_text(name, args.samples or SAMPLES[name])
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What models reach on how much text: short runs on the start of tiny Shakespeare, in several lengths.

    python benchmarks/bench_text_size.py --json train/text_sizes.json

The page and `python -m train run` read that file, to say what to expect of a text. Each run is that of the page
(`train/short_run.py`), with the last tenth of its own text held out. Prints a table and writes JSON. It is not a test. Run it
on an idle machine.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import run_facts  # noqa: E402
from train.data import load_dataset  # noqa: E402
from train.short_run import Job, run_job  # noqa: E402

CHARACTERS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_115_394)


def measure(text: str, seconds: float) -> dict[str, Any]:
    """The losses of all models on a text, in nats a character."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(text, encoding="utf-8")
        job = Job(str(path), "text", False, "gpt", "small", "char", None, seconds, 1337, folder)
        *_, end = run_job(job, lambda: False, time.perf_counter())
    losses = {model["name"]: round(model["held_out"], 4) for model in end["models"]}
    return {"characters": len(text), "seconds": seconds, **losses, "winner": end["winner"]}


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, of each text (default: %(default)s)")
    parser.add_argument("--characters", type=int, nargs="+", default=CHARACTERS, help="lengths of the texts")
    parser.add_argument("--json", type=Path, default=Path("bench_text_size.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    text, rows = load_dataset("shakespeare").text, []
    print("| characters | bigram | n-gram | GPT | mixture | best |")
    print("|---|---|---|---|---|---|")
    for characters in args.characters:
        row = measure(text[:characters], args.seconds)
        rows.append(row)
        losses = " | ".join(f"{row[name]:.2f}" if name in row else "" for name in ("bigram", "ngram", "gpt", "mixture"))
        print(f"| {row['characters']:,} | {losses} | {row['winner']} |", flush=True)
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(f"\nLoss: held out, nats a character. {facts['machine']['processor']}, {facts['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

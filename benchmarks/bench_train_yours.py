"""What the tab "Train yours" reaches in 15, 30, 60 and 120 seconds, from the start of its training process to its last event.

    python benchmarks/bench_train_yours.py

Trains a GPT on tiny Shakespeare, and for 30 s on its first 20,000 characters, in the process that the page starts
(`train/worker.py`), with the settings that the page proposes. The losses are over the whole last tenth of the text. "goal" is
the loss that a run of that time should reach on two cores.

Prints a table and writes JSON. It is not a test. Run it on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import run_facts  # noqa: E402
from train.data import load_dataset  # noqa: E402
from train.short_run import GRACE_S  # noqa: E402
from train.text_report import report_text  # noqa: E402
from ui.jobs import NICE  # noqa: E402

GOALS = {15: 1.88, 30: 1.74, 60: 1.65, 120: 1.57}  # nats a character after so many seconds
SHORT_CHARS, SHORT_SECONDS = 20_000, 30
CURVE = ("step", "seconds", "train", "held_out", "memorizing")  # of an event


def train(text: str, name: str, kind: str, size: str, seconds: float, seed: int) -> dict[str, Any]:
    """Train in a process of its own, and return what it reached and how long it took."""
    report = report_text(text)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_text(text, encoding="utf-8")
        job = {"text": str(path), "name": name, "is_lines": report.is_lines, "kind": kind, "size": size, "dropout": None}
        job |= {"tokenizer": report.tokenizer, "seconds": seconds, "seed": seed, "out": f"{folder}/out"}
        start = time.perf_counter()
        command = ["nice", "-n", str(NICE), sys.executable, "-m", "train.worker"]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            arrived = [(time.perf_counter() - start, json.loads(line)) for line in process.stdout]
    took, end = arrived[-1]
    if end["event"] != "end":
        raise RuntimeError(f"the worker ended with {end}")
    events = {name: [event for _, event in arrived if event["event"] == name] for name in ("start", "step", "evaluation")}
    losses = {model["name"]: model["held_out"] for model in end["models"]}
    return {
        "text": name,
        "characters": len(text),
        "kind": kind,
        "seconds": seconds,
        "seed": seed,
        "took": took,
        "counted": next(at for at, event in arrived if event["event"] == "baselines"),
        "training": events["evaluation"][-1]["seconds"],
        "steps": events["evaluation"][-1]["step"],
        "best_step": [event["step"] for event in events["evaluation"] if event["best"]][-1],
        "curve": [{name: event[name] for name in CURVE} for event in events["evaluation"]],
        "config": events["start"][0]["config"],
        "losses": losses,
        "winner": end["winner"],
        "verdict": end["verdict"],
    }


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="*", default=list(GOALS), help="of training (default: 15 30 60 120)")
    parser.add_argument("--kind", choices=("gpt", "lstm"), default="gpt", help="default: %(default)s")
    parser.add_argument("--size", choices=("small", "medium"), default="small", help="default: %(default)s")
    parser.add_argument("--short-seconds", type=float, default=SHORT_SECONDS, help="for the short text (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1337, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("bench_train_yours.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    text = load_dataset("shakespeare").text
    texts = [(text, "shakespeare", seconds) for seconds in args.seconds]
    texts.append((text[:SHORT_CHARS], "its start", args.short_seconds))
    print(
        "| text | characters | seconds | until the result | limit | steps | best | loss | goal | n-gram | mixture | best model |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    runs = []
    for content, name, seconds in texts:
        run = train(content, name, args.kind, args.size, seconds, args.seed)
        run["goal"] = GOALS.get(seconds) if len(content) == len(text) and args.kind == "gpt" else None
        runs.append(run)
        losses = run["losses"]
        mixture = f"{losses['mixture']:.3f}" if "mixture" in losses else ""
        times = f"{seconds:g} | {run['took']:.1f} | {seconds + GRACE_S:g} | {run['steps']:,} | {run['best_step']:,}"
        reached = f"{losses[args.kind]:.3f} | {run['goal'] or ''} | {losses['ngram']:.3f} | {mixture} | {run['winner']}"
        print(f"| {name} | {len(content):,} | {times} | {reached} |", flush=True)
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n")
    hardware = f"{facts['machine']['cores']} cores of {facts['machine']['processor']}"
    print(f"\nLoss: held out, nats a character. {hardware}, {facts['date']}")


if __name__ == "__main__":
    main()

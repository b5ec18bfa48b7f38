"""What distillation, dropout and weight decay change where text is scarce: a small GPT on the first 100,000 characters.

    python benchmarks/bench_distillation.py

The ratio of parameters to characters, and the number of times each character is read, are about those of the shipped
gpt-shakespeare, so that the small model overfits as the large one does. All runs have the same steps and the same seed. The
teachers are made from the same 100,000 characters: the first run itself, and its mixture with an n-gram, whose weight is
fitted on the 50,000 characters after them. The held-out loss is over the last tenth of the text. The last column is the
loss of the student's own mixture with the n-gram.

Prints a table and writes JSON. It is not a test.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import run_facts  # noqa: E402
from gpt import Mixture, NGram  # noqa: E402
from gpt.models.base import CausalLM  # noqa: E402
from gpt.models.ngram import count_ngrams  # noqa: E402
from train.configs import GPTTrainConfig  # noqa: E402
from train.data import TokenizedDataset, load_dataset  # noqa: E402
from train.evaluate import evaluate, token_nll  # noqa: E402
from train.mixture import fit_weight  # noqa: E402
from train.tasks import CausalLMTask, DistillationTask  # noqa: E402
from train.tokenizers import tokenize  # noqa: E402
from train.trainer import Budget, StepEvent, Trainer, seeded_rng  # noqa: E402

CHARACTERS, WEIGHT_CHARACTERS = 100_000, 50_000
SEED, NGRAM_ORDER = 1, 6
CONFIG = GPTTrainConfig(layers=3, width=96, context=128, dropout=0.15)
RUNS: tuple[tuple[str, GPTTrainConfig], ...] = (  # what the targets are, and the settings; the first run is a teacher
    ("tokens", CONFIG),
    ("mixture", replace(CONFIG, dropout=0.05)),
    ("mixture", replace(CONFIG, dropout=0.0)),
    ("mixture", CONFIG),
    ("gpt", replace(CONFIG, dropout=0.05)),
    ("tokens", replace(CONFIG, dropout=0.25)),
    ("tokens", replace(CONFIG, weight_decay=0.3)),
)


def train(config: GPTTrainConfig, data: TokenizedDataset, teacher: CausalLM | None, steps: int) -> CausalLM:
    """Train a GPT on tokens, or on the probabilities of a teacher."""
    with seeded_rng(SEED, torch.device("cpu")):
        task = DistillationTask(config, data, "", SEED, "cpu", teacher) if teacher else CausalLMTask(config, data, "", SEED)
    task.validate = lambda progress, quick=False: {"loss": 0.0}  # type: ignore[method-assign]
    for event in Trainer(task, Budget(steps=steps), SEED).run():
        if isinstance(event, StepEvent) and event.step % 100 == 0:
            print(f"\rstep {event.step}, loss {event.loss:.3f}", end="", file=sys.stderr, flush=True)
    return task.model.eval()


def main() -> None:
    """Run the benchmark, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of each run (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("bench_distillation.json"), help="file to write (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    whole = tokenize(load_dataset("shakespeare"))
    (ids,), vocab_size = whole.train, len(whole.tokenizer)
    data = replace(whole, train=[ids[:CHARACTERS]])
    for_weight = [ids[CHARACTERS : CHARACTERS + WEIGHT_CHARACTERS]]
    ngram = NGram.from_counts(count_ngrams(data.train[0], vocab_size, NGRAM_ORDER), vocab_size, NGRAM_ORDER - 1)

    def with_ngram(model: CausalLM) -> Mixture:
        return Mixture.of(model, ngram, fit_weight(token_nll(model, for_weight), token_nll(ngram, for_weight)))

    def loss(model: CausalLM) -> float:
        return evaluate(model, data.held_out).nats_per_token

    teachers: dict[str, CausalLM | None] = {"tokens": None}
    runs: list[dict[str, Any]] = []
    print("| targets | dropout | weight decay | CPU s | train | held out | with the n-gram |")
    print("|---|---|---|---|---|---|---|")
    for targets, config in RUNS:
        start = time.process_time()
        model = train(config, data, teachers[targets], args.steps)
        seconds = time.process_time() - start
        mixture = with_ngram(model)
        if "gpt" not in teachers:
            teachers |= {"gpt": model, "mixture": mixture}
        run = {"targets": targets, "train_config": asdict(config), "cpu_seconds": seconds, "weight": mixture.config.weight}
        run |= {"train": evaluate(model, data.train).nats_per_token, "held_out": loss(model), "mixture": loss(mixture)}
        runs.append(run)
        name = "tokens" if targets == "tokens" else f"probabilities of the {targets}"
        losses = " | ".join(f"{run[part]:.3f}" for part in ("train", "held_out", "mixture"))
        print(f"\r| {name} | {config.dropout} | {config.weight_decay} | {seconds:.0f} | {losses} |", flush=True)
    facts = run_facts()
    args.json.write_text(json.dumps({**facts, "ngram_held_out": loss(ngram), "runs": runs}, indent=1) + "\n")
    print(f"\nLoss in nats per character. {facts['machine']['processor']}, {facts['date']}; written to {args.json}")


if __name__ == "__main__":
    main()

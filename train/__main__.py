"""`python -m train`: train a model from a text, measure it, publish it."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gpt import VAE, CheckpointError, load
from gpt.hub import HubError
from train import data as texts
from train.card import duration
from train.configs import TRAIN_CONFIGS, TrainConfig
from train.counting import fit_ngram
from train.distributed import DistributedContext
from train.evaluate import eval_context, evaluate, target_text
from train.mixture import fit_mixture
from train.publish import publish
from train.runs import fit_counts, train
from train.tasks.vae import iwae_bound
from train.trainer import Budget, EndEvent, EvalEvent, Event, SampleEvent, StepEvent

DEFAULT_MINUTES = 20.0
SHAPE = (
    ("layers", int, "blocks"),
    ("width", int, "channels"),
    ("context", int, "tokens seen at once"),
    ("dropout", float, "share of the channels dropped in training"),
    ("free_bits", float, "nats that each number of a vae's space costs for free: more of them hold more of a line"),
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m train", description="Train a small language model, measure or publish it.")
    commands = top.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="train a model and write a weights folder")
    run.add_argument(
        "kind",
        choices=(*TRAIN_CONFIGS, "ngram", "mixture"),
        help="what to make; a bigram is counted, unless a budget says to learn it",
    )
    run.add_argument("--data", required=True, help=f"a text file, or one of: {', '.join(texts.SOURCES)}")
    run.add_argument("--lines", action="store_true", help="each line of the data is an item of its own, as names are")
    run.add_argument("--out", required=True, type=Path, help="the folder to write")
    run.add_argument(
        "--tokenizer",
        default="char",
        help="char: a token for each character; bpe:N: N pieces of words, learned from the text; gpt2: GPT-2's, from the Hub; "
        "or a tokenizer.json (%(default)s)",
    )
    run.add_argument("--of", nargs=2, metavar="MODEL", help="the two models of a mixture, made from this text: names or folders")
    budget = run.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes",
        type=float,
        help=f"how long to train; also picks the size (gpt: {DEFAULT_MINUTES:g}); of a mixture, its rehearsal",
    )
    budget.add_argument("--steps", type=int, help="train this many steps instead")
    run.add_argument("--seed", type=int, default=1337, help="of weights, batches and samples (%(default)s)")
    run.add_argument("--resume", action="store_true", help="go on with a run that was stopped; repeat its other options")
    run.add_argument("--device", choices=("cpu", "cuda"), help="cuda if there is one, else cpu")
    run.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the model first: a minute that pays in a run of ten (on a GPU yes, else no)",
    )
    for name, kind, text in SHAPE:
        run.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{text}, if not what suits the minutes")

    evaluate = commands.add_parser("evaluate", help="held-out loss of a weights folder")
    evaluate.add_argument("model", help="a name under weights/, a folder, or a Hub id")
    evaluate.add_argument("--data", required=True, help="the text that it was trained on: its last tenth is scored")

    send = commands.add_parser("publish", help="put a weights folder on the Hugging Face Hub, and the page as a Space")
    send.add_argument("folder", type=Path, help="what `run` wrote, or a folder under weights/")
    send.add_argument("--repo", required=True, metavar="USER/NAME", help="the model on the Hub; made if there is none")
    send.add_argument("--private", action="store_true", help="nobody else may see it")
    send.add_argument("--revision", default="main", metavar="BRANCH", help="publish to this branch (%(default)s)")
    send.add_argument("--space", metavar="USER/NAME", help="the page as a Space with this model, too")
    send.add_argument("--dry-run", action="store_true", help="check the folder, list what would be sent, and send nothing")
    return top


def pick_device(args: argparse.Namespace) -> str:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; leave --device out to train on the CPU")
    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def run(args: argparse.Namespace, device: str, processes: DistributedContext) -> Generator[Event]:
    with processes.main_process_first():  # the first may have to download it
        data = texts.read(args.data, args.lines)
    if processes.is_main_process and any(data.left_out.values()):
        print(f"Lines of {data.name} that were left out: {told(data.left_out)}.", file=sys.stderr)
    # As typed, but for where things lie on this machine: the command goes into the card.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = "python -m train " + shlex.join(words)
    shape = {name: value for name, _, _ in SHAPE if (value := getattr(args, name)) is not None}
    if args.kind in ("ngram", "mixture", "vae") and processes.size > 1:
        raise ValueError(f"{args.kind} takes one process; start it without torchrun")
    if args.kind == "mixture" and not args.of:
        raise ValueError("a mixture needs two models; name them with --of")
    if args.kind != "mixture" and args.of:
        raise ValueError("--of is for a mixture; leave it out")
    if args.kind == "mixture" and args.tokenizer != "char":
        raise ValueError("a mixture has the tokenizer of its two models; leave --tokenizer out")
    if args.kind == "ngram":
        given = {**shape, **{name: True for name in ("minutes", "steps", "resume", "device", "compile") if getattr(args, name)}}
        if given:
            raise ValueError(f"counting knows no {', '.join(given)}; leave it out")
        return fit_counts(
            data,
            args.out,
            args.seed,
            command,
            "ngram",
            lambda t: fit_ngram(t.train, len(t.tokenizer), t.end_id),
            args.tokenizer,
        )
    if args.kind == "bigram":
        if shape:
            raise ValueError(f"a bigram has no {', '.join(shape)}; leave it out")
        if args.minutes is None and args.steps is None:
            if args.resume or args.device or args.compile:
                raise ValueError(
                    "counting pairs knows no --resume, --device or --compile; leave them out, or give --steps to learn"
                )
            if processes.size > 1:
                raise ValueError("counting takes one process; start it without torchrun, or give --steps to learn")
            return fit_counts(data, args.out, args.seed, command, tokenizer=args.tokenizer)
    recipe_of = partial(suits, minutes=args.minutes or DEFAULT_MINUTES, shape=shape, data=data)
    if args.minutes is None and args.steps is None:
        args.minutes = DEFAULT_MINUTES
    compiles = args.kind == "mixture" or TRAIN_CONFIGS[args.kind].compiles
    if args.compile and not compiles:
        raise ValueError("PyTorch does not compile an LSTM; leave --compile out")
    compile = (device == "cuda" and compiles) if args.compile is None else args.compile
    budget = Budget(args.steps, args.minutes)
    options = {"seed": args.seed, "command": command, "resume": args.resume, "device": device, "compile": compile}
    if args.kind == "mixture":
        return fit_mixture(data, args.out, args.of, recipe_of, budget, **options)
    return train(
        args.kind, recipe_of(args.kind), data, args.out, budget, processes=processes, tokenizer=args.tokenizer, **options
    )


def suits(kind: str, minutes: float, shape: dict[str, Any], data: texts.TextDataset) -> TrainConfig:
    """The recipe of a kind of model that suits the minutes, but for the sizes in `shape`, which were asked for."""
    config = TRAIN_CONFIGS[kind].preset(minutes)
    if odd := [name for name in shape if not hasattr(config, name)]:
        raise ValueError(f"a {kind} has no {', '.join(odd)}; leave it out")
    if data.lines:  # a window for the longest, with its start
        shape = {"context": max(map(len, data.text.split("\n"))) + 1} | shape
    return replace(config, **shape)


def told(counts: dict[str, int]) -> str:
    """What was counted, in words: "2 empty, 1 not UTF-8"."""
    return ", ".join(f"{fit_counts:,} {what}" for what, fit_counts in counts.items() if fit_counts)


def show(events: Generator[Event], processes: DistributedContext = DistributedContext()) -> None:
    """Print what a run reports. Ctrl-C ends it between two steps, with everything saved."""
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, ask_to_stop)
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds between two lines in a log file
    look = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
    with tqdm(total=100, mininterval=pause, bar_format=look, disable=not processes.is_main_process) as bar:
        for event in events:
            if processes.is_main_process:
                tell(event, bar)
            if processes.sum(stop) and not isinstance(event, EndEvent):  # all stop at one step, whoever was asked first
                events.close()
                if processes.is_main_process:
                    bar.write("Stopped. The same command with --resume goes on from here.")
                sys.exit(130)


def tell(event: Event, bar: tqdm) -> None:
    match event:
        case StepEvent():
            bar.n = 100 * event.progress
            bar.set_description_str(f"step {event.step}", refresh=False)
            bar.set_postfix_str(f"loss {event.loss:.3f}, {event.tokens_per_second:,.0f} tokens/s", refresh=False)
            bar.update(0)
        case EvalEvent():
            mark = ", the best so far" if event.best else ""
            bar.write(f"step {event.step}: train {event.train:.4f}, held out {event.evaluate:.4f} nats a token{mark}")
        case SampleEvent():
            bar.write(event.text + "\n")
        case EndEvent():
            bar.n = 100
            bar.refresh()
            if event.timings:  # counting has no parts
                bar.write(account(event))


def account(done: EndEvent) -> str:
    """Where the time of a run went, in one line."""
    timings = sorted(done.timings.items(), key=lambda part: -part[1])
    total = sum(done.timings.values())
    parts = ", ".join(f"{name} {100 * seconds / total:.1f} %" for name, seconds in timings)
    return f"{done.tokens:,} tokens in {duration(total)}, {done.tokens / total:,.0f} tokens/s: {parts}"


def evaluate(args: argparse.Namespace) -> None:
    lm = load(args.model)
    encoded = lm.tokenizer.encode(texts.read(args.data, lines=lm.end_id is not None).parts[1])
    if len(encoded.ids) < 2:
        raise ValueError(f"the last tenth of {args.data} has too few characters to score")
    score = partial(iwae_bound, lm.model) if isinstance(lm.model, VAE) else partial(evaluate, lm.model)
    result = score(torch.tensor(encoded.ids), eval_context(lm.model), target_text=target_text(lm.tokenizer, encoded.ids))
    if encoded.left_out:
        print(f"left out, because this model never saw them: {encoded.left_out!r}", file=sys.stderr)
    print(
        f"{result.nats_per_token:.4f} nats a token, {result.bits_per_character:.4f} bits a character, "
        f"{result.bits_per_byte:.4f} bits a byte ({result.tokens:,} tokens)"
    )


def main() -> None:
    args = parser().parse_args()
    try:
        if args.command == "run":
            device = pick_device(args)
            processes = DistributedContext.join(device)
            show(run(args, device, processes), processes)
            if processes.is_main_process:
                print(f"The model is in {args.out}. Try: python -m gpt --model {shlex.quote(str(args.out))}")
        elif args.command == "evaluate":
            evaluate(args)
        else:
            options = {"space": args.space, "private": args.private, "branch": args.revision, "dry_run": args.dry_run}
            for told in publish(args.folder, args.repo, **options):
                print(told, flush=True)
    except (ValueError, OSError, CheckpointError, HubError) as error:
        # What one process refuses, all of them do, and the first says so; what its machine denies it, each says itself.
        silent = int(os.environ.get("RANK", "0")) > 0 and isinstance(error, ValueError)
        sys.exit(1 if silent else f"python -m train: {error}")
    except KeyboardInterrupt:  # before the first step, when there is nothing to keep
        sys.exit(130)
    finally:
        DistributedContext.leave()


if __name__ == "__main__":
    main()

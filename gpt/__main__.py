"""The command line: `python -m gpt` generates text, `python -m gpt export` writes a model as a PyTorch program.

The prompt and the generated text go to stdout, everything else to stderr.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from gpt.checkpoint import CheckpointError, load
from gpt.generation import LanguageModel
from gpt.sampling import SamplingParams, parse_forced
from gpt.tokenizer import name_characters

DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in DEFAULTS} | {"max_new_tokens": "--length"}


def parser() -> argparse.ArgumentParser:
    """The options of both commands."""
    top = argparse.ArgumentParser(prog="python -m gpt", description="Generate text with a small language model.")
    top.add_argument(
        "--model",
        default="gpt-shakespeare",
        help="a name under weights/, a folder, a Hub id such as user/repo, or a .pt2 file (default: %(default)s)",
    )
    top.add_argument("--revision", help="branch, tag or commit of a Hub id")
    top.add_argument("--prompt", default="", help="the text to continue (default: a new document)")
    top.add_argument(
        OPTIONS["max_new_tokens"],
        type=int,
        dest="max_new_tokens",
        metavar="N",
        help="number of tokens to generate: characters or pieces of words (default: %(default)s)",
    )
    top.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="0 always takes the likeliest token, 1 samples from the model's own distribution (default: %(default)s)",
    )
    top.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens; 0 is off (default: %(default)s)")
    top.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help="keep the likeliest tokens whose probabilities add up to X; 1 is off (default: %(default)s)",
    )
    top.add_argument(
        "--min-p",
        type=float,
        metavar="X",
        help="keep tokens at least X times as likely as the likeliest; 0 is off (default: %(default)s)",
    )
    top.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new one, printed to stderr)"
    )
    top.add_argument(
        "--forced",
        type=parse_forced,
        metavar="I.ID,...",
        help="give the token with this id at this index of the text instead of sampling it, as a link to a branch does",
    )
    top.set_defaults(**DEFAULTS)

    commands = top.add_subparsers(dest="command", metavar="export", help="write a model as a PyTorch program instead")
    to_file = commands.add_parser(
        "export",
        description="Write a model as one file that needs only PyTorch. Opening a .pt2 file runs code in it: "
        "open only files that you made or whose author you trust.",
    )
    to_file.add_argument("folder", help="the model: a name under weights/, a folder, or a Hub id such as user/repo")
    to_file.add_argument("--out", required=True, type=Path, metavar="FILE.pt2", help="the file to write")
    to_file.add_argument(
        "--compile", action="store_true", help="compile it to machine code for this kind of processor, in a minute or two"
    )
    return top


def open_model(model: str, revision: str | None) -> LanguageModel:
    """Open a model or a .pt2 file. Raises ValueError or CheckpointError."""
    if model.endswith(".pt2") and not os.path.isdir(model):
        if revision is not None:
            raise ValueError(f"--revision is {revision!r}, but {model} is a file; leave the option out")
        from gpt.export import open_program  # torch.export is slow to import

        return open_program(model)
    return load(model, revision)


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """The sampling parameters with a seed. Raises ValueError, which names the option, if a value is out of range."""
    try:
        return SamplingParams(**{name: getattr(args, name) for name in DEFAULTS}).seeded()
    except ValueError as error:  # its message starts with the name of the field
        name, _, reason = str(error).partition(" ")
        raise ValueError(f"{OPTIONS[name]} {reason.removesuffix(', or None')}") from None  # an option cannot be None


def generate(args: argparse.Namespace) -> None:
    """Print the prompt and the text that continues it, as it is generated."""
    params = sampling_params(args)
    lm = open_model(args.model, args.revision)
    prompt = lm.tokenizer.normalize(args.prompt)
    if prompt != args.prompt:
        print(f"{lm.name} has no capital letters; the prompt is read in lower case", file=sys.stderr)
    if unknown_chars := lm.tokenizer.encode(prompt).unknown_chars:
        print(f"{lm.name} does not know {name_characters(unknown_chars)}; skipped", file=sys.stderr)
    if args.seed is None:
        print(f"seed {params.seed}", file=sys.stderr)
    print(args.prompt, end="", flush=True)
    for step in lm.stream(args.prompt, params):
        print(step.text, end="", flush=True)
    print()


def export(args: argparse.Namespace) -> None:
    """Write a .pt2 file."""
    from gpt.export import export

    export(load(args.folder), args.out, args.compile)
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB) needs only PyTorch", file=sys.stderr)


def main() -> None:
    """Run the command. Errors end it with one sentence and exit status 1."""
    args = parser().parse_args()
    try:
        (export if args.command == "export" else generate)(args)
    except (ValueError, CheckpointError) as error:
        sys.exit(f"python -m gpt: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

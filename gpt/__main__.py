"""`python -m gpt`: write from the command line. Prompt and text go to stdout, everything else to stderr.
`python -m gpt export`: a model as a program of PyTorch alone."""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from gpt.checkpoint import CheckpointError, load
from gpt.generation import LanguageModel
from gpt.sampling import SamplingParams

DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m gpt", description="Write with a small language model, a token at a time.")
    top.add_argument(
        "--model",
        default="gpt-shakespeare",
        help="a name under weights/, a folder, a Hub id like user/repo, or what `export` wrote (%(default)s)",
    )
    top.add_argument("--revision", help="branch, tag or commit of a Hub id")
    top.add_argument("--prompt", default="", help="what to write on from; without one, a new line")
    top.add_argument(
        "--length",
        type=int,
        dest="max_new_tokens",
        metavar="N",
        help="tokens to write: characters, or pieces of words (%(default)s)",
    )
    top.add_argument(
        "--temperature", type=float, metavar="X", help="0 = always the likeliest, 1 = as learned, 2 = wild (%(default)s)"
    )
    top.add_argument("--top-k", type=int, metavar="N", help="keep the k likeliest, 0 = all (%(default)s)")
    top.add_argument("--top-p", type=float, metavar="X", help="keep the likeliest that hold p together, 1 = all (%(default)s)")
    top.add_argument("--min-p", type=float, metavar="X", help="keep those at least p times the likeliest, 0 = all (%(default)s)")
    top.add_argument(
        "--seed", type=int, metavar="N", help="the same seed writes the same text (default: a new one, told on stderr)"
    )
    top.set_defaults(**DEFAULTS)

    commands = top.add_subparsers(dest="command", metavar="export", help="write a model as a program of PyTorch alone instead")
    to_file = commands.add_parser(
        "export",
        description="Write a model as one file that runs with PyTorch alone. A .pt2 runs code when it is opened: "
        "open only one that you made, or trust as you trust a program.",
    )
    to_file.add_argument("folder", help="what to export: a folder, a name under weights/, or a Hub id like user/repo")
    to_file.add_argument("--out", required=True, type=Path, metavar="FILE.pt2", help="the file to write")
    to_file.add_argument("--compile", action="store_true", help="as machine code for processors like this one: a minute or two")
    return top


def opened(model: str, revision: str | None) -> LanguageModel:
    if model.endswith(".pt2") and not os.path.isdir(model):
        if revision is not None:
            raise ValueError(f"{model} is a file and has no revision {revision!r}; leave it out")
        from gpt.export import open_program  # slow to import, like all of torch.export

        return open_program(model)
    return load(model, revision)


def write(args: argparse.Namespace) -> None:
    params = SamplingParams(**{name: getattr(args, name) for name in DEFAULTS}).seeded()
    lm = opened(args.model, args.revision)
    unknown_chars = lm.tokenizer.encode(args.prompt).unknown_chars
    if unknown_chars:
        print(f"{lm.name} never saw {' '.join(map(repr, unknown_chars))}; left out", file=sys.stderr)
    if args.seed is None:
        print(f"seed {params.seed}", file=sys.stderr)
    print(args.prompt, end="", flush=True)
    for step in lm.stream(args.prompt, params):
        print(step.text, end="", flush=True)
    print()


def export(args: argparse.Namespace) -> None:
    from gpt.export import export

    export(load(args.folder), args.out, args.compile)
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB) runs with PyTorch alone", file=sys.stderr)


def main() -> None:
    args = parser().parse_args()
    try:
        (export if args.command == "export" else write)(args)
    except (ValueError, CheckpointError) as error:
        sys.exit(f"python -m gpt: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

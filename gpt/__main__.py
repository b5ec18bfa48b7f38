"""`python -m gpt`: write from the command line. Prompt and text go to stdout, everything else to stderr."""

import argparse
import os
import sys
from dataclasses import fields

from gpt.checkpoint import CheckpointError, load
from gpt.sampling import SamplingParams

DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m gpt", description="Write with a small language model, a character at a time.")
    top.add_argument(
        "--model", default="gpt-shakespeare", help="a name under weights/, a folder, or a Hub id like user/repo (%(default)s)"
    )
    top.add_argument("--revision", help="branch, tag or commit of a Hub id")
    top.add_argument("--prompt", default="", help="what to write on from; without one, a new line")
    top.add_argument("--length", type=int, dest="max_new_tokens", metavar="N", help="characters to write (%(default)s)")
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
    return top


def main() -> None:
    args = parser().parse_args()
    try:
        params = SamplingParams(**{name: getattr(args, name) for name in DEFAULTS}).seeded()
        lm = load(args.model, args.revision)
        left_out = lm.tokenizer.encode(args.prompt).left_out
        if left_out:
            print(f"{lm.name} never saw {' '.join(map(repr, left_out))}; left out", file=sys.stderr)
        if args.seed is None:
            print(f"seed {params.seed}", file=sys.stderr)
        print(args.prompt, end="", flush=True)
        for step in lm.stream(args.prompt, params):
            print(step.text, end="", flush=True)
        print()
    except (ValueError, CheckpointError) as error:
        sys.exit(f"python -m gpt: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

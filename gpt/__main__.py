"""The command line: `python -m gpt` generates text, `python -m gpt export` writes a model for other programs.

The prompt and the generated text go to stdout, everything else to stderr.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from gpt.checkpoint import load
from gpt.command_line import command_errors
from gpt.generation import LanguageModel
from gpt.models.diffusion import GAP, TextDiffusion
from gpt.models.registry import family_of
from gpt.sampling import SamplingParams, parse_forced
from gpt.text_model import TextModel
from gpt.tokenizer import name_characters
from gpt.unmasking import Order, UnmaskingParams

OPTIONS = {  # of the command line, by name of the parameter
    name: f"--{name.replace('_', '-')}"
    for name in ("prompt", *(field.name for field in fields(SamplingParams)), "samples", "steps", "order", "fill")
} | {"max_new_tokens": "--length"}
WRITING = ("prompt", *(field.name for field in fields(SamplingParams)))  # what each class of models takes
UNMASKING = ("prompt", "max_new_tokens", "samples", "fill", *(field.name for field in fields(UnmaskingParams)))
DRAWING = ("samples", "seed")
SAMPLES, MAX_SAMPLES = 10, 10_000  # lines, where a model draws lines
OPENS_IN = {"pt2": "PyTorch", "gguf": "llama.cpp", "onnx": "ONNX Runtime and transformers.js"}  # formats of `export`
P = TypeVar("P", SamplingParams, UnmaskingParams)


def parser() -> argparse.ArgumentParser:
    """The options of both commands. Those of generation are None unless they are given."""
    default = SamplingParams()
    top = argparse.ArgumentParser(prog="python -m gpt", description="Generate text with a small language model.")
    top.add_argument(
        "--model",
        default="gpt-shakespeare",
        help="a name under weights/, a folder, a Hub id such as user/repo, or a .pt2 file (default: %(default)s)",
    )
    top.add_argument("--revision", help="branch, tag or commit of a Hub id")
    top.add_argument("--prompt", help="the text to continue (default: a new document)")
    top.add_argument(
        OPTIONS["max_new_tokens"],
        type=int,
        dest="max_new_tokens",
        metavar="N",
        help=f"number of tokens to generate: characters or pieces of words (default: {default.max_new_tokens}; a masked "
        "diffusion model: as many as it sees at once)",
    )
    top.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="0 always takes the likeliest token, 1 samples from the model's own distribution "
        f"(default: {default.temperature}; a masked diffusion model: {UnmaskingParams().temperature})",
    )
    top.add_argument("--top-k", type=int, metavar="N", help=f"keep the N likeliest tokens; 0 is off (default: {default.top_k})")
    top.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help=f"keep the likeliest tokens whose probabilities add up to X; 1 is off (default: {default.top_p})",
    )
    top.add_argument(
        "--min-p",
        type=float,
        metavar="X",
        help=f"keep tokens at least X times as likely as the likeliest; 0 is off (default: {default.min_p})",
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
    lines = top.add_argument_group("models that draw lines (GAN, latent diffusion, masked diffusion of lines)")
    lines.add_argument("--samples", type=int, metavar="N", help=f"number of lines (default: {SAMPLES})")
    unmasking = top.add_argument_group("masked diffusion models")
    unmasking.add_argument("--fill", metavar="TEXT", help="fill the gaps of a text, ___ each; more underscores set the length")
    unmasking.add_argument("--steps", type=int, metavar="N", help=f"runs of the model (default: {UnmaskingParams().steps})")
    unmasking.add_argument(
        "--order", metavar="NAME", help=f"which places to reveal first: {', '.join(get_args(Order))} (default: that of the model)"
    )

    commands = top.add_subparsers(dest="command", metavar="export", help="write a model for other programs instead")
    to_file = commands.add_parser(
        "export",
        description="Write a model for PyTorch only (pt2), llama.cpp (gguf), or ONNX Runtime and transformers.js (onnx). Opening "
        "a .pt2 file runs code in it: open only files that you made or whose author you trust.",
    )
    to_file.add_argument("folder", help="the model: a name under weights/, a folder, or a Hub id such as user/repo")
    to_file.add_argument("--format", choices=[*OPENS_IN], default="pt2", help="(default: %(default)s)")
    to_file.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="what to write: FILE.pt2, FILE.gguf, or a folder for onnx"
    )
    to_file.add_argument(
        "--compile",
        action="store_true",
        help="compile a .pt2 file to machine code for this kind of processor, in a minute or two",
    )
    return top


def open_model(model: str, revision: str | None) -> TextModel:
    """Open a model or a .pt2 file. Raises ValueError or CheckpointError."""
    if model.endswith(".pt2") and not os.path.isdir(model):
        if revision is not None:
            raise ValueError(f"--revision is {revision!r}, but {model} is a file; leave the option out")
        from gpt.export import open_program  # torch.export is slow to import

        return open_program(model)
    lm: TextModel = load(model, revision)
    return lm


def given_options(args: argparse.Namespace, lm: TextModel, allowed: Sequence[str]) -> dict[str, Any]:
    """The options of generation that were given. Raises ValueError, which names the option, for one that does not apply."""
    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    if refused := [OPTIONS[name] for name in given if name not in allowed]:
        title = family_of(lm.model.config).title
        takes = ", ".join(OPTIONS[name] for name in allowed)
        raise ValueError(f"{lm.name} is {title}, which does not take {', '.join(refused)}; it takes {takes}")
    return given


@contextmanager
def named_options() -> Iterator[None]:
    """Name the option in a ValueError whose message starts with the name of a field."""
    try:
        yield
    except ValueError as error:
        name, _, reason = str(error).partition(" ")
        option = (OPTIONS | {"length": "--length"}).get(name, name)
        raise ValueError(f"{option} {reason.removesuffix(', or None')}") from None  # an option cannot be None


def seeded(params: P, args: argparse.Namespace) -> P:
    """The parameters with a seed; a random one is printed."""
    params = params.seeded()
    if args.seed is None:
        print(f"seed {params.seed}", file=sys.stderr)
    return params


def report_unknown_chars(lm: TextModel, prompt: str) -> None:
    """Say on stderr what of a prompt the model cannot read."""
    normalized = lm.tokenizer.normalize(prompt)
    if normalized != prompt:
        print(f"{lm.name} has no capital letters; the prompt is read in lower case", file=sys.stderr)
    if unknown_chars := lm.tokenizer.encode(normalized).unknown_chars:
        print(f"{lm.name} does not know {name_characters(unknown_chars)}; skipped", file=sys.stderr)


def generate(args: argparse.Namespace) -> None:
    """Generate with the class of the model."""
    with named_options():  # before a model is downloaded
        for params_class in (SamplingParams, UnmaskingParams):
            params_class(**{f.name: value for f in fields(params_class) if (value := getattr(args, f.name)) is not None})
    lm = open_model(args.model, args.revision)
    if isinstance(lm, LanguageModel):
        write(args, lm)
    elif isinstance(lm, TextDiffusion):
        infill(args, lm)
    else:
        draw(args, lm)


def write(args: argparse.Namespace, lm: LanguageModel) -> None:
    """Print the prompt and the text that continues it, as it is generated."""
    given = given_options(args, lm, WRITING)
    prompt = given.pop("prompt", "")
    with named_options():
        params = SamplingParams(**given)
    report_unknown_chars(lm, prompt)
    params = seeded(params, args)
    print(prompt, end="", flush=True)
    for step in lm.stream(prompt, params):
        print(step.text, end="", flush=True)
    print()


def infill(args: argparse.Namespace, lm: TextDiffusion) -> None:
    """Print a text with its gaps filled, the prompt and what continues it, or lines."""
    given = given_options(args, lm, UNMASKING)
    texts = {name: given.pop(name) for name in ("prompt", "fill", "samples", "max_new_tokens") if name in given}
    if "fill" in texts and len(texts) > 1:
        raise ValueError("--fill takes a whole text; leave --prompt, --samples and --length out")
    is_lines = lm.eos_token_id is not None
    if is_lines and "max_new_tokens" in texts:
        raise ValueError(f"{lm.name} writes lines, which end by themselves; leave --length out")
    if not is_lines and "samples" in texts:
        raise ValueError(f"{lm.name} writes a running text; leave --samples out")
    with named_options():
        params = replace(lm.default_params, **given)
    if "fill" in texts:
        report_unknown_chars(lm, GAP.sub("", texts["fill"]))
        print(lm.fill(texts["fill"], seeded(params, args)).text)
        return
    prompt = texts.get("prompt", "")
    report_unknown_chars(lm, prompt)
    params = seeded(params, args)
    if is_lines:
        for line in lm.sample_batch([prompt] * check_samples(texts.get("samples", SAMPLES)), params.seed or 0, params):
            print(line)
        return
    with named_options():
        text = lm.generate(prompt, params, texts.get("max_new_tokens"))
    print(prompt + text)


def draw(args: argparse.Namespace, lm: Any) -> None:
    """Print lines."""
    given = given_options(args, lm, DRAWING)
    with named_options():
        params = SamplingParams(seed=given.get("seed"))
    for line in lm.sample(check_samples(given.get("samples", SAMPLES)), seeded(params, args).seed):
        print(line)


def check_samples(samples: int) -> int:
    """The number of lines. Raises ValueError if it is not from 1 to `MAX_SAMPLES`."""
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"--samples is {samples}; it must be a whole number from 1 to {MAX_SAMPLES:,}")
    return samples


def export(args: argparse.Namespace) -> None:
    """Write a model in another format."""
    if args.compile and args.format != "pt2":
        raise ValueError(f"--compile is for --format pt2, not {args.format}; leave it out")
    lm = load(args.folder)
    if args.format == "gguf":
        from gpt.gguf import export_gguf

        export_gguf(lm, args.out)
    elif args.format == "onnx":
        from gpt.onnx import export_onnx

        export_onnx(lm, args.out)
    else:
        from gpt.export import export

        export(lm, args.out, args.compile)
    size = sum(path.stat().st_size for path in (args.out, *args.out.rglob("*")) if path.is_file())
    print(f"{args.out} ({size / 1e6:.1f} MB) opens in {OPENS_IN[args.format]}", file=sys.stderr)


def main() -> None:
    """Run the command. Errors end it with one sentence and exit status 1."""
    with command_errors("python -m gpt"):
        args = parser().parse_args()
        (export if args.command == "export" else generate)(args)


if __name__ == "__main__":
    main()

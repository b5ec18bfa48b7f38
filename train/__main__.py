"""`python -m train`: train a model on a text, evaluate it, publish it."""

import argparse
import json
import math
import shlex
import signal
import sys
from collections.abc import Callable, Generator
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from gpt import LanguageModel, LatentModel, TextDiffusion, load
from gpt.command_line import command_errors, number_type
from gpt.hub import HubError
from gpt.models.registry import MODEL_REGISTRY, family_of
from gpt.sampling import MAX_SEED
from train.card import format_duration
from train.comparison import compare
from train.configs import TRAIN_CONFIGS, DiffusionTrainConfig, TrainConfig
from train.counting import FIT_FUNCTIONS
from train.data import SOURCES, TextDataset, TokenizedDataset, encode_documents, load_dataset, target_text
from train.distributed import DistributedContext, is_main_process
from train.evaluate import EvalResult, evaluate
from train.mixture import fit_mixture
from train.publish import publish
from train.runs import TRAINING, fit_counts, load_trained, model_folder, train
from train.sample_metrics import measure_samples
from train.tasks.diffusion import evaluate_bound, measure_line_samples, measure_text_samples
from train.tasks.vae import iwae_bound
from train.trainer import Budget, EndEvent, EvalEvent, Event, MessageEvent, ProgressEvent, SampleEvent, StepEvent

DEFAULT_MINUTES = 20.0
BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}"
TTY_INTERVAL_S, LOG_INTERVAL_S = 0.1, 30  # between two updates of the progress bar
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not all on Windows
BOUNDS: dict[str, Callable[..., EvalResult]] = {"vae": iwae_bound, "diffusion": evaluate_bound}  # by name of the family


MAX_COUNT, MAX_MINUTES = 1_000_000_000, 525_600  # a year
COUNT = number_type(int, lambda n: 0 < n <= MAX_COUNT, f"a whole number from 1 to {MAX_COUNT:,}")
MINUTES = number_type(float, lambda x: 0 < x <= MAX_MINUTES, f"a number above 0, up to {MAX_MINUTES:,} (a year)")
SEED = number_type(int, lambda n: 0 <= n <= MAX_SEED, f"a whole number from 0 to {MAX_SEED}")
PROBABILITY = number_type(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
NATS = number_type(float, lambda x: 0 <= x < math.inf, "a number from 0 up")

# Options that set a field of the same name of a training configuration, for the families that have it: type and help.
CONFIG_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "layers": (COUNT, "number of layers"),
    "width": (COUNT, "channels of a layer"),
    "context": (COUNT, "tokens of a training window, and of the sliding window of a gpt"),
    "dropout": (PROBABILITY, "dropout probability"),
    "free_bits": (NATS, "KL floor of each latent dimension, in nats: a higher one reconstructs better, with a looser bound"),
}
RUN_OPTIONS = ("minutes", "steps", "resume", "device", "compile")


def config_fields(kind: str) -> set[str]:
    """The options in `CONFIG_OPTIONS` that a family has."""
    return {field.name for field in fields(TRAIN_CONFIGS[kind])} & CONFIG_OPTIONS.keys() if kind in TRAIN_CONFIGS else set()


def flag(name: str) -> str:
    """The option that sets an attribute of the parsed arguments."""
    return f"--{name.replace('_', '-')}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train", description="Train a small language model on a text, evaluate it, publish it."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="train a model and write a weights folder")
    run.set_defaults(handler=run_command)
    kinds = list(dict.fromkeys([*FIT_FUNCTIONS, *TRAIN_CONFIGS, *MODEL_REGISTRY]))  # the simplest first
    run.add_argument("kind", choices=kinds, help="the model family; a bigram is counted, or trained if a budget is given")
    run.add_argument("--data", required=True, help=f"a text file in UTF-8, or one of: {', '.join(SOURCES)}")
    run.add_argument("--lines", action="store_true", help="each line of the text is a document of its own")
    run.add_argument("--out", required=True, metavar="FOLDER", help="the weights folder to write; it must be empty or new")
    run.add_argument(
        "--tokenizer",
        help="char: one token per character; bpe:N: byte-level BPE with N tokens, trained on the text; gpt2: that of GPT-2, "
        "from the Hub; or a tokenizer.json (default: char)",
    )
    run.add_argument("--of", nargs=2, metavar="MODEL", help="the models of a mixture, made from the same text: names or folders")
    run.add_argument(
        "--init",
        metavar="MODEL",
        help="a GPT made from the same text, by its name under weights/ or its folder, whose sizes and weights to start from "
        "(diffusion)",
    )
    run.add_argument(
        "--distill",
        metavar="MODEL",
        help="a teacher, whose probabilities to learn instead of the tokens that follow: a model made from the same text, by its "
        "name under weights/ or its folder (bigram, lstm, gpt)",
    )
    run.add_argument("--vae", metavar="MODEL", help="the VAE of a latent-diffusion, made from the same text: a name or folder")
    budget = run.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes",
        type=MINUTES,
        help=f"training time, which also picks the size of the model (default: {DEFAULT_MINUTES:g})",
    )
    budget.add_argument("--steps", type=COUNT, help="number of training steps, instead of a time")
    run.add_argument("--seed", type=SEED, default=1337, help="of initial weights, batches and samples (default: %(default)s)")
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; repeat its other options. With a larger budget, a finished run continues, too: the "
        "learning rate goes back up to its place in the schedule of the new budget, and falls to zero again",
    )
    run.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available, else cpu")
    run.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the model first, which takes a minute and pays off in runs of ten or more (default: on a GPU)",
    )
    sizes = run.add_argument_group("hyperparameters", "By default they suit --minutes.")
    for name, (option, text) in CONFIG_OPTIONS.items():
        families = ", ".join(kind for kind in TRAIN_CONFIGS if name in config_fields(kind))
        sizes.add_argument(flag(name), type=option, help=f"{text} ({families})")

    evaluation = commands.add_parser("evaluate", help="held-out loss of a model, or measures of its samples")
    evaluation.set_defaults(handler=evaluate_command)
    evaluation.add_argument("model", help="a name under weights/, a folder, or a Hub id such as user/name")
    evaluation.add_argument("--data", required=True, help="the text that it was trained on; its last tenth is scored")

    publication = commands.add_parser("publish", help="upload a weights folder to the Hugging Face Hub, and the page as a Space")
    publication.set_defaults(handler=publish_command)
    publication.add_argument("folder", type=Path, help="what `run` wrote, or a folder under weights/")
    publication.add_argument("--repo", required=True, metavar="USER/NAME", help="the model repository, created if missing")
    publication.add_argument("--private", action="store_true", help="create private repositories")
    publication.add_argument("--revision", default="main", metavar="BRANCH", help="branch to publish to (default: %(default)s)")
    publication.add_argument("--space", metavar="USER/NAME", help="also publish the page with this model as a Space")
    publication.add_argument("--dry-run", action="store_true", help="check the folder and list the files, but upload nothing")
    return parser


def run_command(args: argparse.Namespace) -> None:
    """Train, count or mix a model."""
    device = pick_device(args.device)
    distributed = DistributedContext.join(device)
    has_likelihood = MODEL_REGISTRY[args.kind].likelihood != "none"
    show_events(start_run(args, device, distributed), Path(args.out), distributed, has_likelihood)
    if distributed.is_main_process:
        print(f"The model is in {args.out}. Try: python -m gpt --model {shlex.quote(args.out)}")


def start_run(args: argparse.Namespace, device: str, distributed: DistributedContext) -> Generator[Event]:
    """Check the options of `run`, read the data, and return the events of the run."""
    method = pick_method(args)
    check_options(args, method)
    if method != "training" and distributed.size > 1:
        raise ValueError(f"{MODEL_REGISTRY[args.kind].title} takes one process; start it without torchrun")
    with distributed.main_process_first():  # it may have to download the data
        dataset = load_dataset(args.data, args.lines)
    if distributed.is_main_process and (skipped := {reason: n for reason, n in dataset.skipped.items() if n}):
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in skipped.items())
        print(f"Skipped lines of {dataset.name}: {reasons}.", file=sys.stderr)
    out, command, tokenizer = Path(args.out), recorded_command(sys.argv[1:]), "char" if args.tokenizer is None else args.tokenizer
    if method == "counting":
        fit = FIT_FUNCTIONS[args.kind]
        return fit_counts(dataset, out, seed=args.seed, command=command, kind=args.kind, fit=fit, tokenizer=tokenizer)
    if method == "mixing":
        return fit_mixture(dataset, out, args.of, seed=args.seed, command=command)
    facts = read_facts(out, args.kind) if args.resume else {}
    budget = pick_budget(args, facts)
    compile = device == "cuda" if args.compile is None else args.compile
    init = load_trained(args.init, dataset)[0] if args.init is not None else None
    config = pick_config(args, args.kind, dataset, facts.get("train_config"), init)
    events = train(
        args.kind,
        config,
        dataset,
        out,
        budget,
        seed=args.seed,
        command=command,
        resume=args.resume,
        device=device,
        compile=compile and config.compiles,
        distributed=distributed,
        tokenizer=tokenizer,
        teacher=load_trained(args.distill, dataset)[0] if args.distill is not None else None,
        init=init,
        vae=find_vae(args.vae, dataset) if args.vae else None,
    )
    if args.resume or distributed.size > 1:
        return events
    return compare(events, args.kind, config, dataset, tokenizer, budget, out)


def find_vae(name: str, dataset: TextDataset) -> Path:
    """The folder of a VAE that was made from `dataset`. Raises CheckpointError or ValueError if it is no such model."""
    lm, facts = load_trained(name, dataset)
    if not isinstance(lm, LatentModel):
        raise ValueError(f"{name} is {MODEL_REGISTRY[facts['kind']].title}, not a VAE; give another model with --vae")
    return model_folder(name)


def pick_device(device: str | None) -> str:
    """The device to train on. Raises ValueError if CUDA is asked for and missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device; leave --device out to train on the CPU")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def pick_method(args: argparse.Namespace) -> str:
    """How a family is made: "counting", "training" or "mixing". A budget selects training where a family can be counted, too."""
    has_budget = args.minutes is not None or args.steps is not None
    if args.kind in FIT_FUNCTIONS and not (has_budget and args.kind in TRAIN_CONFIGS):
        return "counting"
    return "training" if args.kind in TRAIN_CONFIGS else "mixing"


def check_options(args: argparse.Namespace, method: str) -> None:
    """Raises ValueError if an option does not apply to the model family, or one is missing."""
    title = MODEL_REGISTRY[args.kind].title
    from_models = {"causal_lm": ["distill"], "diffusion": ["init"]}.get(MODEL_REGISTRY[args.kind].task or "", [])
    needs_vae = MODEL_REGISTRY[args.kind].base_family is not None
    allowed = {
        "counting": {"tokenizer"},
        "training": {"tokenizer", *from_models, *(["vae"] if needs_vae else []), *RUN_OPTIONS, *config_fields(args.kind)},
        "mixing": {"of"},
    }[method]
    options = ("tokenizer", "of", "distill", "init", "vae", *RUN_OPTIONS, *CONFIG_OPTIONS)
    if refused := [name for name in options if getattr(args, name) not in (None, False) and name not in allowed]:
        hint = ", or give --steps to train it" if method == "counting" and args.kind in TRAIN_CONFIGS else ""
        raise ValueError(f"{title} made by {method} does not take {', '.join(map(flag, refused))}; leave that out{hint}")
    if method == "mixing" and not args.of:
        raise ValueError(f"{title} needs two models; name them with --of")
    if needs_vae and not args.vae:
        raise ValueError(f"{title} needs a VAE made from the same text; name it with --vae")
    if method == "training" and args.compile and not TRAIN_CONFIGS[args.kind].compiles:
        raise ValueError(f"{title} is not compiled; leave --compile out")


def recorded_command(words: list[str]) -> str:
    """The command line for the model card, without the folders of absolute paths, which are private."""
    recorded = []
    for word in words:
        option, equals, value = word.rpartition("=")
        recorded.append(f"{option}{equals}{Path(value).name if Path(value).is_absolute() else value}")
    return "python -m train " + shlex.join(recorded)


def read_facts(out: Path, kind: str) -> dict[str, Any]:
    """The configuration and the budget of a run to resume; empty before its first evaluation.

    Args:
        out: Its folder.
        kind: Name of the model family.

    Raises:
        ValueError: If its training.json is damaged, or of another family.
    """
    path = out / TRAINING
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        config, budget = TRAIN_CONFIGS[kind](**facts["train_config"]), Budget(**facts["budget"])
        for field in fields(config):
            if type(getattr(config, field.name)) not in ((int, float) if field.type is float else (field.type,)):
                raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged, or of a run that cannot be resumed; remove the folder and train again") from None
    return {"train_config": config, "budget": budget}


def pick_budget(args: argparse.Namespace, facts: dict[str, Any]) -> Budget:
    """The budget of the command line, or of the run to resume, or the default."""
    if args.steps is None and args.minutes is None:
        budget: Budget = facts.get("budget", Budget(minutes=DEFAULT_MINUTES))
        return budget
    return Budget(args.steps, args.minutes)


def pick_config(
    args: argparse.Namespace,
    kind: str,
    dataset: TextDataset,
    resumed: TrainConfig | None = None,
    init: LanguageModel | None = None,
) -> TrainConfig:
    """The training configuration of a family, with the options of the command line.

    Args:
        args: The command line.
        kind: Name of the family.
        dataset: The data, whose longest line sets the context length.
        resumed: The configuration of the run to resume, which a larger budget does not change.
        init: A GPT whose weights a run starts from, which sets the sizes.

    Raises:
        ValueError: If a value does not suit the family.
    """
    known = config_fields(kind)
    options = {name: getattr(args, name) for name in CONFIG_OPTIONS if getattr(args, name) is not None}
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"{MODEL_REGISTRY[kind].title} does not take {', '.join(map(flag, unknown))}; leave that out")
    if resumed:
        return replace(resumed, **options)
    if dataset.is_lines:
        options = {"context": max(map(len, dataset.documents)) + 1} | options  # 1: the start token
    if init:
        return replace(DiffusionTrainConfig.starting_from(init.model.config), **options)
    return replace(TRAIN_CONFIGS[kind].preset(args.minutes or DEFAULT_MINUTES), **options)


def show_events(
    events: Generator[Event], out: Path, distributed: DistributedContext = DistributedContext(), has_likelihood: bool = True
) -> None:
    """Print the events of a run.

    From the first step on, Ctrl-C ends the run between two steps, with its state saved, and so do the other `STOP_SIGNALS`. A
    SIGHUP that `nohup` has turned off stays off.

    Args:
        events: The run.
        out: Its weights folder.
        distributed: The processes of the run, of which the main one prints.
        has_likelihood: Whether held-out losses are likelihoods, or divergences of samples.

    Raises:
        SystemExit: If the run was interrupted, with the status that shells give the signal: 130 for Ctrl-C.
    """
    received = 0  # number of the signal

    def on_signal(number: int, _: object) -> None:
        nonlocal received
        received = number

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with EventPrinter(distributed.is_main_process, has_likelihood) as printer:
        try:
            for event in events:
                if isinstance(event, StepEvent):
                    for number, handler in handlers.items():
                        if number == signal.SIGINT or handler is not signal.SIG_IGN:
                            signal.signal(number, on_signal)
                printer.show(event)
                # The sum makes all processes stop at the same step, whichever was interrupted.
                if not isinstance(event, EndEvent) and distributed.sum(received):
                    events.close()
                    model = "" if (out / TRAINING).is_file() else f" before the first evaluation, so {out} holds no model yet"
                    printer.write(f"Stopped{model}. Continue with the same command and --resume.")
                    sys.exit(128 + (received or signal.SIGINT))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class EventPrinter:
    """Prints events, with a progress bar for training and one for each other kind of work. A context manager.

    Args:
        enabled: Whether to print anything.
        has_likelihood: Whether held-out losses are likelihoods, or divergences of samples.
    """

    def __init__(self, enabled: bool, has_likelihood: bool = True) -> None:
        interval = TTY_INTERVAL_S if sys.stderr.isatty() else LOG_INTERVAL_S
        self.enabled, self.has_likelihood = enabled, has_likelihood
        self.bar = tqdm(desc="preparing", total=100, mininterval=interval, bar_format=BAR_FORMAT, disable=not enabled)
        self.work = ""  # what the bar shows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.bar.write(line)

    def show(self, event: Event) -> None:
        """Print an event."""
        if not self.enabled:
            return
        match event:
            case StepEvent():
                losses = {"loss": event.loss, **event.metrics}  # those of both networks, of a GAN
                shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
                postfix = f"{shown}, {event.tokens_per_second:,.0f} tokens/s"
                self._advance("training", event.progress, f"step {event.step}", postfix)
            case ProgressEvent():
                self._advance(event.description, event.progress, event.description)
            case EvalEvent():
                best = ", the best so far" if event.best else ""
                losses_text = f"train {event.train:.4f}, held out {event.held_out:.4f} nats a token"
                divergence = f"divergence of 3-grams from held-out lines {event.held_out:.4f} bits"
                self.write(f"step {event.step}: {losses_text if self.has_likelihood else divergence}{best}")
            case SampleEvent():
                self.write(event.text + "\n")
            case MessageEvent():
                self.write(event.text)
            case EndEvent():
                self.bar.n = 100
                self.bar.refresh()
                self.work = ""
                if event.timings:  # models that are counted have none
                    self.write(describe_time(event))
                if event.warning:
                    self.bar.write(f"Warning: {event.warning}.", file=sys.stderr)

    def _advance(self, work: str, progress: float, description: str, postfix: str = "") -> None:
        self.bar.set_description_str(description, refresh=False)
        self.bar.set_postfix_str(postfix, refresh=False)
        if work != self.work:
            self.bar.initial = 0
            self.bar.reset()
            self.bar.initial = 100 * progress  # so that the time left of a resumed run is right
            self.work = work
        self.bar.n = 100 * progress
        self.bar.update(0)


def describe_time(end: EndEvent) -> str:
    """How fast a run was and what it spent its time on, in one line."""
    timings = sorted(end.timings.items(), key=lambda item: -item[1])
    total = sum(end.timings.values())
    shares = ", ".join(f"{work} {100 * seconds / total:.1f} %" for work, seconds in timings)
    return f"{end.tokens:,} tokens in {format_duration(total)}, {end.tokens / total:,.0f} tokens/s: {shares}"


def evaluate_command(args: argparse.Namespace) -> None:
    """Print the held-out loss of a model, and what its samples are like if it does not write from left to right."""
    lm = load(args.model)
    family = family_of(lm.model.config)
    data = load_dataset(args.data, is_lines=lm.eos_token_id is not None)
    train, held_out = (encode_documents(lm.tokenizer, part.documents, lm.eos_token_id) for part in data.split())
    if sum(len(document) - 1 for document in held_out) < 1:
        raise ValueError(f"the last tenth of {args.data} has too few tokens to score; give a longer text")
    if unknown_chars := lm.tokenizer.encode(data.split()[1].text).unknown_chars:
        print(f"Skipped characters that are not in the vocabulary: {unknown_chars!r}", file=sys.stderr)
    if family.likelihood != "none":
        result = BOUNDS.get(family.name, evaluate)(lm.model, held_out, target_text(lm.tokenizer, held_out))
        print(
            f"{result.nats_per_token:.4f} nats a token, {result.bits_per_character:.4f} bits a character, "
            f"{result.bits_per_byte:.4f} bits a byte ({result.tokens:,} tokens)",
            flush=True,
        )
    if "writes" not in family.abilities:
        dataset = TokenizedDataset(lm.tokenizer, train, held_out, "", lm.eos_token_id, data.sha256)
        samples = measure_diffusion(lm, dataset) if "infills" in family.abilities else measure_samples(lm, dataset)
        print(describe_samples(samples))


def measure_diffusion(lm: TextDiffusion, dataset: TokenizedDataset) -> dict[str, Any]:
    """Measure samples of a masked diffusion model, however long it takes; what training.json has as "samples"."""
    work = (measure_text_samples if lm.eos_token_id is None else measure_line_samples)(lm, dataset, math.inf)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            samples: dict[str, Any] = stop.value
            return samples


def describe_samples(samples: dict[str, Any]) -> str:
    """The entry "samples" of training.json in a few lines."""
    cost = f"{samples['nll_per_character']:.3f} nats a character under {samples['judge']}" if samples["judge"] else "no judge"
    if "texts" in samples:
        return (
            f"{samples['texts']} samples: {cost}, {samples['known_words']:.1%} known words, "
            f"{samples['unique_words']:.1%} different words; typing errors found: AUC {samples['typing_errors']['auc']:.3f}"
        )
    divergences, floor = (", ".join(f"{each:.4f}" for each in samples[name]) for name in ("js_divergence", "floor"))
    return (
        f"{samples['lines']:,} samples: {samples['valid']:.1%} well-formed, {samples['unique']:.1%} different, "
        f"{samples['new']:.1%} new, {cost}\n"
        f"divergence of 1- to 4-grams from held-out lines, in bits: {divergences} (of training lines: {floor})"
    )


def publish_command(args: argparse.Namespace) -> None:
    """Publish a weights folder."""
    options = {"space": args.space, "private": args.private, "branch": args.revision, "dry_run": args.dry_run}
    for line in publish(args.folder, args.repo, **options):
        print(line, flush=True)


def main() -> None:
    """Run the command line."""
    # All processes raise the same ValueError, which the main one prints; an OSError may concern only this one.
    with command_errors("python -m train", HubError, is_silent=lambda e: isinstance(e, ValueError) and not is_main_process()):
        args = build_parser().parse_args()
        try:
            args.handler(args)
        finally:
            DistributedContext.leave()


if __name__ == "__main__":
    main()

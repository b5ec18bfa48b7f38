"""A short run on a text of one's own, as events for the page: counted baselines, a trained model, their mixture, a verdict.

All losses in the events are in nats a character, so that models of characters and of sub-words share a plot.
"""

import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt import Mixture
from gpt.models.base import CausalLM
from train.advice import SIZES, choose_config, describe_verdict, is_memorizing
from train.configs import TrainConfig
from train.counting import FIT_FUNCTIONS, fit_baselines
from train.data import TextDataset
from train.evaluate import EvalResult, eval_context, token_nll
from train.mixture import cross_fit, mixing_facts
from train.runs import FolderWriter, as_stored, measure_baselines, now, refuse_if_used, run_settings
from train.tasks import CausalLMTask
from train.text_report import report_text
from train.tokenizers import tokenize
from train.trainer import Budget, EvalEvent, SampleEvent, StepEvent, Trainer, seeded_rng

KINDS = ("gpt", "lstm", "bigram")
TITLES = {"gpt": "GPT", "lstm": "LSTM", "bigram": "bigram", "ngram": "n-gram", "mixture": "mixture"}
TRAINED = "{}-trained"  # the folder of a family that is counted, too
MAX_SECONDS = 120
GRACE_S = 10.0  # after the budget, in which everything is done
CLOSING_SHARE = 0.5  # of the time before training: what measuring and writing the models takes afterwards, at most
MAX_PARAMETERS = 3_000_000
MIN_TRAINING_S = 1.0
EVAL_INTERVAL = 0.05  # share of the budget
SAMPLE_INTERVAL_S = 3.0
STEP_INTERVAL_S = 0.1  # between two events of steps
Event = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        text: Path of the text, in UTF-8.
        name: What to call the text.
        is_lines: Whether each line is a document.
        kind: One of `KINDS`.
        size: One of `SIZES`.
        tokenizer: "char" or "bpe:N".
        dropout: A dropout probability; None chooses one.
        seconds: Training time.
        seed: Of weights, batches, dropout and samples.
        out: The folder to write the models' folders to.

    Raises ValueError if a value is out of range.
    """

    text: str
    name: str
    is_lines: bool
    kind: str
    size: str
    tokenizer: str
    dropout: float | None
    seconds: float
    seed: int
    out: str

    def __post_init__(self) -> None:
        for name, value, allowed in (("kind", self.kind, KINDS), ("size", self.size, SIZES)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of: {', '.join(allowed)}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"seconds is {self.seconds!r}; it must be a number above 0, up to {MAX_SECONDS}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}; it must be from 0 to below 1")
        if self.tokenizer != "char" and not self.tokenizer.startswith("bpe:"):
            raise ValueError(f"tokenizer is {self.tokenizer!r}; it must be char or bpe:N")


@dataclass
class Candidate:
    """A finished model, measured on all of the held-out text.

    Attributes:
        name: Name of its folder.
        kind: Name of its family.
        model: The model, as it is stored.
        nll: (N,) -log p of each held-out token.
        result: Their mean, in several units.
    """

    name: str
    kind: str
    model: CausalLM
    nll: Tensor
    result: EvalResult

    @property
    def held_out(self) -> float:
        """Nats a character."""
        return self.result.bits_per_character * math.log(2)

    @property
    def title(self) -> str:
        """What to call it."""
        title = TITLES[self.kind]
        return title if self.name == self.kind else f"trained {title}"


def run_job(job: Job, should_stop: Callable[[], bool], started: float) -> Iterator[Event]:
    """Run a job and yield its events (docs/training.md).

    Args:
        job: What to train.
        should_stop: Whether to end now, with the best model so far.
        started: `time.perf_counter()` when the job was given; the run ends within its seconds and `GRACE_S`.

    Raises:
        ValueError: If the text or a setting cannot be used.
    """
    run = ShortRun(job, started)
    yield from run.count()
    if not should_stop():
        yield from run.train(should_stop)
    yield run.finish(stopped=should_stop())


class ShortRun:
    """What the steps of `run_job` share.

    Args:
        job: What to train.
        started: `time.perf_counter()` when the job was given.

    Raises:
        ValueError: If the text or a setting cannot be used.
    """

    def __init__(self, job: Job, started: float) -> None:
        self.job, self.started, self.started_at = job, started, now()
        self.dataset = TextDataset.from_bytes(job.name, Path(job.text).read_bytes(), job.is_lines)
        if problem := report_text(self.dataset.text, job.is_lines, job.tokenizer).problem:
            raise ValueError(problem)
        self.tokenized = tokenize(self.dataset, job.tokenizer)
        train, held_out = self.tokenized.train, self.tokenized.held_out
        self.tokens, held_out_tokens = (sum(len(document) - 1 for document in part) for part in (train, held_out))
        self.held_out_text = self.tokenized.held_out_text
        self.per_character = held_out_tokens / len(self.held_out_text)  # tokens of a character
        self.choice = choose_config(
            job.kind,
            job.size,
            tokens=self.tokens,
            vocab_size=len(self.tokenized.tokenizer),
            seconds=job.seconds,
            longest_line=max(map(len, train + held_out)) if job.is_lines else None,
            dropout=job.dropout,
        )
        if self.choice.parameters > MAX_PARAMETERS:
            raise ValueError(
                f"The model would have {self.choice.parameters:,} parameters, and {MAX_PARAMETERS:,} are allowed. "
                "Choose the small size or sub-words."
            )
        self.command = train_command(job, self.choice.config)
        self.candidates: list[Candidate] = []  # the counted models first
        self.trained: Candidate | None = None
        self.has_memorized = False
        self.baselines: dict[str, float] = {}  # for the cards, of characters

    def count(self) -> Iterator[Event]:
        """Fit the counted models, and write their folders."""
        counted = fit_baselines(self.tokenized)
        losses = {"uniform": math.log(len(self.tokenized.tokenizer)) * self.per_character}
        for kind, each in counted.items():
            candidate = Candidate(kind, kind, each.model, each.nll, self._result(each.nll, each.model))
            losses[kind] = candidate.held_out
            if not self.baselines:
                is_char = self.tokenized.tokenizer_name == "char"
                self.baselines = dict(losses) if is_char else measure_baselines(self.dataset, self.tokenized)
            spent = {"steps": 1, "tokens": self.tokens, "seconds": time.perf_counter() - self.started}
            command = " ".join(["python -m train run", kind, *shared_options(self.job, kind)])
            self._write(candidate, {"command": command, **spent, **each.facts, "device": "cpu", "seed": self.job.seed}, [])
        yield {"event": "baselines", **losses, "order": counted["ngram"].facts["order"]}

    def train(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Train until the time is used up or `should_stop`, and write the best model."""
        job, config = self.job, self.choice.config
        yield {
            "event": "start",
            "parameters": self.choice.parameters,
            "config": asdict(config),
            "command": self.command,
            "reason": " ".join(self.choice.reasons),
        }
        with seeded_rng(job.seed, torch.device("cpu")):
            task = CausalLMTask(config, self.tokenized, self.dataset.prompt, job.seed)
        schedule: dict[str, Any] = {"eval_interval": EVAL_INTERVAL, "sample_interval_s": SAMPLE_INTERVAL_S, "replay": False}
        trainer = Trainer(task, Budget(minutes=job.seconds / 60), job.seed, **schedule)
        # Known only now: with the first optimizer, PyTorch imports for seconds.
        seconds = training_seconds(job.seconds, time.perf_counter() - self.started)
        trainer.budget = Budget(minutes=seconds / 60)
        best: dict[str, Tensor] = {}
        best_facts: dict[str, Any] = {}
        curve: list[dict[str, float]] = []
        losses: list[float] = []  # since the last event of a step
        sent, tokens = time.perf_counter(), 0
        for event in trainer.run():
            if isinstance(event, StepEvent):
                losses.append(event.loss)
                elapsed = time.perf_counter() - sent
                if elapsed >= STEP_INTERVAL_S:
                    yield {
                        "event": "step",
                        "step": event.step,
                        "progress": event.progress,
                        "loss": self.per_character * sum(losses) / len(losses),
                        "tokens_per_second": (trainer.tokens - tokens) / elapsed,
                        "seconds_left": (1 - event.progress) * seconds,
                    }
                    losses, sent, tokens = [], time.perf_counter(), trainer.tokens
            elif isinstance(event, EvalEvent):
                curve.append({"step": event.step, "seconds": event.seconds, "train": event.train, "held_out": event.held_out})
                if event.best:
                    best = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
                    best_facts = {"steps": event.step, "tokens": trainer.tokens, "train_loss": event.train}
                is_rising = is_memorizing(*([point[side] for point in curve] for side in ("train", "held_out")))
                self.has_memorized = self.has_memorized or is_rising
                yield {
                    "event": "evaluation",
                    "step": event.step,
                    "seconds": event.seconds,
                    "train": self.per_character * event.train,
                    "held_out": event.metrics["bits_per_character"] * math.log(2),
                    "best": event.best,
                    "memorizing": is_rising,
                }
            elif isinstance(event, SampleEvent):
                yield {"event": "sample", "step": event.step, "text": event.text}
            if should_stop():
                break
        if not best:  # stopped before the first evaluation
            return
        task.model.load_state_dict(best)
        name = TRAINED.format(job.kind) if job.kind in FIT_FUNCTIONS else job.kind
        facts = {
            "command": self.command,
            **best_facts,
            "seconds": trainer.seconds,
            "run_steps": trainer.step,
            "run_seconds": trainer.seconds,
            "timings": trainer.timings,
            "budget": {"minutes": seconds / 60},
            **run_settings(trainer, config),
        }
        stored = as_stored(job.kind, task.model).float().eval()
        nll = token_nll(stored, self.tokenized.held_out)
        self.trained = Candidate(name, job.kind, stored, nll, self._result(nll, stored))
        self._write(self.trained, facts, curve)

    def finish(self, stopped: bool) -> Event:
        """Mix the trained model with the n-gram where that helps, and describe all models."""
        counted = [each.title for each in self.candidates if each is not self.trained]
        if self.trained and self.trained.kind not in FIT_FUNCTIONS:
            self._mix(self.trained, self.candidates[1])
        models = [
            {
                "name": each.name,
                "folder": each.name,
                "kind": each.kind,
                "title": each.title,
                "held_out": each.held_out,
                "parameters": sum(p.numel() for p in each.model.parameters()),
            }
            for each in self.candidates
        ]
        winner = min(self.candidates, key=lambda each: each.held_out).name
        losses = {each.title: each.held_out for each in self.candidates}
        verdict = describe_verdict(losses, counted, self.trained.title if self.trained else None, self.has_memorized)
        return {"event": "end", "stopped": stopped, "models": models, "winner": winner, "verdict": verdict}

    def _mix(self, first: Candidate, second: Candidate) -> None:
        """Add the mixture of two models, unless one of them is as good without the other."""
        weight, halves, nll = cross_fit(first.nll, second.nll)
        if nll.mean() >= min(first.nll.mean(), second.nll.mean()):
            return
        mixture = Candidate(
            "mixture", "mixture", Mixture.of(first.model, second.model, weight), nll, self._result(nll, first.model)
        )
        parts = [shlex.quote(folder_of(self.job, part.kind)) for part in (first, second)]
        facts = {
            "command": " ".join(["python -m train run mixture --of", *parts, *shared_options(self.job, "mixture")]),
            "steps": 1,
            "tokens": self.tokens,
            "seconds": time.perf_counter() - self.started,
            **mixing_facts(weight, halves, [(part.name, part.kind, part.result) for part in (first, second)]),
            "device": "cpu",
            "seed": self.job.seed,
        }
        self._write(mixture, facts, [])

    def _result(self, nll: Tensor, model: CausalLM) -> EvalResult:
        return EvalResult.from_total(nll.double().sum().item(), len(nll), eval_context(model), self.held_out_text)

    def _write(self, candidate: Candidate, facts: dict[str, Any], curve: list[dict[str, float]]) -> None:
        """Write the folder of a model, and make it a candidate."""
        facts = {**facts, "started": self.started_at, "finished": True}
        folder = Path(self.job.out) / candidate.name
        refuse_if_used(folder)
        writer = FolderWriter(folder, candidate.kind, self.dataset, self.tokenized, self.job.seed, self.baselines)
        writer.write(candidate.model, asdict(candidate.result), facts, curve, [])
        self.candidates.append(candidate)


def training_seconds(budget: float, elapsed: float) -> float:
    """How long to train, so that a run ends within its budget and `GRACE_S` on a slow machine, too.

    Args:
        budget: The seconds that were asked for.
        elapsed: Seconds that the run has taken so far.
    """
    return max(MIN_TRAINING_S, min(budget, budget + GRACE_S - (1 + CLOSING_SHARE) * elapsed))


def shared_options(job: Job, kind: str) -> list[str]:
    """The options of `python -m train run` that do not depend on hyperparameters."""
    options = ["--data", f"{job.name}.txt", *(["--lines"] if job.is_lines else [])]
    options += ["--tokenizer", job.tokenizer] if job.tokenizer != "char" else []
    return list(map(shlex.quote, [*options, "--seed", str(job.seed), "--out", folder_of(job, kind)]))


def folder_of(job: Job, kind: str) -> str:
    """The folder that the commands name for a model."""
    return f"runs/{job.name}-{kind}"


def train_command(job: Job, config: TrainConfig) -> str:
    """The command that trains the same model with `python -m train run`."""
    names = ("layers", "width", "context", "dropout")
    sizes = [f"--{name} {getattr(config, name):g}" for name in names if hasattr(config, name)]
    return " ".join(
        ["python -m train run", job.kind, f"--minutes {job.seconds / 60:.6g}", *sizes, *shared_options(job, job.kind)]
    )

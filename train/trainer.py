"""The training loop. It knows no model, writes no file and prints nothing: it gives events to whoever listens."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.models.base import CausalLM
from train.distributed import DistributedContext


@dataclass(frozen=True)
class StepEvent:
    """One update was made. progress runs from 0 to 1; loss is of its batch, in nats a token."""

    step: int
    progress: float
    loss: float
    tokens_per_second: float


@dataclass(frozen=True)
class EvalEvent:
    """The held-out text was scored. train is the mean over the steps since the last time; both in nats a token."""

    step: int
    seconds: float
    train: float
    evaluate: float
    best: bool


@dataclass(frozen=True)
class SampleEvent:
    """A text that the model writes now."""

    step: int
    text: str


@dataclass(frozen=True)
class EndEvent:
    """The budget is used up. spent: where its seconds went, as `Trainer` names the parts."""

    step: int
    seconds: float
    tokens: int
    timings: dict[str, float] = field(default_factory=dict, compare=False)


Event = StepEvent | EvalEvent | SampleEvent | EndEvent


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or minutes of this machine."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a budget is either steps or minutes; give one of them")
        amount = self.steps if self.steps is not None else self.minutes or 0
        if not 0 < amount < math.inf:
            raise ValueError(f"a budget of {amount} is none; it must be a number above 0")

    def progress(self, step: int, seconds: float) -> float:
        """The share that is used up, 0 to 1."""
        return min(1.0, step / self.steps if self.steps else seconds / (60 * (self.minutes or 1)))


WARMUP = 0.02  # share of the budget


def learning_rate_factor(progress: float) -> float:
    """Up in the first 2 % of the budget, then linearly down to zero, which also settles the weights: no average of
    them is needed on top."""
    return min(max(progress, 1e-3) / WARMUP, 1.0 - progress)


class Trainer:
    """Trains a model, from wherever it stands to the end of its budget.

    batch        (progress, generator) -> inputs and next tokens (B, T); a target of -1 does not count
    evaluate     () -> held-out loss in nats a token
    sample       () -> a text
    optimizers   any; their learning rates are scaled by the schedule
    loss         (inputs, next tokens, progress) -> what is made small, in nats a token; if not the cost of each next token
    processes    which share each batch's rows; the first one's clock is that of all

    `spent` says where the seconds went: data, forward, backward, exchange (waiting for the other processes included),
    optimizer, evaluation (the sample included), and saving, which is whatever was done between two events. A GPU is only
    told what to do and works behind our back: there forward, backward and optimizer are one part, update. With
    `compile`, an update of a shape that is new is compiling.
    """

    def __init__(
        self,
        model: CausalLM,
        optimizers: list[torch.optim.Optimizer],
        batch: Callable[[float, torch.Generator], tuple[Tensor, Tensor]],
        evaluate: Callable[[], float],
        sample: Callable[[], str],
        budget: Budget,
        seed: int = 0,
        low_precision: bool = False,
        compile: bool = False,
        processes: DistributedContext = DistributedContext(),
        loss: Callable[[Tensor, Tensor, float], Tensor] | None = None,
    ) -> None:
        self.model, self.optimizers, self.budget, self.seed = model, optimizers, budget, seed
        self.processes = processes
        self.batch, self.evaluate, self.sample = batch, evaluate, sample
        self.device = next(model.parameters()).device
        self.low_precision, self.compile = low_precision, compile
        self.loss = torch.compile(self._loss, dynamic=False) if compile else self._loss
        self.other_loss = loss
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.best = float("inf")
        # The held-out text is scored twenty times, in a short run less often: it costs as much as dozens of steps.
        self.interval = max(0.05, 100 / budget.steps if budget.steps else 0.5 / (budget.minutes or 1))
        self.next_evaluation = self.interval  # as a share of the budget
        self.losses: list[float] = []  # since the last evaluation
        self.timings: dict[str, float] = {}  # seconds
        self.seen: set[torch.Size] = set()  # shapes of batches that this process has trained on

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16) if self.low_precision else nullcontext():
            logits, _ = self.model(inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)

    def run(self) -> Iterator[Event]:
        """Train, an event at a time. Between two events the trainer may be saved, or left for good."""
        self.model.train()
        clock = self.mark = time.perf_counter()
        clock -= self.seconds
        while True:
            progress = self.budget.progress(self.step, self.seconds)
            if self.losses and (progress >= self.next_evaluation or progress == 1):
                yield from self._evaluate(progress, clock)
            if progress == 1:
                break
            # Every step draws from its own seed, so that a resumed run goes on exactly as it would have. The batch is that
            # of all processes; what is dropped differs between them, as their rows do.
            seed = self.seed * 1_000_000 + self.step
            generator = torch.Generator().manual_seed(seed)
            torch.manual_seed(seed + (self.processes.rank << 53))
            rows = [self.processes.share(part).to(self.device) for part in self.batch(progress, generator)]
            for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * learning_rate_factor(progress)
            self._record_time("data")
            loss = self._update(rows, progress)
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise ValueError(f"the loss is no number after step {self.step}: the rates are too high for this model and text")
            tokens = rows[0].numel() * self.processes.size
            self.step, self.tokens = self.step + 1, self.tokens + tokens
            before, self.seconds = self.seconds, self._elapsed(clock)
            done = self.budget.progress(self.step, self.seconds)
            yield StepEvent(self.step, done, loss, tokens / (self.seconds - before))
            self._record_time("saving")
        yield EndEvent(self.step, self.seconds, self.tokens, self.timings)

    def _update(self, rows: list[Tensor], progress: float) -> float:
        """Make one step, and return its loss over all processes."""
        whole = "update" if self.device.type == "cuda" else None
        if self.compile and rows[0].shape not in self.seen:
            whole = "compiling"
        self.seen.add(rows[0].shape)
        loss = self.other_loss(rows[0], rows[1], progress) if self.other_loss else self.loss(*rows)
        self._record_time(whole or "forward")
        loss.backward()
        self._record_time(whole or "backward")
        if self.processes.size > 1:
            self.processes.average([loss.detach(), *(p.grad for p in self.model.parameters() if p.grad is not None)])
            self._record_time("exchange")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        number = loss.item()
        self._record_time(whole or "optimizer")
        return number

    def _evaluate(self, progress: float, clock: float) -> Iterator[Event]:
        evaluate = self.evaluate()
        text = self.sample()
        self.model.train()
        train = sum(self.losses) / len(self.losses)
        best = evaluate < self.best
        self.best, self.losses = min(self.best, evaluate), []
        self.next_evaluation = progress + self.interval - 1e-9  # less than a step: rounding should not add one
        self.seconds = self._elapsed(clock)
        self._record_time("evaluation")
        yield EvalEvent(self.step, self.seconds, train, evaluate, best)
        yield SampleEvent(self.step, text)
        self._record_time("saving")

    def _elapsed(self, clock: float) -> float:
        """Seconds on the first process's clock, so that all of them end at the same step."""
        return self.processes.sum(time.perf_counter() - clock if self.processes.is_main_process else 0.0)

    def _record_time(self, part: str) -> None:
        """Book the time since the last lap."""
        before, self.mark = self.mark, time.perf_counter()
        self.timings[part] = self.timings.get(part, 0.0) + self.mark - before

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on from here: tensors and plain numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **{name: getattr(self, name) for name in ("step", "tokens", "seconds", "best", "next_evaluation", "losses", "spent")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the same model, optimizers and budget."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in state.keys() - {"model", "optimizers"}:
            setattr(self, name, state[name])

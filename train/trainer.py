"""The training loop. It knows no model family and writes no file: it runs a `TrainingTask` and yields events."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gpt.models.base import Model
from gpt.text_model import TextModel
from train.distributed import DistributedContext

WARMUP = 0.02  # share of the budget in which the learning rate rises
EVAL_INTERVAL = 0.05  # share of the budget between two evaluations, but at least the following, as one costs dozens of steps:
MIN_EVAL_STEPS, MIN_EVAL_MINUTES = 100, 0.5
FIRST_EVAL = 0.01  # share of the budget, but at most the following, so that a run that is stopped early leaves a model:
FIRST_EVAL_STEPS, FIRST_EVAL_MINUTES = 10, 1 / 12
REPLAY_STEPS = (0, *(unit * 10**power for power in range(1, 7) for unit in (1, 3)))  # 0, 10, 30, 100, 300...
ROUNDING = 1e-6  # less than a step, as a share of the time between two evaluations


def _are_numbers(values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)


# The attributes of a trainer that a resumed run continues with, and what they may be.
RESUMED: dict[str, Callable[[Any], bool]] = {
    "step": lambda n: type(n) is int and n >= 0,
    "tokens": lambda n: type(n) is int and n >= 0,
    "seconds": lambda x: type(x) is float and 0 <= x < math.inf,
    "best": lambda x: type(x) is float,
    "next_evaluation": lambda x: type(x) is float,
    "losses": lambda losses: type(losses) is list and _are_numbers(losses),
    "evaluated": lambda point: point is None or (type(point) is tuple and len(point) == 3 and _are_numbers(point)),
    "replayed": lambda n: type(n) is int,
    "timings": lambda timings: type(timings) is dict and _are_numbers(timings.values()),
}


@dataclass(frozen=True)
class StepEvent:
    """The weights were updated.

    Attributes:
        step: Number of updates so far.
        progress: Share of the budget that is used, from 0 to 1.
        loss: Loss of the batch, summed over the phases of the step.
        tokens_per_second: Positions of the batch, padding included, per second.
        metrics: What else the task reported for the batch.
    """

    step: int
    progress: float
    loss: float
    tokens_per_second: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalEvent:
    """The model was evaluated on held-out data.

    Attributes:
        step: Number of updates so far.
        seconds: Training time so far.
        train: Mean loss of the steps since the last evaluation.
        held_out: Validation loss.
        best: Whether it is the lowest so far.
        metrics: All that `TrainingTask.validate` returned; empty except in the main process.
    """

    step: int
    seconds: float
    train: float
    held_out: float
    best: bool
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TextSample:
    """A text that the model generated.

    Attributes:
        text: The text, without the prompt.
        replay: What the task adds to a point of replay.json: JSON values.
    """

    text: str
    replay: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleEvent:
    """The model generated a text after an evaluation."""

    step: int
    text: str


@dataclass(frozen=True)
class ReplayEvent:
    """The model generated the text of a replay point: `REPLAY_STEPS` and the last step, from the same prompt and seed.

    Attributes:
        step: Number of updates so far.
        tokens: Positions trained on so far, padding included.
        train: Mean loss of the steps since the last evaluation; None before the first step.
        held_out: Validation loss: of an evaluation at this step, else a quick one.
        sample: The text; None except in the main process.
    """

    step: int
    tokens: int
    train: float | None
    held_out: float
    sample: TextSample | None


@dataclass(frozen=True)
class ProgressEvent:
    """Work other than training has advanced; `progress` runs from 0 to 1."""

    description: str
    progress: float


@dataclass(frozen=True)
class MessageEvent:
    """Something to tell the user, in sentences."""

    text: str


@dataclass(frozen=True)
class EndEvent:
    """The budget is used up.

    Attributes:
        step: Number of updates.
        seconds: Training time.
        tokens: Positions trained on, padding included.
        timings: Seconds by kind of work (`Trainer`).
        warning: Why the result means little; empty if it does not.
    """

    step: int
    seconds: float
    tokens: int
    timings: dict[str, float] = field(default_factory=dict, compare=False)
    warning: str = ""


Event = StepEvent | EvalEvent | SampleEvent | ReplayEvent | ProgressEvent | MessageEvent | EndEvent


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or minutes on this machine. Raises ValueError unless exactly one is above 0."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a budget is either steps or minutes; give one of them")
        amount = self.steps if self.steps is not None else self.minutes or 0
        if not 0 < amount < math.inf:
            raise ValueError(f"the budget is {amount}; it must be a number above 0")

    def share(self, steps: float, minutes: float) -> float:
        """The share of the budget that `steps`, or `minutes` if it is one of time, are."""
        return steps / self.steps if self.steps else minutes / (self.minutes or 1)


Batch = Sequence[Tensor]


class TrainingTask(ABC):
    """What to train: the networks, their data and their losses. Everything that differs between model families.

    Attributes:
        module: All parameters that are trained, and what else is saved for resuming, such as averages of them.
        model: The part of it that is written to the weights folder.
    """

    module: nn.Module
    model: Model

    @abstractmethod
    def configure_optimizers(self) -> list[list[torch.optim.Optimizer]]:
        """The optimizers of each phase of a step. Called once. A GAN has two phases: discriminator and generator."""

    @abstractmethod
    def sample_batch(self, progress: float, generator: torch.Generator) -> Batch:
        """Sample tensors (B, ...) on the CPU; the trainer shards and moves them.

        Args:
            progress: Share of the budget that is used.
            generator: The same in all processes.
        """

    @abstractmethod
    def training_step(self, batch: Batch, progress: float, phase: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the losses of a batch, under autocast where the run uses bfloat16.

        Args:
            batch: This process's shard of what `sample_batch` returned.
            progress: Share of the budget that is used.
            phase: Index into `configure_optimizers()`.
            generator: For noise; on the CPU, and different in each process.

        Returns:
            Scalars. The optimizers of the phase minimise "loss"; the others are reported.
        """

    @abstractmethod
    def validate(self, progress: float, quick: bool = False) -> dict[str, float]:
        """Evaluate on held-out data. The model with the lowest "loss" is kept.

        Args:
            progress: Share of the budget that is used.
            quick: Use a part of the data: the first evaluation only makes sure that a stopped run leaves a model.
        """

    @abstractmethod
    def sample(self) -> TextSample:
        """Generate a text that shows the progress, from the same prompt and seed each time."""

    def learning_rate_factor(self, progress: float) -> float:
        """What the learning rates are multiplied by; by default `learning_rate_factor`."""
        return learning_rate_factor(progress)

    def on_step_end(self, step: int) -> None:  # noqa: B027 (optional)
        """Called after the optimizers of all phases, for example to average weights.

        Args:
            step: Number of updates so far, this one included.
        """

    def final_metrics(self, lm: TextModel, seconds: float) -> Generator[float, None, dict[str, Any]]:
        """Measure a finished run.

        Args:
            lm: The best model, opened from the weights folder.
            seconds: About how long it may take.

        Yields:
            The share that is done, from 0 to 1.

        Returns:
            Entries of training.json.
        """
        yield 1.0
        return {}

    def check_final_metrics(self, metrics: dict[str, Any]) -> None:  # noqa: B027 (optional)
        """Raises ValueError if `metrics` show that the model is of no use."""


def learning_rate_factor(progress: float) -> float:
    """Linear warm-up over the first 2 % of the budget, then linear decay to zero."""
    return min(max(progress, 1e-3) / WARMUP, 1.0 - progress)


@contextmanager
def seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators for the body, and restore them afterwards.

    For initial weights and dropout, which take no generator.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng([torch.cuda.current_device()] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


class Trainer:
    """Trains a task from its current state to the end of a budget.

    `timings` has seconds by kind of work: data, forward, backward, exchange (waiting for other processes included), optimizer,
    evaluation (samples included), and saving (time between two events). CUDA kernels run asynchronously, so forward,
    backward and optimizer are timed together there, as update. The first update of each batch shape with `compile` is
    compiling.

    Args:
        task: What to train.
        budget: How long to train.
        seed: Of batches, noise and dropout. The process's global random state is left as it is.
        low_precision: Run `training_step` under bfloat16 autocast.
        compile: Compile `training_step`, which then must not depend on `progress` or `generator`.
        distributed: The processes that share each batch. The clock of the main process counts.
        eval_interval: Share of the budget between two evaluations, all of which are quick (`TrainingTask.validate`). By default
            few evaluations, of which only the first is quick.
        sample_interval_s: Seconds between two samples, which follow evaluations.
        replay: Whether there are replay points.
    """

    def __init__(
        self,
        task: TrainingTask,
        budget: Budget,
        seed: int = 0,
        low_precision: bool = False,
        compile: bool = False,
        distributed: DistributedContext = DistributedContext(),
        eval_interval: float | None = None,
        sample_interval_s: float = 0.0,
        replay: bool = True,
    ) -> None:
        self.task, self.budget, self.seed, self.distributed = task, budget, seed, distributed
        self.low_precision, self.compile = low_precision, compile
        self.device = next(task.module.parameters()).device
        self.training_step = torch.compile(task.training_step, dynamic=False) if compile else task.training_step
        self.phases = task.configure_optimizers()
        self.learning_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.best = math.inf
        self.is_quick = eval_interval is not None
        self.eval_interval = eval_interval or max(EVAL_INTERVAL, budget.share(MIN_EVAL_STEPS, MIN_EVAL_MINUTES))
        self.sample_interval_s, self.sampled_at = sample_interval_s, -math.inf
        self.has_replay = replay
        self.next_evaluation = min(FIRST_EVAL, budget.share(FIRST_EVAL_STEPS, FIRST_EVAL_MINUTES))  # share of the budget
        self.losses: list[float] = []  # since the last evaluation
        self.evaluated: tuple[int, float, float] | None = None  # step, train and held_out of the last evaluation
        self.replayed = -1  # step of the last replay point
        self.timings: dict[str, float] = {}
        self._compiled_shapes: set[torch.Size] = set()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of all phases."""
        return [optimizer for phase in self.phases for optimizer in phase]

    @property
    def progress(self) -> float:
        """Share of the budget that is used, from 0 to 1."""
        return min(1.0, self.budget.share(self.step, self.seconds / 60))

    def run(self) -> Generator[Event]:
        """Train and yield events. Between two events the trainer may be saved or abandoned."""
        self.task.module.train()
        clock = self.mark = time.perf_counter()
        clock -= self.seconds
        while True:
            progress = self.progress
            if self.losses and (progress >= self.next_evaluation or progress == 1):
                yield from self._evaluate(progress, clock)
            if self.has_replay and self.step != self.replayed and (self.step in REPLAY_STEPS or progress == 1):
                yield self._replay(clock)
                self._record_time("saving")
            if progress == 1:
                break
            # Each step has a seed of its own, so that a resumed run continues exactly.
            generator = torch.Generator().manual_seed(self.seed * 1_000_000 + self.step)
            sampled = self.task.sample_batch(progress, generator)
            batch = [self.distributed.shard(part).to(self.device) for part in sampled]
            noise_seed = int(torch.randint(2**31, (self.distributed.size,), generator=generator)[self.distributed.rank])
            for optimizer, rates in zip(self.optimizers, self.learning_rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self.task.learning_rate_factor(progress)
            self._record_time("data")
            loss, metrics = self._train_on(batch, progress, noise_seed)
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} after step {self.step}; the learning rates are too high for this model and text"
                )
            self.losses.append(loss)
            tokens = sampled[0].numel()
            self.step, self.tokens = self.step + 1, self.tokens + tokens
            before, self.seconds = self.seconds, self._elapsed(clock)
            yield StepEvent(self.step, self.progress, loss, tokens / (self.seconds - before), metrics)
            self._record_time("saving")
        yield EndEvent(self.step, self.seconds, self.tokens, self.timings)

    def _train_on(self, batch: Batch, progress: float, noise_seed: int) -> tuple[float, dict[str, float]]:
        """Run all phases of a step; return the loss and the other metrics, averaged over the processes."""
        combined = "update" if self.device.type == "cuda" else None  # a kind of work for all of it
        if self.compile and batch[0].shape not in self._compiled_shapes:
            combined = "compiling"
        self._compiled_shapes.add(batch[0].shape)
        total = 0.0
        metrics: dict[str, float] = {}
        generator = torch.Generator().manual_seed(noise_seed)
        with seeded_rng(noise_seed, self.device):
            for phase, optimizers in enumerate(self.phases):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                    losses = self.training_step(batch, progress, phase, generator)
                self._record_time(combined or "forward")
                losses["loss"].backward()
                self._record_time(combined or "backward")
                losses = {name: value.detach() for name, value in losses.items()}
                if self.distributed.size > 1:
                    params = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
                    self.distributed.average([*losses.values(), *(p.grad for p in params if p.grad is not None)])
                    self._record_time("exchange")
                for optimizer in optimizers:
                    optimizer.step()
                self.task.module.zero_grad(set_to_none=True)  # gradients of the other phases' parameters, too
                total += losses.pop("loss").item()
                metrics |= {name: value.item() for name, value in losses.items()}
                self._record_time(combined or "optimizer")
        self.task.on_step_end(self.step + 1)
        return total, metrics

    def _evaluate(self, progress: float, clock: float) -> Iterator[Event]:
        is_main = self.distributed.is_main_process
        is_quick = self.is_quick or (self.best == math.inf and progress < 1)
        metrics = self.task.validate(progress, quick=is_quick) if is_main else {}
        has_sample = self.seconds - self.sampled_at >= self.sample_interval_s or progress == 1
        text = self.task.sample().text if is_main and has_sample else ""
        self.task.module.train()
        held_out = self.distributed.sum(metrics.get("loss", 0.0))
        train = sum(self.losses) / len(self.losses)
        best = held_out < self.best
        self.best, self.losses, self.evaluated = min(self.best, held_out), [], (self.step, train, held_out)
        intervals = math.floor(progress / self.eval_interval + ROUNDING) + 1
        self.next_evaluation = (intervals - ROUNDING) * self.eval_interval
        self.seconds = self._elapsed(clock)
        self._record_time("evaluation")
        yield EvalEvent(self.step, self.seconds, train, held_out, best, metrics)
        if has_sample:
            self.sampled_at = self.seconds
            yield SampleEvent(self.step, text)
        self._record_time("saving")

    def _replay(self, clock: float) -> ReplayEvent:
        is_main = self.distributed.is_main_process
        step, train, held_out = self.evaluated or (-1, None, 0.0)
        if step != self.step:
            held_out = self.distributed.sum(self.task.validate(self.progress, quick=True)["loss"] if is_main else 0.0)
        if self.losses:
            train = sum(self.losses) / len(self.losses)
        sample = self.task.sample() if is_main else None
        self.task.module.train()
        self.replayed, self.seconds = self.step, self._elapsed(clock)
        self._record_time("evaluation")
        return ReplayEvent(self.step, self.tokens, train, held_out, sample)

    def _elapsed(self, clock: float) -> float:
        """Training seconds on the clock of the main process, so that all processes end at the same step."""
        return self.distributed.sum(time.perf_counter() - clock if self.distributed.is_main_process else 0.0)

    def _record_time(self, work: str) -> None:
        """Add the time since the last call to a kind of work."""
        before, self.mark = self.mark, time.perf_counter()
        self.timings[work] = self.timings.get(work, 0.0) + self.mark - before

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to continue from here: tensors and plain numbers."""
        return {
            "module": self.task.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **{name: getattr(self, name) for name in RESUMED},
        }

    def load_state_dict(self, state: dict[str, Any], same_budget: bool = True) -> None:
        """Continue from what `state_dict` returned for the same task.

        Args:
            state: The saved state.
            same_budget: Whether the budget is the one it was saved with. With another one, the learning rate, which is a
                function of the share of the budget that is used, jumps to that of the new share.

        Raises:
            ValueError: Or LookupError, TypeError, AttributeError or RuntimeError, if `state` is that of another task, or damaged.
        """
        if any(not is_valid(state[name]) for name, is_valid in RESUMED.items()):
            raise ValueError("the state has other types than `state_dict` gives it")
        self.task.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
            if any({**group, "lr": 0} != {**other, "lr": 0} for group, other in zip(groups, own, strict=True)):
                raise ValueError("an optimizer has other hyperparameters")
            optimizer.load_state_dict(saved)
            for p, buffers in optimizer.state.items():
                if not all(buffer.shape == p.shape or (buffer.ndim == 0 and buffer >= 1) for buffer in buffers.values()):
                    raise ValueError("the state of an optimizer does not fit the weights")
        for name in RESUMED:
            setattr(self, name, state[name])
        if not same_budget:
            self.next_evaluation = self.progress + (1 - ROUNDING) * self.eval_interval

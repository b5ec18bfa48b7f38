"""The training loop, on toy tasks."""

import itertools
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt import Bigram, BigramConfig
from train import trainer as module
from train.distributed import DistributedContext
from train.trainer import (
    Budget,
    EndEvent,
    EvalEvent,
    ReplayEvent,
    SampleEvent,
    StepEvent,
    TextSample,
    Trainer,
    TrainingTask,
    learning_rate_factor,
)


class BigramTask(TrainingTask):
    """A bigram of four tokens, each of which is followed by the next."""

    def __init__(self, rate=0.1, validation_losses=None, dropout=0.0):
        self.module = self.model = Bigram(BigramConfig(4))
        self.rate, self.validation_losses = rate, iter(validation_losses or ())
        self.dropout = nn.Dropout(dropout)

    def configure_optimizers(self):
        return [[torch.optim.AdamW(self.module.parameters(), lr=self.rate, weight_decay=0.0)]]

    def sample_batch(self, progress, generator):
        ids = torch.randint(4, (2, 5), generator=generator)
        return ids, (ids + 1) % 4

    def training_step(self, batch, progress, phase, generator):
        logits = self.dropout(self.module(batch[0])[0])
        return {"loss": F.cross_entropy(logits.flatten(0, 1), batch[1].flatten())}

    def validate(self, progress, quick=False):
        loss = F.cross_entropy(self.module.logits.detach(), (torch.arange(4) + 1) % 4).item()
        return {"loss": next(self.validation_losses, loss)}

    def sample(self):
        return TextSample("a text", {"logits": self.module.logits[:1].tolist()})


class GANTask(TrainingTask):
    """A GAN of numbers: a discriminator and a generator, which are trained in turn, with noise from the task itself."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.module = nn.ModuleDict({"generator": nn.Linear(2, 1), "discriminator": nn.Linear(1, 1)})
        with torch.no_grad():
            for p in self.module.parameters():
                p.normal_(generator=generator)
        self.changed = []

    def configure_optimizers(self):
        return [[torch.optim.SGD(self.module[name].parameters(), lr=0.1)] for name in ("discriminator", "generator")]

    def sample_batch(self, progress, generator):
        return (torch.randn(8, 1, generator=generator) + 3,)

    def training_step(self, batch, progress, phase, generator):
        fake = self.module["generator"](torch.randn(len(batch[0]), 2, generator=generator))
        score = self.module["discriminator"](fake)
        if phase == 1:
            return {"loss": F.softplus(-score).mean(), "fake": fake.mean()}
        return {"loss": (F.softplus(-self.module["discriminator"](batch[0])) + F.softplus(score)).mean()}

    def validate(self, progress, quick=False):
        return {"loss": abs(self.module["generator"].bias.item() - 3), "bias": self.module["generator"].bias.item()}

    def sample(self):
        return TextSample("")


def make(budget, seed=0, validation_losses=None, rate=0.1, dropout=0.0, **options):
    return Trainer(BigramTask(rate, validation_losses, dropout), budget, seed, **options)


def of_type(event_type, events):
    return [event for event in events if isinstance(event, event_type)]


def without_times(events):
    times = {"seconds", "tokens_per_second", "timings"}
    return [(type(e), {k: v for k, v in vars(e).items() if k not in times}) for e in events]


@pytest.mark.parametrize(("progress", "factor"), [(0, 0.05), (0.001, 0.05), (0.01, 0.5), (0.02, 0.98), (0.5, 0.5), (1, 0)])
def test_learning_rate_factor(progress, factor):
    assert learning_rate_factor(progress) == pytest.approx(factor)


def test_schedule_scales_the_learning_rates_of_the_optimizers():
    trainer = make(Budget(steps=100), rate=0.2)
    rates = [trainer.optimizers[0].param_groups[0]["lr"] for event in trainer.run() if isinstance(event, StepEvent)]
    assert rates == pytest.approx([0.2 * learning_rate_factor(step / 100) for step in range(100)])


def test_events_come_in_order():
    events = list(make(Budget(steps=250)).run())
    evaluation = [EvalEvent, SampleEvent]
    # Evaluations after 1 % of the budget, every 100 steps, and at the end; replay points at 0, 10, 30, 100 and 250.
    expected = [ReplayEvent, *[StepEvent] * 3, *evaluation, *[StepEvent] * 7, ReplayEvent, *[StepEvent] * 20, ReplayEvent]
    expected += [*[StepEvent] * 70, *evaluation, ReplayEvent, *[StepEvent] * 100, *evaluation]
    expected += [*[StepEvent] * 50, *evaluation, ReplayEvent, EndEvent]
    assert [type(event) for event in events] == expected
    assert [event.step for event in of_type(StepEvent, events)] == list(range(1, 251))
    assert [event.progress for event in of_type(StepEvent, events)] == pytest.approx([(i + 1) / 250 for i in range(250)])
    assert [event.step for event in of_type(EvalEvent, events)] == [3, 100, 200, 250]
    assert events[-1] == EndEvent(250, events[-1].seconds, 250 * 2 * 5)
    assert [event.text for event in of_type(SampleEvent, events)] == ["a text"] * 4
    seconds = [event.seconds for event in events if isinstance(event, EvalEvent | EndEvent)]
    assert all(a <= b for a, b in pairwise(seconds))
    assert all(event.tokens_per_second > 0 for event in of_type(StepEvent, events))


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "evaluated"), [(1, [1]), (30, [1, 30]), (2000, [10, *range(100, 2001, 100)])])
def test_evaluations_start_early_and_are_at_most_twenty_more(steps, evaluated):
    task = BigramTask()
    task.training_step = lambda *_: {"loss": task.module.logits.sum() * 0}
    assert [event.step for event in of_type(EvalEvent, Trainer(task, Budget(steps=steps)).run())] == evaluated


def test_only_the_first_evaluation_is_quick():
    trainer, calls = make(Budget(steps=150)), []
    trainer.task.validate = lambda progress, quick: calls.append((trainer.step, quick)) or {"loss": 1.0}
    list(trainer.run())
    replay = [(0, True), (10, True), (30, True)]  # at 100 and 150, the evaluation counts
    assert calls == [replay[0], (2, True), *replay[1:], (100, False), (150, False)]
    calls.clear()
    trainer = make(Budget(steps=1))
    trainer.task.validate = lambda progress, quick: calls.append((trainer.step, quick)) or {"loss": 1.0}
    list(trainer.run())
    assert calls == [(0, True), (1, False)]


def test_a_share_of_the_budget_between_evaluations_makes_all_of_them_quick():
    trainer, calls = make(Budget(steps=40), eval_interval=0.25), []
    trainer.task.validate = lambda _, quick: calls.append((trainer.step, quick)) or {"loss": 1.0}
    list(trainer.run())
    assert calls == [(step, True) for step in (0, 1, 10, 20, 30, 40)]  # 0 is a replay point


def test_replay_points_have_the_losses_at_their_steps():
    events = list(make(Budget(steps=120)).run())
    points = of_type(ReplayEvent, events)
    assert [point.step for point in points] == [0, 10, 30, 100, 120]
    assert [point.tokens for point in points] == [10 * point.step for point in points]
    losses = [event.loss for event in of_type(StepEvent, events)]
    assert points[0].train is None
    assert points[0].held_out == pytest.approx(math.log(4))  # uniform
    assert points[1].train == pytest.approx(sum(losses[2:10]) / 8)  # since the evaluation after two steps
    assert points[2].train == pytest.approx(sum(losses[2:30]) / 28)
    evaluations = of_type(EvalEvent, events)[1:]
    assert [(p.train, p.held_out) for p in points[3:]] == [(e.train, e.held_out) for e in evaluations]
    assert all(a.held_out > b.held_out for a, b in pairwise(points))


def test_replay_points_have_the_distributions_at_their_steps():
    points = of_type(ReplayEvent, make(Budget(steps=30)).run())
    logits = [torch.tensor(event.sample.replay["logits"][0]) for event in points]
    assert torch.equal(logits[0], torch.zeros(4))
    assert logits[0][1] < logits[1][1] < logits[2][1]


def test_training_loss_is_the_mean_since_the_last_evaluation():
    events = list(make(Budget(steps=200)).run())
    steps = [event.loss for event in of_type(StepEvent, events)]
    means = [sum(part) / len(part) for part in (steps[:2], steps[2:100], steps[100:])]
    assert [event.train for event in of_type(EvalEvent, events)] == pytest.approx(means)


def test_best_is_the_lowest_so_far():
    replay_point = 0.5  # at 0, 10 and 30, where nothing is evaluated
    losses = [replay_point, 3.0, replay_point, replay_point, 2.0, 2.5, 2.0, 1.0]
    events = make(Budget(steps=400), validation_losses=losses).run()
    assert [event.best for event in of_type(EvalEvent, events)] == [True, True, False, False, True]


def test_training_lowers_the_held_out_loss():
    losses = [event.held_out for event in of_type(EvalEvent, make(Budget(steps=300), rate=0.05).run())]
    assert losses[-1] < losses[0] / 2 < math.log(4) / 2


def test_seed_determines_the_losses():
    one, again, other = ([e.loss for e in of_type(StepEvent, make(Budget(steps=20), seed).run())] for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_global_random_state_is_untouched_and_does_not_matter():
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        events = list(make(Budget(steps=20), dropout=0.5).run())
        assert torch.equal(torch.get_rng_state(), before)
        losses.append([event.loss for event in of_type(StepEvent, events)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 15


def test_training_mode_is_restored_after_evaluations():
    trainer = make(Budget(steps=200))
    sample = trainer.task.sample
    trainer.task.sample = lambda: trainer.task.module.eval() and sample()
    assert all(trainer.task.module.training for event in trainer.run() if not isinstance(event, EndEvent))


@pytest.mark.parametrize("stop", [1, 2, 37, 99, 100, 150, 199])
def test_saved_trainer_continues_exactly(stop):
    whole = list(make(Budget(steps=200), seed=3, dropout=0.2).run())
    first, before = make(Budget(steps=200), seed=3, dropout=0.2), []
    for event in first.run():
        before.append(event)
        if event.step == stop:
            break
    second = make(Budget(steps=200), seed=3, dropout=0.2)
    second.load_state_dict(first.state_dict())
    assert without_times(before + list(second.run())) == without_times(whole)


def test_finished_trainer_continues_with_a_larger_budget():
    first = make(Budget(steps=200))
    list(first.run())
    second = make(Budget(steps=400), rate=0.2)
    second.load_state_dict(first.state_dict(), same_budget=False)
    rates, steps = [], []
    for event in second.run():
        if isinstance(event, StepEvent):
            rates.append(second.optimizers[0].param_groups[0]["lr"])
        if isinstance(event, EvalEvent):
            steps.append(event.step)
    assert rates == pytest.approx([0.2 * learning_rate_factor(step / 400) for step in range(200, 400)])
    assert steps == [300, 400]


# Several networks


def test_phases_update_their_own_parameters():
    task = GANTask()
    trainer, seen = Trainer(task, Budget(steps=1)), []
    for phase, (optimizer,) in enumerate(trainer.phases):
        before = {name: p.clone() for name, p in task.module.named_parameters()}

        def changed(*_, phase=phase, before=before):
            seen.append((phase, {n.split(".")[0] for n, p in task.module.named_parameters() if not torch.equal(p, before[n])}))
            before.update({name: p.clone() for name, p in task.module.named_parameters()})

        optimizer.register_step_post_hook(changed)
    (_, step, evaluation, *_) = trainer.run()
    assert seen[0] == (0, {"discriminator"})
    assert seen[1] == (1, {"discriminator", "generator"})  # since the start
    assert step.metrics.keys() == {"fake"}
    assert evaluation.metrics["bias"] == task.module["generator"].bias.item()


def test_gradients_of_one_phase_do_not_reach_the_next():
    task, grads = GANTask(), []
    trainer = Trainer(task, Budget(steps=1))
    training_step = task.training_step

    def record(*args):
        grads.append([p.grad for p in task.module.parameters()])
        return training_step(*args)

    trainer.training_step = record
    list(trainer.run())
    assert grads == [[None] * 4] * 2


@pytest.mark.parametrize("stop", [1, 60, 130])
def test_two_alternating_networks_continue_exactly(stop):
    whole = list(Trainer(GANTask(), Budget(steps=150), seed=4).run())
    first, before = Trainer(GANTask(), Budget(steps=150), seed=4), []
    for event in first.run():
        before.append(event)
        if event.step == stop:
            break
    task = GANTask()
    second = Trainer(task, Budget(steps=150), seed=4)
    second.load_state_dict(first.state_dict())
    assert without_times(before + list(second.run())) == without_times(whole)
    assert of_type(EvalEvent, whole)[-1].held_out < of_type(EvalEvent, whole)[0].held_out


def test_noise_of_a_task_differs_between_steps_and_processes():
    class NoiseTask(BigramTask):
        def training_step(self, batch, progress, phase, generator):
            noises.append(torch.rand(1, generator=generator).item())
            dropped.append(tuple(F.dropout(torch.ones(20)).tolist()))
            return super().training_step(batch, progress, phase, generator)

    class Fake(DistributedContext):
        def sum(self, number):
            return float(next(seconds))

        def average(self, tensors):
            pass

    noises, dropped, seconds = [], [], itertools.count(1)
    for rank in (0, 1):
        list(Trainer(NoiseTask(), Budget(steps=3), distributed=Fake(rank, 2)).run())
    assert len(set(noises)) == len(set(dropped)) == 6


# Time


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def takes(self, seconds, call=lambda *_: None):
        """`call`, made to take so long."""

        def slow(*args, **options):
            self.now += seconds
            return call(*args, **options)

        return slow


def test_minutes_are_time_that_was_spent(monkeypatch):
    monkeypatch.setattr(module, "REPLAY_STEPS", ())
    clock = Clock(monkeypatch)
    trainer = make(Budget(minutes=1))
    trainer.task.sample_batch = clock.takes(0.5, trainer.task.sample_batch)
    trainer.task.validate = clock.takes(2, trainer.task.validate)
    events = list(trainer.run())
    steps = of_type(StepEvent, events)
    assert steps[0].progress == pytest.approx(0.5 / 60)
    assert steps[9].progress == pytest.approx(7 / 60)
    assert {event.tokens_per_second for event in steps[:2]} == {20}
    assert [event.seconds for event in of_type(EvalEvent, events)] == [3, 32, 62]
    assert (events[-1].seconds, events[-1].step) == (62, 112)


def test_samples_are_at_least_their_interval_apart(monkeypatch):
    clock = Clock(monkeypatch)
    trainer = make(Budget(minutes=1), eval_interval=0.1, sample_interval_s=15, replay=False)
    trainer.task.sample_batch = clock.takes(1, trainer.task.sample_batch)
    events = list(trainer.run())
    assert [event.seconds for event in of_type(EvalEvent, events)] == [1, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60]
    assert [event.step for event in of_type(SampleEvent, events)] == [1, 18, 36, 54, 60]  # and one at the end
    assert of_type(ReplayEvent, events) == []


@pytest.fixture
def timed(monkeypatch):
    """A function that makes a trainer whose parts take 1, 2, 4, ... seconds each time."""

    def make_timed(**options):
        clock = Clock(monkeypatch)
        trainer = make(Budget(steps=2), **options)
        task = trainer.task
        task.sample_batch = clock.takes(1, task.sample_batch)
        task.module.register_forward_pre_hook(clock.takes(2))
        task.module.logits.register_hook(clock.takes(4))
        trainer.optimizers[0].register_step_pre_hook(clock.takes(8))
        task.validate, task.sample = clock.takes(16, task.validate), clock.takes(32, task.sample)
        return trainer, clock

    return make_timed


def test_timings_add_up(timed):
    trainer, clock = timed()
    for event in trainer.run():
        if not isinstance(event, EndEvent):
            clock.now += 64  # the caller saves
    timings = {"data": 2, "forward": 4, "backward": 8, "optimizer": 16, "evaluation": 3 * 48 + 32, "saving": 8 * 64}
    assert trainer.timings == event.timings == timings
    assert clock.now - 100 == sum(timings.values())


def test_first_batch_of_a_shape_is_compiling(timed, monkeypatch):
    monkeypatch.setattr(module.torch, "compile", lambda step, dynamic: step)
    trainer, _ = timed(compile=True)
    *_, end = trainer.run()
    assert (end.timings["compiling"], end.timings["forward"], end.timings["backward"]) == (14, 2, 4)


def test_resumed_run_continues_its_timings(timed):
    trainer, _ = timed()
    next(event for event in trainer.run() if isinstance(event, StepEvent))
    resumed, _ = timed()
    resumed.load_state_dict(trainer.state_dict())
    *_, end = resumed.run()
    assert (end.timings["data"], end.timings["forward"]) == (2, 4)


# Several processes


def test_clock_of_the_main_process_counts_for_all(monkeypatch):
    monkeypatch.setattr(module, "REPLAY_STEPS", ())
    clock, sent = Clock(monkeypatch), []

    class Second(DistributedContext):
        def sum(self, number):
            sent.append(number)
            return 20.0 * len(sent)

        def average(self, tensors):
            pass

    trainer = make(Budget(minutes=1), distributed=Second(1, 2))
    trainer.next_evaluation = 1
    trainer.task.sample_batch = clock.takes(1000, trainer.task.sample_batch)
    steps = of_type(StepEvent, trainer.run())
    assert [step.progress for step in steps] == pytest.approx([1 / 3, 2 / 3, 1])
    assert set(sent) == {0.0}


def test_process_trains_on_its_shard_and_counts_all(monkeypatch):
    monkeypatch.setattr(module, "REPLAY_STEPS", ())

    class Fake(DistributedContext):
        def sum(self, number):
            return 1.0

        def average(self, tensors):
            loss, *grads = tensors
            assert [grad.shape for grad in grads] == [(4, 4)]
            loss.fill_(7.0)

    trainer = make(Budget(steps=1), distributed=Fake(1, 2))
    seen = []
    trainer.task.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step, *_, end = trainer.run()
    whole, _ = trainer.task.sample_batch(0.0, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], whole[1:])
    assert (step.loss, end.tokens) == (7.0, 2 * 5)


# Precision and compilation


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own use of it
def test_compiled_step_learns_the_same(data):
    from train.configs import GPTTrainConfig
    from train.tasks import TASKS
    from train.tokenizers import tokenize

    def train(compile):
        config = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
        with module.seeded_rng(0, torch.device("cpu")):
            task = TASKS["causal_lm"](config, tokenize(data))
        trainer = Trainer(task, Budget(steps=2), compile=compile)
        return [event.loss for event in of_type(StepEvent, trainer.run())], trainer

    (compiled, trainer), (plain, _) = train(True), train(False)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert trainer.timings["compiling"] > trainer.timings["forward"]


@pytest.mark.parametrize("low_precision", [True, False])
def test_training_step_runs_under_autocast_and_weights_stay_float32(low_precision):
    task, dtypes = BigramTask(), []
    task.training_step = lambda *_: (
        dtypes.append((task.module.logits @ task.module.logits).dtype) or {"loss": task.module.logits.square().mean()}
    )
    list(Trainer(task, Budget(steps=2), low_precision=low_precision).run())
    assert set(dtypes) == {torch.bfloat16 if low_precision else torch.float32}
    assert task.module.logits.dtype == torch.float32


def test_non_finite_loss_ends_the_run():
    trainer = make(Budget(steps=50))
    with torch.no_grad():
        trainer.task.module.logits.fill_(math.nan)
    with pytest.raises(ValueError, match="the loss is nan after step 0; the learning rates are too high"):
        list(trainer.run())


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 1}])
def test_budget_is_either_steps_or_minutes(budget):
    with pytest.raises(ValueError, match="a budget is either steps or minutes"):
        Budget(**budget)


@pytest.mark.parametrize("budget", [{"steps": 0}, {"steps": -5}, {"minutes": -1}, {"minutes": math.nan}, {"minutes": math.inf}])
def test_budget_must_be_positive_and_finite(budget):
    with pytest.raises(ValueError, match="it must be a number above 0"):
        Budget(**budget)

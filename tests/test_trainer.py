import math
from itertools import pairwise

import pytest
import torch

from gpt import Bigram, BigramConfig
from train import trainer as training
from train.distributed import DistributedContext
from train.trainer import Budget, EndEvent, EvalEvent, SampleEvent, StepEvent, Trainer, learning_rate_factor


def make(budget, seed=0, evaluations=None, rate=0.1, **options):
    """A trainer of a bigram of four tokens, on a text in which each is followed by the next."""
    model = Bigram(BigramConfig(4))

    def batch(progress, generator):
        ids = torch.randint(4, (2, 5), generator=generator)
        return ids, (ids + 1) % 4

    evaluate = iter(evaluations) if evaluations else None
    text = torch.arange(4)

    def evaluate():
        if evaluate:
            return next(evaluate)
        return torch.nn.functional.cross_entropy(model.logits.detach(), (text + 1) % 4).item()

    optimizers = [torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)]
    return Trainer(model, optimizers, batch, evaluate, lambda: "a text", budget, seed, **options)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0, 0.05), (0.001, 0.05), (0.01, 0.5), (0.02, 0.98), (0.05, 0.95), (0.5, 0.5), (0.9, 0.1), (1, 0)]
)
def test_schedule(progress, factor):
    assert learning_rate_factor(progress) == pytest.approx(factor)


def test_the_schedule_reaches_the_optimizers():
    trainer = make(Budget(steps=100), rate=0.2)
    rates = []
    for event in trainer.run():
        if isinstance(event, StepEvent):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.2 * learning_rate_factor(step / 100) for step in range(100)])


def test_events_come_in_order():
    events = list(make(Budget(steps=250)).run())
    kinds = [type(event) for event in events]
    look = [EvalEvent, SampleEvent]
    # Every hundred steps are 0.4 of the budget; the end is always looked at.
    assert kinds == [StepEvent] * 100 + look + [StepEvent] * 100 + look + [StepEvent] * 50 + look + [EndEvent]
    assert [event.step for event in events if isinstance(event, StepEvent)] == list(range(1, 251))
    assert [event.step for event in events if isinstance(event, EvalEvent)] == [100, 200, 250]
    assert events[-1] == EndEvent(250, events[-1].seconds, 250 * 2 * 5)
    assert [event.text for event in events if isinstance(event, SampleEvent)] == ["a text"] * 3


def test_a_long_run_is_looked_at_twenty_times():
    events = list(make(Budget(steps=2000)).run())
    assert [event.step for event in events if isinstance(event, EvalEvent)] == list(range(100, 2001, 100))


def test_progress_runs_to_one():
    progress = [event.progress for event in make(Budget(steps=50)).run() if isinstance(event, StepEvent)]
    assert progress == pytest.approx([(i + 1) / 50 for i in range(50)])


def test_seconds_and_tokens_only_grow():
    events = list(make(Budget(steps=120)).run())
    seconds = [event.seconds for event in events if isinstance(event, EvalEvent | EndEvent)]
    assert all(a <= b for a, b in pairwise(seconds))
    assert all(event.tokens_per_second > 0 for event in events if isinstance(event, StepEvent))


def test_a_single_step():
    kinds = [type(event) for event in make(Budget(steps=1)).run()]
    assert kinds == [StepEvent, EvalEvent, SampleEvent, EndEvent]


def test_losses_are_means_since_the_last_time():
    events = list(make(Budget(steps=200)).run())
    steps = [event.loss for event in events if isinstance(event, StepEvent)]
    losses = [event.train for event in events if isinstance(event, EvalEvent)]
    assert losses == pytest.approx([sum(steps[:100]) / 100, sum(steps[100:]) / 100])


def test_the_best_is_the_lowest_so_far():
    events = make(Budget(steps=500), evaluations=[3.0, 2.0, 2.5, 2.0, 1.0]).run()
    assert [event.best for event in events if isinstance(event, EvalEvent)] == [True, True, False, False, True]


def test_it_learns():
    losses = [event.evaluate for event in make(Budget(steps=300), rate=0.05).run() if isinstance(event, EvalEvent)]
    assert losses[-1] < losses[0] / 2 < math.log(4) / 2


def test_a_target_of_minus_one_does_not_count():
    trainer = make(Budget(steps=3))
    loss = trainer.loss(torch.tensor([[0, 1]]), torch.tensor([[1, -1]]))
    assert loss.item() == pytest.approx(trainer.loss(torch.tensor([[0]]), torch.tensor([[1]])).item())


def test_a_seed_repeats_and_another_differs():
    one, again, other = ([e.loss for e in make(Budget(steps=20), seed).run() if isinstance(e, StepEvent)] for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_training_mode_is_back_after_every_look():
    trainer = make(Budget(steps=200))
    sample = trainer.sample

    def sample_in_eval():
        trainer.model.eval()
        return sample()

    trainer.sample = sample_in_eval
    assert all(trainer.model.training for event in trainer.run() if not isinstance(event, EndEvent))


@pytest.mark.parametrize("stop", [1, 37, 99, 100, 150, 199])
def test_a_saved_trainer_goes_on_exactly(stop):
    whole = list(make(Budget(steps=200), seed=3).run())
    first = make(Budget(steps=200), seed=3)
    before = []
    for event in first.run():
        before.append(event)
        if event.step == stop:
            break
    second = make(Budget(steps=200), seed=3)
    second.load_state_dict(first.state_dict())
    after = list(second.run())

    def facts(events):
        timeless = {"seconds", "tokens_per_second", "spent"}
        return [(type(e), {k: v for k, v in vars(e).items() if k not in timeless}) for e in events]

    assert facts(before + after) == facts(whole)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(training.time, "perf_counter", lambda: self.now)

    def takes(self, seconds, call=lambda *_: None):
        """`call`, made to take so long."""

        def slowly(*args):
            self.now += seconds
            return call(*args)

        return slowly


def test_minutes_are_the_time_that_was_spent(monkeypatch):
    clock = Clock(monkeypatch)
    trainer = make(Budget(minutes=1))
    trainer.batch = clock.takes(0.5, trainer.batch)
    trainer.evaluate = clock.takes(2, trainer.evaluate)
    events = list(trainer.run())
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert steps[9].progress == pytest.approx(5 / 60)
    assert {event.tokens_per_second for event in steps[:9]} == {20}
    looks = [event.seconds for event in events if isinstance(event, EvalEvent)]
    assert looks == [32, 62]  # half a minute of two: a look costs as much as dozens of steps
    assert events[-1].seconds == 62
    assert events[-1].step == 116


@pytest.fixture
def timed(monkeypatch):
    """A trainer whose parts take 1, 2, 4, ... seconds each time."""

    def of(**options):
        clock = Clock(monkeypatch)
        trainer = make(Budget(steps=2), **options)
        trainer.batch = clock.takes(1, trainer.batch)
        trainer.model.register_forward_pre_hook(clock.takes(2))
        trainer.model.logits.register_hook(clock.takes(4))
        trainer.optimizers[0].register_step_pre_hook(clock.takes(8))
        trainer.evaluate, trainer.sample = clock.takes(16, trainer.evaluate), clock.takes(32, trainer.sample)
        return trainer, clock

    return of


def test_where_the_time_goes(timed):
    trainer, clock = timed()
    for event in trainer.run():
        if not isinstance(event, EndEvent):
            clock.now += 64  # whoever listens saves
    parts = {"data": 2, "forward": 4, "backward": 8, "optimizer": 16, "evaluation": 48, "saving": 4 * 64}
    assert trainer.timings == event.timings == parts
    assert clock.now - 100 == sum(parts.values())


def test_the_first_batch_of_a_shape_is_compiling(timed, monkeypatch):
    monkeypatch.setattr(training.torch, "compile", lambda loss, dynamic: loss)
    trainer, _ = timed(compile=True)
    *_, done = trainer.run()
    assert (done.timings["compiling"], done.timings["forward"], done.timings["backward"]) == (14, 2, 4)


def test_a_resumed_run_goes_on_counting_its_time(timed):
    trainer, _ = timed()
    next(trainer.run())
    state = trainer.state_dict()
    resumed, _ = timed()
    resumed.load_state_dict(state)
    *_, done = resumed.run()
    assert (done.timings["data"], done.timings["forward"]) == (2, 4)
    del state["spent"]  # as it was once saved
    older, _ = timed()
    older.load_state_dict(state)
    *_, done = older.run()
    assert (done.timings["data"], done.timings["forward"]) == (1, 2)


def test_all_processes_go_by_the_clock_of_the_first(monkeypatch):
    clock, heard = Clock(monkeypatch), []

    class Second(DistributedContext):
        def sum(self, number):
            heard.append(number)
            return 20.0 * len(heard)

        def average(self, tensors):
            pass

    trainer = make(Budget(minutes=1), processes=Second(1, 2))
    trainer.batch = clock.takes(1000, trainer.batch)
    steps = [event for event in trainer.run() if isinstance(event, StepEvent)]
    assert [step.progress for step in steps] == pytest.approx([1 / 3, 2 / 3, 1])
    assert set(heard) == {0.0}


def test_a_process_trains_on_its_share_and_counts_all():
    class Fake(DistributedContext):
        def sum(self, number):
            return 1.0

        def average(self, tensors):
            loss, *grads = tensors
            assert [grad.shape for grad in grads] == [(4, 4)]
            loss.fill_(7.0)

    trainer = make(Budget(steps=1), processes=Fake(1, 2))
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step, *_, done = trainer.run()
    whole, _ = trainer.batch(0.0, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], whole[1:])
    assert (step.loss, done.tokens) == (7.0, 2 * 5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own use of it
def test_a_compiled_model_learns_the_same(make_gpt):
    def losses(compile):
        model = make_gpt(vocab_size=8, num_hidden_layers=1, hidden_size=32, intermediate_size=32)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]

        def batch(progress, generator):
            ids = torch.randint(8, (2, 9), generator=generator)
            return ids[:, :-1], ids[:, 1:]

        trainer = Trainer(model, optimizers, batch, lambda: 0.0, lambda: "", Budget(steps=3), compile=compile)
        return [event.loss for event in trainer.run() if isinstance(event, StepEvent)], trainer

    (compiled, trainer), (plain, _) = losses(True), losses(False)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert trainer.loss != trainer._loss
    assert trainer.timings["compiling"] > trainer.timings["forward"]


@pytest.mark.parametrize("low_precision", [True, False])
def test_weights_stay_in_full_precision(low_precision):
    trainer = make(Budget(steps=5), low_precision=low_precision)
    events = list(trainer.run())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, StepEvent))


def test_a_loss_that_is_no_number_ends_the_run():
    trainer = make(Budget(steps=50))

    def batch(progress, generator):
        with torch.no_grad():
            trainer.model.logits.fill_(math.nan)
        return torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)

    trainer.batch = batch
    with pytest.raises(ValueError, match="the loss is no number after step 0"):
        list(trainer.run())


@pytest.mark.parametrize("budget", [{}, {"steps": 1, "minutes": 1}])
def test_a_budget_is_one_of_steps_and_minutes(budget):
    with pytest.raises(ValueError, match="a budget is either steps or minutes"):
        Budget(**budget)


@pytest.mark.parametrize("budget", [{"steps": 0}, {"steps": -5}, {"minutes": 0}, {"minutes": -1}, {"minutes": math.nan}])
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(ValueError, match="is none; it must be a number above 0"):
        Budget(**budget)


def test_a_budget_without_end_is_refused():
    with pytest.raises(ValueError, match="a budget of inf is none"):
        Budget(minutes=math.inf)

"""Training a text GAN: its losses and penalties by hand, its averages, exact resuming, and the checks of a run."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gpt import TextGAN, load
from gpt.checkpoint import REPLAY
from train.configs import GANTrainConfig
from train.runs import train
from train.sample_metrics import SAMPLE_LINES, SAMPLE_SEED, js_divergence, texts_of
from train.tasks import gan as module
from train.tasks.gan import (
    HISTORY_LINES,
    HISTORY_SHARE,
    PENALTY_INTERVAL,
    SELECTION_SEED,
    GANTask,
    gradient_penalty,
    pad_lines,
    relativistic_loss,
)
from train.tokenizers import tokenize
from train.trainer import Budget, EvalEvent, ReplayEvent, StepEvent, Trainer

TINY = GANTrainConfig(layers=1, width=8, latent=4, context=6, batch_lines=8)


@pytest.fixture
def task(line_data):
    torch.manual_seed(0)
    return GANTask(TINY, tokenize(line_data))


def start(line_data, out, steps=60, **options):
    return train("gan", TINY, line_data, out, Budget(steps=steps), seed=3, command="a test", **options)


def without_times(events):
    times = {"seconds", "tokens_per_second", "timings"}
    return [(type(event), {name: value for name, value in vars(event).items() if name not in times}) for event in events]


# Losses


def test_relativistic_loss_by_hand():
    loss = relativistic_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)


class Quadratic(nn.Module):
    """A discriminator with two parameters: a * sum of x^2 + b * sum of x."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, lines):
        return (self.a * lines.square() + self.b * lines).sum(dim=(1, 2))


def test_gradient_penalty_of_two_parameters_by_hand():
    discriminator = Quadratic()
    lines = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]], requires_grad=True)  # (B=2, T=1, V=2)
    penalty = gradient_penalty(lines, discriminator(lines))
    # The gradient at x is 2 a x + b: (-1, -2) of the first line, (-2, 1) of the second.
    assert penalty.item() == pytest.approx((1 + 4 + 4 + 1) / 2)
    # Of the squared norm by a it is the sum of 4 x (2 a x + b), by b the sum of 2 (2 a x + b).
    a, b = torch.autograd.grad(penalty, [discriminator.a, discriminator.b])
    assert a.item() == pytest.approx((4 * 1 * -1 + 4 * 3 * 1) / 2)
    assert b.item() == pytest.approx((2 * -1 + 2 * -2 + 2 * -2 + 2 * 1) / 2)


def test_gradient_penalty_of_the_network_equals_finite_differences(task):
    discriminator = task.gan.discriminator.double()
    ids = task.lines[:2]
    lines = torch.eye(len(task.dataset.tokenizer), dtype=torch.float64)[ids].requires_grad_()
    penalty = gradient_penalty(lines, discriminator(lines))
    total, h = 0.0, 1e-6
    for index in torch.cartesian_prod(*map(torch.arange, lines.shape)).tolist():
        step = torch.zeros_like(lines)
        step[tuple(index)] = h
        total += ((discriminator(lines + step) - discriminator(lines - step)).sum().item() / (2 * h)) ** 2
    assert penalty.item() == pytest.approx(total / 2, rel=1e-5)


def test_penalty_is_added_in_every_fourth_step(task):
    batch = task.sample_batch(0, torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in task.module.state_dict().items()}

    def losses(step, penalty):
        task.module.load_state_dict(state)
        task.module.step.fill_(step)
        task.config = replace(TINY, penalty=penalty)
        return {name: loss.item() for name, loss in task.training_step(batch, 0, 0, torch.Generator().manual_seed(1)).items()}

    for step in range(1, PENALTY_INTERVAL):
        assert losses(step, 1.0)["loss"] == losses(step, 1.0)["discriminator"]
    without, once, twice = (losses(PENALTY_INTERVAL, penalty) for penalty in (0.0, 1.0, 2.0))
    assert without["loss"] == without["discriminator"] == pytest.approx(losses(1, 1.0)["discriminator"], abs=1e-6)
    assert once["loss"] - once["discriminator"] > 0
    assert twice["loss"] - twice["discriminator"] == pytest.approx(2 * (once["loss"] - once["discriminator"]), rel=1e-4)


def test_each_phase_trains_one_network(task):
    trainer = Trainer(task, Budget(steps=9), replay=False)
    batch = task.sample_batch(0, torch.Generator().manual_seed(0))
    for phase, (trained, other) in enumerate(
        [(task.gan.discriminator, task.gan.generator), (task.gan.generator, task.gan.discriminator)]
    ):
        before = [[p.clone() for p in network.parameters()] for network in (trained, other)]
        task.training_step(batch, 0, phase, torch.Generator().manual_seed(1))["loss"].backward()
        for optimizer in trainer.phases[phase]:
            optimizer.step()
        task.module.zero_grad()
        changed = [not torch.equal(a, b) for a, b in zip(before[0], trained.parameters(), strict=True)]
        assert all(changed[:-1])  # the last one of the discriminator is the offset of its scores, which has no gradient
        assert all(torch.equal(a, b) for a, b in zip(before[1], other.parameters(), strict=True))


# Lines, history and averages


def test_lines_are_padded_with_end_tokens(task, line_data):
    documents = task.dataset.train
    lines = pad_lines(documents, task.gan)
    assert lines.shape == (len(documents), 6)
    for line, document in zip(lines.tolist(), documents, strict=True):
        assert line == [*document.tolist()[1:], *[0] * (6 - len(document) + 1)]


def test_share_of_generated_lines_is_from_the_history(task):
    history = task.module.history
    assert history.shape == (HISTORY_LINES, 6)
    history.fill_(5)
    mixed = task._with_history(torch.full((8, 6), 7), torch.Generator().manual_seed(0))
    assert mixed[:, 0].tolist() == [5] * (8 // HISTORY_SHARE) + [7] * (8 - 8 // HISTORY_SHARE)
    assert (history[:, 0] == 7).sum() == 8 // HISTORY_SHARE


def test_average_follows_both_networks(task):
    average = {name: p.clone() for name, p in task.model.named_parameters()}
    with torch.no_grad():
        for p in task.gan.parameters():
            p += 1
    task.on_step_end(1)
    decay = 2 / 11
    for name, p in task.model.named_parameters():
        assert torch.allclose(p, average[name] + 1 - decay, atol=1e-6)
    before = task.model.generator.lm_head.bias.clone()
    task.on_step_end(10**6)  # 0.999 from then on
    own = task.gan.generator.lm_head.bias
    assert torch.allclose(task.model.generator.lm_head.bias, 0.999 * before + 0.001 * own, atol=1e-6)


def test_shown_losses_are_means_over_steps(task):
    events = Trainer(task, Budget(steps=12), seed=1, replay=False).run()
    steps = [event for event in events if isinstance(event, StepEvent)]
    for i, name in enumerate(("discriminator", "generator")):
        mean = sum(event.metrics[name] for event in steps) / len(steps)
        assert task.module.losses[i].item() == pytest.approx(mean, rel=1e-4)


def test_validation_is_the_divergence_of_trigrams_and_measures_real_lines(task):
    loss = task.validate(0)["loss"]
    held_out = texts_of(task.dataset, task.dataset.held_out)
    lm = TextGAN(task.model, task.dataset.tokenizer)
    assert loss == js_divergence(lm.sample(SAMPLE_LINES, SELECTION_SEED), held_out, 3)
    scores = sorted(lm.scores(held_out))
    assert task.model.reference_scores[[0, -1]].tolist() == pytest.approx([scores[0], scores[-1]])
    (score,) = lm.scores(held_out[:1])
    lower = sum(other < score - 1e-6 for other in scores)
    assert lm.discriminate(held_out[:1])[0] == pytest.approx(lower / len(scores), abs=0.25)


# Runs


def test_resumed_run_equals_an_uninterrupted_one(line_data, tmp_path):
    """Both networks, both optimizers, both averages, the history and the shown losses."""
    events = list(start(line_data, tmp_path / "whole"))
    interrupted = start(line_data, tmp_path / "parts")
    before = []
    for event in interrupted:
        before.append(event)
        if isinstance(event, StepEvent) and event.step == 31:
            break
    interrupted.close()
    after = list(start(line_data, tmp_path / "parts", resume=True))
    assert without_times(before + after) == without_times(events)
    whole, parts = (torch.load(tmp_path / name / "resume.pt", weights_only=True)["trainer"] for name in ("whole", "parts"))
    assert whole["module"].keys() >= {"history", "losses", "step", "gan.generator.lm_head.bias", "average.generator.lm_head.bias"}
    assert all(torch.equal(whole["module"][name], value) for name, value in parts["module"].items())
    assert len(whole["optimizers"]) == 2
    for a, b in zip(whole["optimizers"], parts["optimizers"], strict=True):
        for state, other in zip(a["state"].values(), b["state"].values(), strict=True):
            assert all(torch.equal(state[name], other[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    written = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(written[0][name], value) for name, value in written[1].items())


def test_run_writes_its_samples_and_no_likelihood(line_data, tmp_path):
    events = list(start(line_data, tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    lm = load(tmp_path / "run")
    assert "held_out" not in facts
    assert facts["samples"]["lines"] == 54  # not more than there are training lines
    assert facts["samples"]["unique"] == len(set(lm.sample(54, SAMPLE_SEED))) / 54
    assert facts["samples"]["judge"] is None
    assert facts["sample"]["text"] == "\n".join(lm.sample(20, 3))
    best = min(event.held_out for event in events if isinstance(event, EvalEvent))
    held_out = texts_of(tokenize(line_data), tokenize(line_data).held_out)
    assert js_divergence(lm.sample(SAMPLE_LINES, SELECTION_SEED), held_out, 3) == pytest.approx(
        best, abs=0.01
    )  # stored in float16
    points = json.loads((tmp_path / "run" / REPLAY).read_text())["points"]
    assert [point["step"] for point in points] == [e.step for e in events if isinstance(e, ReplayEvent)] == [0, 10, 30, 60]
    assert points[0]["discriminator"] is points[0]["generator"] is None
    for point in points:
        assert len(point["lines"]) == 20
        assert len(point["js_divergence"]) == 4
        assert point["js_divergence"][2] == point["held_out"]
    assert points[-1]["discriminator"] == pytest.approx(math.log(2), abs=0.3)
    assert "no loss in bits per character" in (tmp_path / "run" / "README.md").read_text()


def test_collapsed_generator_fails_its_run(line_data, tmp_path, monkeypatch):
    monkeypatch.setattr(module.GANTask, "final_metrics", collapsed(module.GANTask.final_metrics))
    with pytest.raises(ValueError, match=r"the model has collapsed: only 2% of 54 samples are different"):
        list(start(line_data, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "training.json").read_text())["samples"]["unique"] == 1 / 54


def collapsed(final_metrics):
    """Measure a generator that has forgotten its latent vector."""

    def measure(task, lm, seconds):
        lm.model.generator.latent_to_line.weight.data.zero_()
        return final_metrics(task, lm, seconds)

    return measure


def test_running_text_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="a GAN is trained on lines; give --lines"):
        list(train("gan", TINY, data, tmp_path / "run", Budget(steps=5), seed=3, command="a test"))

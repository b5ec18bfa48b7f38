"""Distillation: the loss, the task, and whole runs."""

import json
import math
from dataclasses import replace

import pytest
import torch

from gpt import load
from train.configs import GPTTrainConfig
from train.counting import fit_ngram
from train.data import LineSampler
from train.evaluate import evaluate
from train.runs import fit_counts, load_trained, train
from train.tasks.distillation import DistillationTask, distillation_loss
from train.tokenizers import tokenize
from train.trainer import Budget, EndEvent, StepEvent

TINY = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)


def count(data, out):
    list(fit_counts(data, out, seed=1, command="a test", kind="ngram", fit=fit_ngram))
    return str(out)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """The folder of an n-gram of the text."""
    return count(data, tmp_path_factory.mktemp("teacher") / "ngram")


def start(data, out, teacher, budget=Budget(steps=60), config=TINY, **options):
    lm, _ = load_trained(teacher, data)
    return train("gpt", config, data, out, budget, seed=5, command="a test", teacher=lm, **options)


def losses(events):
    return [event.loss for event in events if isinstance(event, StepEvent)]


# The loss


def test_loss_is_the_cross_entropy_against_the_teacher():
    logits = torch.tensor([[[0.0, math.log(3)]]])  # 1/4 and 3/4
    probs = torch.tensor([[[0.5, 0.5]]])
    loss = distillation_loss(logits, torch.tensor([[0]]), probs)
    assert loss.item() == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(4 / 3))  # 0.837


def test_positions_without_a_target_do_not_count():
    logits = torch.tensor([[[0.0, math.log(3)], [9.0, 0.0]]])
    probs = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    loss = distillation_loss(logits, torch.tensor([[1, -1]]), probs)
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_gradient_is_zero_where_the_student_agrees_with_the_teacher():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distillation_loss(logits, torch.zeros(2, 3), logits.detach().softmax(dim=-1)).backward()
    assert logits.grad.abs().max() < 1e-7


# The task


def test_batch_has_the_probabilities_of_the_teacher(data, teacher):
    lm, _ = load_trained(teacher, data)
    task = DistillationTask(TINY, tokenize(data), "", 0, "cpu", lm.model)
    inputs, targets, probs = task.sample_batch(0.0, torch.Generator().manual_seed(0))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    torch.testing.assert_close(probs, lm.model(inputs)[0].softmax(dim=-1))
    assert probs.sum(dim=-1) == pytest.approx(torch.ones(probs.shape[:2]), abs=1e-5)


def test_lines_can_be_distilled(line_data, tmp_path):
    lm, _ = load_trained(count(line_data, tmp_path / "lines"), line_data)
    task = DistillationTask(TINY, tokenize(line_data), "", 0, "cpu", lm.model)
    assert isinstance(task.line_sampler, LineSampler)
    batch = task.sample_batch(0.0, torch.Generator().manual_seed(0))
    task.training_step(batch, 0.0, 0, torch.Generator())["loss"].backward()


# Runs


def test_student_approaches_its_teacher(data, teacher, tmp_path):
    list(start(data, tmp_path / "out", teacher, Budget(steps=300)))
    tokens = tokenize(data)
    student, expected = (evaluate(load(name).model, tokens.held_out).nats_per_token for name in (tmp_path / "out", teacher))
    assert student < expected + 0.1
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["teacher"]["name"] == "ngram"
    assert len(facts["teacher"]["nll"]) == 64
    assert "gradient descent, on the probabilities of ngram (distillation)" in (tmp_path / "out" / "README.md").read_text()


def test_stopped_run_continues_exactly(data, teacher, tmp_path):
    whole = losses(start(data, tmp_path / "whole", teacher))
    run, before = start(data, tmp_path / "out", teacher), []
    for event in run:
        before.append(event)
        if event.step == 25:
            run.close()
            break
    after = list(start(data, tmp_path / "out", teacher, resume=True))
    assert losses(before + after) == whole
    assert isinstance(after[-1], EndEvent)


def test_resuming_without_the_teacher_is_refused(data, teacher, tmp_path):
    run = start(data, tmp_path / "out", teacher)
    next(run)
    run.close()
    with pytest.raises(ValueError, match="'teacher'"):
        list(train("gpt", TINY, data, tmp_path / "out", Budget(steps=60), seed=5, command="a test", resume=True))


def test_teacher_of_other_data_is_refused(data, teacher):
    with pytest.raises(ValueError, match="was not trained on this text"):
        load_trained(teacher, replace(data, sha256="1" * 64))


def test_teacher_with_another_tokenizer_is_refused(data, teacher, tmp_path):
    with pytest.raises(ValueError, match="ngram has another tokenizer"):
        list(start(data, tmp_path / "out", teacher, tokenizer="bpe:300"))
    assert not (tmp_path / "out").exists()

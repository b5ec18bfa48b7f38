"""Training a masked diffusion model: its batches, its bound on held-out text, and a whole run."""

import json
import math
from dataclasses import replace

import pytest
import safetensors
import torch
from generators import run_to_end

from gpt import GPTConfig, MaskedDiffusion, MaskedDiffusionConfig, TextDiffusion, load
from train.configs import DiffusionTrainConfig, GPTTrainConfig
from train.runs import load_trained, train
from train.tasks.diffusion import DiffusionTask, evaluate_bound, measure_text_samples, pad_lines
from train.tokenizers import tokenize
from train.trainer import Budget, EvalEvent, StepEvent

TINY = DiffusionTrainConfig(layers=1, width=32, heads=2, context=16, batch_tokens=128)
BUDGET = Budget(steps=120)


@pytest.fixture(scope="module")
def lines(line_data):
    return tokenize(line_data)


@pytest.fixture(scope="module")
def text(data):
    return tokenize(data, "char", 16)


def start(dataset, out, **options):
    return train("diffusion", TINY, dataset, out, BUDGET, seed=5, command="a test", **options)


def weights_of(out):
    return load(out).model.state_dict()


def facts_of(out):
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def uniform_model(tokens, context_length):
    return MaskedDiffusion(MaskedDiffusionConfig(len(tokens.tokenizer), context_length, 16, 16, 1, 2, tokens.eos_token_id))


def test_bound_of_a_uniform_model_is_the_uniform_loss(text):
    result = evaluate_bound(uniform_model(text, 16), text.held_out, text.held_out_text)
    assert result.nats_per_token == pytest.approx(math.log(len(text.tokenizer)), abs=1e-5)
    assert result.tokens == len(text.held_out[0]) - 1
    assert result.bits_per_character == pytest.approx(result.nats_per_token / math.log(2))


def test_bound_of_lines_counts_the_padding_as_a_cost_of_the_line(lines):
    length = max(map(len, [*lines.train, *lines.held_out]))
    result = evaluate_bound(uniform_model(lines, length), lines.held_out)
    nats = len(lines.held_out) * (length - 1) * math.log(len(lines.tokenizer))
    assert result.nats_per_token * result.tokens == pytest.approx(nats, rel=1e-5)
    assert result.tokens == sum(len(document) - 1 for document in lines.held_out)


def test_bound_restores_the_mode_of_the_model(text):
    model = uniform_model(text, 16).train()
    evaluate_bound(model, text.held_out, samples=1)
    assert model.training


def test_lines_are_padded_with_end_tokens(lines):
    length = max(map(len, lines.train))
    padded = pad_lines(lines.train, uniform_model(lines, length))
    for row, document in zip(padded, lines.train, strict=True):
        assert torch.equal(row[: len(document)], document)
        assert (row[len(document) :] == lines.eos_token_id).all()


def test_windows_grow(text):
    task = DiffusionTask(TINY, text)
    shapes = [task.sample_batch(progress, torch.Generator().manual_seed(0))[0].shape for progress in (0, 0.1, 0.2, 0.45, 1)]
    assert shapes == [(64, 2), (32, 4), (16, 8), (8, 16), (8, 16)]


def test_batches_hide_what_is_to_be_predicted(text):
    inputs, targets = DiffusionTask(TINY, text).sample_batch(1, torch.Generator().manual_seed(0))
    mask_id = len(text.tokenizer)
    assert torch.equal(inputs == mask_id, targets >= 0)
    assert (targets < mask_id).all()
    joined = text.tokenizer.decode(text.train[0].tolist())
    for row, hidden in zip(inputs, targets, strict=True):
        assert text.tokenizer.decode(torch.where(hidden >= 0, hidden, row).tolist()) in joined


@pytest.mark.parametrize("kind", ["text", "lines"])
def test_run_learns_and_writes_a_complete_folder(data, line_data, tmp_path, kind):
    events = list(start(data if kind == "text" else line_data, tmp_path / "out"))
    losses = [event.loss for event in events if isinstance(event, StepEvent)]
    assert sum(losses[-20:]) < sum(losses[:20])
    held_out = [event.held_out for event in events if isinstance(event, EvalEvent)]
    assert held_out[-1] < held_out[0]
    facts, lm = facts_of(tmp_path / "out"), load(tmp_path / "out")
    assert type(lm) is TextDiffusion
    assert facts["finished"]
    assert facts["held_out"]["bound_samples"] == 4
    assert facts["check"]["nll"] == pytest.approx(lm.fingerprint(facts["check"]["text"]), abs=1e-5)
    assert facts["sample"]["text"] == lm.example(facts["sample"]["prompt"], 5)["text"]
    samples, replay = facts["samples"], json.loads((tmp_path / "out" / "replay.json").read_text(encoding="utf-8"))
    assert [point["step"] for point in replay["points"]] == [0, 10, 30, 100, 120]
    if kind == "text":
        assert samples["texts"] >= 4
        assert 0 < samples["typing_errors"]["auc"] <= 1
        assert samples["held_out"]["known_words"] > samples["known_words"]
        assert all(len(point["text"]) == 16 for point in replay["points"])
    else:
        assert samples["lines"] >= 500
        assert samples["js_divergence"][2] > samples["floor"][2]
        assert len(replay["points"][0]["lines"]) == 15
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "upper bound" in card


def test_resumed_run_equals_one_that_was_not_stopped(data, tmp_path):
    list(start(data, tmp_path / "whole"))
    for event in (events := start(data, tmp_path / "out")):
        if getattr(event, "step", 0) == 57:
            events.close()
            break
    list(start(data, tmp_path / "out", resume=True))
    ours, theirs = weights_of(tmp_path / "out"), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert facts_of(tmp_path / "out")["samples"] == facts_of(tmp_path / "whole")["samples"]


def test_too_little_time_measures_fewer_texts(text):
    lm = TextDiffusion(uniform_model(text, 16).eval(), text.tokenizer)
    shares, metrics = run_to_end(measure_text_samples(lm, text, 0))
    assert (len(shares), metrics["texts"]) == (1, 4)


def test_matrices_of_the_layers_are_stored_in_eight_bits(data, tmp_path):
    list(start(data, tmp_path / "out"))
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    for name, dtype in dtypes.items():
        is_matrix = name.startswith("layers.") and "norm" not in name
        assert dtype == ("F8_E4M3" if is_matrix else "F16"), name
    assert {p.dtype for p in load(tmp_path / "out").model.parameters()} == {torch.float32}
    assert "of the stored float16 and float8_e4m3fn weights" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def gpt_folder(data, tmp_path):
    """A run of a GPT on the same text."""
    config = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
    list(train("gpt", config, data, tmp_path / "gpt", Budget(steps=3), seed=5, command="a test"))
    return tmp_path / "gpt"


def test_run_can_start_from_the_weights_of_a_gpt(data, gpt_folder, tmp_path):
    gpt, _ = load_trained(str(gpt_folder), data)
    config = DiffusionTrainConfig.starting_from(gpt.model.config)
    assert (config.layers, config.width, config.heads, config.context) == (1, 32, 1, 16)
    task = DiffusionTask(config, tokenize(data, "char", 16))
    task.model.start_from(gpt.model)
    ids = torch.randint(len(gpt.tokenizer), (1, 9), generator=torch.Generator().manual_seed(0))
    embeddings = task.model.embed_tokens.weight
    assert torch.equal(embeddings[:-1], gpt.model.model["embed_tokens"].weight)
    assert torch.allclose(embeddings[-1], embeddings[:-1].mean(dim=0))
    assert task.model(ids).shape == (1, 9, len(gpt.tokenizer))
    replaced = replace(config, batch_tokens=128)
    list(train("diffusion", replaced, data, tmp_path / "out", BUDGET, seed=5, command="a test", init=gpt))
    assert facts_of(tmp_path / "out")["init"]["name"] == "gpt"
    assert "starting from the weights of gpt" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_gpt_of_other_proportions_is_refused():
    config = GPTConfig(65, 32, 64, 1, 2, 1, 16)
    with pytest.raises(ValueError, match="cannot start from this GPT, whose layers have other sizes; leave --init out"):
        DiffusionTrainConfig.starting_from(config)

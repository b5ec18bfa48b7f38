import json
import math

import pytest
import torch

from gpt import Bigram, BigramConfig, Mixture, MixtureConfig, NGram, load
from gpt.checkpoint import MODEL_REGISTRY, CheckpointError, save
from gpt.models.mixture import types
from gpt.models.ngram import count


@pytest.fixture
def ngram(tokenizer, text):
    ids = torch.tensor(tokenizer.encode(text).ids)
    return NGram.smoothed(count(ids, len(tokenizer), 4), len(tokenizer))


@pytest.fixture
def ids(tokenizer):
    return torch.randint(len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(3))


def logprobs(model, ids):
    with torch.no_grad():
        return model(ids)[0].log_softmax(-1)


@pytest.mark.parametrize("weight", [0, 1])
def test_all_the_weight_on_one_is_that_one(tiny_gpt, ngram, ids, weight):
    mixture = Mixture.of(tiny_gpt, ngram, weight)
    torch.testing.assert_close(logprobs(mixture, ids), logprobs(tiny_gpt if weight else ngram, ids))


@pytest.mark.parametrize("weight", [0.001, 0.3, 0.65])
def test_between_them_it_is_the_logarithm_of_the_weighted_mean(tiny_gpt, ngram, ids, weight):
    first, second = logprobs(tiny_gpt, ids).exp(), logprobs(ngram, ids).exp()
    logits, _ = Mixture.of(tiny_gpt, ngram, weight)(ids)
    torch.testing.assert_close(logits, (weight * first + (1 - weight) * second).log())
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(ids.shape))


def test_by_hand():
    sure, even = Bigram(BigramConfig(2)), Bigram(BigramConfig(2))
    with torch.no_grad():
        sure.logits.copy_(torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]))  # 3/4 and 1/4 after 0
    logits, _ = Mixture.of(sure, even, 0.4)(torch.tensor([[0]]))
    assert logits[0, 0].exp().tolist() == pytest.approx([0.4 * 0.75 + 0.6 * 0.5, 0.4 * 0.25 + 0.6 * 0.5])


def test_what_one_part_holds_impossible_the_other_may_know():
    sure, even = Bigram(BigramConfig(2)), Bigram(BigramConfig(2))
    with torch.no_grad():
        sure.logits.copy_(torch.tensor([[0.0, -torch.inf]] * 2))
    logits, _ = Mixture.of(sure, even, 0.5)(torch.tensor([[0]]))
    assert logits[0, 0].exp().tolist() == pytest.approx([0.75, 0.25])


def test_it_sees_as_far_as_either(tiny_gpt, ngram, tiny_bigram):
    assert Mixture.of(tiny_gpt, ngram, 0.5).window == tiny_gpt.window
    assert Mixture.of(tiny_bigram, ngram, 0.5).window == 3


def test_a_part_without_a_state_mixes_too(tiny_bigram, tiny_gpt, ids):
    mixture = Mixture.of(tiny_bigram, tiny_gpt, 0.5)
    whole, _ = mixture(ids)
    states = [mixture(ids[row : row + 1, :20])[1] for row in (0, 1)]
    rest, _ = mixture(ids[:, 20:], type(states[0]).stack(states))
    torch.testing.assert_close(rest, whole[:, 20:])


def test_rows_of_two_parts_without_a_state_can_be_parted(tiny_bigram):
    _, state = Mixture.of(tiny_bigram, tiny_bigram, 0.5)(torch.zeros((3, 2), dtype=torch.long))
    assert [(row.parts, row.rows) for row in state.split()] == [([None, None], 1)] * 3
    assert type(state).stack(state.split()).rows == 3


def test_half_the_bytes_cost_next_to_nothing(tiny_gpt, ngram, tokenizer, ids, tmp_path):
    before = logprobs(Mixture.of(tiny_gpt, ngram, 0.5), ids)
    save(tmp_path / "full", Mixture.of(tiny_gpt, ngram, 0.5), tokenizer)
    save(tmp_path / "half", Mixture.of(tiny_gpt, ngram, 0.5).half(), tokenizer)
    size, full = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full"))
    assert full - size == pytest.approx(2 * sum(p.numel() for p in tiny_gpt.parameters()), rel=0.01)
    opened = load(tmp_path / "half").model
    assert opened.parts[0].lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(logprobs(opened, ids), before, atol=0.02, rtol=0)
    assert torch.equal(opened.parts[1](ids)[0], ngram(ids)[0])  # its shares are halves anyway


# Files


@pytest.fixture
def folder(tiny_gpt, ngram, tokenizer, tmp_path):
    save(tmp_path / "mixed", Mixture.of(tiny_gpt, ngram, 0.25), tokenizer)
    return tmp_path / "mixed"


def test_a_folder_has_both_parts_whole(folder, tiny_gpt, ngram):
    lm = load(folder)
    assert lm.model.config == MixtureConfig(0.25, (tiny_gpt.config, ngram.config))
    assert lm.parameters == sum(p.numel() for model in (tiny_gpt, ngram) for p in model.parameters())
    config = json.loads((folder / "config.json").read_text())
    assert [part["model_type"] for part in config["parts"]] == ["qwen3", "ngram"]


def test_every_other_model_can_be_a_part():
    assert types().keys() == MODEL_REGISTRY.keys() - {"mixture"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": None}, "weight is None; it must be a number from 0 to 1"),
        ({"weight": 1.5}, "weight is 1.5"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": True}, "weight is True"),
        ({"parts": None}, "parts must be the configs of two models"),
        ({"parts": []}, "parts must be the configs of two models"),
        ({"parts": [1, 2]}, "a part is of the kind 'None'; it can be bigram, ngram, lstm, vae, qwen3"),
        ({"parts": [{"model_type": "mixture"}] * 2}, "a part is of the kind 'mixture'; it can be bigram"),
        ({"parts": [{"model_type": ["x"]}] * 2}, r"a part is of the kind \"\['x'\]\""),
        ({"parts": [{"model_type": "bigram"}] * 2}, "vocab_size is None"),
        (
            {"parts": [{"model_type": "bigram", "vocab_size": size} for size in (3, 4)]},
            "a model over 3 tokens does not mix with one over 4",
        ),
    ],
)
def test_a_config_that_cannot_be_is_named(folder, changes, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=rf"config.json is damaged or does not fit \({said}"):
        load(folder)


def test_a_part_of_the_table_that_is_damaged_is_named(folder, tiny_gpt, ngram, tokenizer):
    with torch.no_grad():
        ngram.codes[3] = ngram.codes[2]
    save(folder, Mixture.of(tiny_gpt, ngram, 0.25), tokenizer)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or does not fit \(its codes are not in order\)"):
        load(folder)

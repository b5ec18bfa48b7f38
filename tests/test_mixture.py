import json
import math

import pytest
import torch

from gpt import Bigram, BigramConfig, Mixture, MixtureConfig, NGram, load
from gpt.checkpoint import CheckpointError, save
from gpt.models.ngram import count_ngrams


@pytest.fixture
def ngram(tokenizer, text):
    ids = torch.tensor(tokenizer.encode(text).ids)
    return NGram.from_counts(count_ngrams(ids, len(tokenizer), 4), len(tokenizer))


@pytest.fixture
def ids(tokenizer):
    return torch.randint(len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(3))


def bigram(*logits):
    model = Bigram(BigramConfig(2))
    with torch.no_grad():
        model.logits.copy_(torch.tensor(logits))
    return model


@torch.no_grad()
def logprobs(model, ids):
    return model(ids)[0].log_softmax(-1)


@pytest.mark.parametrize("weight", [0, 0.001, 0.3, 1])
def test_probabilities_are_the_weighted_mean(tiny_gpt, ngram, ids, weight):
    logits = Mixture.of(tiny_gpt, ngram, weight)(ids)[0].detach()
    torch.testing.assert_close(logits, logprobs(Mixture.of(tiny_gpt, ngram, weight), ids))  # already log-probabilities
    expected = weight * logprobs(tiny_gpt, ids).exp() + (1 - weight) * logprobs(ngram, ids).exp()
    torch.testing.assert_close(logits, expected.log())


@pytest.mark.parametrize(
    ("first", "weight", "expected"),
    [
        ([[math.log(3), 0.0], [0.0, 0.0]], 0.4, [0.4 * 0.75 + 0.6 * 0.5, 0.4 * 0.25 + 0.6 * 0.5]),
        ([[0.0, -math.inf], [0.0, 0.0]], 0.5, [0.75, 0.25]),  # impossible for one model only
    ],
)
def test_mixture_by_hand(first, weight, expected):
    logits, _ = Mixture.of(bigram(*first), bigram([0.0, 0.0], [0.0, 0.0]), weight)(torch.tensor([[0]]))
    assert logits[0, 0].exp().tolist() == pytest.approx(expected)


def test_context_length_is_the_longer_one(tiny_gpt, ngram, tiny_bigram):
    assert Mixture.of(tiny_gpt, ngram, 0.5).context_length == tiny_gpt.context_length
    assert Mixture.of(tiny_bigram, ngram, 0.5).context_length == 3


def test_parts_with_an_empty_state_are_merged_and_extracted(tiny_bigram, tiny_gpt, ids):
    mixture = Mixture.of(tiny_bigram, tiny_gpt, 0.5)
    expected, _ = mixture(ids)
    states = [mixture(ids[i : i + 1, :20])[1] for i in (0, 1)]
    rest, merged = mixture(ids[:, 20:], type(states[0]).merge(states))
    torch.testing.assert_close(rest, expected[:, 20:])
    assert merged.extract(1).nbytes == states[1].nbytes == states[1].parts[1].nbytes


def test_half_precision_weights_change_little(tiny_gpt, ngram, tokenizer, ids, tmp_path):
    before = logprobs(Mixture.of(tiny_gpt, ngram, 0.5), ids)
    save(tmp_path / "half", Mixture.of(tiny_gpt, ngram, 0.5).half(), tokenizer)
    opened = load(tmp_path / "half").model
    assert opened.parts[0].lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(logprobs(opened, ids), before, atol=0.02, rtol=0)
    assert torch.equal(opened.parts[1](ids)[0], ngram(ids)[0])  # its probabilities are float16 in any case


# Files


@pytest.fixture
def folder(tiny_gpt, ngram, tokenizer, tmp_path):
    save(tmp_path / "mixed", Mixture.of(tiny_gpt, ngram, 0.25), tokenizer)
    return tmp_path / "mixed"


def test_folder_contains_both_parts(folder, tiny_gpt, ngram):
    lm = load(folder)
    assert lm.model.config == MixtureConfig(0.25, (tiny_gpt.config, ngram.config))
    assert lm.num_parameters == sum(p.numel() for model in (tiny_gpt, ngram) for p in model.parameters())
    config = json.loads((folder / "config.json").read_text())
    assert [part["model_type"] for part in config["parts"]] == ["qwen3", "ngram"]


def bigrams(*sizes, eos_token_id=None):
    return [BigramConfig(size, eos_token_id if i else None).to_dict() for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": None}, "weight is None"),
        ({"weight": 1.5}, "weight is 1.5"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": True}, "weight is True"),
        ({"parts": []}, "parts must be the configs of two models"),
        ({"parts": [1, 2]}, "parts must be the configs of two models"),
        ({"parts": [{"model_type": "mixture"}] * 2}, "a part of a mixture cannot be a mixture"),
        ({"parts": [{"model_type": ["x"]}] * 2}, "it has no model_type"),
        ({"parts": [{"model_type": "bigram"}] * 2}, "vocab_size is None"),
        ({"parts": bigrams(3, 4)}, "a model of 3 tokens does not mix with one of 4"),
        ({"parts": bigrams(3, 3, eos_token_id=0)}, "a model of lines does not mix"),
    ],
)
def test_invalid_config_is_rejected(folder, changes, reason):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=rf"config.json .*{reason}"):
        load(folder)


def test_damaged_table_of_a_part_is_rejected(folder, tiny_gpt, ngram, tokenizer):
    with torch.no_grad():
        ngram.ngram_ids[3] = ngram.ngram_ids[2]
    save(folder, Mixture.of(tiny_gpt, ngram, 0.25), tokenizer)
    with pytest.raises(CheckpointError, match=r"model.safetensors .*its ngram_ids are not in order"):
        load(folder)

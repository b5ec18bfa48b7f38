"""The C kernels of the LSTM, the VAE's decoder, the n-gram and the mixture agree with PyTorch."""

from copy import deepcopy

import pytest
import torch
from tiny import randomized

from gpt import GPT, LSTM, VAE, Bigram, BigramConfig, GPTConfig, LSTMConfig, Mixture, NGram, SamplingParams, VAEConfig, load
from gpt.checkpoint import WEIGHTS
from gpt.engine import binding, engine_for
from gpt.models.ngram import count_ngrams

pytestmark = pytest.mark.skipif(not binding._find_compiler(), reason="there is no C compiler")


def ngram(vocab_size, order):
    ids = torch.randint(vocab_size, (3_000,), generator=torch.Generator().manual_seed(2))
    return NGram.from_counts(count_ngrams(ids, vocab_size, order), vocab_size, 2)


MODELS = {
    "LSTM": lambda: randomized(LSTM(LSTMConfig(31, 48, 2))),
    "LSTM of odd sizes": lambda: randomized(LSTM(LSTMConfig(7, 13, 3))),
    "LSTM of one channel": lambda: randomized(LSTM(LSTMConfig(2, 1, 1))),
    "VAE": lambda: randomized(VAE(VAEConfig(31, 0, 48, 16, 8))),
    "VAE of odd sizes": lambda: randomized(VAE(VAEConfig(7, 3, 13, 5, 3))),
    "n-gram": lambda: ngram(31, 4),
    "n-gram of single tokens": lambda: ngram(31, 1),
    "n-gram of the highest order": lambda: ngram(2, 8),
    "mixture": lambda: Mixture.of(randomized(GPT(GPTConfig(31, 32, 48, 2, 2, 2, 16, 9))), ngram(31, 4), 0.7),
    "mixture of recurrent models": lambda: Mixture.of(randomized(LSTM(LSTMConfig(31, 24, 1))), ngram(31, 3), 0.2),
}
SHIPPED = ["lstm-names", "lstm-shakespeare", "mixture-names", "mixture-shakespeare", "ngram-names", "ngram-shakespeare"]
SHIPPED += ["vae-names", "vae-shakespeare"]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def random_ids(model, batch_size, length):
    return torch.randint(model.config.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(1))


def prefill(model, ids):
    """One state for each row of ids (B, T)."""
    return [model(row[None])[1] for row in ids]


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=3e-5, rtol=1e-5)


@torch.inference_mode()
def test_logits_equal_pytorch_at_every_position(model):
    engine, ids = engine_for(model), random_ids(model, 3, 60)
    expected, states = model(ids)[0], prefill(model, ids[:, :1])
    for position in range(1, ids.shape[1]):
        assert_close(engine.forward(ids[:, position].tolist(), states), expected[:, position])


@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(model):
    engine, ids = engine_for(model), random_ids(model, 37, 25)
    alone = [prefill(model, row[None, : 1 + i % 5])[0] for i, row in enumerate(ids)]
    batched = deepcopy(alone)
    for position in range(5, 25):
        rows = list(range(position % 3, len(ids), 1 + position % 4))  # another selection each time
        logits = engine.forward(ids[rows, position].tolist(), [batched[row] for row in rows])
        for i, row in enumerate(rows):
            assert torch.equal(engine.forward([int(ids[row, position])], [alone[row]])[0], logits[i])


@torch.inference_mode()
def test_a_state_moves_between_kernel_and_pytorch(model):
    engine, ids = engine_for(model), random_ids(model, 3, 60)
    expected, states, position = model(ids)[0], prefill(model, ids[:, :2]), 2
    for turn in range(6):
        for _ in range(5):
            assert_close(engine.forward(ids[:, position].tolist(), states), expected[:, position])
            position += 1
        length = 1 + turn % 4
        logits, merged = model(ids[:, position : position + length], type(states[0]).merge(states))
        assert_close(logits, expected[:, position : position + length])
        states, position = [merged.extract(i) for i in range(len(ids))], position + length


@torch.inference_mode()
def test_a_latent_vector_may_be_a_column():
    model = MODELS["VAE"]()
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))[:, :1].T  # (1, Z), every other number in memory
    expected, _ = model(torch.tensor([[4]]), model.state_from(z))
    assert_close(engine_for(model).forward([4], [model.state_from(z)]), expected[:, 0])


@pytest.mark.parametrize("offset", [-1, 0])
def test_a_token_outside_the_vocabulary_is_an_error(model, offset):
    token = -1 if offset else model.config.vocab_size
    with pytest.raises(IndexError, match=rf"must be from 0 to {model.config.vocab_size - 1}$"):
        engine_for(model).forward([token], prefill(model, random_ids(model, 1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_texts_of_the_shipped_models_equal_those_of_pytorch(name):
    lm = load(WEIGHTS / name)
    prompts = ["", "\n", "A", "Be"]
    params = [
        SamplingParams(temperature, top_k, seed=i, max_new_tokens=40)
        for i, temperature in enumerate((0, 0.8, 1, 1.5))
        for top_k in (0, 9)
    ]
    texts = {}
    for engine in ("C", "PyTorch"):
        lm.engine = engine
        assert lm.engine == engine
        batch = list(zip(*lm.stream_batch(prompts * 2, params), strict=True))
        texts[engine] = ["".join(step.text for step in steps if step) for steps in batch]
    assert texts["C"] == texts["PyTorch"]


@pytest.mark.parametrize("name", MODELS)
def test_models_of_another_precision_are_computed_by_pytorch(name):
    assert engine_for(MODELS[name]().double()) is None


def test_a_mixture_with_a_part_that_has_no_kernel_is_computed_by_pytorch():
    assert engine_for(Mixture.of(Bigram(BigramConfig(31)), ngram(31, 3), 0.5)) is None

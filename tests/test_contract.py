"""What every family that writes from left to right must do. A new one needs a line in TINY."""

import random

import pytest
import torch
from tiny import randomized

from gpt import (
    GPT,
    LSTM,
    VAE,
    BatchGenerator,
    Bigram,
    BigramConfig,
    GPTConfig,
    LanguageModel,
    LSTMConfig,
    Mixture,
    NGram,
    SamplingParams,
    VAEConfig,
    load,
)
from gpt.checkpoint import save
from gpt.models.ngram import count_ngrams
from gpt.models.registry import MODEL_REGISTRY, family_of

WINDOW = 8


def tiny_gpt(vocab_size):
    config = GPTConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=WINDOW,
    )
    return randomized(GPT(config))


def tiny_ngram(vocab_size):
    ids = torch.randint(vocab_size, (5_000,), generator=torch.Generator().manual_seed(2))
    return NGram.from_counts(count_ngrams(ids, vocab_size, 4), vocab_size, 2)


TINY = {  # vocabulary size -> model
    "bigram": lambda vocab_size: randomized(Bigram(BigramConfig(vocab_size))),
    "ngram": tiny_ngram,
    "lstm": lambda vocab_size: randomized(LSTM(LSTMConfig(vocab_size, 32, 2))),
    "vae": lambda vocab_size: randomized(VAE(VAEConfig(vocab_size, 0, 32, 16, 4))),
    "gpt": tiny_gpt,
    "mixture": lambda vocab_size: Mixture.of(tiny_gpt(vocab_size), tiny_ngram(vocab_size), 0.6),
}


def test_every_family_is_tested():
    assert TINY.keys() == {name for name, family in MODEL_REGISTRY.items() if "writes" in family.abilities}


@pytest.fixture(params=TINY)
def model(request, tokenizer):
    return TINY[request.param](len(tokenizer))


def language_model(model, tokenizer):
    return (family_of(model.config).lm_class or LanguageModel)(model, tokenizer)


@pytest.fixture
def lm(model, tokenizer):
    return language_model(model, tokenizer)


@pytest.fixture
def ids(tokenizer):
    return torch.randint(len(tokenizer), (2, 5 * WINDOW + 3), generator=torch.Generator().manual_seed(1))


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


# forward


@torch.no_grad()
def test_logits_of_each_position_depend_on_the_tokens_up_to_it(model, ids, tokenizer):
    logits, _ = model(ids)
    assert logits.shape == (*ids.shape, len(tokenizer))
    assert logits.std() > 0.1
    for length in range(1, ids.shape[1] + 1):
        assert_close(model(ids[:, :length])[0], logits[:, :length])


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1] * 43, [3, 40], [WINDOW] * 5 + [3], [1, WINDOW + 1, 2, 31], [20, 1, 1, 20, 1], [42, 1]])
def test_reading_in_chunks_equals_reading_at_once(model, ids, lengths):
    expected, _ = model(ids)
    state, logits = None, []
    for chunk in ids.split(lengths, dim=1):
        chunk_logits, state = model(chunk, state)
        logits.append(chunk_logits)
    assert_close(torch.cat(logits, dim=1), expected)


@torch.no_grad()
def test_batch_equals_its_sequences_alone(model, ids):
    together, _ = model(ids)
    for i in range(len(ids)):
        assert_close(model(ids[i : i + 1])[0], together[i : i + 1])


# State


def tensors_of(state):
    """All tensors of a state, nested ones included."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state if isinstance(state, (tuple, list)) else vars(state).values() if hasattr(state, "__dict__") else []
    return [tensor for part in parts for tensor in tensors_of(part)]


def owns_memory(state):
    """Whether no tensor of a state keeps more memory than its own."""
    return all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors_of(state))


def share_memory(a, b):
    def pointers(state):
        return {tensor.untyped_storage().data_ptr() for tensor in tensors_of(state) if tensor.nbytes}

    return bool(pointers(a) & pointers(b))


@torch.no_grad()
def test_nbytes_is_the_memory_of_the_tensors(model, ids):
    _, state = model(ids)
    assert state.nbytes == sum(tensor.nbytes for tensor in tensors_of(state))
    assert owns_memory(state)


@torch.no_grad()
def test_stepping_a_clone_keeps_the_original(model, ids):
    for length in (1, 3 * WINDOW + 1):
        _, state = model(ids[:, :length])
        clone = state.clone()
        assert not share_memory(clone, state)
        before = [tensor.clone() for tensor in tensors_of(state)]
        expected, _ = model(ids[:, -5:], state.clone())
        for token in ids.flip(0)[:, :7].split(1, dim=1):
            _, clone = model(token, clone)
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(state), before, strict=True))
        assert torch.equal(model(ids[:, -5:], state)[0], expected)


@torch.no_grad()
def test_merged_sequences_continue_as_each_does(model, ids):
    prefixes = [ids[:1, :5], ids[1:, :19], ids[:1, :1]]
    states = [model(prefix)[1] for prefix in prefixes]
    following = torch.cat((ids[:, 20:], ids[1:, :-20]))
    alone = torch.cat([model(following[i : i + 1], state.clone())[0] for i, state in enumerate(states)])
    merged = type(states[0]).merge(states)
    assert not any(share_memory(merged, state) for state in states)
    together, merged = model(following, merged)
    assert_close(together, alone)
    for i in range(3):  # and back
        one = merged.extract(i)
        assert owns_memory(one)
        assert not share_memory(one, merged)
        assert one.nbytes == states[0].nbytes
        assert_close(
            model(ids[:1], one)[0], model(torch.cat((prefixes[i], following[i : i + 1], ids[:1]), 1))[0][:, -ids.shape[1] :]
        )


# Generation


def test_extracted_sequence_owns_its_memory_after_its_batch_is_gone(lm):
    """One of 32 sequences must not keep the memory of all."""
    lm.engine = "PyTorch"
    batch, params = BatchGenerator(lm), SamplingParams(seed=1, max_new_tokens=50)
    sequences = [lm.prefill("The old clock", params) for _ in range(32)]
    one = sequences[0].state.nbytes
    for sequence in sequences:
        batch.insert(sequence)
    for _ in range(3):
        batch.step()
    for sequence in sequences[1:]:
        batch.remove(sequence)
    batch.step()
    batch.remove(sequences[0])
    assert owns_memory(sequences[0].state)
    assert sequences[0].state.nbytes == one


PROMPTS = ["", "W", "The old clock", 'The old clock in the hall struck five; "Quick," said Jo', "before\n"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["C", "PyTorch"])
def test_sequences_do_not_depend_on_the_batch_as_others_join_and_leave(lm, engine):
    if engine == "C" and not family_of(lm.model.config).make_engine:
        pytest.skip("the C engine does not run this family")
    lm.engine = engine
    if lm.engine != engine:
        pytest.skip("there is no C compiler")
    rng = random.Random(3)
    params = [
        SamplingParams(rng.choice([0, 0.5, 1.0, 1.5]), rng.choice([0, 9]), seed=i, max_new_tokens=rng.randint(1, 30))
        for i in range(12)
    ]
    prompts = [rng.choice(PROMPTS) for _ in params]
    expected = [list(lm.stream(prompt, p)) for prompt, p in zip(prompts, params, strict=True)]

    batch, outside = BatchGenerator(lm), [lm.prefill(prompt, p) for prompt, p in zip(prompts, params, strict=True)]
    order, steps = {id(sequence): i for i, sequence in enumerate(outside)}, [[] for _ in params]
    while outside or batch.sequences:
        while outside and (not batch.sequences or rng.random() < 0.4):
            batch.insert(outside.pop(rng.randrange(len(outside))))
        sequences = list(batch.sequences)
        for sequence, step in zip(sequences, batch.step(), strict=True):
            steps[order[id(sequence)]].append(step)
            if not sequence.remaining:
                batch.remove(sequence)
            elif rng.random() < 0.1:  # leaves for a while
                batch.remove(sequence)
                outside.append(sequence)

    for one, alone in zip(steps, expected, strict=True):
        assert [step.token_id for step in one] == [step.token_id for step in alone]
        assert "".join(step.text for step in one) == "".join(step.text for step in alone)
        assert [step.logprob for step in one] == pytest.approx([step.logprob for step in alone], abs=1e-4)


def test_stream_batch_equals_single_streams(lm):
    params = [
        SamplingParams(seed=1, max_new_tokens=40),
        SamplingParams(seed=2, max_new_tokens=3),
        SamplingParams(seed=3, max_new_tokens=30, temperature=1.5, top_k=9),
        SamplingParams(seed=1, max_new_tokens=0),
        SamplingParams(seed=4, max_new_tokens=25, temperature=0),
    ]
    together = list(zip(*lm.stream_batch(PROMPTS, params), strict=True))
    assert len(together) == len(PROMPTS)
    for prompt, p, steps in zip(PROMPTS, params, together, strict=True):
        alone = list(lm.stream(prompt, p))
        assert len(alone) == p.max_new_tokens
        assert [step.token_id for step in steps if step] == [step.token_id for step in alone]
        assert steps[len(alone) :] == (None,) * (len(steps) - len(alone))
        for step, other in zip(steps, alone, strict=False):
            assert step.text == other.text
            assert_close(step.probs, other.probs)


def test_same_seed_same_text(lm):
    first, again, other = (lm.generate("Both ", SamplingParams(seed=seed, max_new_tokens=60)) for seed in (5, 5, 6))
    assert first == again
    assert first.text != other.text


def test_interleaved_streams_do_not_affect_each_other(lm):
    params = SamplingParams(seed=3, max_new_tokens=30), SamplingParams(seed=4, max_new_tokens=30)
    alone = [lm.generate(prompt, p).text for prompt, p in zip(("Both", "QUIET"), params, strict=True)]
    pairs = zip(lm.stream("Both", params[0]), lm.stream("QUIET", params[1]), strict=True)
    assert ["".join(step.text for step in steps) for steps in zip(*pairs, strict=True)] == alone


def test_generating_and_scoring_leave_the_model_as_it_was(model, lm):
    def attributes():
        return [(name, {key: id(value) for key, value in vars(module).items()}) for name, module in model.named_modules()]

    def tensors():
        return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    attributes_before, tensors_before = attributes(), tensors()
    lm.generate("The old clock", SamplingParams(seed=1, max_new_tokens=20))
    lm.score("The old clock")
    assert attributes() == attributes_before
    after = tensors()
    assert after.keys() == tensors_before.keys()
    assert all(torch.equal(after[name], tensors_before[name]) for name in after)
    assert not model.training


def test_score_agrees_with_the_log_probabilities_of_generation(lm):
    if family_of(lm.model.config).likelihood != "exact":
        pytest.skip("a bound is scored; generation has a sampled latent vector")
    generation = lm.generate("", SamplingParams(seed=2, max_new_tokens=50))
    score = lm.score(generation.text)
    assert [-nll for nll in score.nll] == pytest.approx(generation.logprobs, abs=1e-4)


# Files


def test_saved_model_opens_the_same(model, lm, tokenizer, ids, tmp_path):
    save(tmp_path / "saved", model, tokenizer)
    opened = load(tmp_path / "saved")
    assert type(opened) is type(lm)
    assert type(opened.model) is type(model)
    assert opened.model.config == model.config
    assert opened.tokenizer.vocab == tokenizer.vocab
    weights = opened.model.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(opened.model(ids)[0], model(ids)[0])
    params = SamplingParams(seed=8, max_new_tokens=40)
    expected, actual = lm.generate("Both", params), opened.generate("Both", params)
    assert actual.token_ids == expected.token_ids
    assert actual.logprobs == pytest.approx(expected.logprobs, abs=1e-5)  # memory alignment may change the order of sums


def test_config_survives_a_round_trip(model):
    assert type(model.config).from_dict(model.config.to_dict()) == model.config


# Devices


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", ["bigram", "lstm", "gpt", "vae"])
def test_computation_stays_on_the_device_of_the_model(family, tokenizer, monkeypatch):
    """On "meta", which has shapes but no numbers: it shows that tensors are never mixed with those of the CPU.

    What is fetched from the device is mocked by ones. An n-gram (and a mixture with one) has shapes that depend on numbers
    and cannot run there.
    """
    cpu, tolist = torch.Tensor.cpu, torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.ones(tensor.shape) if tensor.is_meta else cpu(tensor))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: tolist(tensor.cpu()))
    model = TINY[family](len(tokenizer))
    lm = (MODEL_REGISTRY[family].lm_class or LanguageModel)(model, tokenizer, device="meta")
    assert lm.device == torch.device("meta")
    assert lm.engine == "PyTorch"
    batch, params = BatchGenerator(lm), SamplingParams(seed=1, max_new_tokens=9)
    sequences = [lm.prefill(prompt, params) for prompt in ("", "The old clock")]
    for sequence in sequences:
        batch.insert(sequence)
    for _ in range(3):
        batch.step()
    batch.remove(sequences[0])
    states = [sequence.state for sequence in sequences if sequence.state is not None]
    assert all(tensor.is_meta for state in states for tensor in tensors_of(state))
    assert len(lm.score("The old clock").nll) == 13
    if family == "vae":
        assert len(lm.interpolate("The old", "clock", 3)) == 3

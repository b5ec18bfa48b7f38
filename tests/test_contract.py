"""What every type of model that a weights folder can hold must do. A new type needs one more line in TINY."""

import copy

import pytest
import torch

from gpt import (
    GPT,
    LSTM,
    VAE,
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
from gpt.checkpoint import MODEL_REGISTRY, save
from gpt.models.ngram import count

WINDOW = 8


def scattered(model):
    """A model whose weights all matter: a new one's need not."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.3, generator=generator)
    return model.eval()


def tiny_gpt(vocab):
    return scattered(
        GPT(
            GPTConfig(
                vocab_size=vocab,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
                sliding_window=WINDOW,
            )
        )
    )


def tiny_ngram(vocab):
    """Counted from a text of chance, in which the ids of the tests below are found in part."""
    text = torch.randint(vocab, (5_000,), generator=torch.Generator().manual_seed(2))
    return NGram.smoothed(count(text, vocab, 4), vocab, 2)


TINY = {
    "bigram": lambda vocab: scattered(Bigram(BigramConfig(vocab))),
    "ngram": tiny_ngram,
    "lstm": lambda vocab: scattered(LSTM(LSTMConfig(vocab, 24, 2))),
    "vae": lambda vocab: scattered(VAE(VAEConfig(vocab, 0, 24, 16, 8))),
    "qwen3": tiny_gpt,
    "mixture": lambda vocab: Mixture.of(tiny_gpt(vocab), tiny_ngram(vocab), 0.6),
}


@pytest.fixture(params=MODEL_REGISTRY)
def model(request, tokenizer):
    return TINY[request.param](len(tokenizer))


@pytest.fixture
def lm(model, tokenizer):
    return LanguageModel(model, tokenizer)


@pytest.fixture
def ids(tokenizer):
    return torch.randint(len(tokenizer), (2, 5 * WINDOW + 3), generator=torch.Generator().manual_seed(1))


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_logits_are_given_for_every_position(model, ids, tokenizer):
    logits, _ = model(ids)
    assert logits.shape == (*ids.shape, len(tokenizer))
    assert logits.std() > 0.1


def test_no_position_sees_a_later_one(model, ids):
    whole, _ = model(ids)
    for length in range(1, ids.shape[1] + 1):
        same(model(ids[:, :length])[0], whole[:, :length])


def test_a_state_changes_no_position(model, ids):
    whole, _ = model(ids)
    state, steps = None, []
    for token in ids.split(1, dim=1):
        logits, state = model(token, state)
        steps.append(logits)
    same(torch.cat(steps, dim=1), whole)


@pytest.mark.parametrize("pieces", [[3, 40], [WINDOW] * 5 + [3], [1, WINDOW + 1, 2, 31], [20, 1, 1, 20, 1], [42, 1]])
def test_a_text_read_in_pieces_gives_the_same(model, ids, pieces):
    whole, _ = model(ids)
    state, read = None, []
    for piece in ids.split(pieces, dim=1):
        logits, state = model(piece, state)
        read.append(logits)
    same(torch.cat(read, dim=1), whole)


def test_a_batch_and_its_rows_alone_agree(model, ids):
    whole, _ = model(ids)
    for row in range(len(ids)):
        same(model(ids[row : row + 1])[0], whole[row : row + 1])


@torch.no_grad()
def test_states_of_rows_read_apart_can_be_stacked(model, ids):
    states = [model(ids[:1, :5])[1], model(ids[1:, :19])[1]]
    more = ids[:, 20:]
    alone = torch.cat([model(more[row : row + 1], copy.deepcopy(states[row]))[0] for row in (0, 1)])
    together = None if states[0] is None else type(states[0]).stack(states)
    same(model(more, together)[0], alone)


PROMPTS = ["", "W", "The old clock", 'The old clock in the hall struck five; "Quick," said Jo', "before"]
PARAMS = [
    SamplingParams(seed=1, max_new_tokens=40),
    SamplingParams(seed=2, max_new_tokens=3),
    SamplingParams(seed=3, max_new_tokens=30, temperature=1.5, top_k=9),
    SamplingParams(seed=1, max_new_tokens=0),
    SamplingParams(seed=4, max_new_tokens=25, temperature=0),
]


def test_rows_of_a_batch_write_what_each_writes_alone(lm):
    rows = list(zip(*lm.stream_batch(PROMPTS, PARAMS), strict=True))
    assert len(rows) == len(PROMPTS)
    for prompt, params, row in zip(PROMPTS, PARAMS, rows, strict=True):
        alone = list(lm.stream(prompt, params))
        assert len(alone) == params.max_new_tokens
        assert [step.token_id for step in row if step] == [step.token_id for step in alone]
        assert row[len(alone) :] == (None,) * (len(row) - len(alone))
        for step, other in zip(row, alone, strict=False):
            assert step.text == other.text
            assert step.logprob == pytest.approx(other.logprob, abs=1e-4)
            same(step.probs, other.probs)


def test_a_seed_repeats_and_another_differs(lm):
    one, again, other = (lm.generate("Both ", SamplingParams(seed=seed, max_new_tokens=60)) for seed in (5, 5, 6))
    assert one == again
    assert one.text != other.text


def test_two_requests_in_turns_do_not_disturb_each_other(lm):
    params = SamplingParams(seed=3, max_new_tokens=30), SamplingParams(seed=4, max_new_tokens=30)
    alone = [lm.generate(prompt, p).text for prompt, p in zip(("Both", "QUIET"), params, strict=True)]
    turns = zip(lm.stream("Both", params[0]), lm.stream("QUIET", params[1]), strict=True)
    assert ["".join(step.text for step in row) for row in zip(*turns, strict=True)] == alone


def test_nothing_of_a_request_stays_on_the_model(model, lm):
    def facts():
        return [(name, {key: id(value) for key, value in vars(module).items()}) for name, module in model.named_modules()]

    def numbers():
        return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}

    before, tensors = facts(), numbers()
    lm.generate("The old clock", SamplingParams(seed=1, max_new_tokens=20))
    lm.score("The old clock")
    assert facts() == before
    after = numbers()
    assert after.keys() == tensors.keys()
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)
    assert not model.training


def test_scoring_agrees_with_writing(lm):
    if isinstance(lm.model, VAE):
        pytest.skip("it writes from a point that it draws, and scores from the middle")
    written = lm.generate("", SamplingParams(seed=2, max_new_tokens=50))
    score = lm.score(written.text)
    assert [-nats for nats in score.nats] == pytest.approx(written.logprobs, abs=1e-4)


def test_a_saved_model_opens_the_same(model, lm, tokenizer, ids, tmp_path):
    save(tmp_path / "saved", model, tokenizer)
    opened = load(tmp_path / "saved")
    assert type(opened.model) is type(model)
    assert opened.model.config == model.config
    assert opened.tokenizer.vocab == tokenizer.vocab
    weights = opened.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert weights.keys() == model.state_dict().keys()
    assert torch.equal(opened.model(ids)[0], model(ids)[0])
    params = SamplingParams(seed=8, max_new_tokens=40)
    one, other = opened.generate("Both", params), lm.generate("Both", params)
    assert one.token_ids == other.token_ids
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)  # numbers that lie elsewhere may be added in another order

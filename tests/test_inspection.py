import math

import pytest
import torch

from gpt import Bigram, BigramConfig, LanguageModel, Mixture, load
from gpt.inspection import find_gpt, inspect, logit_lens, receptive_field
from gpt.models.registry import MODEL_REGISTRY

WINDOW = 16  # of `make_gpt`


def random_ids(length: int, vocab_size: int = 65, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 16, 17, 70])
@pytest.mark.parametrize("sizes", [{}, {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}])
def test_last_layer_is_the_prediction_of_the_model(make_gpt, length, sizes):
    model, ids = make_gpt(**sizes), random_ids(length)
    lens = logit_lens(model, inspect(model, ids, queries=length).hidden_states)
    assert lens.shape == (3, length, 65)
    close(lens[-1], model(ids[None])[0][0].log_softmax(dim=-1))
    close(lens[0], model.lm_head(model.model["norm"](model.model["embed_tokens"](ids))).log_softmax(dim=-1))


@torch.no_grad()
def test_last_layer_is_the_prediction_with_a_cache(make_gpt):
    model, ids, state = make_gpt(), random_ids(40), None
    for token in ids:
        logits, state = model(token[None, None], state)
    close(logit_lens(model, inspect(model, ids).hidden_states)[-1, 0], logits[0, -1].log_softmax(dim=-1))


@torch.no_grad()
def test_last_layer_is_the_prediction_of_the_c_kernel(lm):
    if lm.engine != "C":
        pytest.skip("there is no C compiler")
    ids = random_ids(40, lm.model.config.vocab_size)
    _, state = lm.forward(ids[None, :-1], None)
    logits = lm._engine.forward([int(ids[-1])], [state])
    close(logit_lens(lm.model, inspect(lm.model, ids).hidden_states)[-1, 0], logits[0].log_softmax(dim=-1))


def test_rows_of_attention_sum_to_1_within_the_window(make_gpt):
    weights = inspect(make_gpt(), random_ids(50), queries=50).attention
    assert weights.shape == (2, 2, 50, 50)
    close(weights.sum(dim=-1), torch.ones(2, 2, 50))
    for query in range(50):
        for key in range(50):
            is_visible = 0 <= query - key < WINDOW
            assert ((weights[:, :, query, key] > 0) == is_visible).all(), (query, key)


def test_last_queries_are_the_last_rows(make_gpt):
    model, ids = make_gpt(), random_ids(30)
    whole = inspect(model, ids, queries=30)
    last = inspect(model, ids)
    assert torch.equal(last.attention, whole.attention[:, :, -1:])
    assert torch.equal(last.hidden_states, whole.hidden_states[:, -1:])


def test_first_layer_by_a_loop_over_numbers(make_gpt):
    """Norms, rotations, products and the softmax, one number at a time."""
    model, ids = (
        make_gpt(num_attention_heads=2, num_key_value_heads=1, head_dim=4, hidden_size=6, sliding_window=3),
        [3, 1, 4, 1, 5],
    )
    weights = {name: p.tolist() for name, p in model.named_parameters()}
    layer = "model.layers.0."

    def rms_norm(vector, weight):
        scale = math.sqrt(sum(a * a for a in vector) / len(vector) + model.config.rms_norm_eps)
        return [a / scale * w for a, w in zip(vector, weight, strict=True)]

    def head_vector(position, projection, norm, head):
        x = rms_norm(weights["model.embed_tokens.weight"][ids[position]], weights[f"{layer}input_layernorm.weight"])
        rows = weights[f"{layer}self_attn.{projection}.weight"][4 * head : 4 * head + 4]
        a, b, c, d = rms_norm(
            [sum(r * v for r, v in zip(row, x, strict=True)) for row in rows], weights[f"{layer}self_attn.{norm}.weight"]
        )
        fast, slow = position, position / 100  # angles: 10,000 ** (0 / 4) is 1, and 10,000 ** (2 / 4) is 100
        return [
            a * math.cos(fast) - c * math.sin(fast),
            b * math.cos(slow) - d * math.sin(slow),
            c * math.cos(fast) + a * math.sin(fast),
            d * math.cos(slow) + b * math.sin(slow),
        ]

    actual = inspect(model, torch.tensor(ids), queries=5).attention[0]
    for head in range(2):
        for query in range(5):
            q = head_vector(query, "q_proj", "q_norm", head)
            keys = range(max(0, query - 2), query + 1)
            products = [sum(a * b for a, b in zip(q, head_vector(key, "k_proj", "k_norm", 0), strict=True)) for key in keys]
            exps = [math.exp(product / math.sqrt(4)) for product in products]
            for key, e in zip(keys, exps, strict=True):
                assert float(actual[head, query, key]) == pytest.approx(e / sum(exps), abs=1e-5)


def test_tokens_before_the_receptive_field_change_nothing(make_gpt):
    model, ids = make_gpt(), random_ids(64)
    reach = receptive_field(model.config)
    assert reach == 31  # 2 layers times 15 earlier positions, and the position itself
    close(inspect(model, ids[-reach:]).hidden_states, inspect(model, ids).hidden_states)
    close(inspect(model, ids[-reach:]).attention, inspect(model, ids).attention[..., -reach:])
    changed = inspect(model, ids[-reach + 1 :]).hidden_states
    assert not torch.allclose(changed, inspect(model, ids).hidden_states, atol=1e-4)


def test_mixture_shows_its_gpt(make_gpt):
    gpt = make_gpt()
    mixture = Mixture.of(Bigram(BigramConfig(65)), gpt, 0.5)
    assert find_gpt(mixture) is gpt
    ids = random_ids(20)
    assert torch.equal(inspect(mixture, ids).attention, inspect(gpt, ids).attention)


def test_model_without_attention_is_an_error():
    sentence = r"^a bigram has no attention to look at; choose a GPT or a mixture with one$"
    for call in (lambda model: inspect(model, torch.tensor([0])), lambda model: logit_lens(model, torch.zeros(1, 1, 1))):
        with pytest.raises(ValueError, match=sentence):
            call(Bigram(BigramConfig(3)))
    assert find_gpt(Bigram(BigramConfig(3))) is None
    assert [family.name for family in MODEL_REGISTRY.values() if family.has_attention] == ["gpt"]


def test_impossible_arguments_are_errors(make_gpt):
    model, ids = make_gpt(), random_ids(5)
    for wrong in (torch.tensor([], dtype=torch.long), ids[None]):
        with pytest.raises(ValueError, match="ids have the shape"):
            inspect(model, wrong)
    for queries in (0, 6, -1):
        with pytest.raises(ValueError, match=f"^queries is {queries}; it must be a whole number from 1 to 5"):
            inspect(model, ids, queries)


@pytest.mark.parametrize("name", ["gpt-shakespeare", "bpe-shakespeare"])
def test_shipped_model_guesses_better_layer_by_layer(name):
    """The guess after the last layer is the model's; the one after the embedding is far from it."""
    lm = load(name)
    text = "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun."
    ids = torch.tensor(lm.tokenizer.encode(text).ids)
    inspection = inspect(lm.model, ids[:-1], queries=len(ids) - 1)
    nll = -logit_lens(lm.model, inspection.hidden_states).gather(-1, ids[1:].expand(len(inspection.hidden_states), -1)[..., None])
    score = LanguageModel(lm.model, lm.tokenizer)._token_nll(ids[None], [len(ids)])
    close(nll[-1, :, 0], score[0])
    assert nll[-1].mean() < nll[0].mean() - 1

import copy
import json

import pytest
import torch

from gpt import GPT, GPTConfig, RotatingKVCache
from gpt.models.transformer import RotaryEmbedding, rotate


def ids_of(rows: int, length: int, vocab: int = 65, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_a_new_model_predicts_every_token_alike():
    logits, _ = GPT(GPTConfig(vocab_size=9, num_hidden_layers=1))(ids_of(2, 5, 9))
    assert logits.shape == (2, 5, 9)
    assert (logits == 0).all()


def test_a_position_sees_itself_and_the_window_before_it_in_every_layer(make_gpt):
    model, length = make_gpt(), 64
    reach = 2 * (model.config.sliding_window - 1)  # layers times the positions before
    ids = ids_of(1, length)
    before, _ = model(ids)
    for place in (3, 20):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 65
        differs = (model(changed)[0] != before).any(-1)[0].nonzero()[:, 0].tolist()
        assert differs[0] == place
        assert differs[-1] == place + reach


def test_the_cache_stays_as_large_as_the_window(make_gpt):
    model = make_gpt()
    _, state = model(ids_of(2, 3))
    shape = (2, 2, 2, 16, 32)  # L, B, nkv, W, hs
    assert state.keys.shape == state.values.shape == shape
    for _ in range(40):
        _, state = model(ids_of(2, 1), state)
    assert state.keys.shape == state.values.shape == shape
    assert state.length.tolist() == [43, 43]


def test_stacked_caches_go_on_each_from_its_own_place(make_gpt):
    model = make_gpt()
    texts = [ids_of(1, length, seed=length) for length in (1, 7, 16, 41)]
    states = [model(text)[1] for text in texts]
    more = ids_of(4, 20, seed=9)
    alone = torch.cat([model(more[row : row + 1], copy.deepcopy(state))[0] for row, state in enumerate(states)])
    together = RotatingKVCache.stack(states)
    assert together.length.tolist() == [1, 7, 16, 41]
    torch.testing.assert_close(model(more, together)[0], alone, atol=1e-4, rtol=0)


def test_a_cache_that_has_read_nothing_can_be_stacked(make_gpt):
    model = make_gpt()
    read, more = model(ids_of(1, 7))[1], ids_of(2, 20, seed=9)
    alone = torch.cat([model(more[:1])[0], model(more[1:], copy.deepcopy(read))[0]])
    fresh = RotatingKVCache(model.config, 1, like=alone)
    torch.testing.assert_close(model(more, RotatingKVCache.stack([fresh, read]))[0], alone, atol=1e-4, rtol=0)


def test_stacking_copies(make_gpt):
    model = make_gpt()
    state = model(ids_of(1, 5))[1]
    keys = state.keys.clone()
    model(ids_of(2, 1), RotatingKVCache.stack([state, state]))
    assert torch.equal(state.keys, keys)
    assert state.length.tolist() == [5]


def test_shared_keys_equal_keys_that_are_repeated(make_gpt):
    shared = make_gpt(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    apart = make_gpt(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    weights = shared.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.view(2, 16, -1).repeat_interleave(2, dim=0).reshape(64, -1)
    apart.load_state_dict(weights)
    ids = ids_of(2, 40)
    torch.testing.assert_close(shared(ids)[0], apart(ids)[0], atol=1e-4, rtol=0)


def test_rotate_by_a_quarter_turn():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])  # the pairs are (1, 3) and (2, 4)
    turned = rotate(x, torch.zeros(4), torch.ones(4))
    assert turned.tolist() == [-3, -4, 1, 2]


def test_rotary_angles_by_hand():
    cos, sin = RotaryEmbedding(GPTConfig(vocab_size=2, head_dim=4, rope_theta=100.0))(torch.tensor([[0, 3]]))
    angles = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 0.3, 3.0, 0.3]])  # 3 / 100 ** (0/4), 3 / 100 ** (2/4), and again
    torch.testing.assert_close(cos[0, 0], angles.cos())
    torch.testing.assert_close(sin[0, 0], angles.sin())


def test_rotated_products_depend_on_the_distance_alone():
    rotary = RotaryEmbedding(GPTConfig(vocab_size=2, head_dim=32))
    q, k = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

    def product(at_q: int, at_k: int) -> float:
        turn = [rotary(torch.tensor([[at]])) for at in (at_q, at_k)]
        return float((rotate(q, *turn[0]) * rotate(k, *turn[1])).sum())

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-2


def test_dropout_is_for_training_alone(make_gpt):
    plain = make_gpt()
    model = GPT(plain.config, dropout=0.5)
    model.load_state_dict(plain.state_dict())
    ids = ids_of(1, 20)
    assert torch.equal(model.eval()(ids)[0], plain(ids)[0])
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])
    assert model.config.to_dict() == plain.config.to_dict()


def test_gradients_reach_every_weight(make_gpt):
    model = make_gpt().train()
    model(ids_of(2, 40))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_config_comes_back_from_json():
    config = GPTConfig(vocab_size=65, num_attention_heads=4, num_key_value_heads=2, rope_theta=5e5)
    assert GPTConfig.from_json(json.loads(json.dumps(config.to_dict()))) == config


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")


@pytest.mark.parametrize("value", [None, 0, -1, True, 2.5, "6", [6], 10**12, 10**30])
@pytest.mark.parametrize("name", [*SIZES, "num_key_value_heads", "sliding_window"])
def test_a_size_that_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be") as error:
        GPTConfig.from_json(GPTConfig(vocab_size=65).to_dict() | {name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [None, 0, -1.0, float("nan"), float("inf"), True, "1", 10**400])
@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta"])
def test_a_number_that_cannot_be_is_refused(name, value):
    config = GPTConfig(vocab_size=65).to_dict()
    if name == "rope_theta":
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": value}
    else:
        config[name] = value
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be"):
        GPTConfig.from_json(config)


@pytest.mark.parametrize("rope", [None, 3, [], {}, {"rope_theta": 1e4}, {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4}])
def test_other_rotary_positions_are_refused(rope):
    with pytest.raises(ValueError, match=r"^rope_parameters is .*; this GPT has rope_type 'default'$"):
        GPTConfig.from_json(GPTConfig(vocab_size=65).to_dict() | {"rope_parameters": rope})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tie_word_embeddings", True),
        ("attention_bias", True),
        ("hidden_act", "gelu"),
        ("use_sliding_window", False),
        ("max_window_layers", 2),
        ("layer_types", ["full_attention"] * 6),
        ("layer_types", None),
        ("attention_dropout", 0.1),
    ],
)
def test_what_qwen3_can_and_this_model_cannot_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; this GPT has"):
        GPTConfig.from_json(GPTConfig(vocab_size=65).to_dict() | {name: value})


def test_every_key_of_the_config_is_needed():
    config = GPTConfig(vocab_size=65).to_dict()
    names = {*GPTConfig.__dataclass_fields__, "rope_parameters", "layer_types", "hidden_act"} - {"rope_theta", "eos_token_id"}
    for name in names:
        with pytest.raises(ValueError, match=f"^{name} is None"):
            GPTConfig.from_json({key: value for key, value in config.items() if key != name})


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match="6 attention heads cannot share 4 key/value heads"):
        GPTConfig(vocab_size=65, num_key_value_heads=4)


def test_an_odd_head_is_refused():
    with pytest.raises(ValueError, match=r"head_dim is 31; .* must be even"):
        GPTConfig(vocab_size=65, head_dim=31)

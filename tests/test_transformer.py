import json

import pytest
import torch

from gpt import GPT, GPTConfig, RotatingKVCache
from gpt.models.transformer import RotaryEmbedding, apply_rotary_emb


def random_ids(batch_size: int, length: int, vocab_size: int = 65, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def test_new_model_predicts_the_uniform_distribution():
    logits, _ = GPT(GPTConfig(vocab_size=9, num_hidden_layers=1))(random_ids(2, 5, 9))
    assert logits.shape == (2, 5, 9)
    assert (logits == 0).all()


def test_attention_sees_the_window_in_every_layer(make_gpt):
    model = make_gpt()
    reach = 2 * (model.config.sliding_window - 1)  # layers times the earlier positions in the window
    ids = random_ids(1, 64)
    before, _ = model(ids)
    for position in (3, 20):
        changed = ids.clone()
        changed[0, position] = (ids[0, position] + 1) % 65
        affected = (model(changed)[0] != before).any(-1)[0].nonzero()[:, 0].tolist()
        assert (affected[0], affected[-1]) == (position, position + reach)


@torch.no_grad()
def test_cache_is_as_large_as_the_window(make_gpt):
    model = make_gpt()
    _, state = model(random_ids(2, 3))
    shape = (2, 2, 2, 16, 32)  # L, B, nkv, W, hs
    nbytes = state.nbytes
    for _ in range(40):
        _, state = model(random_ids(2, 1), state)
    assert state.keys.shape == state.values.shape == shape
    assert state.nbytes == nbytes
    assert state.length.tolist() == [43, 43]


@torch.no_grad()
def test_merged_caches_continue_from_their_own_positions(make_gpt):
    """Of sequences that are empty, shorter than the window, as long, and longer."""
    model = make_gpt()
    texts = [random_ids(1, length, seed=length) for length in (1, 7, 16, 41)]
    states = [*(model(text)[1] for text in texts), RotatingKVCache.empty(model.config, 1, like=torch.zeros(1))]
    following = random_ids(5, 20, seed=9)
    alone = torch.cat([model(following[i : i + 1], state.clone())[0] for i, state in enumerate(states)])
    merged = RotatingKVCache.merge(states)
    assert merged.length.tolist() == [1, 7, 16, 41, 0]
    torch.testing.assert_close(model(following, merged)[0], alone, atol=1e-4, rtol=0)


def test_grouped_keys_equal_repeated_keys(make_gpt):
    grouped = make_gpt(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    repeated = make_gpt(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.view(2, 16, -1).repeat_interleave(2, dim=0).reshape(64, -1)
    repeated.load_state_dict(weights)
    ids = random_ids(2, 40)
    torch.testing.assert_close(grouped(ids)[0], repeated(ids)[0], atol=1e-4, rtol=0)


def test_rotation_by_a_quarter_turn():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])  # the pairs are (1, 3) and (2, 4)
    assert apply_rotary_emb(x, torch.zeros(4), torch.ones(4)).tolist() == [-3, -4, 1, 2]


def test_rotary_angles_by_hand():
    cos, sin = RotaryEmbedding(GPTConfig(vocab_size=2, head_dim=4, rope_theta=100.0))(torch.tensor([[0, 3]]))
    angles = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 0.3, 3.0, 0.3]])  # 3 / 100 ** (0 / 4), 3 / 100 ** (2 / 4)
    torch.testing.assert_close(cos[0, 0], angles.cos())
    torch.testing.assert_close(sin[0, 0], angles.sin())


def test_rotated_products_depend_on_the_distance_only():
    rotary = RotaryEmbedding(GPTConfig(vocab_size=2, head_dim=32))
    q, k = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

    def product(q_position: int, k_position: int) -> float:
        q_rope, k_rope = (rotary(torch.tensor([[position]])) for position in (q_position, k_position))
        return float((apply_rotary_emb(q, *q_rope) * apply_rotary_emb(k, *k_rope)).sum())

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-2


def test_dropout_applies_in_training_only(make_gpt):
    plain = make_gpt()
    model = GPT(plain.config, dropout=0.5)
    model.load_state_dict(plain.state_dict())
    ids = random_ids(1, 20)
    assert torch.equal(model.eval()(ids)[0], plain(ids)[0])
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])
    assert model.config.to_dict() == plain.config.to_dict()


def test_gradients_reach_every_weight(make_gpt):
    model = make_gpt().train()
    model(random_ids(2, 40))[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# config.json

CONFIG = GPTConfig(vocab_size=65).to_dict()


def test_config_survives_json():
    config = GPTConfig(vocab_size=65, num_attention_heads=4, num_key_value_heads=2, rope_theta=5e5)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")


@pytest.mark.parametrize("name", [*SIZES, "num_key_value_heads", "sliding_window"])
def test_size_out_of_range_is_rejected(name):
    for value in (None, 0, -1, True, 2.5, "6", [6], 10**12):
        with pytest.raises(ValueError, match=f"^{name} is [^\n]*; it must be") as error:
            GPTConfig.from_dict(CONFIG | {name: value})
        assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [None, 0, -1.0, float("nan"), float("inf"), True, "1", 10**400])
def test_number_out_of_range_is_rejected(value):
    with pytest.raises(ValueError, match=r"^rms_norm_eps is [^\n]*; it must be"):
        GPTConfig.from_dict(CONFIG | {"rms_norm_eps": value})
    with pytest.raises(ValueError, match=r"^rope_theta is [^\n]*; it must be"):
        GPTConfig.from_dict(CONFIG | {"rope_parameters": {"rope_type": "default", "rope_theta": value}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_parameters", None),
        ("rope_parameters", {"rope_theta": 1e4}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4}),
        ("tie_word_embeddings", True),
        ("attention_bias", True),
        ("hidden_act", "gelu"),
        ("use_sliding_window", False),
        ("max_window_layers", 2),
        ("layer_types", ["full_attention"] * 6),
        ("attention_dropout", 0.1),
    ],
)
def test_unsupported_variant_of_qwen3_is_rejected(name, value):
    with pytest.raises(ValueError, match=f"^{name} is [^\n]*; this GPT has"):
        GPTConfig.from_dict(CONFIG | {name: value})


def test_missing_keys_are_rejected():
    names = {*GPTConfig.__dataclass_fields__, "rope_parameters", "layer_types", "hidden_act"} - {"rope_theta", "eos_token_id"}
    for name in names:
        with pytest.raises(ValueError, match=f"^{name} is None"):
            GPTConfig.from_dict({key: value for key, value in CONFIG.items() if key != name})


def test_sizes_that_do_not_fit_together_are_rejected():
    with pytest.raises(ValueError, match="6 attention heads cannot share 4 key/value heads"):
        GPTConfig(vocab_size=65, num_key_value_heads=4)
    with pytest.raises(ValueError, match=r"head_dim is 31; .* must be even"):
        GPTConfig(vocab_size=65, head_dim=31)

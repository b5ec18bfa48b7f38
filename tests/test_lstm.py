import pytest
import torch

from gpt import LSTM, LSTMConfig


def test_step_by_hand():
    """The gates in torch's order: input, forget, candidate, output."""
    torch.manual_seed(0)
    model = LSTM(LSTMConfig(5, 3, 1)).eval()
    ids = torch.tensor([[2, 4, 1]])
    w = {name: p.detach() for name, p in model.lstm.named_parameters()}
    h, c, expected = torch.zeros(3), torch.zeros(3), []
    for token in ids[0]:
        x = model.embed_tokens.weight[token].detach()
        gates = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        expected.append(model.lm_head.weight @ h + model.lm_head.bias)
    torch.testing.assert_close(model(ids)[0][0], torch.stack(expected))


def test_forget_gate_bias_starts_at_one():
    model = LSTM(LSTMConfig(5, 8, 2))
    for layer in (0, 1):
        assert (getattr(model.lstm, f"bias_ih_l{layer}")[8:16] == 1).all()


def test_dropout_applies_in_training_only():
    model, ids = LSTM(LSTMConfig(5, 16, 2), dropout=0.5), torch.tensor([[1, 2, 3]])
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 0), ("num_hidden_layers", "2"), ("vocab_size", None), ("eos_token_id", 5)]
)
def test_sizes_out_of_range_are_rejected(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; it must be a whole number [^\n]*$"):
        LSTMConfig.from_dict(LSTMConfig(5).to_dict() | {name: value})

import pytest
import torch

from gpt import LSTM, LSTMConfig


def test_a_step_by_hand():
    """The gates of Hochreiter & Schmidhuber, with torch's order of them: in, forget, candidate, out."""
    torch.manual_seed(0)
    model = LSTM(LSTMConfig(5, 3, 1)).eval()
    ids = torch.tensor([[2, 4, 1]])
    w = {name: p.detach() for name, p in model.lstm.named_parameters()}
    h, c, by_hand = torch.zeros(3), torch.zeros(3), []
    for token in ids[0]:
        x = model.embed.weight[token].detach()
        gates = w["weight_ih_l0"] @ x + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        by_hand.append(model.head.weight @ h + model.head.bias)
    torch.testing.assert_close(model(ids)[0][0], torch.stack(by_hand))


def test_a_new_one_keeps_what_it_has():
    model = LSTM(LSTMConfig(5, 8, 2))
    for layer in (0, 1):
        assert (getattr(model.lstm, f"bias_ih_l{layer}")[8:16] == 1).all()


def test_dropout_is_of_training_alone():
    model, ids = LSTM(LSTMConfig(5, 16, 2), dropout=0.5), torch.tensor([[1, 2, 3]])
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; it must be a whole number above 0 and at most 16,384"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'; it must be a whole number above 0 and at most 64"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"eos_token_id": 5}, "eos_token_id is 5; it must be a whole number below 5, or null"),
    ],
)
def test_sizes_out_of_range_are_a_sentence(sizes, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (its text is what is looked at)
        LSTMConfig.from_json(LSTMConfig(5).to_dict() | sizes)
    assert str(error.value).startswith(said)

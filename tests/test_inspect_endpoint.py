"""The endpoint of the tab "Look inside"."""

import base64
import json

import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpt.inspection import inspect, logit_lens
from ui.inspection import GUESSES, routes
from ui.model_registry import get_model

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?"


@pytest.fixture(scope="module")
def post():
    """A function that posts a JSON body and returns the status and the answer."""
    client = TestClient(Starlette(routes=routes()))

    def send(**body):
        response = client.post("/page/inspect", content=json.dumps(body))
        return response.status_code, response.json()

    with client:
        yield send


@pytest.fixture
def answer(post):
    """A function that posts a JSON body and returns the answer, which is no error."""

    def send(**body):
        status, values = post(**body)
        assert status == 200, values
        return values

    return send


def weights_of(values):
    """Attention (L, nh, T) as the page decodes it."""
    stored = torch.frombuffer(bytearray(base64.b64decode(values["attention"])), dtype=torch.uint8)
    return (stored.float() / 255).square().view(values["layers"], values["heads"], -1)


@pytest.mark.parametrize(("name", "layers"), [("gpt-shakespeare", 6), ("bpe-shakespeare", 4)])
def test_answer_is_what_the_model_computed(answer, name, layers):
    lm = get_model(name).lm
    ids = lm.tokenizer.encode(TEXT).ids
    values = answer(model=name, prompt=TEXT, at=10 - len(ids))
    assert "".join(values["tokens"]) == TEXT
    assert (values["first"], values["position"], values["part"], values["unknown_chars"]) == (0, 10, None, "")
    inspection = inspect(lm.model, torch.tensor(ids[:10]))
    weights = weights_of(values)
    assert weights.shape == (layers, inspection.attention.shape[1], 10)
    torch.testing.assert_close(weights, inspection.attention[:, :, 0], atol=0.004, rtol=0)
    probs = logit_lens(lm.model, inspection.hidden_states)[:, 0].exp()
    assert len(values["lens"]) == layers + 1
    for row, p in zip(values["lens"], probs, strict=True):
        text, best = row["likeliest"][0]
        assert (text, best) == (lm.tokenizer.decode([int(p.argmax())]), round(float(p.max()), 4))
        assert [q for _, q in row["likeliest"]] == sorted((q for _, q in row["likeliest"]), reverse=True)
        assert len(row["likeliest"]) == GUESSES
        assert row["probability"] == round(float(p[ids[10]]), 4)
        assert row["rank"] == 1 + int((p > p[ids[10]]).sum())


def test_generated_tokens_follow_the_prompt(answer):
    """Pieces of words may be put together in several ways: the page sends those that the model chose."""
    lm = get_model("bpe-shakespeare").lm
    whole, pieces = lm.tokenizer.encode(" the king").ids, lm.tokenizer.encode("ROMEO:").ids
    letters = [lm.tokenizer.encode(letter).ids[0] for letter in " the king"]
    assert len(letters) > len(whole)
    values = answer(model="bpe-shakespeare", prompt="ROMEO:", tokens=letters)
    assert values["tokens"][len(pieces) :] == list(" the king")
    assert values["position"] == len(pieces) + 8
    assert answer(model="bpe-shakespeare", prompt="ROMEO:", tokens=letters, at=2)["position"] == len(pieces) + 2
    assert answer(model="bpe-shakespeare", prompt="ROMEO:", tokens=letters, at=-1)["position"] == len(pieces) - 1


def test_long_text_shows_the_window(answer):
    text = (TEXT + "\n") * 40
    values = answer(model="gpt-shakespeare", prompt=text, at=2_000 - len(text))
    assert values["first"] == 2_000 - 256
    assert weights_of(values).shape == (6, 3, 256)
    lm = get_model("gpt-shakespeare").lm
    nll = lm._token_nll(torch.tensor([lm.tokenizer.encode(text).ids[:2_001]]), [2_001])[0, -1]
    assert values["lens"][-1]["probability"] == pytest.approx((-nll).exp().item(), abs=1e-3)


def test_first_token_comes_after_the_start(answer):
    for name, prompt in (("gpt-shakespeare", "A"), ("gpt-names", "emma")):
        values = answer(model=name, prompt=prompt, at=-len(prompt))
        assert values["first"] == -1
        assert weights_of(values).unique().tolist() == [1]


def test_names_start_anew_after_each_line(answer):
    alone = answer(model="gpt-names", prompt="emma", at=-2)
    later = answer(model="gpt-names", prompt="Olivia\nEmma", at=-2)
    assert (alone["first"], later["first"]) == (-1, 6)  # the end of the line before stands for the start
    assert later["tokens"] == list("olivia\nemma")
    assert (alone["attention"], alone["lens"]) == (later["attention"], later["lens"])


def test_next_token_is_not_chosen_yet(answer):
    values = answer(model="gpt-shakespeare", prompt=TEXT, at=0)
    assert {(row["rank"], row["probability"]) for row in values["lens"]} == {(None, None)}
    assert answer(model="gpt-shakespeare", prompt=TEXT)["position"] == len(TEXT) - 1
    assert answer(model="gpt-shakespeare", prompt="")["position"] == 0


def test_mixture_says_that_it_shows_its_gpt(answer):
    mixture, gpt = (answer(model=name, prompt="charlotte", at=-2) for name in ("mixture-names", "gpt-names"))
    assert (mixture.pop("part"), gpt.pop("part")) == ("a GPT", None)
    assert mixture["attention"][:50] == gpt["attention"][:50]


def test_unknown_characters_are_named(answer):
    values = answer(model="gpt-shakespeare", prompt="<b>é\ud800")
    assert values["unknown_chars"] == "< > é �"
    assert values["tokens"] == ["b"]


def test_answer_is_small(post, answer):
    values = answer(model="gpt-shakespeare", prompt="\n".join([TEXT] * 5)[:256])
    assert len(json.dumps(values)) < 10_000


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "The request has no model"),
        ({"model": "nobody", "prompt": ""}, "There is no model called 'nobody'"),
        ({"model": 3, "prompt": ""}, "The model is 3; it must be the id of a model."),
        ({"model": "gpt-names", "prompt": None}, "The prompt is None; it must be a text of up to 5,000 characters."),
        ({"model": "bigram-names", "prompt": "a"}, "bigram-names has no attention to look at"),
        ({"model": "gpt-names", "prompt": "a" * 5_001}, "The prompt has 5,001 characters"),
        ({"model": "gpt-names", "prompt": "a", "at": 1}, "The place is 1; this text has the places -1 to 0."),
        ({"model": "gpt-names", "prompt": "a", "at": -2}, "The place is -2"),
        ({"model": "gpt-names", "prompt": "a", "at": True}, "The at is True; it must be a whole number"),
        ({"model": "gpt-names", "prompt": "a", "at": 0.5}, "The at is 0.5"),
        ({"model": "gpt-names", "prompt": "a", "tokens": [27]}, "The tokens have 27; those of this model go from 0 to 26."),
        ({"model": "gpt-names", "prompt": "a", "tokens": "1"}, "The tokens is '1'; it must be a list"),
        ({"model": "gpt-names", "prompt": "a", "tokens": [0] * 5_001}, "The tokens has 5,001 items"),
    ],
)
def test_impossible_request_is_a_sentence(post, body, sentence):
    status, values = post(**body)
    assert status == 422
    assert sentence in values["error"]

"""The surprisal of a text under several models: the endpoint page/score."""

import itertools
import json
import math

import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpt import Bigram, BigramConfig, LanguageModel, LatentModel, Tokenizer
from ui import scoring
from ui.model_registry import ModelEntry, get_model, list_models
from ui.schema import replace_invalid


def table_model(alphabet, probs, name):
    """A bigram with these probabilities: for each last token, "\\n" first, a row."""
    lm = LanguageModel(Bigram(BigramConfig(len(alphabet) + 1)), Tokenizer.from_text(alphabet), name)
    with torch.no_grad():
        lm.model.logits.copy_(torch.tensor(probs).log())
    return lm


@pytest.fixture
def open_models(monkeypatch, bpe, make_gpt):
    """Two bigrams with probabilities that are easy to follow, and a model on pieces of words."""
    models = {
        # after a new line: a or b with 1/2 each; after a: b with 3/4; after b: a new line, or a with 1/4
        "small": table_model("ab", [[0, 0.5, 0.5], [0, 0.25, 0.75], [0.75, 0.25, 0]], "small"),
        "other": table_model("abc", [[0, 0.125, 0.125, 0.75], [0.25] * 4, [0.25] * 4, [0.25] * 4], "other"),
        "pieces": LanguageModel(make_gpt(vocab_size=len(bpe)), bpe, "pieces"),
    }

    def entry(id):
        if id not in models:
            raise ValueError(f"There is no model called {id!r} here.")
        return ModelEntry(id, models[id], {}, id)

    monkeypatch.setattr(scoring, "get_model", entry)
    return models


@pytest.fixture
def client():
    with TestClient(Starlette(routes=scoring.routes())) as client:
        yield client


def post(client, models, text):
    # as browsers do, which escape lone surrogates
    return client.post("/page/score", content=json.dumps({"models": models, "text": text}))


def test_surprisal_by_hand(open_models, client):
    answer = post(client, ["small", "other"], "ab~a").json()
    assert answer["text"] == "ab~a"
    small, other = answer["models"]
    # small: a 1/2, b after a 3/4, a after b 1/4
    assert small["id"] == "small"
    assert small["bits"] == [1, pytest.approx(math.log2(4 / 3), abs=1e-3), 2]
    # other: a 1/8, then 1/4 each
    assert other["bits"] == [3, 2, 2]
    assert other["bits_per_character"] == pytest.approx(7 / 3)
    assert other["spans"] == [[0, 1], [1, 2], [3, 4]]
    assert small["unknown_chars"] == other["unknown_chars"] == "~"


def test_spans_are_left_out_where_each_token_is_the_character_at_its_index(open_models, client):
    (small,) = post(client, ["small"], "abab").json()["models"]
    assert small["spans"] is None
    assert len(small["bits"]) == 4


def test_capitals_are_lowered_and_still_at_their_places(open_models, client):
    (small,) = post(client, ["small"], "ÄAB").json()["models"]
    assert small["bits"] == [1, pytest.approx(math.log2(4 / 3), abs=1e-3)]
    assert small["spans"] == [[1, 2], [2, 3]]
    assert small["unknown_chars"] == "ä"
    (small,) = post(client, ["small"], "\u0130A").json()["models"]  # its lower case has two characters
    assert small["spans"] == [[1, 2]]


def test_each_model_has_its_own_error(open_models, client):
    small, gone, other = post(client, ["small", "gone", "other"], "c").json()["models"]
    assert small == {"id": "small", "error": "small knows none of these characters."}
    (impossible,) = post(client, ["small"], "bb").json()["models"]
    assert "takes a part of this text to be impossible" in impossible["error"]
    assert gone == {"id": "gone", "error": "There is no model called 'gone' here."}
    assert other["bits"] == [pytest.approx(math.log2(4 / 3), abs=1e-3)]


def test_pieces_of_words_and_of_characters(open_models, client, bpe):
    text = "Both walked past 👍 it"
    (score,) = post(client, ["pieces"], text).json()["models"]
    spans = score["spans"]
    assert len(score["bits"]) == len(spans) == len(bpe.encode(text).ids)
    assert spans.count([17, 18]) == 4  # the bytes of the emoji
    assert [spans[0][0], spans[-1][1]] == [0, len(text)]
    assert all(before[1] == after[0] or before == after for before, after in itertools.pairwise(spans))
    assert score["bits_per_character"] == pytest.approx(sum(score["bits"]) / len(text), rel=1e-3)


@pytest.mark.parametrize(
    ("models", "scored", "words"),
    [
        (["small"], "", "no text to score yet"),
        (["small"], "x" * 5001, "has 5,001 characters"),
        ([], "a", "the ids of 1 to 32 different models"),
        (["small", "small"], "a", "1 to 32 different models"),
        ([str(i) for i in range(33)], "a", "1 to 32 different models"),
        ("small", "a", "The models is 'small'; it must be a list"),
        ([1], "a", "The models is [1]"),
        (["small"], None, "The text is None"),
    ],
)
def test_invalid_request_is_a_sentence(open_models, client, models, scored, words):
    response = post(client, models, scored)
    assert response.status_code == 422
    assert words in response.json()["error"]


def test_hostile_text_comes_back_as_it_is(open_models, client):
    text = "<img src=x onerror=alert(1)>\0\ud800a"
    answer = post(client, ["small"], text).json()
    assert answer["text"] == replace_invalid(text) == "<img src=x onerror=alert(1)>\ufffd\ufffda"
    assert len(answer["text"]) == len(text)


@pytest.mark.slow
def test_shipped_models_are_scored_together_as_one_by_one():
    text = "PROSPERO:\nBe collected:\nNo more amazement.\n"
    answer = scoring.score([entry.id for entry in list_models()], text)
    assert [score["id"] for score in answer["models"]] == [entry.id for entry in list_models()]
    for score in answer["models"]:
        lm = get_model(score["id"]).lm
        alone = lm.score(text, scoring.LATENT_SAMPLES) if isinstance(lm, LatentModel) else lm.score(text)
        assert score["bits_per_character"] == pytest.approx(alone.bits_per_character)
        assert score["bits"] == pytest.approx([nll / math.log(2) for nll in alone.nll], abs=6e-4)

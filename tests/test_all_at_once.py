"""The endpoints of the tab "All at once"."""

import base64
import json
import math
import time

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient
from tiny import randomized

from gpt import MaskedDiffusion, MaskedDiffusionConfig, TextDiffusion, Tokenizer, UnmaskingParams
from gpt.distribution import encode_distribution
from train.data import SOURCES
from train.text_metrics import WORD
from ui import model_registry
from ui.all_at_once import MAX_STEPS, MAX_TEXT_CHARS, routes
from ui.model_registry import ModelEntry, get_model

LINES = "emma\nanna\nadam\n"
SETTINGS = {"steps": 8, "temperature": 1.0, "order": "random", "seed": 3}


@pytest.fixture
def offered(monkeypatch, tokenizer):
    """A tiny model of a running text and one of lines, which the page offers as "tiny" and "tiny-lines"."""
    of_lines = Tokenizer.from_text(LINES)
    text_model = MaskedDiffusion(MaskedDiffusionConfig(len(tokenizer), 40, 16, 16, 2, 2))
    line_model = MaskedDiffusion(MaskedDiffusionConfig(len(of_lines), 9, 16, 16, 2, 2, eos_token_id=of_lines.start_id))
    lms = [
        TextDiffusion(randomized(text_model), tokenizer, "tiny"),
        TextDiffusion(randomized(line_model), of_lines, "tiny-lines"),
    ]
    log = {"data": {"name": "shakespeare", "sha256": SOURCES["shakespeare"].sha256}}
    monkeypatch.setattr(model_registry, "_local_models", {lm.name: ModelEntry(lm.name, lm, log, lm.name) for lm in lms})
    return lms


@pytest.fixture
def client(offered):
    with TestClient(Starlette(routes=routes())) as client:
        yield client


@pytest.fixture
def unmask(client):
    """A function that posts a request and returns the first line of the answer and the others."""

    def send(model="tiny", **body):
        response = client.post("/page/diffusion/unmask", json={"model": model, **SETTINGS, **body})
        assert response.status_code == 200, response.text
        head, *steps = map(json.loads, response.text.splitlines())
        return head, steps

    return send


def complete(head, steps):
    ids = list(head["canvas"])
    for step in steps:
        for position, id in zip(step["positions"], step["ids"], strict=True):
            assert ids[position] is None
            ids[position] = id
    assert None not in ids
    return ids


def bytes_of(values):
    return base64.b64decode(values["distributions"])


def test_models_and_who_races_and_judges(client):
    models = {model["id"]: model for model in client.get("/page/diffusion/models").json()["models"]}
    assert (models["tiny"]["rival"], models["tiny"]["judge"]) == ("gpt-shakespeare", "lstm-shakespeare")
    assert (models["tiny-lines"]["rival"], models["tiny-lines"]["writes_lines"]) == (None, True)
    assert models["tiny"]["context_length"] == 40
    assert models["tiny"]["defaults"]["order"] == "confident"


def test_stream_is_the_text_of_the_model(unmask, offered):
    lm = offered[0]
    head, steps = unmask(prompt="So", length=20)
    canvas = lm.canvas("So", 20)
    assert head == {"canvas": canvas, "steps": 8, "seed": 3, "remarks": []}
    params = UnmaskingParams(**SETTINGS)
    expected = list(lm.unmask(canvas, params))
    assert [(step["positions"], step["ids"]) for step in steps] == [(step.positions, step.token_ids) for step in expected]
    assert [bytes_of(step) for step in steps] == [encode_distribution(step.logits[step.positions]) for step in expected]
    assert complete(head, steps) == lm.complete(canvas, expected)
    seconds = [step["seconds"] for step in steps]
    assert seconds == sorted(seconds)


def test_stream_without_a_seed_says_which_one_it_took(unmask):
    head, steps = unmask(prompt="So", length=20, seed=None)
    assert complete(*unmask(prompt="So", length=20, seed=head["seed"])) == complete(head, steps)


def test_gaps_are_filled_and_the_rest_stays(unmask, offered):
    lm = offered[0]
    head, steps = unmask(text="The ____ in the ___ hall")
    assert complete(head, steps) == lm.tokenizer.encode(lm.fill("The ____ in the ___ hall", UnmaskingParams(**SETTINGS)).text).ids
    given = "".join("_" if id is None else lm.tokenizer.decode([id]) for id in head["canvas"])
    assert given.startswith("The ____ in the ____")
    assert given.endswith(" hall")


def test_a_line_fills_all_its_places(unmask):
    head, steps = unmask("tiny-lines", prompt="em", length=None)
    assert len(complete(head, steps)) == 9
    assert head["canvas"].count(None) == 6


def test_unknown_characters_are_remarked(unmask):
    assert unmask(prompt="Sß", length=4)[0]["remarks"] == ["This model has never seen ß, so it was skipped."]


def test_predictions_are_those_of_the_model(client, offered):
    lm = offered[0]
    values = client.post("/page/diffusion/predict", json={"model": "tiny", "canvas": [1, None, 2]}).json()
    assert bytes_of(values) == encode_distribution(lm.denoise(torch.tensor([[1, lm.model.mask_id, 2]]))[0])


def test_proofreading_judges_each_character_while_it_is_hidden(client, offered):
    lm = offered[0]
    values = client.post("/page/diffusion/proofread", json={"model": "tiny", "text": "The frost, he said"}).json()
    expected = lm.proofread("The frost, he said")
    assert values["ids"] == expected.token_ids
    assert values["bits"] == pytest.approx([nll / math.log(2) for nll in expected.nll], abs=1e-3)
    assert bytes_of(values) == encode_distribution(expected.logits)
    assert values["remarks"] == []


def test_judge_is_a_model_that_takes_no_part(client):
    texts = ["ROMEO:\nWhat say you to this?\n", "ROMEO:\nWhat qqx qqx qqx to this?\n"]
    verdict = client.post("/page/diffusion/judge", json={"model": "tiny", "texts": texts}).json()
    assert verdict["name"] == "lstm-shakespeare"
    lm = get_model("lstm-shakespeare").lm
    for text, result in zip(texts, verdict["texts"], strict=True):
        assert result["bits"] == pytest.approx(lm.score(text).bits_per_character)
        words = [word.lower() for word in WORD.findall(text)[1:-1]]
        assert result["known_words"] == pytest.approx(1 - words.count("qqx") / len(words))
        assert result["unique_words"] == pytest.approx(len(set(words)) / len(words))


WRONG_UNMASKING = {
    "no model": {"model": None},
    "a GPT": {"model": "gpt-shakespeare"},
    "nothing to write": {"prompt": None},
    "two things": {"text": "___"},
    "no text": {"prompt": 7},
    "a length that is no number": {"length": "20"},
    "too long": {"length": 41},
    "nothing": {"length": 0},
    "no steps": {"steps": 0},
    "too many steps": {"steps": MAX_STEPS + 1},
    "too hot": {"temperature": 2.1},
    "an unknown order": {"order": "backwards"},
    "a seed that is no number": {"seed": "x"},
}


@pytest.mark.parametrize("change", WRONG_UNMASKING.values(), ids=WRONG_UNMASKING)
def test_wrong_requests_are_one_sentence(client, change):
    body = {"model": "tiny", "prompt": "So", "length": 20, **SETTINGS, **change}
    if body["prompt"] is None:
        del body["prompt"]
    response = client.post("/page/diffusion/unmask", json=body)
    [line] = response.text.splitlines()
    sentence = json.loads(line)["error"]
    assert sentence[0].isupper() or sentence.startswith("gpt-shakespeare")
    assert sentence.endswith(".")


WRONG = {
    "a text without a gap": ("unmask", {"text": "So be it", **SETTINGS}),
    "no canvas": ("predict", {"canvas": "So"}),
    "an empty canvas": ("predict", {"canvas": []}),
    "a canvas that is too long": ("predict", {"canvas": [None] * 41}),
    "an unknown token": ("predict", {"canvas": [None, 10_000]}),
    "nothing to proofread": ("proofread", {"text": "ßß"}),
    "too much to proofread": ("proofread", {"text": "a" * (MAX_TEXT_CHARS + 1)}),
    "nothing to judge": ("judge", {"texts": []}),
    "an empty text to judge": ("judge", {"texts": [""]}),
    "too many texts": ("judge", {"texts": ["a"] * 5}),
}


@pytest.mark.parametrize(("path", "body"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_sentence(client, path, body):
    response = client.post(f"/page/diffusion/{path}", json={"model": "tiny", **body})
    [line] = response.text.splitlines()
    sentence = json.loads(line)["error"]
    assert sentence[0].isupper()
    assert sentence.endswith(".")


def test_nobody_judges_lines(client):
    response = client.post("/page/diffusion/judge", json={"model": "tiny-lines", "texts": ["emma"]})
    assert (response.status_code, response.json()["error"][:20]) == (422, "No other model here ")


def test_a_visitor_who_leaves_ends_the_text(offered, endpoints, monkeypatch):
    lm, calls = offered[0], []

    def slow(ids):
        calls.append(1)
        time.sleep(0.05)
        return TextDiffusion.denoise(lm, ids)

    monkeypatch.setattr(lm, "denoise", slow)
    body = {"model": "tiny", "prompt": "", "length": 40, **SETTINGS, "steps": 40}
    with httpx.stream("POST", f"{endpoints}/page/diffusion/unmask", json=body, timeout=60, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        next(lines)
    time.sleep(0.3)
    done = len(calls)
    time.sleep(0.3)
    assert done == len(calls) < 40


def test_a_letter_that_does_not_belong_is_found():
    lm = get_model("diffusion-names", "infills").lm
    nll = lm.proofread("elizaxeth").nll
    assert max(range(9), key=nll.__getitem__) == 5

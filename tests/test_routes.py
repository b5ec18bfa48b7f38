"""The page's own endpoints: what they send, and what they refuse."""

import asyncio
import base64
import json
import threading
from typing import Annotated

import pytest
import tokenizers
from loops import run
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.testclient import TestClient
from tokenizers import Regex, decoders, models, pre_tokenizers

from gpt import LanguageModel, SamplingParams, Tokenizer
from ui import model_registry, routes
from ui.endpoints import BUSY, MAX_BODY_BYTES, BusyError, Limit, json_endpoint
from ui.model_registry import ModelEntry, get_model, list_models
from ui.schema import MAX_TEXT_TOKENS
from ui.session import SessionStore


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(routes, "sessions", SessionStore())
    with TestClient(Starlette(routes=routes.routes())) as client:
        yield client


def stream(client, query, start=0, end=300):
    """The head of a stream, and the values of its other lines joined."""
    answer = client.post("/page/generate", json={"query": query, "start": start, "end": end})
    assert answer.status_code == 200
    head, *parts = map(json.loads, answer.text.splitlines())
    joined = {name: [value for part in parts for value in part[name]] for name in ("ids", "texts", "bits")}
    return head, {**joined, "distributions": b"".join(base64.b64decode(part["distributions"]) for part in parts)}


def test_stream_is_the_text_of_the_link(client):
    head, tokens = stream(client, "model=bigram-shakespeare&prompt=To&seed=5&temperature=1", end=80)
    generation = get_model("bigram-shakespeare").lm.generate("To", SamplingParams(temperature=1.0, max_new_tokens=80, seed=5))
    assert head == {
        "query": "model=bigram-shakespeare&prompt=To&seed=5&length=80&temperature=1.0",
        "prompt": "To",
        "unknown_chars": "",
        "remarks": [],
    }
    assert tokens["ids"] == generation.token_ids
    assert "".join(tokens["texts"]) == generation.text
    assert len(tokens["distributions"]) == 80 * 65 * 2


def test_stream_without_a_seed_says_which_one_it_took(client):
    head, tokens = stream(client, "model=bigram-shakespeare", end=20)
    assert "seed=" in head["query"]
    assert stream(client, head["query"], end=20)[1] == tokens


def test_stream_goes_on_from_any_token(client):
    query = "model=bigram-shakespeare&seed=5"
    _, whole = stream(client, query, end=60)
    for start in (0, 25, 59):
        assert stream(client, query, start, 60)[1]["ids"] == whole["ids"][start:]
    routes.sessions = SessionStore()  # as after a restart
    assert stream(client, query, 30, 60)[1]["ids"] == whole["ids"][30:]


def test_a_thousand_characters_with_their_distributions_are_light(client):
    answer = client.post("/page/generate", json={"query": "model=gpt-shakespeare&seed=1", "start": 0, "end": 1000})
    assert len(answer.content) < 400_000
    # The sub-word model: about half as many tokens for as many characters.
    answer = client.post("/page/generate", json={"query": "model=bpe-shakespeare&seed=1", "start": 0, "end": 500})
    texts = [text for line in answer.text.splitlines() for text in json.loads(line).get("texts", [])]
    assert len("".join(texts)) > 800
    assert len(answer.content) / len("".join(texts)) < 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"query": "model=nobody", "start": 0, "end": 5}, "no model called 'nobody'"),
        ({"query": "temperature=hot", "start": 0, "end": 5}, "temperature is 'hot'"),
        ({"query": "seed=1", "start": 5, "end": 5}, "start must be below the end"),
        ({"query": "seed=1", "start": -1, "end": 5}, "The start is -1; it must be a whole number from 0 up."),
        ({"query": "seed=1", "start": True, "end": 5}, "The start is True"),
        ({"query": "seed=1", "start": 0, "end": "5"}, "The end is '5'"),
        ({"query": 5, "start": 0, "end": 5}, "The query is 5; it must be the query of a link"),
        ({}, "The request has no query"),
        ({"query": "seed=1", "start": 0, "end": MAX_TEXT_TOKENS + 1}, "this one is full"),
        ([], "must be a JSON object"),
        ({"query": "prompt=" + "a" * MAX_BODY_BYTES, "start": 0, "end": 5}, "more than 256 kB"),
        ({"query": "model=bigram-shakespeare&branch=0.99", "start": 0, "end": 5}, "those of this model go from 0 to 64"),
    ],
)
def test_bad_request_is_refused_in_a_sentence(client, body, words):
    answer = client.post("/page/generate", json=body)
    *_, last = map(json.loads, answer.text.splitlines())
    assert words in last["error"]
    assert answer.status_code == 422


def test_body_that_is_not_json_is_refused(client):
    answer = client.post("/page/generate", content=b"\xff{")
    assert (answer.status_code, answer.json()["error"]) == (422, "The request must be a JSON object.")


@pytest.fixture
def hostile_model(tiny_bigram, tokenizer, monkeypatch):
    """A model with a tokenizer whose pattern fails on "aaaa...!", as a visitor may open it from the Hub."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=tokenizer.vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    backend.decoder = decoders.Fuse()
    entry = ModelEntry("user/hostile@0", LanguageModel(tiny_bigram, Tokenizer(backend), "user/hostile"), {}, "user/hostile", "0")
    monkeypatch.setitem(model_registry._hub_models, entry.id, entry)
    return entry.id


def test_failing_tokenizer_is_a_sentence(client, hostile_model):
    answer = client.post("/page/generate", json={"query": f"model={hostile_model}&prompt={'a' * 3000}!", "start": 0, "end": 5})
    assert answer.status_code == 422
    assert "the tokenizer fails on this text" in answer.json()["error"]


def test_models_are_described(client):
    answer = client.get("/page/models").json()
    assert answer["default"] == "gpt-shakespeare"
    assert [model["id"] for model in answer["models"]] == [entry.id for entry in list_models()]
    for model in answer["models"]:
        entry = get_model(model["id"])
        assert len(model["vocabulary"]) == len(entry.lm.tokenizer)
        assert model["vocabulary"][entry.lm.start_id] == "\n"
        assert model["bits_per_character"] == entry.training_log["held_out"]["bits_per_character"]
        assert model["dataset"] in ("shakespeare", "names")
        assert len(model["explanation"]) > 40


def test_programs_of_a_text(client):
    answer = client.post("/page/programs", json={"query": "model=bigram-shakespeare&seed=1", "address": "http://host:1"})
    assert "'http://host:1'" in answer.json()["programs"]["gradio_client"]
    refused = client.post("/page/programs", json={"query": "model=<b>"})
    assert "There is no model called" in refused.json()["error"]


def test_static_files_are_revalidated(client):
    answer = client.get("/page/static/js/api.js")
    assert "javascript" in answer.headers["content-type"]  # text/ or application/, as the machine's table of types says
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get("/page/static/js/api.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/page/static/../assets.py").status_code == 404


def double(value: Annotated[int, Field(description="a whole number")]) -> int:
    if value == 13:
        raise ValueError("The value is 13; it must be another one.")
    return 2 * value


@pytest.fixture
def calculator():
    app = Starlette(routes=[Route("/double", json_endpoint(double), methods=["POST"])])
    with TestClient(app) as client:
        yield client


def test_endpoint_returns_what_its_function_returns(calculator):
    assert calculator.post("/double", json={"value": 4}).json() == 8


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"value": 13}, "it must be another one"),
        ({}, "The request has no value; it must be a whole number."),
        ({"value": 1, "x": 2}, "The request has 'x'; it may have value."),
    ],
)
def test_value_error_is_the_answer(calculator, body, words):
    answer = calculator.post("/double", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_limit_bounds_what_runs_and_what_waits():
    release, running, most = threading.Event(), [], []

    def wait() -> str:
        running.append(1)
        most.append(len(running))
        release.wait(30)
        running.pop()
        return "done"

    endpoint = json_endpoint(wait, Limit(running=2, waiting=1))
    request = Request({"type": "http", "method": "GET", "path_params": {}})

    async def go():
        tasks = [asyncio.create_task(endpoint(request)) for _ in range(3)]
        while len(running) < 2:
            await asyncio.sleep(0.01)
        refused = await endpoint(request)
        release.set()
        return refused, await asyncio.gather(*tasks)

    refused, answers = run(go())
    assert (refused.status_code, json.loads(refused.body)) == (503, {"error": BUSY})
    assert [json.loads(answer.body) for answer in answers] == ["done"] * 3
    assert max(most) == 2


def test_full_server_refuses_a_stream_in_a_sentence(client, monkeypatch):
    class Full(Limit):
        def slot(self):
            raise BusyError

    monkeypatch.setattr(routes, "streams", Full(1, 1))
    *_, last = map(json.loads, client.post("/page/generate", json={"query": "seed=1", "start": 0, "end": 5}).text.splitlines())
    assert last == {"error": BUSY}

"""Bad requests to the page: its own endpoints, the API, links, uploads, and events of Gradio. Each is refused in one sentence."""

import base64
import json
import logging
import random
from urllib.parse import urlencode

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.testclient import TestClient
from visitors import TEXT

from ui import routes
from ui.all_at_once import UnmaskingArguments
from ui.api import generate, list_models, score
from ui.refusals import SENTENCE, RefusalLog
from ui.routes import OpenArguments, StreamArguments
from ui.schema import Arguments, schema_of
from ui.session import GenerationRequest, LinkArguments
from ui.training import TrainingArguments
from ui.visits import HEADER, VisitMiddleware

MODEL = "bigram-shakespeare"
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
# fmt: off
JUNK = [
    None, True, -1, 0, 2**31, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x" * 120_000, "\0", "\ud800", "9" * 5_000, "../../etc/passwd", "<script>alert(1)</script>", "' OR 1=1 --", "my-\n",
    "{{7*7}}", "alice/tiny@" + "0" * 40, "👩‍👩‍👧" * 50,
    [], [None], [[]], ["x"] * 10_000, [10**30], {}, {"a": {"b": [1]}}, FILE,
]
# fmt: on

# The endpoints with schemas of their own; that of the others is in the annotations of their functions.
SCHEMAS = {
    "/page/generate": StreamArguments,
    "/page/open": OpenArguments,
    "/page/diffusion/unmask": UnmaskingArguments,
    "/page/train/run": TrainingArguments,
}
WITHOUT_BODY = {"/page/train/text", "/page/train/stop", "/page/visit/end", "/page/visit/ping"}

# A request that each endpoint answers.
VALID = {
    "/page/generate": {"query": f"model={MODEL}&seed=1", "start": 0, "end": 3},
    "/page/open": {"id": "alice/tiny"},
    "/page/programs": {"query": f"model={MODEL}", "address": "http://host"},
    "/page/inspect": {"model": "gpt-names", "prompt": "emma", "tokens": [1], "at": 0},
    "/page/copied": {"model": "gpt-names", "text": "emma\n", "prompt": "a"},
    "/page/score": {"models": [MODEL], "text": "To be"},
    "/page/train/report": {"is_lines": False, "tokenizer": "char"},
    "/page/train/run": {
        "kind": "gpt", "size": "small", "tokenizer": "char", "is_lines": False, "dropout": None, "seconds": 15,
    },
    "/page/families/draw": {"model": "ngram-names", "seed": 1},
    "/page/families/walk": {"seed": 1},
    "/page/families/wish": {"model": "latent-diffusion-names", "condition": {}, "guidance": 1, "seed": 1},
    "/page/families/play": {"seed": 1},
    "/page/diffusion/unmask": {
        "model": "diffusion-names", "prompt": "a", "steps": 2, "temperature": 1, "order": "random", "seed": 1,
    },
    "/page/diffusion/predict": {"model": "diffusion-names", "canvas": [1, None]},
    "/page/diffusion/proofread": {"model": "diffusion-names", "text": "emma"},
    "/page/diffusion/judge": {"model": "diffusion-shakespeare", "texts": ["To be"]},
}  # fmt: skip


def schemas() -> dict[str, type[Arguments]]:
    """The schema of each endpoint that takes a body."""
    posts = [route for route in routes.routes() if isinstance(route, Route) and "POST" in route.methods]
    functions = {route.path: getattr(route.endpoint, "__wrapped__", None) for route in posts if route.path not in WITHOUT_BODY}
    return {path: SCHEMAS[path] if function is None else schema_of(function) for path, function in functions.items()}


@pytest.fixture(scope="module")
def client():
    """The page's own endpoints. An exception in one is an exception in the test."""
    app = Starlette(routes=routes.routes(), middleware=[Middleware(VisitMiddleware)])
    with TestClient(app) as client:
        yield client


@pytest.fixture
def try_request(client, attack):
    """A function that posts content. It is answered, or refused in one sentence."""

    def post(path, content, **options):
        attack.inputs += 1
        with attack.time_limit():
            answer = client.post(path, content=content, **options)
        assert answer.status_code in (200, 422, 503), answer.text
        values = json.loads(answer.text.rstrip("\n").rpartition("\n")[2])
        if answer.status_code != 200 or (isinstance(values, dict) and "error" in values):
            attack.assert_refusal(values["error"])
        return answer

    return post


def test_each_endpoint_has_a_schema_with_words_for_each_value():
    assert schemas().keys() == VALID.keys()
    for schema in (*schemas().values(), LinkArguments, *map(schema_of, (generate, score, list_models))):
        assert all(field.description for field in schema.model_fields.values()), schema


@pytest.mark.parametrize("path", VALID)
def test_wrong_values(try_request, path):
    valid = VALID[path]
    schemas()[path].parse(valid)
    for name in valid:
        for value in JUNK:
            try_request(path, json.dumps({**valid, name: value}))
        try_request(path, json.dumps({other: value for other, value in valid.items() if other != name}))
    try_request(path, json.dumps({**valid, "surprise": 1}))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b"{", b'{"query":}', b"\xff\xfe", b"[" * 100_000, b'{"query":' * 20_000,
        b'{"a":' + b"9" * 10_000 + b"}", b"{}" + b" " * 300_000, b'{"query": "model=x", "query": 5}', b"\0" * 1_000,
    ],
)  # fmt: skip
def test_wrong_bodies(try_request, body):
    for path in VALID:
        assert try_request(path, body).status_code == 422


@given(
    query=st.one_of(
        st.text(max_size=200), st.dictionaries(st.sampled_from([*LinkArguments.model_fields, "x"]), st.text()).map(urlencode)
    )
)
def test_links(attack, query):
    attack.survived(lambda: GenerationRequest.from_query(query, MODEL), ValueError)


@pytest.mark.parametrize("name", [*LinkArguments.model_fields])
def test_link_parameters(attack, name):
    for value in JUNK:
        link = urlencode({"model": MODEL, name: str(value)}, errors="replace")
        attack.survived(lambda link=link: GenerationRequest.from_query(link, MODEL), ValueError)


def is_valid(schema, values):
    try:
        schema.parse(values)
    except ValueError:
        return False
    return True


# Uploads of the tab "Train yours"


def uploads(random_files):
    rng = random.Random(0)
    yield from (b"", b"\0" * 1_000, b"\xef\xbb\xbf", b"\xff\xfe" + b"a\0" * 500, b"\xfe\xff" + b"\xd8\0" * 500, b"\r" * 5_000)
    yield from (
        b"\n" * 100_000,
        b"a" * 1_900_000,
        b"a" * 2_100_000,
        "\u202e\u0000\ufeff".encode() * 500,
        "👩‍👩‍👧".encode() * 2_000,
    )
    yield from (b"PK\x03\x04" + rng.randbytes(5_000), b"%PDF-1.7\n" + rng.randbytes(5_000), b"\x1f\x8b" + rng.randbytes(5_000))
    yield "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))).encode()  # a vocabulary of 20,000 characters
    for _ in range(random_files):
        yield rng.randbytes(rng.choice([1, 10, 1_000, 50_000]))


def test_uploads(client, try_request, attack):
    client.headers.pop(HEADER, None)
    for content in uploads(200 if attack.is_full else 10):
        answer = try_request("/page/train/text", content, params={"name": "../../" + "\r\n" * 3 + "x" * 200})
        if answer.status_code == 200:
            client.headers[HEADER] = answer.json()["visit"]
            for tokenizer in ("char", "bpe:2048"):
                try_request("/page/train/report", json.dumps({"is_lines": True, "tokenizer": tokenizer}))
    try_request("/page/train/text", TEXT.encode())
    for name in VALID["/page/train/run"]:
        for value in JUNK:
            choices = {**VALID["/page/train/run"], name: value}
            if not is_valid(TrainingArguments, choices):  # which would begin a training
                try_request("/page/train/run", json.dumps(choices))
    try_request("/page/visit/end", b"")
    del client.headers[HEADER]


@pytest.mark.parametrize("token", ["", "x", "\u00e9" * 10, "a" * 50_000, base64.b64encode(bytes(32)).decode()])
def test_guessed_tokens_open_no_visit(client, attack, token):
    attack.inputs += 1
    answer = client.post("/page/visit/ping", headers={HEADER: token.encode()})
    assert answer.json() == {"is_open": False}


# fmt: off
PATHS = [
    "/page/train/zip/{}", "/page/train/texts/{}", "/page/bigram/{}", "/page/replay/{}", "/page/families/replay/{}",
    "/weights/{}/x", "/weights/gpt-names/{}", "/page/static/{}",
]
NAMES = [
    "%2e%2e", "%2e%2e%2fapp.py", "%2Fetc%2Fpasswd", "x" * 5_000, "%00", "%ff", "my-%0a", "my-gpt-000000", "<b>",
    "alice/tiny@0",
]
# fmt: on


@pytest.mark.parametrize("path", PATHS)
def test_names_in_paths(client, attack, path):
    for name in NAMES:
        attack.inputs += 1
        answer = client.get(path.format(name))
        assert answer.status_code in (404, 422), answer.text[:200]
        if answer.status_code == 422:
            attack.assert_refusal(answer.json()["error"])


# The page's description


@pytest.fixture(scope="module")
def description(client):
    """OpenAPI: what the schemas say of the page's own endpoints."""
    paths = {}
    for path, schema in schemas().items():
        content = {"application/json": {"schema": schema.model_json_schema()}}
        answers = {"200": {"description": "answered"}, "422": {"description": "refused in a sentence"}}
        paths[path] = {"post": {"requestBody": {"required": True, "content": content}, "responses": answers}}
    document = {"openapi": "3.1.0", "info": {"title": "page", "version": "1"}, "paths": paths}
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize("mode", [*GenerationMode])
@pytest.mark.parametrize("path", VALID)
def test_description(description, try_request, path, mode):
    @given(description[path]["POST"].as_strategy(generation_mode=mode))
    def try_case(case):
        body = b"" if isinstance(case.body, NotSet) else case.body
        try_request(path, body if isinstance(body, bytes) else json.dumps(body))

    try_case()


# Gradio


@pytest.fixture
def log(capfd):
    """What the page logs. In the end there must be no traceback in it, and nothing that was typed."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    logging.getLogger("uvicorn.error").addHandler(handler)
    yield records
    logging.getLogger().removeHandler(handler)
    logging.getLogger("uvicorn.error").removeHandler(handler)
    assert not [record for record in records if record.exc_info and record.levelno > logging.DEBUG]
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed, printed
    assert "etc/passwd" not in printed + "".join(record.getMessage() for record in records)


@pytest.fixture
def gradio(address, attack, log):
    """A function that calls Gradio's API and returns the sentence of the refusal, or None."""
    import httpx

    with httpx.Client(base_url=f"{address}/gradio_api", timeout=30, trust_env=False) as client:

        def call(path, body):
            attack.inputs += 1
            with attack.time_limit():
                answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
                assert answer.status_code in (200, 400, 404, 422, 503), answer.text
                if answer.status_code != 200:
                    detail = answer.json()["detail"]
                    return detail if isinstance(detail, str) else json.dumps(detail)
                if "event_id" not in answer.json():
                    return None
                if path == "/queue/join":  # wait for the event
                    client.get("/queue/data", params={"session_hash": body["session_hash"]})
                    return None
                events = client.get(f"{path}/{answer.json()['event_id']}").text
            *_, last = events.split("event: ")
            name, _, data = last.partition("\ndata: ")
            return json.loads(data)["error"] if name == "error" else None

        yield call


GENERATE = {
    "model": MODEL,
    "prompt": "",
    "temperature": 0.8,
    "length": 3,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "seed": 1,
    "branch": "",
}
ALLOWED = {
    "model": [], "prompt": ["", "\0", "\ud800"], "temperature": [0, 0.5, -0.0], "length": [], "top_k": [0], "top_p": [0.5],
    "min_p": [0, 0.5, -0.0], "seed": [None, 0, 2**31], "branch": [""],
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATE)
def test_arguments_of_generate(gradio, attack, name):
    for value in JUNK if attack.is_full else [*JUNK[::3], FILE]:
        sentence = gradio("/call/v2/generate", {**GENERATE, name: value})
        if not isinstance(value, str) and value not in ALLOWED[name]:
            attack.assert_refusal(sentence)


@pytest.mark.parametrize(
    "path", ["/call/generate", "/call/score", "/call/nothing", "/call/v2/nothing", "/call/on_sample", "/run/generate"]
)
def test_too_few_arguments_and_unknown_names(gradio, attack, path):
    for values in ([], [MODEL], {}, None, "x"):
        attack.assert_refusal(gradio(path, {"data": values}))
        attack.assert_refusal(gradio(path, values))


def test_events_of_the_page(gradio, attack, address):
    import httpx

    events = httpx.get(f"{address}/config", trust_env=False).json()["dependencies"]
    for event in events if attack.is_full else events[::4]:
        n = len(event["inputs"])
        for values in ([], [None] * n, [{}] * n, [[1, FILE]] * n, ["x"] * n, [1e308] * n):
            gradio("/queue/join", {"data": values, "session_hash": "attack", "fn_index": event["id"]})


@pytest.mark.parametrize(
    "change",
    [
        {"fn_index": -1}, {"fn_index": 10**9}, {"fn_index": 10**40}, {"fn_index": None}, {"fn_index": "x"},
        {"session_hash": ""}, {"session_hash": None}, {"session_hash": "", "fn_index": -1}, {"trigger_id": 10**9},
        {"event_data": [1]}, {"batched": True}, {"event_data": "x" * 300_000},
        {"data": None}, {"simple_format": True}, {"event_id": "x"},
    ],
)  # fmt: skip
def test_events_that_do_not_exist(gradio, change):
    gradio("/queue/join", {"data": [], "session_hash": "attack", "fn_index": 0, **change})
    gradio("/component_server", {"session_hash": "attack", "component_id": -1, "fn_name": "x", "data": 1, **change})
    gradio("/cancel", {"session_hash": "attack", "event_id": "x", "fn_index": 0, **change})


def test_streams_that_do_not_exist(address, attack, log):
    import httpx

    for path in ("call/generate/nothing", "queue/data?session_hash=nothing", "heartbeat/", "stream/x/y/1/playlist.m3u8"):
        attack.inputs += 1
        assert "Traceback" not in httpx.get(f"{address}/gradio_api/{path}", timeout=30, trust_env=False).text


def test_refusals_are_counted_in_one_line(attack, caplog, monkeypatch):
    now = 100.0
    monkeypatch.setattr("ui.refusals.time.monotonic", lambda: now)
    log = RefusalLog()
    for error in (KeyError("secret"), KeyError(-1), TypeError()):
        log.add(error)
    now += 61
    log.add(KeyError())
    assert [record.getMessage() for record in caplog.records] == [
        "refused 1 requests that do not fit the page: KeyError 1",
        "refused 3 requests that do not fit the page: KeyError 2, TypeError 1",
    ]
    attack.assert_refusal(SENTENCE)

"""The panel "Use the weights": files to download, and programs that write the text on the screen."""

import json
import re
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from browser import ROOT

from gpt import SamplingParams
from gpt.checkpoint import FILES, WEIGHTS, names
from ui import model_registry
from ui.model_registry import add_local_model, get_model
from ui.session import GenerationRequest
from ui.snippets import programs as programs_of

REQUESTS = {
    "plain": GenerationRequest("gpt-shakespeare", "ROMEO:", SamplingParams(max_new_tokens=80, seed=7)),
    "every setting": GenerationRequest("gpt-shakespeare", "To be", SamplingParams(1.3, 12, 0.9, 0.02, 60, 4_294_967_295)),
    "odd characters": GenerationRequest(
        "bigram-shakespeare",
        "-$HOME `id` \\n \"it's\" 'é' 🎭\n  <b>&amp;</b> %s !! {x}\t",
        SamplingParams(temperature=0.0, max_new_tokens=50, seed=1),
    ),
    "branch": GenerationRequest("bigram-shakespeare", "To", SamplingParams(max_new_tokens=50, seed=3, forced=((4, 40), (20, 5)))),
    "no prompt": GenerationRequest("bigram-shakespeare", "", SamplingParams(max_new_tokens=50, seed=3)),
}


def screen_text(request):
    """The text on the screen: the prompt as it was typed, and what follows."""
    return request.prompt + get_model(request.model).lm.generate(request.prompt, request.params).text


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def programs(address):
    return lambda request: list(programs_of(request.query(request.params.max_new_tokens), address)["programs"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_python_program_writes_the_text(programs, name):
    assert run(sys.executable, "-c", programs(REQUESTS[name])[0]) == screen_text(REQUESTS[name]) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_command_line_writes_the_text(programs, name):
    command = programs(REQUESTS[name])[1].replace("python", sys.executable, 1)
    assert run("bash", "-c", command) == screen_text(REQUESTS[name]) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_client_program_writes_the_text(programs, name):
    out = run(sys.executable, "-c", programs(REQUESTS[name])[2])
    assert out.endswith("\n" + screen_text(REQUESTS[name]) + "\n")  # after the client's own messages


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_curl_writes_the_text(programs, name):
    out = run("bash", "-c", programs(REQUESTS[name])[3])
    *_, last = re.findall(r"^event: complete\ndata: (.*)$", out, re.MULTILINE)
    assert [REQUESTS[name].prompt + text for text in json.loads(last)] == [screen_text(REQUESTS[name])]


@pytest.mark.parametrize("address", ["javascript:alert(1)", "http://x' + evil + '", "", "http://" + "x" * 300])
def test_invalid_address_is_replaced(address):
    for program in list(programs_of(REQUESTS["plain"].query(80), address)["programs"].values())[2:]:
        assert "http://127.0.0.1:7860" in program
        assert not address or address not in program


def make_query(model):
    return urlencode({"model": model, "seed": 1})


def links(model):
    return [(file["url"], file["name"]) for file in programs_of(make_query(model))["files"]]


def test_every_file_can_be_downloaded(address):
    for model in names():
        files = [path for name in (*FILES, "README.md") if (path := WEIGHTS / model / name).is_file()]
        if "writes" in get_model(model, None).family.abilities:
            assert links(model) == [(f"weights/{model}/{path.name}", path.name) for path in files]
        for path in files:
            with urllib.request.urlopen(f"{address}/weights/{model}/{path.name}") as answer:
                assert answer.read() == path.read_bytes()


def test_local_model_is_opened_and_downloaded_from_its_folder(address, folder, monkeypatch, capsys):
    monkeypatch.setattr(model_registry, "_local_models", {})
    add_local_model(str(folder))
    request = GenerationRequest("tiny", "Vera", SamplingParams(max_new_tokens=30, seed=2))
    exec(programs_of(request.query(30), address)["programs"]["Python"], {})
    assert capsys.readouterr().out == screen_text(request) + "\n"
    for link, name in links("tiny"):
        with urllib.request.urlopen(f"{address}/{link}") as answer:
            assert answer.read() == (folder / name).read_bytes()
    assert {"config.json", "model.safetensors"} <= {name for _, name in links("tiny")}


@pytest.mark.parametrize(
    "path",
    [
        "../app.py", "%2e%2e/app.py", "..%2fapp.py", "gpt-shakespeare/../../app.py", "", "gpt-shakespeare/",
        "gpt-shakespeare/%2e%2e%2f%2e%2e%2fapp.py", "hub.json", "mine/config.json", "gpt-shakespeare/resume.pt",
    ],
)  # fmt: skip
def test_nothing_else_can_be_downloaded(address, path):
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(f"{address}/weights/{path}")
    with refused.value as answer:
        assert answer.code == 404
        assert b"import" not in answer.read()

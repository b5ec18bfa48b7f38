"""The page in a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from html import escape
from urllib.parse import parse_qsl

import pytest
from browser import ROOT, TIMEOUT_MS, served
from gradio_client import Client

from gpt import CheckpointError, SamplingParams
from ui import model_registry, routes
from ui.model_registry import add_local_model, default_model, get_model, list_models
from ui.session import SessionStore, scheduler


@pytest.mark.browser
def test_every_control_has_a_name_and_is_reachable_by_keyboard(visit):
    first = visit()
    reached = set()
    first.page.click("#head h1")
    for _ in range(60):
        first.page.keyboard.press("Tab")
        reached.add(first.page.evaluate("document.activeElement.innerText || document.activeElement.closest('[id]')?.id"))
    assert {"Generate", "Continue", "ROMEO:", "Copy link", "Copy as Python", "prompt", "temperature", "length"} <= reached
    first.page.click("#more button")
    for name in ("Temperature", "Length", "Top-k", "Top-p", "Min-p"):
        first.page.get_by_role("slider", name=re.compile(name)).wait_for()  # it fails if there are two
    nameless = first.page.evaluate(
        """[...document.querySelectorAll("#write button, #write input, #write textarea")]
        .filter(e => e.offsetParent && !(e.textContent || e.ariaLabel || e.labels?.length || e.title || e.closest("label")))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.browser
@pytest.mark.parametrize(
    ("model", "prompt"), [("gpt-shakespeare", "JULIET:\n  O"), ("bpe-shakespeare", "JULIÉT 👍🏽:"), ("lstm-names", "Em")]
)
def test_generate_shows_the_text_of_its_seed(visit, model, prompt):
    first = visit()
    first.pick(model)
    first.set_number("length", 100)
    first.generate(prompt)
    text = first.wait_for_text()
    params = SamplingParams(temperature=0.8, max_new_tokens=100, seed=first.seed)
    assert text == get_model(model).lm.generate(prompt, params).text
    assert first.length == 100
    link = dict(parse_qsl(first.query()))
    assert (link["prompt"], link["length"], link["seed"]) == (prompt, "100", str(first.seed))


@pytest.mark.browser
def test_link_shows_the_same_text_to_another_visitor(visit):
    first = visit()
    first.generate('HAMLET:\nTo <be> & "not" to be?  é\n')
    text = first.wait_for_text()
    first.until(lambda: "length=300" in first.page.url, "the link of the whole text in the address")
    other = visit("/?" + first.page.url.split("?", 1)[1])
    assert other.wait_for_text() == text
    other.wait_for_value("#prompt textarea", 'HAMLET:\nTo <be> & "not" to be?  é\n')


@pytest.mark.browser
def test_closing_the_page_stops_generation(visit, slow_generation, monkeypatch):
    monkeypatch.setattr(routes, "sessions", SessionStore())
    first = visit(reduced_motion="no-preference")
    first.set_number("length", 1000)
    first.generate()
    assert scheduler.is_running
    first.page.close()
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while scheduler.is_running:
        assert time.monotonic() < deadline, "the text grows although nobody reads it"
        time.sleep(0.1)
    assert max(len(session.tokens) for session in routes.sessions._sessions.values()) < 1000


def test_html_shows_headline_and_sample_without_javascript(address):
    sample = escape(get_model("gpt-shakespeare").sample["text"]) + "</pre>"
    pages = {query: urllib.request.urlopen(address + "/" + query) for query in ("", "?__theme=dark", "?seed=5")}
    html = {query: answer.read().decode() for query, answer in pages.items()}
    for answer in pages.values():
        answer.close()
    assert "one character at a time" in html[""]
    assert (sample in html[""], sample in html["?__theme=dark"]) == (True, True)
    assert sample not in html["?seed=5"]  # a link to another text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated weights", "no local model"])
def test_failed_start_ends_with_a_sentence(tmp_path, fault):
    for name in ("app.py", "gpt", "train", "ui"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    if fault == "truncated weights":
        folder = tmp_path / "weights" / "bigram-shakespeare"
        shutil.copytree(ROOT / "weights" / "bigram-shakespeare", folder)
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    env = os.environ | ({"MODELS": "runs/nothing"} if fault == "no local model" else {})
    done = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("python app.py: ")
    assert done.stderr.count("\n") == 1  # no traceback
    assert ("runs/nothing" if fault == "no local model" else "git checkout") in done.stderr


def test_no_models_at_all_are_an_error(monkeypatch):
    monkeypatch.setattr(model_registry, "names", list)
    with pytest.raises(CheckpointError, match="git checkout -- weights"):
        model_registry._shipped_models.__wrapped__()


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_requested_port_in_use_is_an_error(monkeypatch, how):
    import app

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        monkeypatch.setenv("GRADIO_SERVER_PORT", port if how == "environment" else "1")
        options = app.parse_arguments(["--port", port] if how == "argument" else [])
        with pytest.raises(SystemExit, match=f"port {port} is in use"):
            app.choose_port(options.port)


def test_default_port_in_use_is_reported(monkeypatch, capsys):
    import app

    monkeypatch.setattr(app, "is_free", lambda port: False)
    assert app.choose_port(None) is None
    assert f"Port {app.DEFAULT_PORT} is in use" in capsys.readouterr().out


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_invalid_port_is_refused(monkeypatch, capsys, port):
    import app

    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(SystemExit):
        app.parse_arguments([])
    assert "--port" in capsys.readouterr().err


def test_models_are_read_from_arguments_or_environment(monkeypatch):
    import app

    monkeypatch.setenv("MODELS", os.pathsep.join(["runs/a", "runs/b"]))
    assert app.parse_arguments([]).model == ["runs/a", "runs/b"]
    assert app.parse_arguments(["--model", "runs/c", "--model", "runs/d"]).model == ["runs/c", "runs/d"]


@pytest.mark.slow
def test_local_models_are_offered_next_to_the_shipped_ones(tmp_path, folder):
    mine = tmp_path / "runs" / "my play"
    shutil.copytree(ROOT / "weights" / "bigram-shakespeare", mine)
    with served(arguments=["--model", str(mine), "--model", str(folder)]) as address:
        client = Client(address, verbose=False)
        ids = [model["id"] for model in client.predict(api_name="/list-models")]
        assert ids[:2] == ["my play", "tiny"]  # the second has no training.json
        assert set(ids[2:]) == {entry.id for entry in list_models()}
        text = client.predict("my play", "To", 0.8, 50, seed=1, api_name="/generate")
        assert text == get_model("bigram-shakespeare").lm.generate("To", SamplingParams(max_new_tokens=50, seed=1)).text
        with urllib.request.urlopen(f"{address}/weights/my%20play/config.json") as answer:
            assert answer.read() == (mine / "config.json").read_bytes()


@pytest.mark.parametrize("fault", ["missing", "empty", "name of a shipped model", "name of another one", "damaged log"])
def test_bad_local_model_is_refused(monkeypatch, tmp_path, folder, fault):
    monkeypatch.setattr(model_registry, "_local_models", {})
    bad = tmp_path / ("gpt-shakespeare" if fault == "name of a shipped model" else "tiny2")
    if fault == "empty":
        bad.mkdir()
    elif fault != "missing":
        shutil.copytree(folder, bad)
    if fault == "name of another one":
        add_local_model(str(bad))
        bad = shutil.copytree(folder, tmp_path / "runs" / "tiny2")
    if fault == "damaged log":
        (bad / "training.json").write_text("[]")
    before = list_models()
    with pytest.raises(CheckpointError, match=re.escape(str(bad))):
        add_local_model(str(bad))
    assert list_models() == before


def test_page_opens_with_a_local_model(monkeypatch, tmp_path):
    monkeypatch.setattr(model_registry, "_local_models", {})
    mine = shutil.copytree(ROOT / "weights" / "bigram-shakespeare", tmp_path / "mine")
    for _ in range(2):  # gradio's reload mode runs app.py again
        add_local_model(str(mine))
    assert [entry.id for entry in list_models()].count("mine") == 1
    assert default_model().id == "mine"

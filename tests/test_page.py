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
from browser import ROOT, TIMEOUT_MS, Visit, served
from gradio_client import Client

from gpt import CheckpointError, LanguageModel, SamplingParams
from gpt.checkpoint import names
from ui import model_registry
from ui.model_registry import add_local_model, default_model, get_model, list_models
from ui.session import GenerationSession


@pytest.mark.browser
def test_first_visit_shows_a_sample_without_running_a_model(visit, monkeypatch):
    monkeypatch.setattr(LanguageModel, "forward", None)  # would fail if it were called
    sample = get_model("gpt-shakespeare").sample
    first = visit()
    assert first.text == sample["text"]
    assert first.page.input_value("#prompt textarea") == sample["prompt"]
    assert "one character at a time" in first.page.text_content("#head")
    assert first.page.is_checked("#models input[value='gpt-shakespeare']")


@pytest.mark.browser
def test_every_control_has_a_name_and_is_reachable_by_keyboard(visit):
    first = visit()
    reached = set()
    first.page.click("#head")
    for _ in range(40):
        first.page.keyboard.press("Tab")
        reached.add(first.page.evaluate("document.activeElement.innerText || document.activeElement.closest('[id]')?.id"))
    assert {"Generate", "Continue", "ROMEO:", "Copy link", "Copy as Python", "prompt", "temperature", "length"} <= reached
    first.page.click("#more button")
    for role, name in [
        ("textbox", "Prompt"),
        ("button", "Generate"),
        ("button", "Continue"),
        ("button", "Copy link"),
        ("button", "Copy as Python"),
        ("button", "To be, or not to be"),
        ("checkbox", "Lock"),
    ]:
        first.page.get_by_role(role, name=name).first.focus()
        assert first.page.evaluate("document.activeElement !== document.body"), name
    for name in ("Temperature", "Length", "Top-k", "Top-p", "Min-p"):
        assert first.page.get_by_role("slider", name=re.compile(name)).count() == 1, name
    nameless = first.page.evaluate(
        """[...document.querySelectorAll("#write button, #write input, #write textarea")]
        .filter(e => e.offsetParent && !(e.innerText || e.ariaLabel || e.labels?.length || e.title || e.closest("label")))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.browser
def test_generate_shows_the_text_of_its_seed(visit):
    first = visit()
    first.generate("JULIET:\n  O")
    text = first.wait_for_text()
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(temperature=0.8, max_new_tokens=300, seed=seed)
    assert text == get_model("gpt-shakespeare").lm.generate("JULIET:\n  O", params).text
    assert first.page.text_content("#text .prompt") == "JULIET:\n  O"
    assert re.search(r"[\d,]+ characters per second · seed \d+ · \d\.\d\d bits per character", first.status)


@pytest.mark.browser
def test_locked_seed_repeats_the_text(visit, slow_generation):
    first = visit()
    first.page.fill("#length input[type=number]", "50")
    first.pick("bigram-shakespeare")
    first.generate()
    one = first.wait_for_text()
    first.page.click("#more button")
    first.page.check("#lock input")
    first.generate()
    assert first.wait_for_text() == one
    first.page.uncheck("#lock input")
    first.generate()
    assert first.wait_for_text() != one


@pytest.mark.browser
def test_continue_after_stop_gives_the_same_text_as_one_run(visit, slow_generation):
    first = visit()
    first.generate()
    first.until(lambda: 20 < len(first.text) < 300, "some characters")
    first.page.click("#stop")
    stopped = first.wait_for_text()
    assert dict(parse_qsl(first.query()))["length"] == str(len(stopped))
    first.page.wait_for_timeout(1000)
    assert first.text == stopped
    assert 0 < len(stopped) < 300
    first.page.click("#continue")
    first.until(lambda: len(first.text) > len(stopped), "more characters")
    whole = first.wait_for_text()
    assert whole.startswith(stopped)
    assert len(whole) >= len(stopped) + 300
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(max_new_tokens=len(whole), seed=seed)
    assert whole == get_model("gpt-shakespeare").lm.generate("ROMEO:", params).text


@pytest.mark.browser
def test_link_and_status_match_the_text_however_soon_stop_is_pressed(visit, slow_generation):
    first = visit()
    for delay in (0, 50, 150, 300):
        first.page.fill("#length input[type=number]", "1000")
        first.generate()
        first.page.wait_for_timeout(delay)
        first.page.click("#stop")
        first.until(lambda: first.page.is_enabled("#generate"), "the end of the text")
        first.page.wait_for_timeout(300)  # for late updates
        assert dict(parse_qsl(first.query()))["length"] == str(len(first.text))
        assert "Error" not in first.page.inner_text("#status")


@pytest.mark.browser
def test_running_text_has_a_link_and_disables_generate(visit, slow_generation):
    first = visit()
    first.page.click("#more button")
    first.generate("HAMLET:")
    assert first.page.is_disabled("#generate")
    assert first.page.is_disabled("#continue")
    asked = dict(parse_qsl(first.query()))
    assert (asked["prompt"], asked["length"]) == ("HAMLET:", "300")
    first.until(lambda: first.page.input_value("#seed input") == asked["seed"], "the seed of the text")
    first.page.click("#stop")
    first.until(lambda: first.page.is_enabled("#generate"), "the end of the text")


@pytest.mark.browser
def test_continue_generates_a_forgotten_text_again(visit):
    # The text of a first visit was never generated on this server.
    first = visit()
    sample = first.text
    first.page.click("#continue")
    first.until(lambda: len(first.text) >= len(sample) + 300, "more characters")
    assert first.wait_for_text().startswith(sample)
    end = (
        "e => [e.querySelector('.generated').getClientRects(), e].map(r => (r.getBoundingClientRect?.() ?? [...r].at(-1)).bottom)"
    )
    last_line, edge = first.page.eval_on_selector("#text .output", end)
    assert last_line <= edge  # a long text is scrolled to its end


@pytest.mark.browser
def test_link_shows_the_same_text_to_another_visitor(visit):
    first = visit()
    first.generate('HAMLET:\nTo <be> & "not" to be?  é\n')
    text = first.wait_for_text()
    first.until(lambda: "seed=" in first.page.url, "the link in the address")
    link = "/?" + first.page.url.split("?", 1)[1]
    other = visit(link)
    assert other.wait_for_text() == text
    assert other.page.input_value("#prompt textarea") == 'HAMLET:\nTo <be> & "not" to be?  é\n'


@pytest.mark.browser
def test_incomplete_link_is_completed(visit):
    first = visit("/?prompt=HAMLET%3A&model=bigram-shakespeare")
    text = first.wait_for_text()
    first.until(lambda: "seed=" in first.page.url, "a complete address")
    first.reload()
    first.until(lambda: first.text == text, "the same text")


@pytest.mark.browser
def test_link_shows_the_same_text_after_a_restart(visit, chromium):
    first = visit()
    first.generate("JULIET:")
    text = first.wait_for_text()
    query = first.query()
    with served() as address:
        other = Visit(chromium, address, "/?" + query)
        assert other.wait_for_text() == text
        other.context.close()
    assert other.faults == []


@pytest.mark.browser
def test_copy_buttons_fill_the_clipboard(visit, address):
    first = visit(permissions=["clipboard-read", "clipboard-write"])
    sample = get_model("gpt-shakespeare").sample
    first.page.eval_on_selector(  # the button says so for a moment only
        "#copy-link",
        """e => { window.labels = [];
        new MutationObserver(() => labels.push(e.innerText)).observe(e, {childList: true, subtree: true}) }""",
    )
    first.page.click("#copy-link")
    first.until(lambda: "Copied" in first.page.evaluate("labels"), "the button to say that it copied")
    copied = first.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(address)
    assert f"seed={sample['seed']}" in copied
    first.page.click("#copy-link")
    first.until(lambda: first.page.text_content("#copy-link").strip() == "Copy link", "the label of the button")
    first.page.click("#copy-python")
    first.until(lambda: "lm = load" in first.page.evaluate("navigator.clipboard.readText()"), "the program")
    assert f"seed={sample['seed']}" in first.page.evaluate("navigator.clipboard.readText()")


@pytest.mark.browser
@pytest.mark.parametrize(
    "link", ["/?temperature=hot", "/?model=hal9000&seed=1", "/?seed=-3", "/?length=999999", "/?prompt=" + "x" * 6000]
)
def test_invalid_link_opens_the_page_with_a_sentence(visit, link):
    first = visit(link)
    first.page.wait_for_selector("#notice p")
    assert "This link cannot be shown" in first.page.text_content("#notice")
    assert first.text == get_model("gpt-shakespeare").sample["text"]


@pytest.mark.browser
def test_unknown_character_is_reported_and_skipped(visit):
    first = visit()
    first.generate("café")
    assert len(first.wait_for_text()) == 300
    assert "never seen é, so it was skipped" in first.page.text_content("#notice")
    assert first.page.text_content("#text .prompt s") == "é"


@pytest.mark.browser
def test_bpe_model_takes_any_prompt_and_counts_tokens(visit):
    first = visit()
    first.pick("bpe-shakespeare")
    first.page.fill("#length input[type=number]", "100")
    first.generate("JULIÉT 👍🏽:")
    text = first.wait_for_text()
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(max_new_tokens=100, seed=seed)
    assert text == get_model("bpe-shakespeare").lm.generate("JULIÉT 👍🏽:", params).text
    assert dict(parse_qsl(first.query()))["length"] == "100"
    assert first.page.locator("#notice p, #text .prompt s").count() == 0


@pytest.mark.browser
def test_prompt_longer_than_the_context_is_explained(visit):
    first = visit()
    first.generate("To be, or not to be. " * 30)
    assert len(first.wait_for_text()) == 300
    assert "sees 256 characters at a time" in first.page.text_content("#notice")


@pytest.mark.browser
def test_overlong_prompt_is_refused_and_the_text_stays(visit):
    first = visit()
    before = first.text
    first.page.fill("#prompt textarea", "x" * 6000)
    first.page.wait_for_timeout(500)
    first.page.click("#generate")
    first.page.wait_for_selector("#notice p")
    assert "This prompt has 6,000 characters; the page takes up to 5,000." in first.page.text_content("#notice")
    assert first.text == before
    assert "sample" in first.status  # of the text that is shown


@pytest.mark.browser
@pytest.mark.parametrize("seed", ["99999999999", "-1"])
def test_seed_out_of_range_is_refused_only_if_it_is_locked(visit, seed):
    first = visit()
    first.page.click("#more button")
    first.page.fill("#seed input", seed)
    first.page.check("#lock input")

    def is_refused():
        """Press again until the page has read both controls, a moment after they changed."""
        if first.page.is_enabled("#generate") and not first.page.is_visible("#notice p"):
            first.page.fill("#seed input", seed)
            first.page.click("#generate")
            first.page.wait_for_timeout(500)
        return first.page.is_visible("#notice p")

    first.until(is_refused, "a sentence about the seed")
    assert f"seed is {seed}; it must be a whole number from 0 to 4294967295" in first.page.text_content("#notice")
    first.page.uncheck("#lock input")
    first.generate()
    assert len(first.wait_for_text()) == 300


@pytest.mark.browser
def test_markup_in_a_prompt_is_escaped(visit):
    first = visit()
    nasty = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
    first.generate(nasty)
    first.wait_for_text()
    assert first.page.text_content("#text .prompt") == nasty
    assert first.page.locator("#text img, #text script").count() == 0
    assert first.page.title() == "From Bigram to GPT"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_order_of_the_controls_on_a_phone(visit, scheme):
    first = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tops = [first.page.locator(name).bounding_box()["y"] for name in ("#prompt", "#generate", "#text", "#models", "#temperature")]
    assert tops == sorted(tops)
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = first.page.eval_on_selector(
        "#text .output", "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    )
    brightness = [sum(int(n) for n in re.findall(r"\d+", colour)[:3]) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")


@pytest.mark.browser
@pytest.mark.parametrize("length", ["1000", "50"])
def test_closing_the_tab_stops_generation_and_frees_the_state(visit, slow_generation, monkeypatch, length):
    sessions = []
    start = GenerationSession.__init__
    monkeypatch.setattr(GenerationSession, "__init__", lambda self, *args: (sessions.append(self), start(self, *args))[1])
    first = visit()
    first.page.fill("#length input[type=number]", length)
    first.generate()
    if length == "50":
        first.wait_for_text()
        assert sessions[-1].sequence
    first.page.close()
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while sessions[-1].is_running or sessions[-1].sequence or sessions[-1].entry.scheduler.is_running:
        assert time.monotonic() < deadline, "the state is not freed"
        time.sleep(0.1)
    assert len(sessions[-1].pieces) < 1000


def test_html_shows_headline_and_sample_without_javascript(address):
    sample = escape(get_model("gpt-shakespeare").sample["text"]) + "</pre>"
    pages = {query: urllib.request.urlopen(address + "/" + query) for query in ("", "?__theme=dark", "?seed=5")}
    html = {query: answer.read().decode() for query, answer in pages.items()}
    for answer in pages.values():
        answer.close()
    assert "one character at a time" in html[""]
    assert (sample in html[""], sample in html["?__theme=dark"]) == (True, True)
    assert sample not in html["?seed=5"]  # a link to another text


@pytest.mark.browser
def test_capital_letters_are_lowered_for_a_model_without_any(visit):
    first = visit()
    first.pick("lstm-names")
    first.generate("Emma")
    text = first.wait_for_text()
    assert first.page.text_content("#text .prompt") == "emma"
    assert "in lower case" in first.page.text_content("#notice")
    assert first.page.locator("#text .prompt s").count() == 0
    params = SamplingParams(max_new_tokens=300, seed=int(re.search(r"seed (\d+)", first.status)[1]))
    assert text == get_model("lstm-names").lm.generate("emma", params).text
    assert dict(parse_qsl(first.query()))["prompt"] == "Emma"


@pytest.mark.browser
def test_no_bits_per_character_next_to_a_text_of_a_vae(visit):
    first = visit()
    first.pick("vae-names")
    first.generate("")
    first.wait_for_text()
    assert "seed" in first.status
    assert "bits" not in first.status


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["truncated weights", "no local model"])
def test_failed_start_ends_with_a_sentence(tmp_path, fault):
    for name in ("app.py", "gpt", "ui"):
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
        assert set(ids[2:]) == set(names())
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

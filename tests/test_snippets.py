"""The panel "Use the weights": files to download, and programs that each write the text on the screen."""

import json
import re
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError

import pytest
from browser import ROOT

from gpt import SamplingParams
from gpt.checkpoint import FILES, WEIGHTS, names
from ui.model_registry import take
from ui.session import GenerationRequest
from ui.snippets import files, on_text

ASKS = {
    "plain": GenerationRequest("gpt-shakespeare", "ROMEO:", SamplingParams(max_new_tokens=80, seed=7)),
    "every setting": GenerationRequest("gpt-shakespeare", "To be", SamplingParams(1.3, 12, 0.9, 0.02, 60, 4_294_967_295)),
    "odd characters": GenerationRequest(
        "bigram-shakespeare",
        "-$HOME `id` \\n \"it's\" 'é' 🎭\n  <b>&amp;</b> %s !! {x}\t",
        SamplingParams(temperature=0.0, max_new_tokens=50, seed=1),
    ),
    "no prompt": GenerationRequest("bigram-shakespeare", "", SamplingParams(max_new_tokens=50, seed=3)),
}


def shown(ask):
    """The text on the screen: the prompt as it was typed, and what was written."""
    return ask.prompt + take(ask.model).lm.generate(ask.prompt, ask.params).text


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def programs(address):
    return lambda ask: on_text(ask.query(ask.params.max_new_tokens), address)


@pytest.mark.parametrize("name", ASKS)
def test_the_python_program_writes_the_text(programs, name):
    assert run(sys.executable, "-c", programs(ASKS[name])[0]) == shown(ASKS[name]) + "\n"


@pytest.mark.parametrize("name", ASKS)
def test_the_command_line_writes_the_text(programs, name):
    command = programs(ASKS[name])[1].replace("python", sys.executable, 1)
    assert run("bash", "-c", command) == shown(ASKS[name]) + "\n"


@pytest.mark.parametrize("name", ASKS)
def test_the_client_program_writes_the_text(programs, name):
    out = run(sys.executable, "-c", programs(ASKS[name])[2])
    assert out.endswith("\n" + shown(ASKS[name]) + "\n")  # after what the client says of itself


@pytest.mark.parametrize("name", ASKS)
def test_curl_writes_the_text(programs, name):
    out = run("bash", "-c", programs(ASKS[name])[3])
    *_, last = re.findall(r"^event: complete\ndata: (.*)$", out, re.MULTILINE)
    assert [ASKS[name].prompt + text for text in json.loads(last)] == [shown(ASKS[name])]


@pytest.mark.parametrize("address", ["javascript:alert(1)", "http://x' + evil + '", "", "http://" + "x" * 300])
def test_an_address_that_is_none_is_not_written_into_a_program(address):
    for program in on_text(ASKS["plain"].query(80), address)[2:]:
        assert "http://127.0.0.1:7860" in program
        assert not address or address not in program


@pytest.mark.parametrize("model", names())
def test_every_file_is_there_to_download(address, model):
    links = re.findall(r'href="([^"]+)" download>([^<]+)<', files(model))
    assert {name for _, name in links} == {name for name in (*FILES, "README.md") if (WEIGHTS / model / name).is_file()}
    for link, name in links:
        with urllib.request.urlopen(f"{address}/{link}") as answer:
            assert answer.read() == (WEIGHTS / model / name).read_bytes()


@pytest.mark.parametrize(
    "path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "gpt-shakespeare/../../app.py", "", "gpt-shakespeare/"]
)
def test_nothing_else_is_there_to_download(address, path):
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(f"{address}/weights/{path}")
    with refused.value as answer:
        assert answer.code == 404
        assert b"import" not in answer.read()


@pytest.mark.browser
def test_the_panel_follows_the_text_on_the_screen(visit, address):
    first = visit()
    first.page.click("#use > button")
    first.pick("bigram-shakespeare")
    first.page.fill("#length input[type=number]", "60")
    first.generate("O <b>'dear'</b>")
    text = first.done()
    seed = re.search(r"seed (\d+)", first.status)[1]

    def program():
        return "\n".join(first.page.locator("#use .cm-content:visible").inner_text().split("\n")).replace("\n\n", "\n")

    first.until(lambda: f"seed={seed}" in program(), "the program to follow")
    assert run(sys.executable, "-c", program()) == f"O <b>'dear'</b>{text}\n"
    for tab, says in (
        ("Command line", "python -m gpt --model=bigram-shakespeare"),
        ("gradio_client", address),
        ("curl", address),
    ):
        first.page.get_by_role("tab", name=tab).click()
        first.until(lambda says=says: says in program() and seed in program(), f"the program for {tab}")
    first.until(lambda: "weights/bigram-shakespeare/config.json" in first.page.inner_html("#files"), "the links of this model")
    with first.page.expect_download() as started:
        first.page.click("#files a:text-is('config.json')")
    assert started.value.path().read_bytes() == (WEIGHTS / "bigram-shakespeare" / "config.json").read_bytes()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_open_panel_fits_a_phone(visit, scheme):
    first = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    first.page.click("#use > button")
    first.page.wait_for_selector("#use .cm-content:visible")
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 390

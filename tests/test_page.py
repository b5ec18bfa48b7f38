"""The page in a real browser."""

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from html import escape
from urllib.parse import parse_qsl

import pytest
from browser import COMPILE_TIMEOUT_S, ROOT, Visit, served

from gpt import LanguageModel, SamplingParams
from ui.model_registry import take
from ui.tabs.write import GenerationSession


@pytest.mark.browser
def test_the_first_visit_shows_a_text_before_any_model_has_run(visit, monkeypatch):
    monkeypatch.setattr(LanguageModel, "step", None)  # would fail if it were called
    sample = take("gpt-shakespeare").facts["sample"]
    first = visit()
    assert first.text == sample["text"]
    assert first.page.input_value("#prompt textarea") == sample["prompt"]
    assert "one character at a time" in first.page.text_content("#head")
    assert first.page.is_checked("#models input[value='gpt-shakespeare']")


@pytest.mark.browser
def test_every_control_has_a_name_and_the_keyboard_reaches_it(visit):
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
def test_generate_writes_the_text_of_the_seed_that_it_shows(visit):
    first = visit()
    first.generate("JULIET:\n  O")
    text = first.done()
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(temperature=0.8, max_new_tokens=300, seed=seed)
    assert text == take("gpt-shakespeare").lm.generate("JULIET:\n  O", params).text
    assert first.page.text_content("#text .prompt") == "JULIET:\n  O"
    assert re.search(r"[\d,]+ characters per second · seed \d+ · \d\.\d\d bits per character", first.status)


@pytest.mark.browser
def test_a_locked_seed_writes_the_same_text_twice_and_a_free_one_does_not(visit, slow):
    first = visit()
    first.page.fill("#length input[type=number]", "50")
    first.pick("bigram-shakespeare")
    first.generate()
    one = first.done()
    first.page.click("#more button")
    first.page.check("#lock input")
    first.generate()
    assert first.done() == one
    first.page.uncheck("#lock input")
    first.generate()
    assert first.done() != one


@pytest.mark.browser
def test_stop_keeps_the_text_and_continue_goes_on(visit, slow):
    first = visit()
    first.generate()
    first.until(lambda: 20 < len(first.text) < 300, "some characters")
    first.page.click("#stop")
    stopped = first.done()
    assert dict(parse_qsl(first.query()))["length"] == str(len(stopped))
    first.page.wait_for_timeout(1000)
    assert first.text == stopped
    assert 0 < len(stopped) < 300
    first.page.click("#continue")
    first.until(lambda: len(first.text) > len(stopped), "more characters")
    whole = first.done()
    assert whole.startswith(stopped)
    assert len(whole) >= len(stopped) + 300
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(max_new_tokens=len(whole), seed=seed)
    assert whole == take("gpt-shakespeare").lm.generate("ROMEO:", params).text


@pytest.mark.browser
def test_link_and_status_are_of_the_text_on_the_screen_however_soon_stop_is_pressed(visit):
    first = visit()
    for delay in (0, 50, 150, 300):
        first.page.fill("#length input[type=number]", "1000")
        first.generate()
        first.page.wait_for_timeout(delay)
        first.page.click("#stop")
        first.until(lambda: first.page.is_enabled("#generate"), "the end of the text")
        first.page.wait_for_timeout(300)  # for whatever might still come in late
        assert dict(parse_qsl(first.query()))["length"] == str(len(first.text))
        assert "Error" not in first.page.inner_text("#status")


@pytest.mark.browser
def test_while_a_text_is_written_its_link_is_ready_and_a_second_one_cannot_be_started(visit, slow):
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
def test_continue_after_the_server_has_forgotten_the_text(visit):
    """The text of a first visit was never written here: it is written again from its seed."""
    first = visit()
    sample = first.text
    first.page.click("#continue")
    first.until(lambda: len(first.text) >= len(sample) + 300, "more characters")
    assert first.done().startswith(sample)
    end = "e => [e.querySelector('.written').getClientRects(), e].map(r => (r.getBoundingClientRect?.() ?? [...r].at(-1)).bottom)"
    last_line, edge = first.page.eval_on_selector("#text .sheet", end)
    assert last_line <= edge  # a long text stays at its end, where it is being written


@pytest.mark.browser
def test_the_other_model_writes_too(visit):
    first = visit()
    first.pick("bigram-shakespeare")
    first.generate("")
    assert len(first.done()) == 300
    assert "model=bigram-shakespeare" in first.query()
    assert first.page.text_content("#text .prompt") == ""


@pytest.mark.browser
def test_a_link_shows_the_same_text_to_somebody_else(visit):
    first = visit()
    first.generate('HAMLET:\nTo <be> & "not" to be?  é\n')
    text = first.done()
    first.until(lambda: "seed=" in first.page.url, "the address to follow the text")
    link = "/?" + first.page.url.split("?", 1)[1]
    other = visit(link)
    assert other.done() == text
    assert other.page.input_value("#prompt textarea") == 'HAMLET:\nTo <be> & "not" to be?  é\n'


@pytest.mark.browser
def test_a_link_with_parts_missing_gets_them_and_shows_one_text_from_then_on(visit):
    first = visit("/?prompt=HAMLET%3A&model=bigram-shakespeare")
    text = first.done()
    first.until(lambda: "seed=" in first.page.url, "the address to be whole")
    first.reload()
    first.until(lambda: first.text == text, "the same text")


@pytest.mark.browser
def test_a_link_shows_the_same_text_after_a_restart(visit, chromium):
    first = visit()
    first.generate("JULIET:")
    text = first.done()
    query = first.query()
    with served() as address:
        other = Visit(chromium, address, "/?" + query)
        assert other.done() == text
        other.context.close()
    assert other.faults == []


@pytest.mark.browser
def test_copy_link_and_copy_as_python_fill_the_clipboard(visit, address):
    first = visit(permissions=["clipboard-read", "clipboard-write"])
    sample = take("gpt-shakespeare").facts["sample"]
    first.page.eval_on_selector(  # notes what the button says: it says so for a moment only
        "#copy-link",
        """e => { window.said = [];
        new MutationObserver(() => said.push(e.innerText)).observe(e, {childList: true, subtree: true}) }""",
    )
    first.page.click("#copy-link")
    first.until(lambda: "Copied" in first.page.evaluate("said"), "the button to say so")
    copied = first.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(address)
    assert f"seed={sample['seed']}" in copied
    first.page.click("#copy-link")
    first.until(lambda: first.page.text_content("#copy-link").strip() == "Copy link", "the button to be itself again")
    first.page.click("#copy-python")
    first.until(lambda: "lm = load" in first.page.evaluate("navigator.clipboard.readText()"), "the program")
    assert f"seed={sample['seed']}" in first.page.evaluate("navigator.clipboard.readText()")


@pytest.mark.browser
@pytest.mark.parametrize(
    "link", ["/?temperature=hot", "/?model=hal9000&seed=1", "/?seed=-3", "/?length=999999", "/?prompt=" + "x" * 6000]
)
def test_a_link_with_nonsense_opens_the_page_with_a_sentence(visit, link):
    first = visit(link)
    first.page.wait_for_selector("#notice p")
    assert "This link cannot be shown" in first.page.text_content("#notice")
    assert first.text == take("gpt-shakespeare").facts["sample"]["text"]


@pytest.mark.browser
def test_an_unseen_character_is_reported_and_left_out(visit):
    first = visit()
    first.generate("café")
    assert len(first.done()) == 300
    assert "This model never saw é; it was left out." in first.page.text_content("#notice")
    assert first.page.text_content("#text .prompt s") == "é"


@pytest.mark.browser
def test_a_model_of_pieces_of_words_takes_any_prompt_and_its_length_counts_tokens(visit):
    first = visit()
    first.pick("bpe-shakespeare")
    first.page.fill("#length input[type=number]", "100")
    first.generate("JULIÉT 👍🏽:")
    text = first.done()
    seed = int(re.search(r"seed (\d+)", first.status)[1])
    params = SamplingParams(max_new_tokens=100, seed=seed)
    assert text == take("bpe-shakespeare").lm.generate("JULIÉT 👍🏽:", params).text
    assert dict(parse_qsl(first.query()))["length"] == "100"
    assert first.page.locator("#notice p, #text .prompt s").count() == 0


@pytest.mark.browser
def test_a_prompt_longer_than_the_window_is_read_and_explained(visit):
    first = visit()
    first.generate("To be, or not to be. " * 30)
    assert len(first.done()) == 300
    assert "this model sees 256 characters at a time" in first.page.text_content("#notice")


@pytest.mark.browser
def test_a_prompt_too_long_is_a_sentence_and_nothing_is_lost(visit):
    first = visit()
    before = first.text
    first.page.fill("#prompt textarea", "x" * 6000)
    first.page.wait_for_timeout(500)
    first.page.click("#generate")
    first.page.wait_for_selector("#notice p")
    assert "This prompt has 6,000 characters; the page takes up to 5,000." in first.page.text_content("#notice")
    assert first.text == before
    assert "trained" in first.status  # still of the text that is shown


@pytest.mark.browser
@pytest.mark.parametrize("seed", ["99999999999", "-1"])
def test_a_seed_out_of_range_is_a_sentence_and_only_if_it_is_used(visit, seed):
    first = visit()
    first.page.click("#more button")
    first.page.fill("#seed input", seed)
    first.page.check("#lock input")

    def refused():
        """Press again until the page has taken in both: it does so a moment after they were set."""
        if first.page.is_enabled("#generate") and not first.page.is_visible("#notice p"):
            first.page.fill("#seed input", seed)
            first.page.click("#generate")
            first.page.wait_for_timeout(500)
        return first.page.is_visible("#notice p")

    first.until(refused, "a sentence about the seed")
    assert f"seed is {seed}; it must be a whole number from 0 to 4294967295" in first.page.text_content("#notice")
    first.page.uncheck("#lock input")
    first.generate()
    assert len(first.done()) == 300


@pytest.mark.browser
def test_markup_in_a_prompt_stays_text(visit):
    first = visit()
    nasty = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
    first.generate(nasty)
    first.done()
    assert first.page.text_content("#text .prompt") == nasty
    assert first.page.locator("#text img, #text script").count() == 0
    assert first.page.title() == "From Bigram to GPT"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_prompt_buttons_text_and_settings_in_that_order(visit, scheme):
    first = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tops = [first.page.locator(name).bounding_box()["y"] for name in ("#prompt", "#generate", "#text", "#models", "#temperature")]
    assert tops == sorted(tops)
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = first.page.eval_on_selector(
        "#text .sheet", "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    )
    brightness = [sum(int(n) for n in re.findall(r"\d+", colour)[:3]) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")


@pytest.mark.browser
@pytest.mark.parametrize("length", ["1000", "50"])
def test_closing_the_tab_stops_the_work_and_frees_what_it_held(visit, slow, monkeypatch, length):
    texts = []
    start = GenerationSession.__init__
    monkeypatch.setattr(GenerationSession, "__init__", lambda self, *args: (texts.append(self), start(self, *args))[1])
    first = visit()
    first.page.fill("#length input[type=number]", length)
    first.generate()
    if length == "50":
        first.done()
        assert texts[-1].row
    first.page.close()
    deadline = time.monotonic() + COMPILE_TIMEOUT_S / 1000
    while texts[-1].busy or texts[-1].row or texts[-1].desk.seats:
        assert time.monotonic() < deadline, "the text still holds its memory"
        time.sleep(0.1)
    assert len(texts[-1].pieces) < 1000


def test_the_html_itself_shows_headline_and_text_before_any_script_has_run(address):
    sample = take("gpt-shakespeare").facts["sample"]
    with urllib.request.urlopen(address + "/") as answer:
        html = answer.read().decode()
    assert "one character at a time" in html
    assert escape(sample["text"]) in html
    with urllib.request.urlopen(address + "/?seed=5") as answer:
        assert escape(sample["text"]) + "</pre>" not in answer.read().decode()  # a link to another text
    with urllib.request.urlopen(address + "/?__theme=dark") as answer:
        assert escape(sample["text"]) + "</pre>" in answer.read().decode()


@pytest.mark.browser
def test_the_first_sight_gives_way_to_the_page(visit):
    assert not visit().page.is_visible("#first")


def test_the_readme_command_opens_the_page_where_the_environment_says():
    with served() as address, urllib.request.urlopen(address + "/") as answer:
        assert b"From Bigram to GPT" in answer.read()


@pytest.mark.parametrize("damage", ["missing", "truncated", "not json", "none at all"])
def test_damaged_weights_keep_the_page_shut_with_a_sentence(tmp_path, damage):
    for name in ("app.py", "gpt", "ui"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    folder = tmp_path / "weights" / "bigram-shakespeare"
    shutil.copytree(ROOT / "weights" / "bigram-shakespeare", folder)
    if damage == "missing":
        (folder / "model.safetensors").unlink()
    elif damage == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    elif damage == "not json":
        (folder / "config.json").write_text("{")
    else:
        shutil.rmtree(tmp_path / "weights")
    done = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("python app.py: ")
    assert done.stderr.count("\n") == 1
    assert "git checkout" in done.stderr

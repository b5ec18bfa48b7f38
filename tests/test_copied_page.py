"""What of a text is copied: the endpoint `page/copied` and its part of the page."""

import json
import lzma
import time
import urllib.error
import urllib.request

import pytest

from train import data
from train.data import SOURCES, load_dataset
from ui import copied
from ui.copied import MAX_CHARS, Lines, RunningText, find_copied
from ui.model_registry import ModelEntry, get_model
from ui.schema import schema_of

SOFT = "But, soft! what light through yonder window breaks?"


@pytest.fixture(scope="module")
def train_text():
    return load_dataset("shakespeare").split()[0].text


def test_copied_spans_with_their_places():
    text = f"O, {SOFT} Aye.\n{SOFT[:25]} I"
    answer = find_copied("gpt-shakespeare", text)
    assert (answer["characters"], answer["min_length"]) == (len(text), 20)
    first, second = answer["spans"]
    assert text[first["start"] : first["end"]].strip() == SOFT
    assert (first["play"], first["speaker"], first["occurrences"]) == ("Romeo and Juliet", "ROMEO", 1)
    assert first["before"].startswith("He jests at scars")
    assert SOFT[:25] in text[second["start"] : second["end"]]
    assert answer["copied"] == sum(span["end"] - span["start"] for span in answer["spans"])
    assert not first["has_heading"]


def test_prompt_is_neither_searched_nor_counted():
    assert find_copied("gpt-shakespeare", SOFT[30:45], SOFT[:30])["spans"] == []
    answer = find_copied("gpt-shakespeare", SOFT[30:], SOFT[:30])
    assert answer["spans"][0]["start"] == 0
    assert answer["characters"] == answer["copied"] == len(SOFT[30:])


def test_held_out_text_is_not_training_text():
    """The Tempest was never read, so its speeches are not copied, except for phrases that the training part has, too."""
    held_out = load_dataset("shakespeare").split()[1].text
    answer = find_copied("gpt-shakespeare", held_out[-5000:])
    assert 0 < answer["copied"] < 100
    assert {span["play"] for span in answer["spans"]}.isdisjoint({"The Tempest"})


def test_training_text_is_copied_completely(train_text):
    answer = find_copied("bpe-shakespeare", train_text[300:5300])
    (span,) = answer["spans"]
    assert (span["start"], span["end"], answer["copied"]) == (0, 5000, 5000)
    assert span["has_heading"]
    assert span["before"].endswith(train_text[290:300])
    assert train_text[5300:].startswith(span["after"])


def test_5000_characters_take_less_than_2_seconds(train_text):
    find_copied("gpt-shakespeare", "x")  # builds the index
    longest_repeat = train_text[:2500] * 2
    for text in (train_text[:5000], longest_repeat, "e" * 5000, "the " * 1250):
        started = time.perf_counter()
        find_copied("gpt-shakespeare", text)
        assert time.perf_counter() - started < 2


def test_index_is_built_once(monkeypatch):
    find_copied("gpt-shakespeare", "x")
    monkeypatch.setattr(copied, "SuffixIndex", None)  # would fail if it were called
    assert find_copied("mixture-shakespeare", "x" * 30)["spans"] == []


def names_of(answer):
    return [(line["text"], line["origin"]) for line in answer["lines"]]


def test_each_name_is_in_a_list_or_not():
    train, held_out = load_dataset("names").split()
    known, kept = train.documents[0], held_out.documents[0]
    answer = find_copied("gpt-names", f"{known}\nqqqq\n\n{kept}\nunfinish")
    assert names_of(answer) == [(known, "training"), ("qqqq", None), (kept, "held_out")]
    assert answer["noun"] == "names"
    start = len(known) + len("\nqqqq\n\n")
    assert (answer["lines"][2]["start"], answer["lines"][2]["end"]) == (start, start + len(kept))


def test_first_name_begins_in_the_prompt():
    answer = find_copied("gpt-names", "ma\nolivia\n", "qqqq\nEm")
    assert names_of(answer) == [("emma", "training"), ("olivia", "training")]
    assert (answer["lines"][0]["start"], answer["lines"][0]["end"]) == (0, 2)


def test_model_of_single_lines_is_compared_with_lines():
    line = Lines(load_dataset("shakespeare", is_lines=True))
    known = next(line for line, origin in line.origins.items() if origin == "training")
    answer = find_copied("vae-shakespeare", f"{known}\nqqqq\n")
    assert names_of(answer) == [(known, "training"), ("qqqq", None)]
    assert answer["noun"] == "lines"


@pytest.mark.parametrize("text", ["", "\n", "short", "<b>&amp;</b>\0 👍 日本", "\ud800"])
def test_any_text_gets_an_answer(text):
    assert find_copied("gpt-shakespeare", text)["spans"] == []
    assert find_copied("gpt-names", text, text)["noun"] == "names"


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="more than 20,000 characters"):
        find_copied("gpt-shakespeare", "x" * (MAX_CHARS + 1))
    with pytest.raises(ValueError, match="more than 20,000 characters"):
        find_copied("gpt-names", "x", "x" * MAX_CHARS)


@pytest.mark.parametrize(("text", "prompt"), [(None, ""), (["x"], ""), ("x", 1)])
def test_what_is_no_text_is_refused(text, prompt):
    with pytest.raises(ValueError, match="must be a text of up to 20,000 characters"):
        schema_of(find_copied).parse({"model": "gpt-shakespeare", "text": text, "prompt": prompt})


def test_model_of_another_text_has_nothing_to_compare(monkeypatch):
    entry = ModelEntry("mine", get_model("gpt-shakespeare").lm, {}, "mine")
    monkeypatch.setattr(copied, "get_model", {"mine": entry}.__getitem__)
    with pytest.raises(ValueError, match="learned from is not here"):
        find_copied("mine", "text")


def test_damaged_training_text_is_a_sentence(monkeypatch, tmp_path):
    copied._open_training_text.cache_clear()
    (tmp_path / "names.txt.xz").write_bytes(lzma.compress(b"emma\n"))
    monkeypatch.setattr(data, "SHIPPED_TEXTS", tmp_path)
    with pytest.raises(ValueError, match="damaged on this server"):
        find_copied("gpt-names", "emma\n")


def test_index_holds_the_training_part_only():
    text = RunningText(load_dataset("shakespeare")).index.text
    assert len(text) == int(1_115_394 * 0.9)
    assert SOURCES["shakespeare"].sha256 == load_dataset("shakespeare").sha256


# The page


def post(address, body):
    request = urllib.request.Request(f"{address}/page/copied", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


@pytest.mark.slow
def test_endpoint(address):
    answer = post(address, {"model": "gpt-shakespeare", "text": f"{SOFT}!!"})
    assert answer["spans"][0]["speaker"] == "ROMEO"
    with pytest.raises(urllib.error.HTTPError) as error:
        post(address, {"model": "no-such-model", "text": "x"})
    with error.value as response:
        assert response.status == 422
        assert "no-such-model" in json.load(response)["error"]


def check(visitor):
    """Switch the comparison on, and return its sentence."""
    visitor.page.check("#text .copied-panel input")
    visitor.page.wait_for_function("document.querySelector('#text .copied-summary').textContent")
    return visitor.page.text_content("#text .copied-summary")


def marked(visitor, name="copied"):
    """The text of each run of marked tokens."""
    return visitor.page.evaluate(
        """name => [...document.querySelectorAll("#text .token")]
        .map(t => t.classList.contains(name) ? t.textContent : "\\0").join("").split("\\0").filter(Boolean)""",
        name,
    )


@pytest.mark.browser
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, {"width": 390, "height": 844}])
@pytest.mark.parametrize("model", ["gpt-shakespeare", "bpe-shakespeare"])
def test_spans_are_underlined_where_the_server_finds_them(visit, address, model, viewport):
    first = visit(f"/?model={model}&prompt=ROMEO:&seed=1&length=1000&temperature=0.5", viewport=viewport)
    summary = check(first)
    text = first.text
    answer = post(address, {"model": model, "text": text})
    assert answer["spans"]
    assert summary.startswith(f"{round(100 * answer['copied'] / len(text))}\u00a0% of this text occurs word for word")
    underlined = "\0".join(marked(first))
    for span in answer["spans"]:
        assert text[span["start"] : span["end"]] in underlined
    quotes = first.page.locator("#text .copied-list mark").all_text_contents()
    longest = max(answer["spans"], key=lambda span: span["end"] - span["start"])
    assert quotes[0] == text[longest["start"] : longest["end"]]
    assert f"from {longest['play']}, {longest['speaker']}" in first.page.text_content("#text .copied-list li")
    first.screenshot(f"copied-{model}-{viewport['width']}")
    first.page.uncheck("#text .copied-panel input")
    assert marked(first) == []
    assert not first.page.text_content("#text .copied-summary")


@pytest.mark.browser
def test_names_of_the_training_list_are_underlined(visit, address):
    first = visit("/?model=gpt-names&prompt=an&seed=1&length=200")
    summary = check(first)
    text = first.text
    lines = post(address, {"model": "gpt-names", "text": text, "prompt": "an"})["lines"]
    known = [text[line["start"] : line["end"]] for line in lines if line["origin"] == "training"]
    assert summary.startswith(f"{len(known)} of {len(lines)} names are in the training list")
    assert marked(first) == known
    assert marked(first, "copied-unseen") == [text[line["start"] : line["end"]] for line in lines if line["origin"] == "held_out"]


@pytest.mark.browser
def test_another_text_is_looked_up_while_the_switch_is_on(visit):
    first = visit("/?model=gpt-names&prompt=an&seed=1&length=100")
    sentence = check(first)
    first.page.focus("#continue")
    first.page.keyboard.press("Enter")
    first.page.wait_for_function(
        "before => { const now = document.querySelector('#text .copied-summary').textContent; return now && now !== before }",
        arg=sentence,
    )
    assert int(first.page.text_content("#text .copied-summary").split()[2]) > int(sentence.split()[2])

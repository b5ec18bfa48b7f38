"""The tab Train yours in a browser."""

import json
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>&amp;\n"
SIZES = [(1280, 900), (390, 844)]
# What a fresh process does with the downloaded folder of a GPT.
OPEN = """
import sys, torch
from gpt import SamplingParams, load
from transformers import AutoModelForCausalLM, AutoTokenizer
lm = load(sys.argv[1])
print(len(lm.generate("bead ", SamplingParams(max_new_tokens=20, seed=1)).text))
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("bead ", return_tensors="pt").input_ids
with torch.no_grad():
    torch.testing.assert_close(model(ids).logits, lm.model(ids)[0], atol=1e-3, rtol=0)
print("same logits")
"""
# The status of an answer, from the browser.
STATUS = """
async ([path, body]) =>
  (await fetch(`page/${path}`, body ? { method: "POST", body: JSON.stringify(body) } : {})).status
"""
UNIFORM, BIGRAM, NGRAM = 3.0, 2.5, 2.0
MODELS = [
    {"id": f"my-{kind}-0a1b2c", "name": kind, "kind": kind, "title": title, "held_out": loss, "parameters": 9}
    for kind, title, loss in (("bigram", "Bigram", BIGRAM), ("ngram", "N-gram", NGRAM), ("gpt", "GPT", 1.5))
]


def evaluation(seconds, train, held_out, memorizing=False):
    facts = {"step": int(10 * seconds), "seconds": seconds, "train": train, "held_out": held_out}
    return {"event": "evaluation", "best": not memorizing, "memorizing": memorizing, **facts}


def step(progress, loss):
    rest = {"tokens_per_second": 31_234.5, "seconds_left": 15 * (1 - progress)}
    return {"event": "step", "step": int(100 * progress), "progress": progress, "loss": loss, **rest}


RUN = [
    {"event": "queue", "before": 1, "seconds": 39.5},
    {"event": "baselines", "uniform": UNIFORM, "bigram": BIGRAM, "ngram": NGRAM, "order": 5},
    {"event": "start", "parameters": 123_456, "config": {}, "command": "python -m train run gpt", "reason": "It is small."},
    step(0.2, 2.6),
    evaluation(3, 2.6, 2.7),
    {"event": "sample", "step": 20, "text": HOSTILE},
    step(0.6, 1.2),
    evaluation(9, 1.2, 1.6),
    step(1, 0.5),
    evaluation(15, 0.5, 2.2, memorizing=True),
    {"event": "end", "stopped": False, "models": MODELS, "winner": "gpt", "verdict": f"The GPT wins. {HOSTILE}"},
]


@pytest.fixture
def tab(visit):
    """A function that opens the tab."""

    def start(theme="light", **options):
        first = visit(f"/?__theme={theme}", color_scheme=theme, **options)
        first.open_tab("train")
        first.page.wait_for_selector("#train .train-texts button")
        return first

    return start


def paste(page, text):
    """Paste a text, and wait for the report."""
    page.fill("#train textarea", text)
    page.wait_for_selector("#train .train-report:not([hidden], [aria-busy])")


@pytest.fixture
def upload(tmp_path):
    """A function that opens a file."""

    def open_file(page, content):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        page.set_input_files("#train input[type=file]", path)

    return open_file


def figures(page):
    """The figures of the report."""
    rows = page.locator("#train .train-figures > div").all()
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows}


def play_events(page, events=RUN):
    """Answer each training run with these events at once, in place of the server."""
    body = "".join(json.dumps(event) + "\n" for event in events)
    page.route("**/page/train/run", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))


def train(page):
    page.click("#train button.primary")


def point(page, kind="thick"):
    """The coordinates of a line of the plot."""
    return page.get_attribute(f"#train polyline.{kind}:not(.faint)", "points") or ""


# The text


def test_pasted_text_is_described_at_once(tab, chain_text):
    page = tab().page
    assert page.is_disabled("#train button.primary")
    paste(page, chain_text(4_000))
    assert figures(page)["Characters"] == "4,000"
    assert figures(page)["Different characters"] == "6"
    assert page.is_checked("#train input[name=train-lines] >> nth=0")  # running text
    assert page.is_enabled("#train button.primary")
    page.fill("#train textarea", "")
    assert page.is_hidden("#train .train-report")
    assert page.is_disabled("#train button.primary")


def test_texts_of_the_project_are_offered_and_the_guess_can_be_changed(tab):
    page = tab().page
    page.get_by_role("button", name="Place names").click()
    page.wait_for_selector("#train .train-report:not([hidden], [aria-busy])")
    assert figures(page)["Items"] == "300"
    choice = page.get_by_role("radio", name="running text")
    assert not choice.is_checked()
    choice.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#train .train-figures').textContent.includes('Lines')")
    assert page.evaluate("document.activeElement.checked")  # the focus stays


def test_long_text_shows_its_beginning(tab, chain_text):
    page = tab().page
    paste(page, chain_text(30_000))
    assert figures(page)["Characters"] == "30,000"
    assert len(page.input_value("#train textarea")) == 5_000
    page.get_by_role("button", name="Clear").click()
    assert page.input_value("#train textarea") == ""
    assert page.is_editable("#train textarea")


def test_file_is_dropped(tab, chain_text):
    page = tab().page
    transfer = page.evaluate_handle(
        """(text) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([text], "chain.txt", { type: "text/plain" }));
          return transfer;
        }""",
        chain_text(2_000),
    )
    page.dispatch_event("#train .train-drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#train .train-report:not([hidden], [aria-busy])")
    assert figures(page)["Characters"] == "2,000"


CHINESE = "".join(chr(0x4E00 + i) for i in range(5_000))
GOOD = {
    "one character repeated": (b"a" * 5_000, "one character, repeated"),
    "one line many times": (b"all work and no play\n" * 300, "One line occurs 300 times"),
    "UTF-16": ("\ufeff" + "Grüße aus Köln.\n" * 100).encode("utf-16-le"),
    "Windows line ends": b"one two three\r\nfour five six\r\n" * 50,
    "Chinese": (CHINESE.encode(), "5,000"),
    "right to left": ("שלום לכל העולם. " * 100).encode(),
    "emoji with joiners": ("👩‍👩‍👧‍👦 👨🏽‍🚀 hello " * 100).encode(),
    "one line of 2 MB": (b"the cat sat on the mat and " * 74_000)[:1_999_000],
    "HTML": (b"<!doctype html><p>" + HOSTILE.encode() * 30, "looks like HTML"),
}
BAD = {
    "empty": (b"", "empty"),
    "too short": (b"abc", "3 characters"),
    "not UTF-8": ("Grüße aus Köln.\n".encode("latin-1") * 100, "not UTF-8"),
    "50 MB": (b"a" * 50_000_000, "50.0 MB"),
    "binary": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10, "picture"),
    "NUL bytes": (b"the cat\0sat on the mat " * 100, "NUL"),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_text_works(tab, upload, name):
    content, expected = GOOD[name] if isinstance(GOOD[name], tuple) else (GOOD[name], "")
    page = tab().page
    upload(page, content)
    page.wait_for_selector("#train .train-report:not([hidden], [aria-busy])")
    assert expected in page.inner_text("#train .train-side")
    assert page.is_enabled("#train button.primary")
    if name == "Chinese":
        assert page.is_checked("#train input[value=sub-words]")
    assert page.title() != "hacked"
    assert page.locator("#train img").count() == 0


@pytest.mark.parametrize("name", BAD)
def test_text_that_cannot_be_used_is_a_sentence(tab, upload, name):
    content, expected = BAD[name]
    first = tab()
    page = first.page
    upload(page, content)
    alert = page.get_by_role("alert").filter(has_text=expected)
    alert.wait_for()
    assert alert.inner_text().endswith(".")
    assert page.is_disabled("#train button.primary")
    paste(page, "The page lives on. " * 20)
    assert page.is_enabled("#train button.primary")


# A run, with events in place of the server


def test_run_is_shown_as_it_goes_on(tab, chain_text):
    page = tab().page
    paste(page, chain_text(4_000))
    play_events(page, RUN[:-1])  # the connection breaks before the end
    train(page)
    alert = page.get_by_role("alert").filter(has_text="connection ended")
    alert.wait_for()
    assert page.inner_text("#train .train-meaning") == (
        "On unseen text: 2.20 nats a character (3.17 bits): as unsure as choosing among 9.0 equally likely characters."
    )
    assert page.inner_text("#train .train-clock") == "0 s left · 31,000 tokens a second · step 100"
    assert page.text_content("#train .train-sample") == HOSTILE
    assert page.title() != "hacked"
    assert page.locator("#train :is(img, script)").count() == 0
    assert "begins to memorize" in page.inner_text("#train .train-memorizing")
    assert "123,456 parameters. It is small." in page.inner_text("#train .train-now")
    page.wait_for_selector("#train .loss-curve svg[aria-label*='went from 2.70 to 2.20']")  # it is drawn once a frame
    label = page.get_attribute("#train .loss-curve svg", "aria-label")
    assert "the best was 1.60" in label
    assert "A uniform guess has 3.00, a counted bigram 2.50, a counted n-gram 2.00." in label
    page.click("#train .train-plot summary")
    page.wait_for_selector("#train .train-plot tbody tr")
    assert page.locator("#train .train-plot tbody tr").count() == 3
    assert page.is_enabled("#train button.primary")


def test_verdict_compares_all_models(tab, chain_text):
    page = tab().page
    paste(page, chain_text(4_000))
    play_events(page)
    train(page)
    page.wait_for_selector("#train .train-verdict:not([hidden])")
    assert page.text_content("#train .train-verdict .summary") == f"The GPT wins. {HOSTILE}"
    rows = page.locator("#train .train-verdict .model-bars li").all_inner_texts()
    assert [row.split("\n") for row in rows] == [
        ["Uniform guess", "3.00"],
        ["Bigram", "2.50"],
        ["N-gram", "2.00"],
        ["GPT", "1.50 best"],
    ]
    assert page.locator("#train .train-verdict img").count() == 0
    assert page.inner_text("#train .train-meaning").startswith("The model that is kept, on unseen text: 1.60 nats")


def test_second_run_is_drawn_over_the_first(tab, chain_text):
    page = tab().page
    paste(page, chain_text(4_000))
    play_events(page)
    for size in ("small", "medium"):
        page.click("#train .train-choices summary") if size == "small" else None
        page.check(f"#train input[name=train-size][value={size}]", force=True)
        train(page)
        page.wait_for_selector("#train .train-verdict:not([hidden])")
        page.wait_for_selector("#train button.primary:enabled")
    page.wait_for_selector("#train polyline.thick.faint")
    assert "GPT, small, 30 s: in" in page.get_attribute("#train .loss-curve svg", "aria-label")
    page.get_by_label("Compare with").select_option("no other run")
    page.wait_for_selector("#train polyline.thick.faint", state="detached")
    paste(page, chain_text(3_000))  # another text: its losses cannot be compared
    train(page)
    page.wait_for_selector("#train .train-verdict:not([hidden])")
    assert page.is_hidden("#train .train-other")


def test_error_of_the_training_is_a_sentence(tab, chain_text):
    page = tab().page
    paste(page, chain_text(4_000))
    play_events(page, [*RUN[:4], {"event": "error", "message": "The training process was ended by the system."}])
    train(page)
    page.get_by_role("alert").filter(has_text="The training process was ended by the system.").wait_for()
    assert page.is_enabled("#train button.primary")


def test_choices_explain_themselves_and_reach_the_server(tab, chain_text):
    page = tab().page
    paste(page, chain_text(4_000))
    sent = []
    page.route("**/page/train/run", lambda route: sent.append(route.request.post_data_json) or route.fulfill(body=""))
    page.check("#train input[name=train-seconds][value='15']", force=True)
    page.click("#train .train-choices summary")
    page.check("#train input[value=lstm]", force=True)
    page.check("#train input[value=medium]", force=True)
    page.check("#train input[name=train-dropout][value='0.2']", force=True)
    assert page.inner_text("#train .train-choices summary") == "What learns: a medium LSTM that reads characters"
    train(page)
    page.wait_for_selector("#train button.primary:enabled")
    page.check("#train input[value=bigram]", force=True)
    assert page.is_hidden("#train input[value=medium]")
    train(page)
    page.wait_for_selector("#train button.primary:enabled")
    rest = {"tokenizer": "char", "is_lines": False, "seconds": 15}
    assert sent == [
        {"kind": "lstm", "size": "medium", "dropout": 0.2, **rest},
        {"kind": "bigram", "size": "medium", "dropout": None, **rest},
    ]


# A real run


@pytest.mark.slow
def test_train_stop_write_and_take_home(tab, chain_text, tmp_path):
    first = tab()
    page = first.page
    paste(page, chain_text(20_000))
    page.check("#train input[name=train-seconds][value='60']", force=True)
    train(page)
    page.wait_for_function("document.querySelector('#train polyline.thick')?.getAttribute('points').split(' ').length >= 2")
    before = point(page)
    page.wait_for_function(
        "(before) => document.querySelector('#train polyline.thick').getAttribute('points') !== before", arg=before
    )
    page.wait_for_selector("#train .train-sample:not([hidden])")
    asked = []
    page.on("dialog", lambda dialog: asked.append(dialog.type) or dialog.dismiss())
    page.close(run_before_unload=True)  # which the visitor declines
    page.wait_for_timeout(500)
    assert asked == ["beforeunload"]
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#train .train-verdict:not([hidden])")
    assert "Stopped" in page.inner_text("#train [role=status] >> nth=1")
    page.wait_for_selector("#train .train-own:not([hidden])")
    model = page.input_value("#train .train-own select")
    assert model.startswith("my-gpt-")
    for size in SIZES:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert first.violations() == []
    page.set_viewport_size({"width": 1280, "height": 900})

    with page.expect_download() as downloads:
        page.get_by_role("button", name="Download .zip").click()
    path = tmp_path / "model.zip"
    downloads.value.save_as(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    (folder,) = [each for each in tmp_path.iterdir() if each.is_dir()]
    answer = subprocess.run([sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\n")[:2] == ["20", "same logits"]

    page.get_by_role("button", name="Score").click()
    first.until(lambda: page.locator(f"#score input[value='{model}']:checked").count() == 1, "the model in the tab Score")
    first.open_tab("train")
    page.get_by_role("button", name="Look inside").click()
    first.until(lambda: page.locator("#inside-gpt .inside-lens tr").count() > 0, "a look inside")
    first.wait_for_value("#inside-gpt select", model)
    first.open_tab("train")
    page.get_by_role("button", name="Compare").click()
    first.until(lambda: page.locator("#compare .columns article").count() >= 3, "the comparison")
    first.open_tab("train")
    page.get_by_role("button", name="Write with it").click()
    first.until(lambda: model in first.query(), "a text by the model")
    first.wait_for_text()
    assert page.get_by_role("radio", name="Your text").is_checked()

    page.reload()
    first.wait_until_loaded()
    assert model in first.query()  # the visit goes on
    first.open_tab("train")
    page.get_by_role("button", name="Delete my text and models").click()
    first.until(lambda: page.is_hidden("#train .train-own"), "the end of the models")


@pytest.mark.slow
def test_nobody_else_sees_a_model(tab, visit, chain_text):
    first = tab()
    paste(first.page, chain_text(4_000))
    first.page.check("#train input[name=train-seconds][value='15']", force=True)
    train(first.page)
    first.page.wait_for_selector("#train polyline.thick")
    second = tab()
    first.page.wait_for_selector("#train .train-own:not([hidden])")
    model = first.page.input_value("#train .train-own select")
    names = "fetch('page/models').then((answer) => answer.json()).then(({ models }) => models.map(({ id }) => id))"
    assert model not in second.page.evaluate(names)
    assert second.page.is_hidden("#train .train-own")
    third = visit(f"/?model={model}&prompt=a&seed=1&length=20")
    third.until(lambda: "belongs to another visit" in third.status, "a sentence")
    for path, body in ((f"train/zip/{model}", None), ("generate", {"query": f"model={model}", "start": 0, "end": 5})):
        status = third.page.evaluate(STATUS, [path, body])
        assert status == 422
    third.faults.clear()  # how the browser reports these answers
    first.open_tab("write")
    first.page.click("#tab-train-button")
    first.page.get_by_role("button", name="Write with it").click()
    first.wait_for_text()


# Layout


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_run_is_accessible_and_fits(tab, chain_text, size, theme):
    first = tab(theme, viewport={"width": size[0], "height": size[1]})
    page = first.page
    paste(page, chain_text(4_000))
    page.click("#train .train-choices summary")
    play_events(page)
    for _ in range(2):
        train(page)
        page.wait_for_selector("#train button.primary:enabled")
    page.click("#train .train-plot summary")
    page.wait_for_selector("#train .train-verdict:not([hidden])")
    first.screenshot(f"train-{size[0]}-{theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert first.violations() == []

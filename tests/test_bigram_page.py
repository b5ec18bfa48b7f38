"""Inside the bigram: the endpoint of its counts, and the page that trains its table."""

import json
import re
import time

import bigram_training_vectors
import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ui import bigram_table
from ui.model_registry import get_model

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=bigram_table.routes()))


def test_training_vectors_are_those_of_pytorch():
    stored, computed = json.loads(bigram_training_vectors.PATH.read_text()), bigram_training_vectors.vectors()
    assert stored.keys() == computed.keys()
    for key, values in computed.items():
        torch.testing.assert_close(torch.tensor(stored[key]).double(), torch.tensor(values).double())


@pytest.mark.parametrize(("id", "size", "pairs"), [("bigram-shakespeare", 65, 1_003_853), ("bigram-names", 27, 205_289)])
def test_endpoint_sends_the_counts_of_the_training_text(client, id, size, pairs):
    answer = client.get(f"/page/bigram/{id}").json()
    counts = torch.tensor(answer["counts"])
    assert counts.shape == (size, size)
    assert counts.sum() == pairs
    assert answer["tokens"][0] == "\n"
    lm, k = get_model(id).lm, answer["k"]
    probs = (counts + k) / (counts.sum(1, keepdim=True) + k * size)
    torch.testing.assert_close(probs.log(), lm.model.logits.detach(), atol=1e-5, rtol=0)
    q, u = (lm.tokenizer.encode(letter).ids[0] for letter in "qu")
    assert answer["tokens"][q] == "q"
    assert counts[q].argmax() == u


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gpt-names", "gpt-names is not a bigram and has no table of pairs."),
        ("nobody", "There is no model called 'nobody' here"),
        ("alice%2Ftiny@main", "open it from the Hub again"),
        ("<b>x", "There is no model called '<b>x' here"),
    ],
)
def test_other_models_are_refused_in_a_sentence(client, path, words):
    response = client.get(f"/page/bigram/{path}")
    assert response.status_code == 422
    assert words in response.json()["error"]


@pytest.fixture
def panel(visit):
    """A function that opens the panel and returns its visitor."""

    def start(query="", **options):
        first = visit(f"/{query}", **options)
        first.open_tab("inside")
        first.page.wait_for_selector(".inside-bigram .heat-map-ring")
        return first

    return start


def figure(page, term):
    """A figure of the training, by its name."""
    return page.inner_text(f".inside-bigram .figures div:has(dt:text-is('{term}')) dd")


def remaining(page):
    """Nats between the loss of the learned table and that of the counted one."""
    return float(re.search(r"([\d.]+) nats to go", figure(page, "Loss, counted table"))[1])


def opacity(page, table, row, column):
    """How dark a cell is drawn, from 0 to 1, of the counted (0) or the learned (1) table."""
    script = "([i, row, column]) => document.querySelectorAll('.heat-map canvas')[i].getContext('2d')"
    return page.evaluate(f"{script}.getImageData(column, row, 1, 1).data[3] / 255", [table, row, column])


@pytest.mark.browser
@pytest.mark.slow
def test_training_arrives_at_the_counted_table(panel):
    page = panel().page
    assert figure(page, "Loss, whole text") == "4.17 nats (6.02 bits) a character"  # ln 65
    assert remaining(page) == pytest.approx(4.174 - 2.452, abs=0.01)
    tokens = page.inner_text(".heat-map-rows").split("\n")
    q, u = tokens.index("q"), tokens.index("u")
    assert opacity(page, 0, q, u) == 1
    assert opacity(page, 1, q, u) == pytest.approx((1 / 65) ** 0.5, abs=0.01)
    page.evaluate("""() => {
        globalThis.updates = 0;
        new MutationObserver(() => { updates += 1; }).observe(document.querySelector(".figures dd"), { childList: true });
    }""")
    start = time.monotonic()
    page.click("button:text-is('Train')")
    page.wait_for_function(
        "parseFloat(document.querySelector('.figures div:nth-child(4) dd').textContent.split('character, ')[1]) < 0.05"
    )
    page.click("button:text-is('Pause')")
    assert page.evaluate("updates") <= 10 * (time.monotonic() - start) + 1
    assert page.inner_text(".inside-bigram .state") == "Paused."
    steps = figure(page, "Steps")
    assert 100 < int(steps.replace(",", "")) < 2000
    assert opacity(page, 1, q, u) > 0.5
    curve = page.get_attribute(".inside-bigram .loss-curve polyline.thick", "points").split()
    assert float(curve[0].split(",")[1]) < float(curve[-1].split(",")[1])  # downhill
    page.wait_for_timeout(300)
    assert figure(page, "Steps") == steps
    page.click("button:text-is('Start over')")
    assert (figure(page, "Steps"), remaining(page)) == ("0", pytest.approx(1.72, abs=0.01))
    page.click("button:text-is('One step')")
    assert (figure(page, "Steps"), figure(page, "Loss, last batch")) == ("1", "4.17 nats")


@pytest.mark.browser
@pytest.mark.slow
def test_batch_size_and_learning_rate_change_the_training(panel):
    page = panel().page
    page.select_option("label:has-text('Table of') select", "bigram-names")
    page.wait_for_function("document.querySelector('.heat-map canvas').width === 27")
    assert figure(page, "Loss, whole text") == "3.30 nats (4.75 bits) a character"  # ln 27
    page.select_option("label:has-text('Batch size') select", label="all pairs")
    page.focus("label:has-text('Learning rate') input")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("label:has-text('Learning rate') input", "aria-valuetext") == "10"
    for _ in range(10):
        page.click("button:text-is('One step')")
    assert remaining(page) == pytest.approx(0.468, abs=0.01)  # the same in PyTorch: full batches, no randomness
    page.click("button:text-is('Start over')")
    page.select_option("label:has-text('Batch size') select", label="1 pair")
    page.focus("label:has-text('Learning rate') input")
    page.keyboard.press("End")
    for _ in range(10):
        page.click("button:text-is('One step')")
    assert remaining(page) > 10  # far too long steps


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desktop", "phone"])
def test_a_cell_is_reached_by_keyboard_and_read(panel, viewport):
    page = panel(viewport=viewport).page
    sentence = page.locator(".inside-bigram .sentence")
    assert sentence.get_attribute("aria-live") == "polite"
    assert sentence.inner_text() == "After q: u, 100 of 100 times (563 of 563)."
    page.focus(".heat-map-plane >> nth=0")
    page.keyboard.press("t")
    page.keyboard.press("Home")
    assert sentence.inner_text().startswith("After t: new line, ")
    page.keyboard.press("ArrowRight")
    assert sentence.inner_text().startswith("After t: space, ")
    page.keyboard.press("End")
    assert sentence.inner_text() == "After t: z, less than 1 of 100 times (3 of 60,384)."
    for table in range(2):  # the cell is in view in both tables
        ring, box = (page.locator(f".heat-map >> nth={table}").locator(part) for part in (".heat-map-ring", ".heat-map-scroller"))
        (left, right), (low, high) = ((b["x"], b["x"] + b["width"]) for b in (ring.bounding_box(), box.bounding_box()))
        assert low <= left < right <= high
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@pytest.mark.browser
@pytest.mark.slow
def test_a_click_moves_the_cell_in_both_tables(panel):
    page = panel("?model=bigram-names").page
    canvas = page.locator(".heat-map canvas >> nth=1")
    size = canvas.bounding_box()["width"]
    canvas.click(position={"x": size * 1.5 / 27, "y": size * 26.5 / 27})  # row z, column a
    assert page.inner_text(".sentence").startswith("After z: a, ")
    rings = page.eval_on_selector_all(".heat-map-ring", "all => all.map(e => [e.style.cssText, getComputedStyle(e).left])")
    assert len({tuple(ring) for ring in rings}) == 1
    assert "After z, the learned table gives a 3.7" in page.inner_text(".inside-bigram ol")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(panel, theme):
    first = panel(f"?__theme={theme}", color_scheme=theme)
    first.page.evaluate("document.querySelectorAll('.inside-bigram details').forEach((each) => { each.open = true; })")
    assert first.violations() == []

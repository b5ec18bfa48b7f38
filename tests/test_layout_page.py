"""How the page is laid out, and what it says about its models, in a real browser."""

import json
import math
import re
import urllib.request

import pytest

from ui.model_registry import get_model, list_models
from ui.tabs.write import EXAMPLES

SIZES = {"phone": (390, 844), "laptop": (1280, 900), "projector": (1920, 1080)}
THEMES = ("light", "dark")
# The sum of the shifts since the page was opened that do not follow an input of the visitor within half a second.
MEASURE_SHIFT = """() => {
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""


@pytest.fixture
def sized(visit):
    """A function that opens the page at one of the sizes."""

    def start(size, theme="light", path=""):
        width, height = SIZES[size]
        return visit(f"/?__theme={theme}{path}", viewport={"width": width, "height": height})

    return start


def box(visitor, selector):
    return visitor.page.locator(selector).first.bounding_box()


def ladder(visitor):
    """The ids of the models in the visible ladder, from top to bottom."""
    return visitor.page.eval_on_selector_all(".ladder.shown input", "inputs => inputs.map((input) => input.value)")


def chosen(visitor):
    return visitor.page.eval_on_selector(".ladder.shown input:checked", "input => input.value")


@pytest.mark.browser
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_prompt_generate_and_model_are_in_one_view(sized, size, theme):
    first = sized(size, theme)
    width, height = SIZES[size]
    model = ".picker-toggle" if size == "phone" else ".rung:has(input:checked)"
    for selector in ("#prompt textarea", "#generate", model, "#text .tokens"):
        place = box(first, selector)
        assert place["x"] >= 0, selector
        assert place["x"] + place["width"] <= width, selector
        assert 0 <= place["y"] < height, selector
        if selector != "#text .tokens":
            assert place["y"] + place["height"] <= height, selector
    if size != "phone":
        place = box(first, ".ladder.shown")
        assert place["y"] + place["height"] <= height
    assert first.page.evaluate("document.documentElement.scrollWidth") <= width
    first.screenshot(f"layout-{size}-{theme}")


@pytest.mark.browser
def test_generate_stays_in_reach_on_a_phone(sized):
    first = sized("phone")
    for position in (0, 500, 100_000):
        first.page.evaluate(f"window.scrollTo(0, {position})")
        place = box(first, "#generate")
        assert place["y"] + place["height"] <= SIZES["phone"][1]
        middle = [place["x"] + place["width"] / 2, place["y"] + place["height"] / 2]
        assert first.page.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('button')?.id", middle) == "generate"


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
def test_page_hardly_moves_while_it_loads_and_is_used(sized, size):
    page = sized(size).page
    page.evaluate(MEASURE_SHIFT)
    page.wait_for_timeout(1500)
    if size == "phone":
        page.click(".picker-toggle")
    page.click(".segments label:has(input[value=names])")
    page.wait_for_timeout(1000)
    page.click(".ladder.shown label:has(input[value=bigram-names])")
    page.wait_for_timeout(1000)
    page.click("#tab-morph-button")
    page.wait_for_selector("#samples li")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.shift") < 0.1


@pytest.mark.browser
@pytest.mark.parametrize("size", SIZES)
def test_every_tab_has_the_same_width(sized, size):
    first = sized(size)
    widths = set()
    for tab in first.page.locator("#tabs button[role=tab]").all():
        if not tab.is_visible():
            continue  # in the menu of those that do not fit
        tab.click()
        first.page.wait_for_timeout(500)
        place = box(first, ".gradio-container")
        widths.add((place["x"], place["width"]))
        assert first.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert len(widths) == 1


@pytest.mark.browser
def test_page_can_be_enlarged_to_200_percent(visit):
    first = visit(viewport={"width": 640, "height": 450})  # a window of 1280 x 900 at 200 %
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 640
    assert first.page.is_visible("#generate")


@pytest.mark.browser
def test_ladder_goes_from_worst_to_best_with_bars_and_bounds_apart(visit):
    first = visit()
    for text, size in (("shakespeare", 65), ("names", 27)):
        first.page.check(f"input[name=text][value={text}]", force=True)
        entries = [entry for entry in list_models() if entry.training_log["data"]["name"] == text]
        bits = {entry.id: entry.training_log["held_out"]["bits_per_character"] for entry in entries}
        bounds = [entry.id for entry in entries if entry.family.likelihood == "bound"]
        exact = sorted(set(bits) - set(bounds), key=lambda id: -bits[id])
        assert ladder(first) == [*exact, *bounds]
        shares = first.page.eval_on_selector_all(
            ".ladder.shown .rung-bar", "bars => bars.map((bar) => Number(bar.style.getPropertyValue('--share')))"
        )
        guess = math.log2(size)
        assert shares == pytest.approx([1, *(bits[id] / guess for id in (*exact, *bounds))])
        assert f"{guess:.2f}" in first.page.inner_text(".ladder.shown .guess")
        for id in bits:
            name = first.page.inner_text(f".ladder label:has(input[value='{id}'])").replace("\xa0", " ")
            assert f"{bits[id]:.2f}" in name
            assert get_model(id).memory in name
        assert first.page.get_by_role("radio", name=re.compile(f"at most.*{bits[bounds[0]]:.2f} bits per character")).count() == 1


@pytest.mark.browser
def test_models_are_one_radio_group_for_the_keyboard(visit):
    first = visit()
    models = ladder(first)
    start = models.index("gpt-shakespeare")
    first.page.focus(".ladder.shown input:checked")
    for key, step in (("ArrowDown", 1), ("ArrowUp", 0), ("ArrowUp", -1)):
        first.page.keyboard.press(key)
        first.until(lambda step=step: chosen(first) == models[start + step], "the next model")
        assert first.page.evaluate("document.activeElement.value") == models[start + step]  # the focus stays
    assert get_model(models[start - 1]).explanation in first.page.inner_text(".picker-about .shown")
    assert first.page.get_attribute(".picker-about .shown a", "href") == f"weights/{models[start - 1]}/README.md"
    first.page.keyboard.press("Tab")  # one Tab leaves the group
    assert not first.page.evaluate("document.activeElement.matches('.ladder input')")


@pytest.mark.browser
def test_another_text_moves_nothing_and_brings_its_own_examples(visit):
    first = visit()
    places = ("#generate", ".ladder.shown", ".segments", "#temperature", "#settings")
    before = [box(first, place) for place in places]
    first.page.click(".segments label:has(input[value=names])")
    first.until(lambda: chosen(first) == "gpt-names", "the model of the same family")
    assert [box(first, place) for place in places] == before
    first.until(lambda: first.page.input_value("#prompt textarea") == EXAMPLES["names"][0], "the exchanged example")
    assert first.page.locator(".examples-row.shown button").all_inner_texts() == [p for p in EXAMPLES["names"] if p]
    first.page.click(".examples-row.shown button >> nth=1")
    first.until(lambda: first.page.input_value("#prompt textarea") == EXAMPLES["names"][2], "the example")
    first.page.click(".segments label:has(input[value=shakespeare])")
    first.until(lambda: first.page.input_value("#prompt textarea") == EXAMPLES["shakespeare"][0], "the exchanged example")
    first.page.fill("#prompt textarea", "my own")
    first.page.click(".segments label:has(input[value=names])")
    first.until(lambda: chosen(first) == "gpt-names", "the model")
    first.page.wait_for_timeout(500)
    assert first.page.input_value("#prompt textarea") == "my own"  # what a visitor typed stays


@pytest.mark.browser
def test_list_of_models_is_folded_on_a_phone(sized):
    first = sized("phone")
    toggle = first.page.locator(".picker-toggle")
    assert "GPT" in toggle.inner_text()
    assert not first.page.is_visible(".ladder.shown")
    toggle.click()
    assert toggle.get_attribute("aria-expanded") == "true"
    first.page.click(".ladder.shown label:has(input[value=bigram-shakespeare])")
    first.until(lambda: "Bigram" in toggle.inner_text(), "the chosen model")
    assert toggle.get_attribute("aria-expanded") == "false"
    assert not first.page.is_visible(".ladder.shown")


@pytest.mark.browser
def test_glossary_explains_the_terms_of_the_page(visit):
    first = visit()
    first.page.click("#models a.term >> nth=0")
    glossary = first.page.get_by_role("dialog", name="Glossary")
    glossary.wait_for()
    assert "Bit, bits per character" in glossary.locator(".wanted").inner_text()
    first.page.keyboard.press("Escape")
    glossary.wait_for(state="hidden")
    first.page.click("#open-glossary")
    terms = " ".join(glossary.locator("dt").all_inner_texts()).lower()
    for word in ("bit", "nat", "held-out", "parameter", "temperature", "token", "surprisal", "top-k", "context", "seed"):
        assert word in terms
    first.page.get_by_role("button", name="Close the glossary").click()
    glossary.wait_for(state="hidden")
    broken = "terms => terms.map((term) => term.hash.slice(1)).filter((id) => !document.getElementById(id))"
    assert first.page.eval_on_selector_all("a.term", broken) == []


@pytest.mark.browser
def test_foot_links_to_source_and_model_cards(visit, address):
    first = visit()
    links = first.page.eval_on_selector_all("#foot a", "links => links.map((link) => link.href)")
    assert len(links) == 1 + len(list_models())
    for link in links:
        with urllib.request.urlopen(link) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/")


@pytest.mark.browser
@pytest.mark.parametrize("tab", ["write", "morph"])
def test_touch_targets_have_24_pixels(sized, tab):
    first = sized("phone")
    if tab == "write":
        first.page.click(".picker-toggle")
        first.page.click("#more > button")
        first.page.wait_for_selector("#top-k input")
        first.page.click("#hub > button")
        first.page.wait_for_selector("#hub-open")
        first.page.click(".programs summary")
        first.page.wait_for_selector(".programs pre")
    else:
        first.page.click("#tab-morph-button")
        first.page.wait_for_selector("#samples li")
    # A label is part of the target. Links in running text and the characters of the text are exempt (WCAG 2.5.8).
    small = first.page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, select, summary, [role=tab]")]
        .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest("[aria-hidden=true]"))
        .map((e) => [e, (e.closest("label") ?? e).getBoundingClientRect()])
        .filter(([, { width, height }]) => width > 0 && (width < 24 || height < 24))
        .map(([e, { width, height }]) => `${e.outerHTML.slice(0, 120)} ${width} x ${height}`)"""
    )
    assert small == []


@pytest.mark.browser
def test_programs_of_the_text_as_tabs(visit):
    first = visit()
    first.page.click(".programs summary")
    tabs = first.page.get_by_role("tablist", name="Programs").get_by_role("tab")
    first.until(lambda: tabs.count() == 4, "the programs")
    assert tabs.all_inner_texts() == ["Python", "Command line", "gradio_client", "curl"]
    panel = first.page.locator("#program")
    assert "load('gpt-shakespeare')" in panel.inner_text()
    tabs.first.focus()
    for key, index, words in (("ArrowRight", 1, "--model=gpt-shakespeare"), ("End", 3, "curl -s"), ("ArrowRight", 0, "from gpt")):
        first.page.keyboard.press(key)
        assert first.page.evaluate("document.activeElement.id") == f"program-tab-{index}"
        assert tabs.nth(index).get_attribute("aria-selected") == "true"
        assert words in panel.inner_text()
    sizes = first.page.inner_text(".files")
    assert re.search(r"model\.safetensors [\d.]+ MB", sizes)
    first.generate("HAMLET:")
    first.wait_for_text()
    first.until(lambda: "prompt = 'HAMLET:'" in panel.inner_text(), "the program of the new text")


def test_api_describes_its_parameters(address):
    with urllib.request.urlopen(f"{address}/gradio_api/info") as answer:
        endpoints = json.load(answer)["named_endpoints"]
    assert set(endpoints) == {"/generate", "/score", "/list-models"}
    for endpoint in endpoints.values():
        assert endpoint["description"].endswith(".")
        for parameter in endpoint["parameters"]:
            assert parameter["label"] == parameter["parameter_name"]
            assert len(parameter["python_type"]["description"]) > 20
        for result in endpoint["returns"]:
            assert len(result["python_type"]["description"]) > 10
    (temperature,) = [p for p in endpoints["/generate"]["parameters"] if p["parameter_name"] == "temperature"]
    assert temperature["python_type"]["description"] == "0 = always the most likely token, 2 = wild."

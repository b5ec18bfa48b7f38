"""The tab Morph: interpolation, neighbors and samples in the latent space of a VAE."""

import re

import pytest

from ui.model_registry import get_model
from ui.tabs.morph import EXAMPLES, MAX_LINE_CHARS, SAMPLES, STEPS, latent_models, on_interpolate, on_reconstruct, on_sample

LM = get_model("vae-names").lm


def lines_of(html):
    return re.findall(r"<li>(?:<b>)?(.*?)(?:</b>)?</li>", html)


def test_interpolation_goes_from_one_line_to_the_other():
    lines = lines_of(on_interpolate("vae-names", "emma", "oliver", 0.5))
    assert lines == LM.interpolate("emma", "oliver", STEPS)
    assert (lines[0], lines[-1]) == ("emma", "oliver")
    assert len(set(lines)) > 3


@pytest.mark.parametrize(("position", "index"), [(0, 0), (0.5, 4), (1, 8), (0.13, 1)])
def test_position_highlights_a_line(position, index):
    html = on_interpolate("vae-names", "anna", "zoe", position)
    (highlighted,) = re.findall(r"<b>(.*?)</b>", html)
    assert highlighted == lines_of(html)[index]


def test_line_is_reconstructed_with_its_neighbors():
    html = on_reconstruct("vae-names", "emma", 1.5)
    assert "It comes back as “emma”." in html
    assert "emma" not in lines_of(html)
    assert len(lines_of(html)) > 3


def test_samples_differ_each_time():
    one, other = (lines_of(on_sample("vae-names")) for _ in range(2))
    assert len(one) == len(other) == SAMPLES
    assert one != other


def test_long_lines_come_in_smaller_numbers():
    assert len(lines_of(on_sample("vae-shakespeare"))) == SAMPLES // 2


def test_example_lines_are_reconstructed_exactly():
    start, end, *_ = EXAMPLES["shakespeare"]
    lines = lines_of(on_interpolate("vae-shakespeare", start, end, 0.5))
    assert len(set(lines)) > 3
    assert (lines[0], lines[-1]) == (start, end)


def test_capital_letters_are_lowered_for_a_model_without_any():
    assert on_interpolate("vae-names", " Emma ", "OLIVER", 0) == on_interpolate("vae-names", "emma", "oliver", 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", f"1 to {MAX_LINE_CHARS} characters"),
        ("   ", "1 to"),
        ("a" * (MAX_LINE_CHARS + 1), "1 to"),
        (None, "1 to"),
        ("<b>é", "never seen &lt; &gt; é;"),
        ("anna maria", "never seen space;"),
        ("a\nb", "is not a line"),
    ],
)
def test_invalid_line_is_a_sentence(line, words):
    for html in (
        on_interpolate("vae-names", line, "emma", 0),
        on_interpolate("vae-names", "emma", line, 0),
        on_reconstruct("vae-names", line, 0.6),
    ):
        assert words in html
        assert html.startswith('<p role="status">')


def test_invalid_settings_are_a_sentence():
    assert "from 0 to 1" in on_interpolate("vae-names", "a", "b", 1.5)
    assert "from 0.4 to 2.0" in on_reconstruct("vae-names", "a", 100)
    for html in (
        on_sample("gpt-shakespeare"), on_interpolate("gpt-shakespeare", "a", "b", 0), on_reconstruct("gpt-shakespeare", "a", 0.6)
    ):  # fmt: skip
        assert "pick one of vae-shakespeare, vae-names" in html
    assert "There is no model called &#x27;&lt;i&gt;&#x27; here" in on_sample("<i>")


def test_models_with_a_latent_space():
    assert [entry.id for entry in latent_models()] == ["vae-shakespeare", "vae-names"]


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_tab_shows_results_at_once_and_reacts(visit, size):
    first = visit(viewport={"width": size[0], "height": size[1]})
    first.page.get_by_role("tab", name="Morph").click()
    for part in ("#interpolation", "#around", "#samples"):
        first.page.wait_for_selector(f"{part} li")
    assert first.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    first.page.fill("#to input, #to textarea", "zoe")
    first.page.keyboard.press("Enter")
    first.until(lambda: first.page.locator("#interpolation li").last.inner_text() == "zoe", "the other end")
    before = first.page.inner_text("#interpolation b")
    first.page.fill("#position input[type=number]", "1")
    first.page.keyboard.press("Tab")
    first.until(lambda: first.page.inner_text("#interpolation b") == "zoe" != before, "the last position")
    first.page.fill("#line input, #line textarea", "<img src=x>")
    first.page.click("#look")
    first.until(lambda: "never seen" in first.page.inner_text("#around"), "a sentence")
    assert first.page.locator("#around img").count() == 0
    new = first.page.inner_text("#samples")
    first.page.click("#sample")
    first.until(lambda: first.page.inner_text("#samples") != new, "new samples")


@pytest.mark.browser
def test_another_model_brings_its_own_examples(visit):
    first = visit()
    first.page.get_by_role("tab", name="Morph").click()
    first.page.wait_for_selector("#samples .short li")
    assert first.page.inner_text("#morph h2 >> nth=2") == "Invent names"
    first.page.click("#spaces input")
    first.page.get_by_role("option", name="Lines of Shakespeare's plays").click()
    start, end, distance, *_ = EXAMPLES["shakespeare"]
    for part in ("#from", "#line"):
        first.wait_for_value(f"{part} input, {part} textarea", start)
    first.wait_for_value("#to input, #to textarea", end)
    first.wait_for_value("#distance input[type=number]", str(distance))
    first.until(lambda: first.page.locator("#interpolation li").last.inner_text() == end, "the interpolation")
    first.until(lambda: first.page.locator("#samples li").count() == SAMPLES // 2, "the samples")
    first.until(lambda: first.page.inner_text("#morph h2 >> nth=2") == "Invent lines", "the title")
    first.until(lambda: f"It comes back as “{start}”" in first.page.inner_text("#around"), "the reconstruction")

"""The tab Morph: lines as points, and what lies between them."""

import re

import pytest

from ui.model_registry import take
from ui.tabs.morph import DRAWN, ENDS, MAX_LINE, STEPS, offered, on_draw, on_morph, on_return, place

LM = take("vae-names").lm


def listed(html):
    return re.findall(r"<li>(?:<b>)?(.*?)(?:</b>)?</li>", html)


def test_the_way_leads_from_one_end_to_the_other():
    lines = listed(on_morph("vae-names", "emma", "oliver", 0.5))
    assert lines == LM.interpolate("emma", "oliver", STEPS)
    assert (lines[0], lines[-1]) == ("emma", "oliver")
    assert len(set(lines)) > 3


@pytest.mark.parametrize(("way", "at"), [(0, 0), (0.5, 4), (1, 8), (0.13, 1)])
def test_the_slider_points_at_a_line(way, at):
    html = on_morph("vae-names", "anna", "zoe", way)
    (picked,) = re.findall(r"<b>(.*?)</b>", html)
    assert picked == listed(html)[at]


def test_a_line_comes_back_with_its_neighbours():
    html = on_return("vae-names", "emma", 1.5)
    assert "It comes back as “emma”, and around it lie:" in html
    assert "emma" not in listed(html)
    assert len(listed(html)) > 3


def test_new_ones_are_drawn_anew():
    one, other = (listed(on_draw("vae-names")) for _ in range(2))
    assert len(one) == len(other) == DRAWN
    assert one != other


def test_of_long_lines_there_are_fewer():
    assert len(listed(on_draw("vae-shakespeare"))) == DRAWN // 2


def test_a_line_of_a_play_goes_to_another():
    lines = listed(on_morph("vae-shakespeare", *ENDS["shakespeare"][:2], 0.5))
    assert len(set(lines)) > 3
    assert (lines[0], lines[-1]) == ENDS["shakespeare"][:2]  # both come back as they are


def test_a_capital_letter_is_no_obstacle():
    assert on_morph("vae-names", " Emma ", "OLIVER", 0) == on_morph("vae-names", "emma", "oliver", 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", f"Type a line of 1 to {MAX_LINE} characters."),
        ("   ", "Type a line of 1 to"),
        ("a" * (MAX_LINE + 1), "Type a line of 1 to"),
        (None, "Type a line of 1 to"),
        ("<b>é", "This model never saw &lt; &gt; é; type something else."),
        ("a\nb", "is no line that this model knows"),
    ],
)
def test_what_is_no_line_is_a_sentence(line, said):
    for html in (
        on_morph("vae-names", line, "emma", 0),
        on_morph("vae-names", "emma", line, 0),
        on_return("vae-names", line, 0.6),
    ):
        assert said in html
        assert html.startswith('<p role="status">')


def test_other_nonsense_is_a_sentence():
    assert "The way goes from 0 to 1." in on_morph("vae-names", "a", "b", 1.5)
    assert "The distance goes from 0.4 to 2.0." in on_return("vae-names", "a", 100)
    for html in (on_draw("gpt-shakespeare"), on_morph("gpt-shakespeare", "a", "b", 0), on_return("gpt-shakespeare", "a", 0.6)):
        assert "gpt-shakespeare has no space of lines; pick one of vae-shakespeare, vae-names" in html
    assert "There is no model called &#x27;&lt;i&gt;&#x27; here" in on_draw("<i>")


def test_what_is_offered_has_a_space():
    assert [shelved.id for shelved in offered()] == ["vae-shakespeare", "vae-names"]
    assert place(LM, "emma").shape == (LM.model.config.latent_size,)


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_tab_shows_something_at_once_and_answers(visit, size):
    first = visit(viewport={"width": size[0], "height": size[1]})
    first.page.get_by_role("tab", name="Morph").click()
    for part in ("#morphed", "#around", "#drawn"):
        first.page.wait_for_selector(f"{part} li")
    assert first.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    first.page.fill("#to input, #to textarea", "zoe")
    first.page.keyboard.press("Enter")
    first.until(lambda: first.page.locator("#morphed li").last.inner_text() == "zoe", "the other end")
    before = first.page.inner_text("#morphed b")
    first.page.fill("#way input[type=number]", "1")
    first.page.keyboard.press("Tab")
    first.until(lambda: first.page.inner_text("#morphed b") == "zoe" != before, "the end of the way")
    first.page.fill("#line input, #line textarea", "<img src=x>")
    first.page.click("#look")
    first.until(lambda: "never saw" in first.page.inner_text("#around"), "a sentence")
    assert first.page.locator("#around img").count() == 0
    new = first.page.inner_text("#drawn")
    first.page.click("#draw")
    first.until(lambda: first.page.inner_text("#drawn") != new, "new ones")
    assert first.faults == []


@pytest.mark.browser
def test_another_model_brings_lines_that_suit_it(visit):
    first = visit()
    first.page.get_by_role("tab", name="Morph").click()
    first.page.wait_for_selector("#drawn .names li")
    first.page.check("#spaces input[value='vae-shakespeare']")
    start, end, distance = ENDS["shakespeare"]
    for part in ("#from", "#line"):
        first.until(lambda part=part: first.page.input_value(f"{part} input, {part} textarea") == start, "a line that suits")
    assert first.page.input_value("#to input, #to textarea") == end
    assert first.page.input_value("#distance input[type=number]") == str(distance)
    first.until(lambda: first.page.locator("#morphed li").last.inner_text() == end, "the way between them")
    first.until(lambda: first.page.locator("#drawn li").count() == DRAWN // 2, "lines that are drawn")
    first.until(lambda: f"It comes back as “{start}”" in first.page.inner_text("#around"), "the line again")
    assert first.faults == []

"""The lessons in a browser: the list, and the panel that asks, sets the page up and explains."""

from urllib.parse import parse_qs

import pytest

from ui.lessons import load_lessons
from ui.tabs import learn

pytestmark = pytest.mark.browser


def panel(visit):
    return visit.page.locator(".lesson")


def button(visit, name):
    return panel(visit).get_by_role("button", name=name, exact=True)


def parameters(visit):
    return dict(visit.page.evaluate("[...new URLSearchParams(location.search)]"))


def choose(visit, index):
    panel(visit).locator(".lesson-option").nth(index).click()


def wait_for_caption(visit, words):
    visit.until(lambda: words in visit.caption and not visit.is_writing, f"a text by {words}")


def focused(visit):
    return visit.page.evaluate("document.activeElement.textContent")


def test_without_a_lesson_there_is_no_panel(visit):
    first = visit()
    assert panel(first).count() == 0
    assert first.page.evaluate("document.querySelector('#lesson-panel').checkVisibility()") is False


def test_lesson_is_opened_from_the_list(visit):
    first = visit("/?tab=lessons")
    links = first.page.locator(".lessons li a")
    assert links.all_text_contents()[0] == "1. What a bigram knows"
    assert links.count() == 8
    links.nth(2).click()
    panel(first).wait_for()
    assert panel(first).get_by_role("heading", level=2).inner_text() == "Lesson 3: Temperature and filters"
    assert parameters(first)["lesson"] == "3"
    assert button(first, "Back").count() == 0
    button(first, "Start").click()
    assert parameters(first)["lesson"] == "3.1"
    assert focused(first) == "Temperature 0"


def test_prediction_is_answered_in_words_and_the_page_is_set_up(visit):
    first = visit("/?lesson=1.1")
    panel(first).wait_for()
    assert panel(first).locator(".lesson-answer").inner_text() == ""
    choose(first, 0)
    wait_for_caption(first, "bigram-shakespeare")
    assert panel(first).locator(".lesson-answer").inner_text().startswith("Not quite. The answer: Almost certainly u.")
    assert panel(first).locator(".lesson-option small").all_text_contents() == ["your answer", "right"]
    assert (first.prompt, first.text) == ("q", "u")
    first.wait_for_value("#prompt textarea", "q")
    first.wait_for_value("#temperature input[type=number]", "1")
    first.until(lambda: parameters(first).get("at") == "0", "the selected character in the address")
    assert (parameters(first)["lesson"], parameters(first)["model"]) == ("1.1", "bigram-shakespeare")
    explanation = first.page.locator("#text .explanation")
    first.until(lambda: "96.7" in explanation.inner_text(), "the explanation of u")

    def is_below_the_panel():
        place = panel(first).bounding_box()
        return explanation.bounding_box()["y"] >= place["y"] + place["height"] - 1

    first.until(is_below_the_panel, "the explanation not to be behind the panel")
    panel(first).locator(".lesson-option").nth(1).dispatch_event("click")  # a prediction is made once
    assert panel(first).locator(".lesson-answer").inner_text().startswith("Not quite.")


def test_right_prediction_stays_when_the_visitor_comes_back(visit):
    first = visit("/?lesson=1.2")
    choose(first, 0)
    wait_for_caption(first, "bigram-shakespeare")
    assert panel(first).locator(".lesson-answer strong").first.inner_text() == "Right."
    button(first, "Next").click()
    assert parameters(first)["lesson"] == "1.3"
    assert panel(first).locator(".lesson-answer").inner_text() == ""
    button(first, "Back").click()
    assert panel(first).locator(".lesson-answer strong").first.inner_text() == "Right."


def test_button_of_a_step_shows_without_a_prediction(visit):
    first = visit("/?lesson=3.1")
    panel(first).get_by_role("button", name="Let a bigram write at temperature 0").click()
    wait_for_caption(first, "temperature 0")
    assert panel(first).locator(".lesson-answer").inner_text().startswith("The answer: The same few characters")
    assert first.text.startswith("ur the the the")
    first.generate("Something else")
    button(first, "Show me again").click()
    first.until(lambda: first.prompt == "q", "the text of the step")


def test_step_opens_the_tab_inside(visit):
    first = visit("/?lesson=2.4")
    choose(first, 0)
    table = first.page.locator("#inside-bigram select").first
    table.wait_for()
    assert table.input_value() == "bigram-names"
    button(first, "Back").click()
    choose(first, 1)
    first.until(lambda: table.input_value() == "bigram-shakespeare", "the other table")
    assert parameters(first)["tab"] == "inside"
    in_view = "({top, bottom}) => top >= 0 && top < innerHeight"
    first.until(
        lambda: first.page.evaluate(f"({in_view})(document.querySelector('#inside-bigram').getBoundingClientRect())"),
        "the bigram's section in view",
    )


def test_step_looks_inside_the_gpt(visit):
    first = visit("/?lesson=5.2")
    choose(first, 1)
    text = first.page.locator("#inside-gpt textarea")
    first.until(lambda: text.count() and text.input_value().startswith("ROMEO:\nBut, soft! what light"), "the text")
    button(first, "Next").click()
    choose(first, 0)
    first.until(lambda: text.input_value().startswith("elizab"), "the other text, in the open tab")


def test_step_compares_models(visit):
    first = visit("/?lesson=4.4")
    choose(first, 1)
    first.page.locator("#compare .tokens").nth(3).wait_for()
    assert parameters(first)["lesson"] == "4.4"
    button(first, "Next lesson").click()
    assert parameters(first)["lesson"] == "5"
    assert "models" in parameters(first)  # the comparison stays until something else is shown
    button(first, "Start").click()
    choose(first, 1)
    text = first.page.locator("#inside-gpt textarea")
    first.until(lambda: text.count() and text.input_value().startswith("ROMEO:\nBut, soft!"), "the text")
    assert "models" not in parameters(first)


def test_step_scores_a_passage(visit):
    first = visit("/?lesson=7.1")
    choose(first, 0)
    text = first.page.locator("#score textarea")
    first.until(lambda: text.count() and text.input_value().startswith("But, soft!"), "the passage")
    first.page.get_by_text("Scored 90 characters.").wait_for()
    button(first, "Next").click()
    choose(first, 1)
    first.until(lambda: text.input_value().startswith("Full fathom five"), "the other passage, in the open tab")
    first.open_tab("write")
    first.until(lambda: "passage" not in parameters(first), "the address of the tab")
    assert parameters(first)["lesson"] == "7.2"


def test_every_tab_of_a_step_exists(visit):
    tabs = {parse_qs(step.query).get("tab", ["write"])[0] for lesson in load_lessons() for step in lesson.steps}
    if not learn.replays():
        tabs -= {"learn"}  # it is shown once a model has a recording of its training
    first = visit()
    for tab in tabs:
        assert first.page.locator(f"#tab-{tab}-button").count() == 1, tab


def test_lesson_ends_with_the_next_one_and_the_last_with_the_list(visit):
    first = visit("/?lesson=6.4")
    button(first, "Next lesson").click()
    assert parameters(first)["lesson"] == "7"
    assert focused(first) == "What this is about"
    second = visit("/?lesson=8.5")
    button(second, "All lessons").click()
    second.page.locator(".lessons li").first.wait_for()
    assert "lesson" not in parameters(second)


def test_closing_and_going_back(visit):
    first = visit("/?lesson=1.1")
    button(first, "Next").click()
    button(first, "Close").click()
    assert panel(first).count() == 0
    assert "lesson" not in parameters(first)
    assert first.page.evaluate("document.activeElement.id") == "tab-write-button"
    first.page.go_back()
    panel(first).wait_for()
    assert "Step 2 of 4" in panel(first).inner_text()
    first.page.go_back()
    first.until(lambda: "Step 1 of 4" in panel(first).inner_text(), "the step before")


def test_address_restores_the_step_and_the_text(visit):
    first = visit("/?lesson=1.2")
    choose(first, 1)
    wait_for_caption(first, "bigram-shakespeare")
    first.until(lambda: parameters(first).get("prompt") == "JULIET:", "the address of the text")
    second = visit("/" + first.page.evaluate("location.search"))
    assert "Step 2 of 4" in panel(second).inner_text()
    assert second.prompt == "JULIET:"


def test_keyboard_is_enough(visit):
    first = visit("/?lesson=1")
    keyboard = first.page.keyboard
    button(first, "Start").focus()
    keyboard.press("Enter")
    assert focused(first) == "After q"
    keyboard.press("Tab")
    keyboard.press("Tab")
    assert focused(first) == "Almost certainly u"
    keyboard.press("Enter")
    wait_for_caption(first, "bigram-shakespeare")
    assert focused(first).startswith("Almost certainly u")  # the focus stays
    for name in ("A space, because words end", "Back", "Show me again", "Next"):
        keyboard.press("Tab")
        assert focused(first) == name
    keyboard.press("Space")
    assert focused(first) == "One character of memory"


@pytest.mark.parametrize("place", ["99", "0", "x", "3.77"])
def test_wrong_link_is_answered_with_a_sentence_or_the_nearest_step(visit, place):
    first = visit(f"/?lesson={place}")
    if place == "x":
        assert panel(first).count() == 0
        return
    words = "Step 5 of 5" if place == "3.77" else "There is no lesson"
    first.until(lambda: panel(first).count() and words in panel(first).inner_text(), words)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_screen_and_axe_finds_nothing(visit, theme, width):
    first = visit(f"/?lesson=3.2&__theme={theme}", viewport={"width": width, "height": 844}, color_scheme=theme)
    first.screenshot(f"lesson-question-{width}-{theme}")
    assert first.violations() == []
    choose(first, 0)
    wait_for_caption(first, "bigram-shakespeare")
    first.page.wait_for_timeout(500)
    first.screenshot(f"lesson-answer-{width}-{theme}")
    assert first.page.evaluate("document.documentElement.scrollWidth") <= width
    assert panel(first).bounding_box()["height"] < 0.62 * 844  # the text stays visible
    assert first.violations() == []
    button(first, "Fold").click()
    assert panel(first).bounding_box()["height"] < 120
    assert button(first, "Unfold").get_attribute("aria-expanded") == "false"
    button(first, "Unfold").click()
    first.open_tab("lessons")
    button(first, "Close").click()
    first.page.locator(".lessons li").first.wait_for()
    first.screenshot(f"lessons-{width}-{theme}")
    assert first.violations() == []

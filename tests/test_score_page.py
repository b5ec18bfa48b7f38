"""The tab Score in a browser."""

import pytest

from ui.model_registry import get_model
from ui.scoring import score

pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror=\"document.title='hacked'\"><b>&amp;"
SIZES = [(1280, 900), (390, 844)]


@pytest.fixture
def score_tab(visit):
    """A function that opens the tab and returns its visitor."""

    def start(query="", **options):
        first = visit(f"/?tab=score{query}", **options)
        first.page.wait_for_selector("#tab-score-button[aria-selected=true]")
        first.page.wait_for_selector("#score form")
        return first

    return start


def run(page, text, *models):
    """Score a text under some models, and wait for the results or a sentence."""
    page.fill("#score textarea", text)
    if models:
        for box in page.locator("#score form input[type=checkbox]").all():
            box.set_checked(box.get_attribute("value") in models)
    page.evaluate("document.querySelector('#score .status').textContent = ''")
    page.click("#score button[type=submit]")
    page.wait_for_function("!['', 'Scoring…'].includes(document.querySelector('#score .status').textContent)")


def test_nothing_runs_until_the_visitor_asks(score_tab):
    page = score_tab().page
    assert page.locator("#score .score-results").is_hidden()
    chosen = page.locator("#score form input:checked").evaluate_all("inputs => inputs.map((input) => input.value)")
    assert {"bigram-shakespeare", "ngram-shakespeare", "gpt-shakespeare"} <= set(chosen)
    assert not any(name.startswith("vae") or name.endswith("-names") for name in chosen)


def test_figures_are_those_of_the_models(score_tab):
    page, text = score_tab().page, "To be, or not to be"
    run(page, text, "gpt-shakespeare", "bigram-shakespeare", "vae-shakespeare")
    values = {
        row.locator(".bar-name").inner_text(): row.locator(".bar-value").inner_text()
        for row in page.locator("#score .score-results section").first.locator(".model-bars li").all()
    }
    bits = {
        id: get_model(id).lm.score(text).bits_per_character for id in ("gpt-shakespeare", "bigram-shakespeare", "vae-shakespeare")
    }
    assert sorted(values.values()) == sorted(
        [f"{bits['gpt-shakespeare']:.2f}", f"{bits['bigram-shakespeare']:.2f}", f"at most {bits['vae-shakespeare']:.2f}", "6.02"]
    )
    assert "yes/no questions per character" in page.inner_text("#score .summary")
    assert "Of a VAE only an upper bound is known" in page.inner_text("#score .notes")


def test_a_place_compares_the_models(score_tab):
    page, text = score_tab().page, "To be, or not to be"
    run(page, text, "gpt-shakespeare", "bigram-shakespeare")
    models = score(["gpt-shakespeare", "bigram-shakespeare"], text)["models"]
    expected = {f"{one['bits'][5]:.1f} bits" for one in models}
    page.locator("#score .token").nth(4).click()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#score .place h3") == ", after “To be”"
    assert set(page.locator("#score .place .bar-value").all_inner_texts()) == expected
    # another model keeps the place
    page.locator("#score fieldset.segments input").nth(1).check()
    assert page.locator("#score .token.selected").inner_text() == ","
    # the least expected place of the text is a button that selects it
    worst = page.locator("#score .extremes ol").first.locator("button").first
    character = worst.inner_text().split("\n")[0]
    worst.click()
    assert page.inner_text("#score .place h3").split(" after ")[0] == character
    assert page.locator("#score .token.selected").count() == 1


def test_pointing_at_a_character_compares_the_models_there(score_tab):
    page = score_tab().page
    run(page, "To be, or not to be", "gpt-shakespeare", "bigram-shakespeare")
    page.locator("#score .token").nth(3).click()
    page.locator("#score .token").nth(7).hover()
    assert page.inner_text("#score .place h3") == "o after “To be,␣”"


def test_copied_spans_are_underlined_for_the_model_that_is_shown(score_tab):
    page = score_tab().page
    run(page, "O, But, soft! what light through yonder window breaks? Aye.\n", "gpt-shakespeare", "bpe-shakespeare")
    page.check("#score .copied-panel input")
    page.wait_for_selector("#score .copied-list li")
    assert "from Romeo and Juliet, ROMEO" in page.inner_text("#score .copied-list")
    marked = "tokens => tokens.map((token) => token.textContent).join('')"
    assert "soft! what light through yonder window breaks?" in page.eval_on_selector_all("#score .token.copied", marked)
    page.locator("#score fieldset.segments input").nth(1).check()
    page.wait_for_selector("#score .token.copied")  # the switch stays on
    assert page.is_checked("#score .copied-panel input")


def test_capitals_do_not_matter_to_models_that_do_not_know_them(score_tab):
    page = score_tab().page
    run(page, "Emma\nqqqq\n", "gpt-names")
    page.check("#score .copied-panel input")
    page.wait_for_selector("#score .token.copied")
    assert page.locator("#score .token.copied").all_inner_texts() == list("Emma")
    assert page.inner_text("#score .copied-summary").startswith("1 of 2 names is in the training list")


def test_unknown_characters_and_capitals_are_named(score_tab):
    page = score_tab().page
    run(page, "Zoë\n", "bigram-names", "bpe-shakespeare")
    notes = page.inner_text("#score .notes")
    assert "never saw them: ë" in notes
    assert "in lower case" in notes
    assert "surprised by whole pieces" in notes
    page.locator("#score fieldset.segments input").nth(0).check()
    assert page.locator("#score .tokens").inner_text().startswith("Zoë")
    page.locator("#score fieldset.segments label", has_text="bigram").click()
    assert page.locator("#score .token.unknown").all_inner_texts() == ["ë"]


def test_hostile_text_stays_text(score_tab):
    page = score_tab().page
    run(page, MARKUP, "gpt-shakespeare", "bpe-shakespeare")
    assert page.locator("#score .tokens").inner_text() == MARKUP
    for token in page.locator("#score .token").all()[:12]:
        token.click()
    assert page.locator("#score img, #score .place b").count() == 0
    assert page.title() != "hacked"


def test_what_is_missing_is_a_sentence(score_tab):
    page = score_tab().page
    run(page, "")
    assert "Write or paste a text first" in page.inner_text("#score .status")
    run(page, "x" * 5001)
    assert "it must be a text of up to 5,000 characters" in page.inner_text("#score .status")
    run(page, "ß", "gpt-names")
    assert "knows none of these characters" in page.inner_text("#score .status")
    assert page.locator("#score .score-results").is_hidden()
    for box in page.locator("#score form input:checked").all():
        box.uncheck()
    run(page, "a")
    assert "Choose at least one model" in page.inner_text("#score .status")


def test_names_are_scored_by_the_models_of_names(score_tab):
    page = score_tab().page
    page.get_by_role("button", name="Names", exact=True).click()
    chosen = page.locator("#score form input:checked").evaluate_all("inputs => inputs.map((input) => input.value)")
    assert chosen
    assert all(name.endswith("-names") for name in chosen)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_and_nothing_is_too_wide(score_tab, theme, size):
    first = score_tab(f"&__theme={theme}", viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = first.page
    page.get_by_role("button", name="An e-mail of today").click()
    page.get_by_role("button", name="Score", exact=True).click()
    page.locator("#score .token").nth(3).click()
    assert first.violations() == []
    assert page.evaluate("document.querySelector('#score').scrollWidth <= document.querySelector('#score').clientWidth")

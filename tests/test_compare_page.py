"""The tab Compare in a browser."""

import pytest

from gpt import SamplingParams
from ui.model_registry import get_model
from ui.scoring import score

pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror=\"document.title='hacked'\"><b>&amp;"
MODELS = ["bigram-shakespeare", "gpt-shakespeare"]
LINK = "tab=compare&models=bigram-shakespeare,gpt-shakespeare&prompt=ROMEO:&seed=7&length=60&temperature=0.8"
TEMPERATURES = "tab=compare&temperatures=1&model=gpt-shakespeare&prompt=ROMEO:&seed=7&length=40"


@pytest.fixture
def compare(visit):
    """A function that opens the tab and returns its visitor."""

    def start(query="tab=compare", **options):
        first = visit(f"/?{query}", **options)
        first.page.wait_for_selector("#tab-compare-button[aria-selected=true]")
        first.page.wait_for_selector("#compare form")
        return first

    return start


def wait_until_finished(page, words="finished"):
    page.wait_for_function("words => document.querySelector('#compare .status').textContent.includes(words)", arg=words)


def texts(page):
    """The generated text of each column."""
    read = "articles => articles.map((a) => [...a.querySelectorAll('.token')].map((token) => token.textContent).join(''))"
    return page.locator("#compare article").evaluate_all(read)


def expected(model, temperature, length):
    params = SamplingParams(temperature=temperature, max_new_tokens=length, seed=7)
    return get_model(model).lm.generate("ROMEO:", params).text


def test_nothing_runs_until_the_visitor_asks(compare):
    page = compare().page
    assert page.locator("#compare .compare-results").is_hidden()
    assert page.locator("#compare form input:checked").count() == 4  # the mode, and three models


def test_a_link_writes_with_each_model_and_compares_them(compare):
    page = compare(LINK).page
    wait_until_finished(page)
    assert page.inner_text("#compare .status") == "Both texts are finished."
    assert texts(page) == [expected(id, 0.8, 60) for id in MODELS]
    page.wait_for_selector("#compare table")
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#compare tbody tr").all()]
    for c, text in enumerate(texts(page)):
        for m, one in enumerate(score(MODELS, f"ROMEO:{text}")["models"]):
            assert rows[m][0].startswith(f"{sum(one['bits'][:6]) / 6:.2f}")
            assert rows[m][c + 1].startswith(f"{sum(one['bits'][6:]) / 60:.2f}")
    assert "2.7\u00a0million" in page.locator("#compare article dl").nth(1).inner_text()
    assert "characters a second" in page.locator("#compare article dl").nth(1).inner_text()


def test_marks_are_where_one_model_needs_3_bits_more(compare):
    page = compare(LINK).page
    page.wait_for_selector("#compare table")
    for c, text in enumerate(texts(page)):
        bigram, gpt = (one["bits"][6:] for one in score(MODELS, f"ROMEO:{text}")["models"])
        marks = {i: "A" if b > g else "B" for i, (b, g) in enumerate(zip(bigram, gpt, strict=True)) if abs(b - g) >= 3}
        tokens = page.locator("#compare article").nth(c).locator(".token")
        found = tokens.evaluate_all("tokens => tokens.map((token) => token.dataset.reader ?? '')")
        assert marks == {i: letter for i, letter in enumerate(found) if letter}


def test_one_model_at_five_temperatures(compare):
    page = compare(TEMPERATURES).page
    wait_until_finished(page)
    assert page.inner_text("#compare .status") == "All five texts are finished."
    assert texts(page) == [expected("gpt-shakespeare", t, 40) for t in (0, 0.4, 0.8, 1.2, 1.6)]
    assert page.locator("#compare table").count() == 0


def test_a_place_shows_the_distributions_of_all_columns_with_the_same_text_so_far(compare):
    page = compare(TEMPERATURES).page
    wait_until_finished(page)
    page.locator("#compare article").nth(1).locator(".token").nth(1).click()
    page.keyboard.press("Home")  # in each text, the first is a new line
    assert page.locator("#compare .place .distribution").count() == 5
    assert "Up to here all texts are the same" in page.inner_text("#compare .place")
    page.keyboard.press("End")
    assert page.locator("#compare .place .distribution").count() == 1
    assert "other texts are different" in page.inner_text("#compare .place")
    page.locator("#compare article").nth(0).locator(".token").last.evaluate("token => token.click()")
    assert page.locator("#compare .token.selected").count() == 1


def test_a_column_opens_in_write(compare):
    page = compare(LINK).page
    wait_until_finished(page)
    (text,) = texts(page)[1:]
    page.locator("#compare article a").nth(1).click()
    page.wait_for_selector("#tab-write-button[aria-selected=true]")
    page.wait_for_function("text => document.querySelector('#write .tokens')?.textContent.endsWith(text)", arg=text)


def test_the_address_describes_the_comparison_and_restores_it(compare):
    page = compare().page
    page.fill("#compare textarea", "JULIET:\nO")
    for label, value in (("Seed", "11"), ("Length in characters", "30"), ("Temperature", "0.5")):
        page.get_by_label(label, exact=True).and_(page.locator("#compare input")).fill(value)
    page.get_by_role("button", name="Write side by side").click()
    wait_until_finished(page)
    before, query = texts(page), page.evaluate("location.search.slice(1)")
    assert "models=bigram-shakespeare%2Cngram-shakespeare%2Cgpt-shakespeare" in query
    again = compare(query).page
    wait_until_finished(again)
    assert texts(again) == before
    # the tab Write has its own text, and its own address
    again.click("#tab-write-button")
    again.wait_for_function("!location.search.includes('models=')")
    again.click("#tab-compare-button")
    again.wait_for_function("location.search.includes('models=')")


def test_stop_keeps_what_is_visible(compare):
    page = compare(reduced_motion="no-preference").page
    page.get_by_label("Length in characters").fill("500")
    page.get_by_role("button", name="Write side by side").click()
    page.wait_for_function("document.querySelectorAll('#compare .token').length > 30")
    page.locator("#compare").get_by_role("button", name="Stop").click()
    assert page.inner_text("#compare .status") == "Stopped."
    lengths = [len(text) for text in texts(page)]
    assert len(set(lengths)) == 1
    assert 0 < lengths[0] < 500
    page.wait_for_selector("#compare table")  # what is there is compared
    assert [len(text) for text in texts(page)] == lengths


def test_skip_to_the_end(compare):
    page = compare(LINK.replace("length=60", "length=500"), reduced_motion="no-preference").page
    page.wait_for_function("document.querySelectorAll('#compare .token').length > 4")
    page.get_by_role("button", name="Skip to the end").click()
    wait_until_finished(page)
    assert [len(text) for text in texts(page)] == [500, 500]


def test_pieces_of_words_keep_step(compare):
    page = compare("tab=compare&models=bpe-shakespeare,bigram-names&prompt=ROMEO:&seed=7&length=50&temperature=0.8").page
    page.wait_for_selector("#compare table")
    pieces, names = texts(page)
    assert len(names) == 50
    assert 50 <= len(pieces) < 65
    assert expected("bpe-shakespeare", 0.8, 60).startswith(pieces)
    assert "knows no capital letters" in page.locator("#compare article").nth(1).inner_text()


def test_hostile_prompt_stays_text(compare):
    page = compare().page
    page.fill("#compare textarea", MARKUP)
    page.get_by_label("Length in characters").fill("20")
    page.get_by_role("button", name="Write side by side").click()
    page.wait_for_selector("#compare table")
    assert page.locator("#compare article .prompt").first.text_content() == MARKUP
    page.locator("#compare .token").nth(3).evaluate("token => token.click()")
    assert page.locator("#compare img").count() == 0
    assert page.title() != "hacked"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("models=gpt-shakespeare", "Choose two to four models; you chose one."),
        ("models=gpt-shakespeare,<b>", "There is no model called “<b>” here."),
        ("temperatures=1&model=gpt-shakespeare&length=1000", "from 1 to 500"),
        ("models=gpt-shakespeare,bigram-shakespeare&seed=-1", "seed"),
    ],
)
def test_a_link_that_cannot_be_shown_is_a_sentence(compare, query, words):
    page = compare(f"tab=compare&{query}").page
    wait_until_finished(page, words)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("link", [LINK, TEMPERATURES])
def test_axe_finds_nothing_and_nothing_is_too_wide(compare, theme, size, link):
    first = compare(f"{link}&__theme={theme}", viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = first.page
    wait_until_finished(page)
    if link == LINK:
        page.wait_for_selector("#compare table")
    page.locator("#compare .token").nth(1).evaluate("token => token.click()")
    assert first.violations() == []
    assert page.evaluate("document.querySelector('#compare').scrollWidth <= document.querySelector('#compare').clientWidth")

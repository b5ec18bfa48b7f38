"""The tab "All at once" in a browser."""

from urllib.parse import parse_qs, urlparse

import pytest

from gpt import UnmaskingParams
from ui.model_registry import get_model

pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror=\"document.title='hacked'\"><b>&amp;"
SIZES = [(1280, 900), (390, 844)]
TAB = "#all-at-once"
RUN = f"{TAB} .mode-form:not([hidden]) .primary"


class AllAtOnce:
    """The tab, opened by a visitor."""

    def __init__(self, visitor):
        self.visitor, self.page = visitor, visitor.page
        self.page.wait_for_selector(f"{TAB} .mode-form")

    @property
    def status(self):
        return self.page.inner_text(f"{TAB} .status")

    @property
    def text(self):
        """What the visible view shows."""
        visible = f"[...document.querySelectorAll('{TAB} .token')].filter((token) => token.checkVisibility())"
        return self.page.evaluate(f"{visible}.map((token) => token.textContent).join('')")

    def choose(self, value):
        """Choose an option of one of the segments."""
        self.page.check(f"{TAB} .segments input[value='{value}']")

    def set_steps(self, steps):
        sliders = self.page.locator(f"{TAB} .unmasking-settings input[type=range]")
        sliders.first.fill(str([4, 8, 16, 32, 64, 128].index(steps)))

    def set_seed(self, seed):
        self.page.fill(f"{TAB} .unmasking-seed input", str(seed))

    def run(self, button=RUN):
        """Press a button and wait until it is done."""
        self.page.evaluate(f"document.querySelector('{TAB} .status').textContent = ''")
        self.page.click(button)
        self.wait()

    def wait(self):
        waiting = ("", "Revealing…", "Reading…")
        self.visitor.until(lambda: self.status not in waiting, "the end of a run")

    def write(self, prompt="ROMEO:", length=40, steps=8, seed=5):
        self.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", prompt)
        self.page.fill(f"{TAB} .length input", str(length))
        self.set_steps(steps)
        self.set_seed(seed)
        self.run()

    def go_to_step(self, step):
        """Move the slider of the visible view."""
        self.page.locator(f"{TAB} .unmasking-controls input:visible").fill(str(step))

    def place(self):
        return self.page.locator(f"{TAB} .place:visible")


@pytest.fixture
def tab(visit):
    """A function that opens the tab."""

    def start(query="", **options):
        return AllAtOnce(visit(f"/?tab=all-at-once{query}", **options))

    return start


def test_text_is_revealed_step_by_step(tab):
    one = tab()
    one.write(length=40, steps=8, seed=5)
    lm = get_model("diffusion-shakespeare", "infills").lm
    params = UnmaskingParams(steps=8, seed=5)
    canvas = lm.canvas("ROMEO:", 40)
    steps = list(lm.unmask(canvas, params))
    assert one.text == lm.decode(lm.complete(canvas, steps))
    assert one.page.inner_text(f"{TAB} .unmasking-moment:visible") == "8 of 8: nothing hidden"
    # the slider goes back through the steps
    for count in (0, 3):
        one.go_to_step(count)
        shown = [lm.tokenizer.decode([token]) if token is not None else "·" for token in canvas]
        for step in steps[:count]:
            for position, token in zip(step.positions, step.token_ids, strict=True):
                shown[position] = lm.tokenizer.decode([token])
        assert one.text == "".join(shown)
        assert one.page.locator(f"{TAB} .fresh").count() == (5 if count else 0)
    assert one.page.inner_text(f"{TAB} .unmasking-moment:visible") == "3 of 8: 25 characters hidden"


def test_each_place_shows_its_candidates(tab):
    one = tab()
    one.write(length=40, steps=4, seed=5)
    page = one.page
    tokens = page.locator(f"{TAB} .token")
    # given
    tokens.nth(2).click()
    assert one.place().locator("h2").inner_text() == "Place 3: given"
    # revealed: the candidates that it was drawn from, in which it is marked
    tokens.nth(20).click()
    assert "Revealed in step" in one.place().inner_text()
    assert one.place().locator(".candidate.chosen").count() == 1
    # hidden: the model is asked
    one.go_to_step(0)
    one.visitor.until(lambda: "hidden" in one.place().locator("h2").inner_text(), "a hidden place")
    one.visitor.until(lambda: "the model gives" in one.place().inner_text(), "its candidates")
    assert one.place().locator(".candidate.chosen").count() == 0
    lm = get_model("diffusion-shakespeare", "infills").lm
    canvas = lm.canvas("ROMEO:", 40)
    best = next(lm.unmask(canvas, UnmaskingParams(steps=4, seed=5))).logits[20].argmax().item()
    name = {" ": "space", "\n": "new line"}.get(lm.tokenizer.decode([best]), lm.tokenizer.decode([best]))
    assert one.place().locator(".distribution-sentence b").inner_text() == name
    # the arrow keys go on
    before = one.place().locator("h2").inner_text()
    page.locator(f"{TAB} .token.selected").focus()
    page.keyboard.press("ArrowRight")
    one.visitor.until(lambda: one.place().locator("h2").inner_text() != before, "the next place")


def test_play_shows_all_steps(tab):
    one = tab(reduced_motion="no-preference")
    one.write(length=30, steps=4)
    play = one.page.locator(f"{TAB} .unmasking-play:visible")
    moments = one.page.locator(f"{TAB} .unmasking-moment:visible")
    play.click()
    one.visitor.until(
        lambda: "hidden" in moments.inner_text() and "nothing" not in moments.inner_text(), "a moment before the end"
    )
    one.visitor.until(lambda: moments.inner_text() == "4 of 4: nothing hidden", "the end")
    one.visitor.until(lambda: play.inner_text() == "Play", "the button")


def test_order_and_seed_decide_the_text(tab):
    one = tab()
    one.choose("blocks")
    one.write(length=20, steps=4, seed=5)
    first = one.text
    one.go_to_step(2)
    assert one.text[:16].count("·") == 0
    assert one.text[16:] == "·" * 10
    one.run()
    assert one.text == first
    one.set_seed(6)
    one.run()
    assert one.text != first
    assert "left to right, seed 6" in one.page.inner_text(f"{TAB} .unmasking-text .hint >> visible=true")


def test_race_says_who_was_quicker_and_who_writes_better(tab):
    one = tab()
    one.page.fill(f"{TAB} .length input", "60")
    one.set_steps(8)
    one.run(f"{TAB} button:text('Race a GPT')")
    race = one.page.locator(f"{TAB} section", has_text="The race")
    names = race.locator("h3").all_inner_texts()
    assert names == ["diffusion-shakespeare", "gpt-shakespeare"]
    assert "was quicker" in race.inner_text()
    assert "lstm-shakespeare, which took no part" in race.inner_text()
    facts = [
        dict(zip(a.locator("dt").all_inner_texts(), a.locator("dd").all_inner_texts(), strict=True))
        for a in race.locator("article").all()
    ]
    assert [fact["Steps"] for fact in facts] == ["8", "60"]
    judge = get_model("lstm-shakespeare").lm
    for article, fact in zip(race.locator("article").all(), facts, strict=True):
        text = article.locator("blockquote").evaluate("(quote) => quote.textContent")
        assert len(text) == 66
        assert fact["Bits per character to the judge"] == f"{judge.score(text).bits_per_character:.2f}"


def test_gaps_are_filled(tab):
    one = tab()
    one.choose("fill")
    one.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", "To be, ___, that is the ________.")
    one.run()
    assert one.text.startswith("To be, ")
    assert ", that is the " in one.text
    assert one.text.endswith(".")
    assert "·" not in one.text
    assert one.page.locator(f"{TAB} .given:visible").count() == len("To be, , that is the .")
    one.page.click(f"{TAB} button:text('Use the result')")
    assert one.page.input_value(f"{TAB} .mode-form:not([hidden]) textarea") == one.text
    one.run()
    assert one.status == "The text has no gap; write ___ where something is missing."


def test_a_selected_passage_is_rewritten(tab):
    one = tab()
    one.choose("fill")
    field = f"{TAB} .mode-form:not([hidden]) textarea"
    one.page.fill(field, "To be, or not to be, that is it.")
    one.run(f"{TAB} button:text('Rewrite the selection')")
    assert one.status == "Select a passage of the text first."
    one.page.evaluate(f"document.querySelector('{field}').setSelectionRange(7, 19)")
    one.run(f"{TAB} button:text('Rewrite the selection')")
    assert one.page.input_value(field) == "To be, ____________, that is it."
    assert len(one.text) == len("To be, or not to be, that is it.")
    assert (one.text[:7], one.text[19:]) == ("To be, ", ", that is it.")


def test_proofreading_marks_places_and_shows_candidates(tab):
    one = tab()
    one.choose("proofread")
    one.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", "It is the east, and thq sun")
    one.run()
    assert one.text == "It is the east, and thq sun"
    doubtful = one.page.locator(f"{TAB} .token.doubtful")
    assert "q" in doubtful.all_inner_texts()
    assert "unlikely here, of 27" in one.page.inner_text(f"{TAB} .summary >> visible=true")
    first = one.page.locator(f"{TAB} .doubtful-list button").first
    assert first.locator("b").inner_text() == "q"
    first.click()
    one.visitor.until(lambda: "“q”" in one.place().locator("h2").inner_text(), "the place")
    assert one.place().locator(".candidate").first.inner_text().startswith("e")
    # a place shows its candidates on focus
    one.page.locator(f"{TAB} .token.selected").focus()
    one.page.keyboard.press("Home")
    one.visitor.until(lambda: "Place 1: “I”" in one.place().locator("h2").inner_text(), "the first place")


def test_a_model_of_names(tab):
    one = tab()
    one.choose("diffusion-names")
    assert one.page.locator(f"{TAB} .length").is_hidden()
    assert one.page.locator(f"{TAB} button:text('Race a GPT')").is_hidden()
    one.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", "Em")
    one.set_seed(1)
    one.run()
    assert one.text.startswith("em")
    assert one.text.rstrip("⏎").isalpha()
    assert one.status == "This model knows no capital letters, so it reads the text in lower case."
    one.choose("proofread")
    one.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", "elizaxeth")
    one.run()
    assert one.page.locator(f"{TAB} .doubtful-list b").first.inner_text() == "x"


def test_link_shows_the_same_text_again(tab, visit):
    one = tab()
    one.write(length=30, steps=8, seed=9)
    query = urlparse(one.page.url).query
    assert parse_qs(query)["tab"] == ["all-at-once"]
    other = AllAtOnce(visit(f"/?{query}"))
    other.wait()
    assert other.text == one.text
    # another tab drops it from the address
    other.visitor.open_tab("write")
    other.visitor.until(lambda: "unmask" not in other.page.url, "another address")


def test_a_link_to_a_missing_model_is_one_sentence(tab):
    one = tab("&unmask=mode%3Dwrite%26model%3Dnobody")
    assert one.status == "This link cannot be shown: the page has no such model."


def test_stop_ends_a_text(tab):
    one = tab()
    one.page.fill(f"{TAB} .length input", "250")
    one.set_steps(128)
    one.page.click(RUN)
    one.visitor.until(lambda: one.page.locator(f"{TAB} .fresh").count() > 0, "the first step")
    one.page.click(f"{TAB} button:text-is('Stop')")
    one.wait()
    assert one.status == "Stopped."
    assert "·" in one.text


def test_markup_stays_text(tab):
    one = tab()
    one.write(prompt=MARKUP, length=20)
    assert one.text.startswith("img srcx onerrordocument.title'hacked'b&amp;")
    assert "never seen" in one.status
    one.choose("proofread")
    one.page.fill(f"{TAB} .mode-form:not([hidden]) textarea", MARKUP)
    one.run()
    assert one.page.title() == "From Bigram to GPT"
    assert one.page.locator(f"{TAB} img").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_results_are_accessible_and_fit(tab, size, theme):
    width, height = size
    one = tab(f"&__theme={theme}", viewport={"width": width, "height": height}, color_scheme=theme)
    one.page.fill(f"{TAB} .length input", "40")
    one.set_steps(4)
    one.run(f"{TAB} button:text('Race a GPT')")
    one.page.locator(f"{TAB} .token").nth(20).click()
    for mode in ("write", "fill", "proofread"):
        one.choose(mode)
        if mode != "write":
            one.run()
        one.visitor.screenshot(f"all-at-once-{mode}-{width}-{theme}")
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, mode
        assert one.visitor.violations() == [], mode

"""The tab "Look inside" in a browser: attention and the logit lens of a GPT."""

import pytest
import torch

from gpt import SamplingParams
from gpt.inspection import find_gpt, inspect, logit_lens
from ui.model_registry import get_model, list_models

pytestmark = pytest.mark.browser

TEXT = "ROMEO:\nBut, soft! what light"
MARKUP = "<img src=x onerror=\"document.title='hacked'\"><b>&amp;"


@pytest.fixture
def visit_inside(visit):
    """A function that opens the page, then the tab, and returns the visitor when the first answer is drawn."""

    def start(query="", **options):
        first = visit(f"/?{query}", **options)
        first.open_tab("inside")
        first.page.wait_for_selector("#inside-gpt .inside-lens td")
        return first

    return start


@pytest.fixture
def inside(visit_inside):
    """As `visit_inside`, but the function returns the browser's page."""
    return lambda query="", **options: visit_inside(query, **options).page


def show(page, text, model="gpt-shakespeare"):
    """Type a text and wait until the page looks inside the choice of its last character."""
    page.select_option("#inside-gpt select", model)
    page.fill("#inside-gpt textarea", text)
    page.click("#inside-gpt button")
    page.wait_for_function("text => document.querySelector('#inside-gpt .tokens-content').textContent === text", arg=text)


def select(page, index):
    """Click a character and wait for the answer."""
    token = page.locator("#inside-gpt .token").nth(index)
    page.evaluate("document.querySelector('#inside-gpt .inside-sentence').textContent = ''")
    token.click()
    page.wait_for_function("document.querySelector('#inside-gpt .inside-sentence').textContent !== ''")


def cells(page, row):
    return page.locator("#inside-gpt .inside-lens tbody tr").nth(row).locator("th, td").all_inner_texts()


def places(page):
    return [item.split("\n")[:2] for item in page.locator("#inside-gpt .inside-places li").all_inner_texts()]


def test_page_shows_what_the_model_computed(inside):
    page = inside()
    show(page, TEXT)
    at = TEXT.index("t light")
    select(page, at)
    lm = get_model("gpt-shakespeare").lm
    ids = torch.tensor(lm.tokenizer.encode(TEXT).ids)
    inspection = inspect(lm.model, ids[:at])
    sentence = f"To choose “t”, gpt-shakespeare looked at the {at} characters before it."
    assert page.inner_text("#inside-gpt .inside-sentence") == sentence

    probs = logit_lens(lm.model, inspection.hidden_states)[:, 0].exp()
    assert page.locator("#inside-gpt .inside-lens tbody tr").count() == 7
    for layer in (0, 6):
        best, rank = probs[layer].topk(3), int((probs[layer] > probs[layer, ids[at]]).sum()) + 1
        names = [{" ": "space", "\n": "new line"}.get(c, c) for c in map(lm.tokenizer.decode, best.indices[:, None].tolist())]
        shown = cells(page, layer)
        assert shown[0] == ("embedding", "layer 6")[layer > 0]
        assert [cell.rpartition(" ")[0] for cell in shown[1:4]] == names
        assert shown[4].partition(" ")[0] == str(rank)

    page.click("#inside-gpt label[title='Layer 2, head 3']")
    weights = inspection.attention[1, 2, 0]
    best = weights.topk(5)
    shares = [float(share.removeprefix("<\u00a0").removesuffix("\u00a0%")) for share, _ in places(page)]
    assert shares == pytest.approx((100 * best.values).tolist(), abs=0.75)  # rounded, from weights of one byte each
    assert page.locator("#inside-gpt .inside-strong").count() == 5
    strengths = page.eval_on_selector_all(
        "#inside-gpt .token", "tokens => tokens.map(t => Number(t.style.getPropertyValue('--attention')))"
    )
    torch.testing.assert_close(torch.tensor(strengths[:at]), weights / weights.max(), atol=0.02, rtol=0)
    assert set(strengths[at:]) == {0}  # the model does not see the future


def test_keyboard_moves_over_the_text_and_the_heads(inside):
    page = inside()
    show(page, TEXT)
    select(page, 10)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#inside-gpt .inside-sentence').textContent.includes('the 11 characters')")
    page.focus("#inside-gpt input[value=mean]")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#inside-gpt .inside-heads input:checked") == "0.0"
    assert page.inner_text("#inside-gpt section:has(.inside-places) h3 >> nth=0") == "Layer 1, head 1 looked most at"
    page.focus("#inside-gpt textarea")
    page.keyboard.press("Control+End")
    page.keyboard.type(" now")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('#inside-gpt .tokens-content').textContent.endsWith('light now')")


def test_link_opens_the_text_at_its_character(inside):
    page = inside("model=gpt-shakespeare&prompt=ROMEO%3A&seed=7&length=30&temperature=0.8&at=4")
    text = get_model("gpt-shakespeare").lm.generate("ROMEO:", SamplingParams(0.8, max_new_tokens=30, seed=7)).text
    assert page.text_content("#inside-gpt .tokens-content") == f"ROMEO:{text}"
    assert page.eval_on_selector_all("#inside-gpt .token", "all => all.findIndex(t => t.classList.contains('selected'))") == 10
    select(page, 12)
    page.wait_for_function("location.search.includes('at=6')")
    page.click("#tab-write-button")
    page.evaluate("history.replaceState(null, '', location.href.replace('at=6', 'at=2'))")  # as another choice in Write does
    page.click("#tab-inside-button")
    page.wait_for_function("[...document.querySelectorAll('#inside-gpt .token')][8].classList.contains('selected')")


def test_text_of_a_model_without_attention_is_read_by_a_gpt(inside):
    page = inside("model=bigram-names&prompt=em&seed=7&length=10")
    assert page.input_value("#inside-gpt select") == "gpt-names"
    options = page.eval_on_selector_all("#inside-gpt option", "options => options.map(o => o.value)")
    assert options == [entry.id for entry in list_models() if find_gpt(entry.lm.model)]
    assert {"gpt-names", "mixture-shakespeare", "bpe-shakespeare"} < set(options)


def test_first_letter_of_a_name_looks_at_the_start(inside):
    page = inside()
    show(page, "emma", "gpt-names")
    select(page, 0)
    assert places(page) == [["100\u00a0%", "the start, before the text"]]
    assert "only the start of the text" in page.inner_text("#inside-gpt .inside-sentence")


def test_mixture_and_unknown_characters_are_explained(inside):
    page = inside()
    page.select_option("#inside-gpt select", "mixture-shakespeare")
    page.fill("#inside-gpt textarea", "é" + "To be, or not " * 20)
    page.click("#inside-gpt button")
    page.wait_for_function("document.querySelectorAll('#inside-gpt .token').length === 280")
    note = page.locator("#inside-gpt .inside-sentence + .inside-note").inner_text()
    assert "does not know é" in note
    assert "the last 256 characters" in note
    assert "This model is a mixture: you see a GPT in it." in note


def test_error_is_a_sentence(inside):
    page = inside()
    page.eval_on_selector("#inside-gpt textarea", "e => e.removeAttribute('maxlength')")
    page.fill("#inside-gpt textarea", "a" * 5_001)
    page.click("#inside-gpt button")
    page.wait_for_function("document.querySelector('#inside-gpt [role=status]').textContent.includes('up to 5,000')")
    assert page.locator("#inside-gpt .inside-results").is_hidden()
    show(page, TEXT)
    page.locator("#inside-gpt .inside-results").wait_for()


def test_hostile_text_is_shown_as_text(inside):
    page = inside()
    show(page, MARKUP * 2, "bpe-shakespeare")
    select(page, 5)
    assert page.locator("#inside-gpt img, #inside-gpt .tokens b, #inside-gpt .inside-around b").count() == 0
    assert page.title() != "hacked"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "size"), [("wide", (1280, 900)), ("phone", (390, 844))])
def test_everything_fits(visit_inside, theme, name, size):
    first = visit_inside(f"__theme={theme}", viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = first.page
    show(page, "But soft, what light through yonder window breaks?")
    select(page, 40)
    first.screenshot(f"inside-gpt-{name}-{theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    small = page.eval_on_selector_all(
        "#inside-gpt :is(button, select, textarea, .inside-heads label)",
        "all => all.filter(e => e.getBoundingClientRect().height < 24 || e.getBoundingClientRect().width < 24).length",
    )
    assert small == 0

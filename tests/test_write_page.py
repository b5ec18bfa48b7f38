"""The tab Write in a real browser: pace, explanations, branches, links, and what visitors do wrong."""

import re
from urllib.parse import parse_qsl

import pytest
from browser import Visit, free_port, served

from gpt import SamplingParams
from ui import model_registry
from ui.model_registry import get_model, list_models

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


def link(visitor):
    """The link in the address bar, as a dict."""
    return dict(parse_qsl(visitor.page.url.partition("?")[2], keep_blank_values=True))


def written(visitor, forced=()):
    """What the model writes for the link of the text."""
    values = dict(parse_qsl(visitor.query(), keep_blank_values=True))
    params = SamplingParams(
        temperature=float(values["temperature"]), max_new_tokens=int(values["length"]), seed=int(values["seed"]), forced=forced
    )
    return get_model(values["model"]).lm.generate(values["prompt"], params).text


def select(visitor, index):
    """Select a token with a click, wherever it is: a new line has no box of its own to aim at."""
    visitor.page.locator("#text .token").nth(index).dispatch_event("click")
    title = f"Character {index + 1}: why"
    visitor.until(lambda: title in visitor.page.text_content("#text .explanation h2"), "the explanation")


def pick_other_candidate(visitor):
    """Click the likeliest candidate that the text did not take, and return its character."""
    row = visitor.page.locator("#text .candidate:not(.chosen)").first
    name = row.locator(".name").text_content()
    visitor.wait_for_new_text(row.click)
    return {"space": " ", "new line": "\n"}.get(name, name)


def focused(visitor):
    return visitor.page.evaluate("document.activeElement.id || document.activeElement.tagName")


def test_watch_shows_30_characters_a_second_with_the_distribution_of_the_current_one(visit):
    first = visit(reduced_motion="no-preference")
    assert first.page.is_checked("#text input[value=watch]")
    first.pick("bigram-shakespeare")
    first.generate()
    first.until(lambda: first.length > 0, "the first character")
    measured = first.page.evaluate(
        """async () => {
          const count = () => document.querySelectorAll("#text .token").length;
          const [start, before] = [performance.now(), count()];
          const titles = [];
          for (let i = 0; i < 10; i++) {
            await new Promise((resolve) => setTimeout(resolve, 150));
            titles.push([document.querySelector("#text .explanation h2").textContent, count()]);
          }
          return { titles, rate: (1000 * (count() - before)) / (performance.now() - start) };
        }"""
    )
    assert 20 < measured["rate"] < 36
    for title, count in measured["titles"]:
        assert title.startswith(f"Character {count}: ")
    first.set_pace("fast")
    assert first.wait_for_text() == written(first)


def test_stop_keeps_exactly_what_is_visible_and_continue_goes_on_from_there(visit):
    first = visit(reduced_motion="no-preference")
    first.generate()
    first.until(lambda: first.length > 20, "some characters")
    first.page.click("#stop")
    first.until(lambda: first.status.startswith("Stopped"), "the end of the text")
    stopped = first.text
    first.until(lambda: link(first).get("length") == str(len(stopped)), "the address")
    first.page.wait_for_timeout(1000)
    assert first.text == stopped
    assert 20 < len(stopped) < 300
    assert first.status == f"Stopped after {len(stopped)} characters. Continue goes on from here."
    assert dict(parse_qsl(first.query()))["length"] == str(len(stopped))
    first.set_pace("fast")
    first.page.click("#continue")
    first.until(lambda: first.length == len(stopped) + 300, "more characters")
    assert first.wait_for_text().startswith(stopped)
    assert first.text == written(first)
    bottom = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    first.until(lambda: first.page.eval_on_selector("#text .tokens", bottom) < 5, "the end of the text in view")


def test_step_shows_one_character_by_button_and_by_arrow_key(visit):
    first = visit()
    first.set_pace("step")
    first.set_number("length", 3)
    first.generate()
    first.until(lambda: first.length == 1, "the first character")
    first.page.wait_for_timeout(1000)  # the other two arrive with it, or soon after
    first.page.click("text=Next character")
    first.until(lambda: first.length == 2, "the second character")
    first.page.locator("#text .token").nth(1).focus()
    first.page.keyboard.press("ArrowRight")
    assert first.length == 3
    assert first.page.text_content("#text .explanation h2").startswith("Character 3: ")
    first.until(lambda: not first.is_writing, "the end of what was asked for")
    first.page.keyboard.press("ArrowRight")  # the focus followed; more comes from the server
    first.until(lambda: first.length == 4, "a character from the server")
    first.page.keyboard.press("ArrowLeft")
    first.page.keyboard.press("ArrowRight")
    assert first.length == 4  # not at the end of the text
    first.page.click("#stop")
    first.until(lambda: first.status.startswith("Stopped"), "the end of the text")
    assert first.text == written(first)
    first.until(lambda: link(first)["length"] == "4", "the address")


def test_pace_is_a_radio_group_and_can_change_while_writing(visit):
    first = visit()
    assert first.page.is_checked("#text input[value=fast]")  # motion is to be reduced
    first.page.focus("#text input[value=fast]")
    first.page.keyboard.press("ArrowUp")
    assert first.page.is_checked("#text input[value=watch]")
    first.generate()
    first.until(lambda: first.length > 3, "some characters")
    first.set_pace("step")
    before = first.length
    first.page.wait_for_timeout(300)
    assert first.length == before < 300
    first.set_pace("fast")
    first.until(lambda: first.length == 300, "all characters")


def test_generate_while_writing_starts_a_new_text(visit):
    first = visit(reduced_motion="no-preference")
    first.generate("HAMLET:")
    first.until(lambda: first.length > 5, "some characters")
    first.generate("JULIET:")
    assert first.prompt == "JULIET:"
    first.set_pace("fast")
    first.until(lambda: first.length == 300, "all characters")
    assert first.text == written(first)


def test_focus_stays_and_ctrl_enter_generates(visit):
    first = visit(reduced_motion="no-preference")
    first.page.fill("#prompt textarea", "ROMEO:")
    first.page.press("#prompt textarea", "End")
    first.page.keyboard.press("Enter")
    first.page.keyboard.type("But")
    first.wait_for_new_text(lambda: first.page.keyboard.press("Control+Enter"))
    assert first.prompt == "ROMEO:\nBut"
    first.page.focus("#stop")
    first.page.keyboard.press("Enter")
    first.until(lambda: "Stopped" in first.status, "the end")
    assert focused(first) == "stop"
    length = first.length
    first.page.keyboard.press("Enter")  # nothing to stop
    assert first.page.get_attribute("#stop", "aria-disabled") == "true"
    first.page.focus("#generate")
    first.wait_for_new_text(lambda: first.page.keyboard.press("Enter"))
    first.until(lambda: first.length > 0 and first.length != length, "a new text")
    assert focused(first) == "generate"


def test_first_visit_shows_the_sample_and_explains_a_character(visit):
    first = visit(reduced_motion="no-preference")
    assert first.wait_for_text() == get_model("gpt-shakespeare").sample["text"]
    assert first.status == "A saved example. Press Generate for a new one."
    assert "?" not in first.page.url
    assert first.caption == "gpt-shakespeare · temperature 0.8 · seed 1337 · 300 characters"
    bits = f"{get_model('gpt-shakespeare').training_log['held_out']['bits_per_character']:.2f}"
    held_out = f"{bits} bits per character on unseen text: {bits} yes/no questions per letter; guessing needs 6.02."
    assert first.page.text_content("#text .held-out") == held_out
    assert re.match(r"Character \d+: why “.+”\?", first.page.text_content("#text .explanation h2"))
    assert first.page.locator("#text .candidate").count() == 65


def test_sliders_reshape_the_distribution_at_once_and_say_so(visit):
    first = visit()
    first.generate()
    text = first.wait_for_text()
    select(first, 7)
    before = first.page.locator("#text .candidate .shaped").all_text_contents()
    own = first.page.locator("#text .candidate .own").all_text_contents()
    first.requests.clear()
    first.set_number("temperature", 2)
    first.until(lambda: first.page.locator("#text .candidate .shaped").all_text_contents() != before, "other bars")
    assert first.page.locator("#text .candidate .own").all_text_contents() == own
    assert "The bars show temperature 2." in first.page.text_content("#text .note")
    assert first.text == text
    assert [path for path in first.requests if path] == []
    first.set_number("temperature", 0.8)
    first.until(lambda: first.page.text_content("#text .note") == "", "the settings of the text")
    assert first.page.locator("#text .candidate .shaped").all_text_contents() == before


def test_explanation_counts_what_the_settings_left(visit):
    first = visit("/?model=gpt-shakespeare&prompt=ROMEO%3A&seed=5&length=60&temperature=1&top_k=4&at=20")
    first.wait_for_text()
    assert re.match(r"It was chosen from [2-4] characters\. Its surprisal is", first.page.text_content("#text .choice"))
    assert first.page.locator("#text .candidate:not(.removed)").count() == 4


def test_branch_rewinds_takes_the_character_and_its_link_opens_in_a_fresh_browser(visit):
    first = visit()
    first.set_number("length", 100)
    first.generate("HAMLET:")
    parent = first.wait_for_text()
    select(first, 12)
    character = pick_other_candidate(first)
    text = first.wait_for_text()
    assert text[:12] == parent[:12]
    assert text[12] == character != parent[12]
    assert len(text) == 112
    token = get_model("gpt-shakespeare").lm.tokenizer.vocab[character]
    assert text == written(first, forced=((12, token),))
    first.until(lambda: link(first).get("length") == "112", "the address")
    assert link(first)["branch"] == f"12.{token}"
    assert link(first)["at"] == "12"
    assert "You chose it." in first.page.text_content("#text .choice")
    label = first.page.text_content("#text .tree [aria-current]")
    assert label.startswith("13: ")
    assert " instead of " in label
    # a branch of the branch, before it: the later choice is dropped
    select(first, 5)
    pick_other_candidate(first)
    first.wait_for_text()
    first.until(lambda: link(first)["branch"].startswith("5."), "the address")
    assert "," not in link(first)["branch"]
    # and one after it, which keeps it
    select(first, 30)
    pick_other_candidate(first)
    last = first.wait_for_text()
    first.until(lambda: link(first)["branch"].count(",") == 1 and link(first)["length"] == "130", "the address")
    other = visit("/?" + first.page.url.partition("?")[2])
    assert other.wait_for_text() == last
    assert other.page.text_content("#text .explanation h2").startswith("Character 31: ")
    assert other.caption == first.caption


def test_tree_undo_and_redo_return_to_texts_from_memory(visit):
    first = visit()
    sample = first.wait_for_text()
    first.generate("HAMLET:")
    parent = first.wait_for_text()
    select(first, 3)
    original = first.page.locator("#text .candidate.chosen")
    pick_other_candidate(first)
    child = first.wait_for_text()
    assert first.page.locator("#text .tree ul ul button").count() == 1
    first.requests.clear()
    first.page.click("#text .undo")
    assert first.text == parent
    assert first.prompt == "HAMLET:"
    first.page.click("#text .undo")
    assert first.text == sample
    assert first.page.get_attribute("#text .undo", "aria-disabled") == "true"
    first.page.click("#text .undo", force=True)
    assert first.text == sample
    first.page.click("#text .redo")
    first.page.click("#text .redo")
    assert first.text == child
    first.page.click("#text .tree button >> nth=1")
    assert first.text == parent
    assert focused(first) == "BUTTON"  # the one that was pressed, drawn again
    first.page.click("#text .redo")
    first.page.locator("#text .candidate", has_text=original.locator(".name").text_content()).first.wait_for()
    # taking the old character back is the text before
    first.until(lambda: "You chose it." in first.page.text_content("#text .choice"), "the branch")
    old = {" ": "space", "\n": "new line"}.get(parent[3], parent[3])
    first.page.locator("#text .candidate").filter(has=first.page.locator(f".name:text-is({old!r})")).click()
    assert first.text == parent
    assert [path for path in first.requests if path] == []


def test_back_and_forward_return_to_texts_and_reload_keeps_them(visit):
    first = visit()
    sample = first.wait_for_text()
    texts = []
    for prompt in ("HAMLET:", "JULIET:"):
        first.generate(prompt)
        texts.append(first.wait_for_text())
        first.until(lambda: link(first).get("length") == "300", "the address")
    first.requests.clear()
    first.page.go_back()
    first.until(lambda: first.text == texts[0], "the text before")
    first.wait_for_value("#prompt textarea", "HAMLET:")
    first.page.go_back()
    first.until(lambda: first.text == sample, "the sample")
    first.page.go_forward()
    first.page.go_forward()
    first.until(lambda: first.text == texts[1], "the last text")
    assert [path for path in first.requests if path] == []
    first.reload()
    assert first.wait_for_text() == texts[1]
    first.page.go_back()
    first.until(lambda: first.text == texts[0], "a text from before the reload")


def test_typed_seed_is_kept_and_each_text_shows_its_seed(visit):
    first = visit()
    first.page.click("#more button")
    first.page.wait_for_selector("#seed input")
    assert not first.page.is_checked("#lock input")
    first.generate()
    one = first.wait_for_text()
    first.wait_for_value("#seed input", str(first.seed))
    assert not first.page.is_checked("#lock input")
    first.page.fill("#seed input", "77")
    first.page.locator("#seed input").press("ArrowUp")
    first.until(lambda: first.page.is_checked("#lock input"), "the lock")
    first.generate()
    two = first.wait_for_text()
    assert first.seed == 78
    first.generate()
    assert first.wait_for_text() == two != one
    first.page.uncheck("#lock input")
    first.generate()
    assert first.wait_for_text() != two


@pytest.mark.parametrize(
    ("name", "value", "expected", "sentence"),
    [
        ("temperature", "", "0.8", "Temperature needs a number, so it is 0.8 again."),
        ("temperature", "9", "2", "Temperature goes from 0 to 2, so it is 2 now."),
        ("length", "", "300", "Length needs a number, so it is 300 again."),
        ("length", "0", "1", "Length goes from 1 to 1000, so it is 1 now."),
        ("top-k", "", "0", "Top-k needs a number, so it is 0 again."),
        ("seed", "", "1337", "The seed needs a number, so it is 1337 again."),
        ("seed", "99999999999", "4294967295", "The seed goes from 0 to 4294967295, so it is 4294967295 now."),
    ],
)
def test_invalid_number_is_corrected_with_a_sentence(visit, name, value, expected, sentence):
    first = visit()
    if name in ("top-k", "seed"):
        first.page.click("#more button")
    field = f"#{name} input[type=number]"
    first.page.locator(field).click()
    first.page.keyboard.press("Control+A")
    first.page.keyboard.press("Delete")
    first.page.keyboard.type(value)
    first.page.keyboard.press("Tab")
    first.wait_for_value(field, expected)
    first.until(lambda: first.status == sentence, "the sentence")
    first.generate()
    first.wait_for_text()
    assert first.length == int(expected if name == "length" else 300)
    assert f"temperature {expected if name == 'temperature' else '0.8'} ·" in first.caption


def test_text_belongs_to_its_model_after_another_was_chosen(visit):
    first = visit()
    first.generate()
    text, caption = first.wait_for_text(), first.caption
    first.pick("bigram-shakespeare")
    assert (first.text, first.caption) == (text, caption)
    assert "Continue goes on with gpt-shakespeare." in first.page.text_content("#text .other-model")
    first.page.click("#continue")
    first.until(lambda: first.length == 600, "more characters")
    assert first.wait_for_text() == written(first)
    assert first.caption.startswith("gpt-shakespeare · ")
    first.generate()
    first.wait_for_text()
    assert first.caption.startswith("bigram-shakespeare · ")
    assert not first.page.is_visible("#text .other-model")


def test_bits_of_a_vae_are_a_bound(visit):
    first = visit("/?model=vae-names&prompt=&seed=1&length=40")
    first.wait_for_text()
    figure = "At most 3.30 bits per character on unseen text: 3.30 yes/no questions per letter; guessing needs 4.75."
    assert first.page.text_content("#text .held-out") == figure


@pytest.mark.parametrize("model", [entry.id for entry in list_models()])
def test_new_lines_without_end_are_shown_and_explained(visit, model):
    first = visit(f"/?model={model}&prompt=&seed=1&length=60&temperature=0")
    text = first.wait_for_text()
    ends_so = text.endswith("\n" * 8)
    if model == "bigram-shakespeare":
        assert ends_so
    assert (first.status == "Always the likeliest: after a new line, a new line.") == ends_so
    assert (first.page.locator("#text .show-newlines").count() > 0) == (not text.strip() or "\n" * 8 in text)
    first.page.locator("#text .token").nth(-1).focus()
    assert first.page.text_content("#text .explanation h2").startswith(("Character ", "Piece "))


def test_confidence_can_be_switched_off(visit):
    first = visit()
    assert first.page.locator("#text .show-confidence").count() == 1
    first.page.uncheck("text=Show surprise")
    assert first.page.locator("#text .show-confidence").count() == 0
    assert not first.page.is_visible("#text .tokens-legend")


@pytest.mark.parametrize(
    "query",
    [
        "temperature=hot",
        "model=hal9000&seed=1",
        "seed=-3",
        "length=999999",
        "length=x",
        "branch=5.9999999",
        "prompt=" + "x" * 6000,
    ],
)
def test_invalid_link_shows_a_sentence_and_the_sample(visit, query):
    first = visit("/?" + query)
    assert first.wait_for_text() == get_model("gpt-shakespeare").sample["text"]
    first.until(lambda: first.status.startswith("This link cannot be shown: "), "a sentence")


def test_incomplete_link_is_completed(visit):
    first = visit("/?prompt=HAMLET%3A&model=bigram-shakespeare")
    text = first.wait_for_text()
    first.until(lambda: "seed" in link(first), "a complete address")
    first.reload()
    assert first.wait_for_text() == text


def test_link_to_a_model_on_the_hub_opens_it(visit, hub, folder):
    commit = hub.add_folder(folder).branches["main"]
    first = visit("/?model=alice/tiny&prompt=abc&seed=1&length=20")
    text = first.wait_for_text()
    model = f"alice/tiny@{commit}"
    first.until(lambda: link(first)["model"] == model, "the commit in the address")
    model_registry._hub_models.clear()  # as after a restart
    other = visit("/?" + first.page.url.partition("?")[2])
    assert other.wait_for_text() == text
    missing = visit("/?model=alice/missing&prompt=abc")
    missing.until(lambda: missing.status.startswith("This link cannot be shown: It was not opened: "), "a sentence")
    model_registry._hub_models.clear()


def test_hostile_text_stays_text(visit):
    first = visit()
    first.generate(HOSTILE)
    first.wait_for_text()
    assert first.prompt == HOSTILE
    select(first, 0)
    pick_other_candidate(first)
    first.wait_for_text()
    other = visit("/?" + first.page.url.partition("?")[2].replace("gpt-shakespeare", "bpe-shakespeare").replace("&branch", "&x"))
    other.wait_for_text()
    for visitor in (first, other):
        assert visitor.page.locator("#text img, #text script").count() == 0
        assert visitor.page.title() == "From Bigram to GPT"


def test_unknown_characters_and_capitals_are_reported(visit):
    first = visit()
    first.generate("café")
    first.wait_for_text()
    assert "never seen é, so it was skipped" in first.status
    assert first.page.text_content("#text .prompt s") == "é"
    first.pick("lstm-names")
    first.generate("Emma")
    first.wait_for_text()
    assert first.prompt == "emma"
    assert "in lower case" in first.status
    assert dict(parse_qsl(first.query()))["prompt"] == "Emma"


def test_connection_that_breaks_ends_in_a_sentence_and_the_text_so_far(visit):
    first = visit()
    first.generate()
    first.wait_for_text()
    answer = {}

    def cut(route):
        body = route.fetch().body()
        answer["lines"] = body.splitlines(keepends=True)
        route.fulfill(body=b"".join(answer["lines"][:-1]) + answer["lines"][-1][:10])  # the last line is incomplete

    first.page.route("**/page/generate", cut)
    first.set_number("length", 1000)
    first.generate("HAMLET:")
    first.until(lambda: not first.is_writing and first.status != "Writing…", "the end")
    assert "The connection ended before the text did. Press Continue to go on from here." in first.status
    length = first.length
    assert length < 1000
    first.page.unroute("**/page/generate")
    first.page.click("#continue")
    first.until(lambda: first.length == length + 1000, "more characters")
    assert first.wait_for_text() == written(first)


@pytest.mark.slow
def test_restart_of_the_server_keeps_the_text_and_the_link(chromium):
    port = free_port()
    with served(port=port) as address:
        first = Visit(chromium, address, reduced_motion="no-preference")
        first.generate("HAMLET:")
        first.until(lambda: first.length > 5, "some characters")
    first.page.click("#stop")
    first.until(lambda: first.status.startswith("Stopped"), "the end of the text")
    stopped = first.text
    first.page.click("#continue")
    first.until(lambda: first.status.startswith("The server does not answer."), "a sentence")
    assert first.text == stopped
    with served(port=port) as address:
        first.set_pace("fast")
        first.page.click("#continue")
        first.until(lambda: first.length == len(stopped) + 300, "more characters")
        assert first.wait_for_text() == written(first)
        first.until(lambda: link(first)["length"] == str(first.length), "the address")
        first.reload()
        assert first.wait_for_text() == written(first)
        first.context.close()


def test_copied_link_describes_text_and_character(visit, address):
    first = visit(permissions=["clipboard-read", "clipboard-write"])
    select(first, 9)
    first.page.click("#text .copy-link")
    first.until(lambda: "Copied" in first.page.text_content("#text .copy-link"), "the button to say so")
    copied = first.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(address + "/?model=gpt-shakespeare&prompt=ROMEO%3A&seed=1337&length=300")
    assert copied.endswith("&at=9")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_screen_and_axe_finds_nothing(visit, scheme, width):
    first = visit(f"/?__theme={scheme}", viewport={"width": width, "height": 844}, color_scheme=scheme)
    first.generate("HAMLET:")
    first.wait_for_text()
    select(first, 4)
    pick_other_candidate(first)
    first.wait_for_text()
    assert first.page.evaluate("document.documentElement.scrollWidth") <= width
    first.screenshot(f"write-branch-{width}-{scheme}")
    assert first.violations() == []

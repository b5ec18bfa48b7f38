"""The shared components of ui/static/js in a browser, without the page around them."""

from pathlib import Path

import pytest
from browser import Visit

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "http://components.test/"  # answered from the files by `route`, without a server
HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Components</title>
<link rel="stylesheet" href="static/colors.css"><link rel="stylesheet" href="static/tokens.css">
<link rel="stylesheet" href="static/distribution.css">
<button id="before">before</button>
<div id="text" style="width: 300px; --tokens-max-height: 200px"></div><div id="distribution"></div>
<script type="module">
import * as tokens from "./static/js/tokens.js";
import * as distribution from "./static/js/distribution.js";
globalThis.selected = []; globalThis.picked = [];
globalThis.text = tokens.createTokens(document.querySelector("#text"), { onSelect: (i) => selected.push(i) });
globalThis.shown = distribution.createDistribution(document.querySelector("#distribution"), { onPick: (id) => picked.push(id) });
globalThis.write = (string) => text.append(Array.from(string, (character) => ({ text: character, bits: 0.3 })));
document.body.dataset.ready = "yes";
</script>"""
HOSTILE = "<img src=x onerror=alert(1)>"
pytestmark = pytest.mark.browser


class Components(Visit):
    def wait_until_loaded(self):
        self.page.wait_for_selector("body[data-ready]")

    @property
    def focused(self):
        return self.page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")


@pytest.fixture
def components(chromium):
    def answer(route):
        path = route.request.url.removeprefix(ADDRESS)
        if path.startswith("static/"):
            route.fulfill(path=ROOT / "ui" / path)
        else:
            route.fulfill(body=HTML, content_type="text/html")

    chromium_context = chromium.new_context

    class Routed:
        @staticmethod
        def new_context(**options):
            context = chromium_context(**options)
            context.route(f"{ADDRESS}**", answer)
            return context

    visit = Components(Routed, ADDRESS)
    yield visit
    visit.context.close()
    assert visit.faults == []


def press(components, *keys):
    for key in keys:
        components.page.keyboard.press(key)
    return components.focused


def test_text_is_one_tab_stop_and_arrow_keys_select(components):
    page = components.page
    page.evaluate("text.setPrompt('né\\n', 'é'); write('a b\\nabc\\nxyz')")
    assert page.inner_text("#text .prompt s") == "é"
    page.focus("#before")
    assert press(components, "Tab") == "a, 0.3 bits"
    assert press(components, "ArrowRight") == "space, 0.3 bits"
    assert press(components, "ArrowDown") == "b, 0.3 bits"
    assert press(components, "Home", "ArrowDown", "ArrowDown") == "x, 0.3 bits"
    assert press(components, "ArrowDown") == "x, 0.3 bits"
    assert press(components, "End", "ArrowRight") == "z, 0.3 bits"
    assert press(components, "ArrowUp") == "c, 0.3 bits"
    assert page.evaluate("selected") == [0, 1, 5, 0, 4, 8, 8, 10, 10, 6]
    assert page.evaluate("text.selected") == 6
    assert page.locator("#text [tabindex='0'], #text[tabindex='0']").count() == 1
    press(components, "Tab")
    assert not page.evaluate("document.querySelector('#text').contains(document.activeElement)")


def test_new_line_is_reached_and_named(components):
    page = components.page
    page.evaluate("write('a\\n\\nb')")
    page.locator("#text .token").first.click()
    assert press(components, "ArrowRight", "ArrowRight") == "new line, 0.3 bits"
    assert page.evaluate("selected") == [0, 1, 2]
    page.evaluate("text.select(0)")  # not by the visitor
    assert page.evaluate("[selected.length, text.selected]") == [3, 0]


def test_clearing_keeps_the_focus_in_the_text(components):
    page = components.page
    page.evaluate("write('abcdef')")
    page.locator("#text .token").nth(4).click()
    page.evaluate("text.clear()")
    assert page.evaluate("[text.length, text.selected]") == [0, None]
    assert page.evaluate("document.activeElement.id") == "text"
    page.evaluate("write('xyz')")
    assert page.text_content("#text .tokens-content") == "xyz"


def test_text_stays_at_its_end_unless_the_visitor_scrolls_up(components):
    page = components.page
    end = (
        "(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)(document.querySelector('#text'))"
    )
    line = "write('a line of a text that grows\\n'.repeat(20))"
    for _ in range(2):
        page.evaluate(line)
        page.wait_for_function(f"{end} < 2")
    page.mouse.move(*(page.locator("#text").bounding_box()[side] + 50 for side in ("x", "y")))
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"{end} > 200")
    before = page.evaluate("document.querySelector('#text').scrollTop")
    page.evaluate(line)
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('#text').scrollTop") == pytest.approx(before, abs=1)


def test_hostile_text_stays_text(components):
    page = components.page
    page.evaluate(
        """(hostile) => {
            text.setPrompt(hostile, "<");
            text.append([{ text: hostile, bits: 1 }]);
            text.mark(0, "marked", hostile);
            text.setLabel(hostile);
            const params = { temperature: 1, topK: 0, topP: 1, minP: 0 };
            shown.show({ names: [hostile, "b"], bits: [1, 1], params, chosen: 0, context: hostile });
        }""",
        HOSTILE,
    )
    assert page.locator("img").count() == 0
    assert page.text_content("#text .token") == HOSTILE
    assert page.text_content("#distribution .name") == HOSTILE.replace(" ", "␣")


def rows(page, cell):
    return [text.replace("\u00a0", " ") for text in page.locator(f"#distribution .candidate:visible .{cell}").all_text_contents()]


def test_distribution_shows_what_settings_change_and_is_picked_from(components):
    page = components.page
    page.evaluate("""() => {
        const params = { temperature: 1, topK: 3, topP: 1, minP: 0 };
        shown.show({ names: ["\\n", "b", "a", " "], bits: [2, 1, 4, 2.415], params, chosen: 3, context: "ROM" });
        globalThis.row = document.querySelector("#distribution .candidate");
    }""")
    assert rows(page, "name") == ["b", "new line", "space", "a"]
    assert rows(page, "own") == ["50.0 %", "25.0 %", "18.8 %", "6.2 %"]
    assert rows(page, "shaped") == ["53.3 %", "26.7 %", "20.0 %", "top-k"]
    assert rows(page, "visually-hidden") == ["", "", "chosen", "removed"]
    sentence = "After “ROM” the model gives space 18.8 %; with your settings it has 20.0 %."
    assert page.inner_text("#distribution p").replace("\u00a0", " ") == sentence
    page.evaluate("shown.setParams({ temperature: 0, topK: 0, topP: 1, minP: 0 })")
    assert rows(page, "shaped") == ["100 %", *["temp. 0"] * 3]
    assert page.evaluate("row === document.querySelector('#distribution .candidate')")  # changed in place
    page.get_by_role("button", name="alphabet").click()
    assert rows(page, "name") == ["new line", "space", "a", "b"]
    page.locator("#distribution .candidate").nth(2).click()
    press(components, "ArrowDown", "Enter")
    assert page.evaluate("picked") == [2, 1]
    page.evaluate("shown.clear('Select a character.')")
    assert rows(page, "name") == []
    assert page.inner_text("#distribution p") == "Select a character."


def test_distribution_of_a_large_vocabulary_has_a_row_for_the_others(components):
    page = components.page
    page.evaluate("""() => {
        const params = { temperature: 0.5, topK: 0, topP: 1, minP: 0 };
        const names = ["q", " the", "x", "y", "z", "a"];
        shown.show({ names, ids: Uint32Array.of(1, 5), bits: [1, 2], rest: 2, params, chosen: 0 });
    }""")
    assert rows(page, "name") == ["␣the", "a", "4 others"]
    assert rows(page, "own") == ["50.0 %", "25.0 %", "25.0 %"]
    assert rows(page, "shaped") == ["76.2 %", "19.0 %", "4.8 %"]  # 16, 4 and 1 of 21
    assert rows(page, "visually-hidden") == ["", "", "chosen"]
    assert page.locator("#distribution .candidate").last.is_disabled()


def test_narrow_distribution_is_short_until_asked_for_all(components):
    page = components.page
    page.evaluate("""() => {
        const names = Array.from("abcdefghijklmnopqrstuvwxyz");
        shown.show({ names, bits: names.map((_, i) => i + 1), params: { temperature: 1, topK: 0, topP: 1, minP: 0 } });
    }""")
    assert len(rows(page, "name")) == 26
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_selector(".distribution.narrow")
    assert len(rows(page, "name")) == 15
    page.get_by_role("button", name="Show all 26").click()
    assert len(rows(page, "name")) == 26

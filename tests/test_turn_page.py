"""The guessing game: its passages and what models make of them, and the tab "Your turn"."""

import json
import math
import urllib.request

import pytest
import torch

from gpt import LanguageModel
from train.data import load_dataset
from ui import passages
from ui.passages import ANSWER_CHARS, PASSAGES, choose_passages, list_passages, score_ignoring_case

ALPHABET = set("abcdefghijklmnopqrstuvwxyz .,;:!?'-\n")  # the keys of turn.js


def test_passages_are_held_out_and_fit_the_keyboard():
    train, held_out = (part.text for part in load_dataset("shakespeare").split())
    found = list_passages()["passages"]
    assert len({passage["context"] for passage in found}) == PASSAGES
    for passage in found:
        text = passage["context"] + passage["answer"]
        assert "\n\n" + text in held_out
        assert text not in train
        assert passage["context"].startswith(f"{passage['speaker']}:\n")
        assert 40 <= len(passage["context"]) <= 50
        assert passage["context"].endswith(" ")
        assert "\n\n" not in text
        assert len(passage["answer"]) == ANSWER_CHARS
        assert set(passage["answer"].lower()) <= ALPHABET
    assert {passage["play"] for passage in found} == {"The Taming of the Shrew", "The Tempest"}
    assert set(held_out.lower()) == ALPHABET


def test_best_model_of_each_family_plays():
    for passage in list_passages()["passages"]:
        assert [model["id"] for model in passage["models"]] == ["bigram-shakespeare", "ngram-shakespeare", "gpt-shakespeare"]
        for model in passage["models"]:
            assert len(model["bits"]) == len(model["guesses"]) == ANSWER_CHARS
            assert set(model["guesses"]) <= ALPHABET
            assert all(0 <= bits < 64 for bits in model["bits"])


def test_models_are_ranked_as_on_the_whole_held_out_text():
    bits = [0.0, 0.0, 0.0]
    for passage in list_passages()["passages"]:
        bits = [total + sum(model["bits"]) for total, model in zip(bits, passage["models"], strict=True)]
    bigram, ngram, gpt = (total / PASSAGES / ANSWER_CHARS for total in bits)
    assert gpt < ngram < bigram < 4


def test_capitals_and_small_letters_are_added(lm):
    context, answer = 'The "', "Quick lamp"
    score = score_ignoring_case(lm, context, answer)
    ids = lm.tokenizer.encode(context + answer).ids
    for i, character in enumerate(answer):
        logits, _ = lm.forward(torch.tensor([[lm.start_id, *ids[: len(context) + i]]]), None)
        probs = logits[0, -1].softmax(-1).tolist()
        by_letter = {}
        for token, p in enumerate(probs):
            letter = lm.tokenizer.decode([token]).lower()
            by_letter[letter] = by_letter.get(letter, 0) + p
        assert score["bits"][i] == pytest.approx(-math.log2(by_letter[character.lower()]), abs=1e-4)
        assert score["guesses"][i] == max(by_letter, key=by_letter.get)
    exact = lm.score(context + answer).nll[len(context) :]
    assert all(bits <= nll / math.log(2) + 1e-4 for bits, nll in zip(score["bits"], exact, strict=True))


def test_passage_is_within_a_speech():
    speech = "ROMEO:\nAlas, that love, whose view is muffled still, Should, without eyes, see pathways to his will!\n\n"
    short = "\n\nAll:\nShort." * 20
    text = f"{short}\n\n{speech}MERCUTIO:\nNay." * PASSAGES
    found = choose_passages(text)
    assert len(found) == PASSAGES
    for match in found:
        context, answer = match.groups()
        assert context == "ROMEO:\nAlas, that love, whose view is muffled "
        assert answer == "still, Should, without eyes, s"
    assert choose_passages(short) == []


def test_game_without_models(monkeypatch):
    monkeypatch.setattr(passages, "list_models", lambda: [])
    found = list_passages.__wrapped__()["passages"]
    assert len(found) == PASSAGES
    assert all(passage["models"] == [] for passage in found)


# The page


@pytest.fixture(scope="module")
def by_context(address):
    with urllib.request.urlopen(f"{address}/page/passages") as response:
        return {passage["context"]: passage for passage in json.load(response)["passages"]}


class Game:
    """The tab of a visitor."""

    def __init__(self, visitor):
        self.visitor, self.page = visitor, visitor.page
        visitor.open_tab("turn")
        self.page.wait_for_selector(".turn-key")

    @property
    def message(self):
        return self.page.text_content(".turn-message")

    @property
    def found(self):
        return "".join(self.page.locator(".turn-character").all_text_contents()).replace("⏎", "\n")

    def rows(self):
        return {
            row.locator("th").text_content(): row.locator(".turn-figure").text_content()
            for row in self.page.locator(".turn-results tr").all()
        }


@pytest.fixture
def play(visit):
    """A function that opens the tab."""
    return lambda path="", **options: Game(visit(path, **options))


def key_of(character):
    return {" ": "Space", "\n": "Enter"}.get(character, character)


def wrong_key(character):
    return "q" if character.lower() != "q" else "x"


@pytest.mark.browser
def test_whole_passage_by_keyboard(play, by_context):
    game = play()
    passage = by_context[game.page.text_content(".turn-context")]
    answer = passage["answer"]
    game.page.focus(".turn-passage")
    game.page.keyboard.press(wrong_key(answer[0]))
    assert game.message == f"Not {wrong_key(answer[0])}. Guess again."
    assert game.rows() == {}
    for i, character in enumerate(answer):
        game.page.keyboard.press(key_of(character))
        assert game.found == answer[: i + 1]
    assert game.message.endswith(f"That was the passage: {passage['speaker']} in {passage['play']}.")
    rows = game.rows()
    # 29 first guesses and one second one.
    upper = -(29 / 30) * math.log2(29 / 30) + math.log2(30) / 30
    assert rows["You"] == f"{2 / 30:.2f} to {upper:.2f}"
    for name, model in zip(["Bigram", "N-gram", "GPT"], passage["models"], strict=True):
        assert float(rows[name]) == pytest.approx(sum(model["bits"]) / ANSWER_CHARS, abs=0.006)
    assert rows["Blind guessing"] == f"{math.log2(36):.2f}"
    game.visitor.screenshot("turn-results")
    game.page.keyboard.press("e")
    assert game.found == answer
    game.page.click("text=Another passage")
    assert game.page.text_content(".turn-context") in by_context.keys() - {passage["context"]}
    assert game.rows() == rows  # what was measured is kept
    assert game.page.evaluate("document.activeElement.className") == "turn-passage"


@pytest.mark.browser
@pytest.mark.parametrize("path", ["/", "/?__theme=dark"])
def test_phone_has_a_keyboard_of_its_own(play, by_context, path):
    game = play(path, viewport={"width": 390, "height": 844}, has_touch=True)
    answer = by_context[game.page.text_content(".turn-context")]["answer"]
    wrong = wrong_key(answer[0])
    game.page.tap(f".turn-key:text-is('{wrong}')")
    assert game.message == f"Not {wrong}. Guess again."
    assert game.page.get_attribute(f".turn-key:text-is('{wrong}')", "aria-disabled") == "true"
    game.page.tap(f".turn-key:text-is('{answer[0].lower()}')")
    assert game.message.startswith(f"Yes: {answer[0]}, with guess 2. The GPT would have guessed ")
    game.page.tap("text=Reveal it")
    assert game.message.startswith("It was: ")
    assert game.found == answer[:2]
    sizes = game.page.evaluate(
        """[...document.querySelectorAll("#turn button")].map(e => e.getBoundingClientRect())
        .map(r => [r.width, r.height, r.left, r.right])"""
    )
    assert all(width >= 24 and height >= 40 and left >= 0 and right <= 390 for width, height, left, right in sizes)
    assert game.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_keys_go_to_the_button_with_the_focus_and_to_fields_elsewhere(play):
    game = play()
    game.page.focus("text=Reveal it")
    game.page.keyboard.press("Enter")
    assert game.message.startswith("It was: ")
    assert len(game.found) == 1
    game.page.keyboard.press("Control+a")
    assert len(game.found) == 1
    game.page.click("#tab-write-button")
    game.page.fill("#prompt textarea", "")
    game.page.type("#prompt textarea", "the same")
    assert game.page.input_value("#prompt textarea") == "the same"
    game.page.click("#tab-turn-button")
    assert len(game.found) == 1
    assert game.message.startswith("It was: ")


@pytest.mark.browser
def test_game_says_that_the_server_does_not_answer_and_tries_again(visit):
    first = visit()
    first.page.route("**/page/passages", lambda route: route.abort())
    first.open_tab("turn")
    first.page.wait_for_selector("text=The server does not answer.")
    first.faults.clear()  # the browser logs the failure
    first.page.unroute("**/page/passages")
    first.page.get_by_role("button", name="Try again").click()
    first.page.wait_for_selector(".turn-key")


@pytest.mark.browser
def test_passages_are_requested_when_the_tab_is_opened(visit, monkeypatch):
    monkeypatch.setattr(LanguageModel, "forward", None)  # would fail if it were called
    first = visit()
    first.page.wait_for_load_state("networkidle")
    assert "passages" not in first.requests

"""What a visitor asks for, its limits, and the link that shows the same text again."""

import math
import re
import time
from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
from loops import run

from gpt import SamplingParams
from ui.model_registry import ModelEntry, default, shelf, take
from ui.session import MAX_PROMPT, MAX_TEXT, GenerationRequest, GenerationSession, bounded
from ui.tabs.write import remarks, sheet

ASK = GenerationRequest(
    "bigram-shakespeare", "To be", SamplingParams(temperature=0.7, top_k=12, top_p=0.9, min_p=0.05, max_new_tokens=80, seed=11)
)


def test_a_link_says_everything_and_is_read_back():
    again = GenerationRequest.from_query(ASK.query(80), "gpt-shakespeare")
    assert again == ASK


def test_a_link_keeps_odd_characters_of_a_prompt():
    ask = GenerationRequest("bigram-shakespeare", "a&b=c?#é\n  +%20 <b>", SamplingParams(seed=1))
    assert GenerationRequest.from_query(ask.query(300), "x").prompt == ask.prompt


@pytest.mark.parametrize("temperature", [0, 0.123456789, 1 / 3, 2.0])
@pytest.mark.parametrize("top_k", [0, 7, 10_000_000])
def test_a_link_is_exact(temperature, top_k):
    params = SamplingParams(temperature, top_k, 1 / 7, 1e-9, 123, 4_294_967_295)
    ask = GenerationRequest("bigram-shakespeare", "x", params)
    assert GenerationRequest.from_query(ask.query(123), "gpt-shakespeare") == ask


def test_half_a_character_pair_does_not_break_a_link():
    assert (
        dict(parse_qsl(GenerationRequest("bigram-shakespeare", "a\ud800b", SamplingParams(seed=1)).query(10)))["prompt"]
        == "a\ufffdb"
    )


def test_a_link_takes_the_usual_settings_for_what_it_does_not_say():
    ask = GenerationRequest.from_query({"prompt": "x"}, "bigram-shakespeare")
    assert (ask.model, ask.params.temperature, ask.params.max_new_tokens) == ("bigram-shakespeare", 0.8, 300)
    assert ask.params.seed is not None


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("temperature=warm", "The temperature is 'warm', which is no number."),
        ("temperature=nan", "temperature is nan; it must be a number from 0 to 5"),
        ("temperature=9", "temperature is 9.0; it must be a number from 0 to 5"),
        ("top_p=0", "top_p is 0.0"),
        ("length=-1", "max_new_tokens is -1"),
        (f"length={MAX_TEXT + 1}", f"a text here has up to {MAX_TEXT:,} characters"),
        ("seed=1.5", "The seed is '1.5', which is no whole number."),
        ("temperature=3", "The temperature is 3.0; here it goes from 0 to 2."),
        ("model=nobody", "There is no model called 'nobody' here; pick one of"),
        (
            "prompt=" + "a" * (MAX_PROMPT + 1),
            f"This prompt has {MAX_PROMPT + 1:,} characters; the page takes up to {MAX_PROMPT:,}.",
        ),
    ],
)
def test_a_link_with_nonsense_is_a_sentence(query, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        GenerationRequest.from_query(query, "bigram-shakespeare")


@pytest.mark.parametrize("length", [49, 1001, 100.5, None, "300", float("nan")])
def test_a_length_out_of_bounds_is_a_sentence(length):
    with pytest.raises(ValueError, match="it must be a whole number from 50 to 1,000"):
        bounded(length)


def write(writing, tokens):
    """Write on; how long the text was each time that it was shown."""

    async def go():
        return [len(writing.pieces) async for _ in writing.write(tokens)]

    return run(go())


def test_going_on_gives_what_one_long_run_gives():
    writing = GenerationSession(ASK)
    for part in (30, 1, 49):
        write(writing, part)
    assert writing.text == take("bigram-shakespeare").lm.generate(ASK.prompt, ASK.params).text
    assert writing.bits_per_character > 0


def test_a_text_ends_at_its_bound():
    writing = GenerationSession(ASK)
    write(writing, MAX_TEXT + 500)
    assert (len(writing.pieces), writing.room) == (MAX_TEXT, 0)
    assert write(writing, 50) == []


def test_writing_stops_when_it_is_asked_to_and_can_go_on(slow):
    writing = GenerationSession(ASK)

    async def go():
        async for _ in writing.write(MAX_TEXT):
            writing.stop()

    run(go())
    stopped = len(writing.pieces)
    assert 0 < stopped < MAX_TEXT
    write(writing, 30)
    params = replace(ASK.params, max_new_tokens=stopped + 30)
    assert writing.text == take("bigram-shakespeare").lm.generate(ASK.prompt, params).text


def test_to_stop_a_text_at_rest_does_not_stop_the_next_one():
    writing = GenerationSession(ASK)
    writing.stop()
    write(writing, 80)
    assert len(writing.pieces) == 80


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("é", "This model never saw é; it was left out. Nothing of the prompt remains, so it starts on a new line."),
        ("a\tb\u00a0c", "This model never saw U+0009 no-break space; they were left out."),
        ("👨\u200d👩", "This model never saw 👨 zero width joiner 👩; they were left out. Nothing of the prompt remains"),
        ("ROMEO:", ""),
        ("a" * 300, "The prompt is read whole, but this model sees 256 characters at a time."),
    ],
)
def test_what_is_odd_about_a_prompt_is_said(prompt, said):
    told = " ".join(remarks(GenerationSession(GenerationRequest("gpt-shakespeare", prompt, SamplingParams(seed=1)))))
    assert told.startswith(said)
    assert bool(told) == bool(said)


def test_a_model_of_pieces_of_words_leaves_nothing_out_and_counts_tokens():
    model = take("bpe-shakespeare")
    assert "\nsees the last 256 tokens · " in model.label
    assert "pieces of words" in model.about
    assert remarks(GenerationSession(GenerationRequest(model.id, "é\t日 👨\u200d👩", SamplingParams(seed=1)))) == []
    assert remarks(GenerationSession(GenerationRequest(model.id, "the " * 200, SamplingParams(seed=1)))) == []
    (said,) = remarks(GenerationSession(GenerationRequest(model.id, "é" * 200, SamplingParams(seed=1))))
    assert said == "The prompt is read whole, but this model sees 256 tokens at a time."
    with pytest.raises(ValueError, match=f"a text here has up to {MAX_TEXT:,} tokens"):
        GenerationRequest(model.id, "", SamplingParams(max_new_tokens=MAX_TEXT + 1))


def test_speed_and_bits_are_those_of_characters_whatever_the_tokens_are(monkeypatch):
    ask = GenerationRequest("bpe-shakespeare", "ROMEO:", SamplingParams(max_new_tokens=60, seed=2))
    writing = GenerationSession(ask)
    write(writing, 20)
    monkeypatch.setattr("ui.session.time", SimpleNamespace(perf_counter=chain([0.0], repeat(2.0)).__next__))  # two seconds
    write(writing, 40)
    written = writing.lm.generate(ask.prompt, ask.params)
    assert writing.text == written.text
    assert len(writing.pieces) == 60 < len(written.text) / 1.5
    assert writing.bits_per_character == pytest.approx(-sum(written.logprobs) / math.log(2) / len(written.text))
    assert writing.speed == len("".join(writing.pieces[20:])) / 2


def test_one_text_is_not_written_twice_at_a_time_and_is_free_again_afterwards():
    writing = GenerationSession(ASK)

    async def go():
        async for _ in writing.write(50):
            with pytest.raises(ValueError, match="still being written"):
                await anext(writing.write(50))

    run(go())
    write(writing, 50)
    assert len(writing.pieces) == 100


def test_a_visitor_who_leaves_in_the_middle_frees_everything(slow):
    writing = GenerationSession(ASK)

    async def leave():
        running = writing.write(1000)
        await anext(running)
        await running.aclose()

    run(leave())
    assert (writing.busy, writing.row, writing.can_go_on) == (False, None, False)
    while writing.desk.seats:
        time.sleep(0.01)


def test_a_visitor_who_leaves_later_frees_everything_too(slow):
    writing = GenerationSession(ASK)
    write(writing, 5)
    assert writing.row
    assert writing.can_go_on
    writing.forget()
    assert (writing.row, writing.can_go_on) == (None, False)

    async def leave():
        async for _ in writing.write(1000):
            writing.forget()

    writing = GenerationSession(ASK)
    run(leave())
    assert len(writing.pieces) < 1000
    assert (writing.row, writing.can_go_on) == (None, False)


def test_the_sheet_escapes_every_character():
    html = sheet('<b a="1">&\'', "b", "<script>alert(1)</script>")
    assert "<script" not in html
    assert "<b a" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<s>b</s>" in html


def test_the_shelf_goes_from_the_worst_to_the_best_of_each_text():
    models = shelf()
    texts = [(m.facts["data"]["name"], "lines" in m.facts["data"]) for m in models]
    ladders = [("shakespeare", False), ("shakespeare", True), ("names", True)]
    assert list(dict.fromkeys(texts)) == ladders
    for text in ladders:
        bits = [m.facts["held_out"]["bits_per_character"] for m, of in zip(models, texts, strict=True) if of == text]
        assert bits == sorted(bits, reverse=True)
    assert models[0].label.startswith("bigram-shakespeare\nsees 1 character · 4,225 parameters · ")
    assert default() is take("gpt-shakespeare")


def test_each_rung_says_what_it_adds():
    for model in shelf():
        assert len(model.about) > 40
        assert model.label.endswith(" bits per character")
        assert "{" not in model.about
    assert "what followed the last 6 characters; where the text never had those, the last 5" in take("ngram-shakespeare").about


def test_a_model_that_a_space_was_made_for_comes_first_to_hand(monkeypatch):
    own, lm = shelf(), take("bigram-shakespeare").lm
    published = ModelEntry(lm, own[0].facts | {"kind": "mixture"}, "0" * 40)
    monkeypatch.setattr("ui.model_registry.shelf", lambda: [*own, published])
    assert default() is published
    monkeypatch.setattr("ui.model_registry.shelf", lambda: [ModelEntry(lm, own[0].facts | {"kind": "mixture"})])
    assert default().lm is lm  # if there is nothing else

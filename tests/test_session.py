"""What visitors may request, its limits, the link that shows a text again, and the text while it grows."""

import math
import threading
import time
from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
import tokenizers
from loops import run
from tokenizers import Regex, decoders, models, pre_tokenizers

from gpt import LanguageModel, SamplingParams, Tokenizer
from gpt.scheduler import BatchScheduler
from ui import model_registry
from ui.model_registry import ModelEntry, default_model, get_model, list_models
from ui.session import MAX_PROMPT_CHARS, MAX_TEXT_TOKENS, GenerationRequest, GenerationSession, check_run_tokens
from ui.tabs import write
from ui.tabs.write import text_html

REQUEST = GenerationRequest(
    "bigram-shakespeare", "To be", SamplingParams(temperature=0.7, top_k=12, top_p=0.9, min_p=0.05, max_new_tokens=80, seed=11)
)


def make_request(model, prompt="", **params):
    return GenerationRequest(model, prompt, SamplingParams(**{"seed": 1} | params))


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        make_request("bigram-shakespeare", "a&b=c?#é\n  +%20 <b>"),
        make_request("bigram-shakespeare", temperature=1 / 3, top_k=10_000_000, top_p=1 / 7, min_p=1e-9, seed=4_294_967_295),
        make_request("bigram-shakespeare", temperature=0),
    ],
)
def test_link_keeps_the_whole_request(request_):
    assert GenerationRequest.from_query(request_.query(request_.params.max_new_tokens), "gpt-shakespeare") == request_


def test_link_replaces_a_lone_surrogate():
    assert dict(parse_qsl(make_request("bigram-shakespeare", "a\ud800b").query(10)))["prompt"] == "a\ufffdb"


def test_link_has_defaults():
    request = GenerationRequest.from_query({"prompt": "x"}, "bigram-shakespeare")
    assert (request.model, request.params.temperature, request.params.max_new_tokens) == ("bigram-shakespeare", 0.8, 300)
    assert request.params.seed is not None


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("temperature=warm", "temperature is 'warm'"),
        ("temperature=nan", "temperature is nan"),
        ("temperature=3", "temperature is 3.0"),
        ("top_p=0", "top_p is 0.0"),
        ("length=-1", "max_new_tokens is -1"),
        (f"length={MAX_TEXT_TOKENS + 1}", f"up to {MAX_TEXT_TOKENS:,} characters"),
        ("seed=1.5", "seed is '1.5'"),
        ("model=nobody", "no model called 'nobody'"),
        ("prompt=" + "a" * (MAX_PROMPT_CHARS + 1), f"up to {MAX_PROMPT_CHARS:,}"),
    ],
)
def test_invalid_link_is_refused_in_a_sentence(query, name):
    with pytest.raises(ValueError, match=name) as error:
        GenerationRequest.from_query(query, "bigram-shakespeare")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tokens", [49, 1001, 100.5, None, "300", float("nan")])
def test_number_of_tokens_out_of_bounds_is_refused(tokens):
    with pytest.raises(ValueError, match="a whole number from 50 to 1,000"):
        check_run_tokens(tokens)


def generate(session, tokens):
    """Run a session; returns the length of the text at each update."""

    async def go():
        return [len(session.pieces) async for _ in session.run(tokens)]

    return run(go())


def test_continued_text_equals_one_long_run():
    session = GenerationSession(REQUEST)
    for tokens in (30, 1, 49):
        generate(session, tokens)
    assert session.text == get_model("bigram-shakespeare").lm.generate(REQUEST.prompt, REQUEST.params).text


def test_text_has_a_maximal_length(monkeypatch):
    monkeypatch.setattr("ui.session.MAX_TEXT_TOKENS", 100)
    session = GenerationSession(REQUEST)
    generate(session, 600)
    assert (len(session.pieces), session.remaining) == (100, 0)
    assert generate(session, 50) == []


@pytest.mark.slow
def test_stopped_text_can_be_continued(slow_generation):
    session = GenerationSession(REQUEST)

    async def stop_at_once():
        async for _ in session.run(MAX_TEXT_TOKENS):
            session.stop()

    run(stop_at_once())
    stopped = len(session.pieces)
    assert 0 < stopped < MAX_TEXT_TOKENS
    generate(session, 30)
    params = replace(REQUEST.params, max_new_tokens=stopped + 30)
    assert session.text == get_model("bigram-shakespeare").lm.generate(REQUEST.prompt, params).text


def test_stop_between_runs_does_not_stop_the_next_one():
    session = GenerationSession(REQUEST)
    session.stop()
    generate(session, 80)
    assert len(session.pieces) == 80


def test_stop_of_a_cancelled_run_stays_set(monkeypatch):
    """The scheduler's thread may look at it only after the session has ended."""
    stops = []

    async def stream(self, sequence, tokens, stop):
        stops.append(stop)
        while True:
            yield []

    monkeypatch.setattr(BatchScheduler, "stream", stream)
    session = GenerationSession(REQUEST)

    async def leave():
        running = session.run(100)
        await anext(running)
        session.release()
        await running.aclose()

    run(leave())
    assert stops[0].is_set()


def test_session_that_is_running_cannot_run_twice():
    session = GenerationSession(REQUEST)

    async def go():
        async for _ in session.run(50):
            with pytest.raises(ValueError, match="still being written"):
                await anext(session.run(50))

    run(go())
    generate(session, 50)
    assert len(session.pieces) == 100


def test_cancelled_run_frees_the_state(slow_generation):
    session = GenerationSession(REQUEST)

    async def leave():
        running = session.run(1000)
        await anext(running)
        await running.aclose()

    run(leave())
    assert (session.is_running, session.sequence, session.can_continue) == (False, None, False)
    deadline = time.monotonic() + 30
    while session.entry.scheduler.is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_released_session_frees_the_state(slow_generation):
    session = GenerationSession(REQUEST)
    generate(session, 5)
    assert session.sequence
    assert session.can_continue
    session.release()
    assert (session.sequence, session.can_continue) == (None, False)

    async def release_at_once():
        async for _ in session.run(1000):
            session.release()

    session = GenerationSession(REQUEST)
    run(release_at_once())
    assert len(session.pieces) < 1000
    assert (session.sequence, session.can_continue) == (None, False)


@pytest.mark.parametrize(
    ("model", "prompt", "words"),
    [
        ("gpt-shakespeare", "ROMEO:", []),
        ("gpt-shakespeare", "é", ["é", "it was skipped", "Nothing of the prompt remains"]),
        ("gpt-shakespeare", "a\tb\u00a0c", ["tab no-break space", "they were skipped"]),
        ("gpt-shakespeare", "a" * 300, ["256 characters at a time"]),
        ("gpt-names", "Emma", ["lower case"]),
        ("bpe-shakespeare", "é\t日 👨\u200d👩", []),
        ("bpe-shakespeare", "the " * 200, []),
        ("bpe-shakespeare", "é" * 200, ["256 tokens at a time"]),
    ],
)
def test_remarks_about_a_prompt(model, prompt, words):
    remarks = " ".join(GenerationSession(make_request(model, prompt)).remarks())
    assert bool(remarks) == bool(words)
    assert all(each in remarks for each in words)


def test_prompt_is_lowered_for_a_model_without_capitals():
    session = GenerationSession(make_request("gpt-names", "Emma"))
    assert (session.prompt, session.unknown_chars) == ("emma", "")
    generate(session, 20)
    params = SamplingParams(max_new_tokens=20, seed=1)
    assert session.text == get_model("gpt-names").lm.generate("emma", params).text


def test_speed_and_bits_count_characters_whatever_the_tokens_are(monkeypatch):
    request = make_request("bpe-shakespeare", "ROMEO:", max_new_tokens=60, seed=2)
    session = GenerationSession(request)
    generate(session, 20)
    monkeypatch.setattr("ui.session.time", SimpleNamespace(perf_counter=chain([0.0], repeat(2.0)).__next__))  # two seconds
    generate(session, 40)
    generation = session.lm.generate(request.prompt, request.params)
    assert session.text == generation.text
    assert len(session.pieces) == 60 < len(generation.text) / 1.5
    assert session.bits_per_character == pytest.approx(-sum(generation.logprobs) / math.log(2) / len(generation.text))
    assert session.chars_per_second == len("".join(session.pieces[20:])) / 2


def test_no_bits_per_character_for_a_sampled_text_of_a_vae():
    session = GenerationSession(make_request("vae-names"))
    generate(session, 50)
    assert session.bits_per_character is None
    assert "bits" not in write.finished(session)[2]


@pytest.fixture
def hostile_model(tiny_bigram, tokenizer, monkeypatch):
    """A model with a tokenizer whose pattern fails on "aaaa...!", as a visitor may open it from the Hub."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=tokenizer.vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    backend.decoder = decoders.Fuse()
    entry = ModelEntry("user/hostile@0", LanguageModel(tiny_bigram, Tokenizer(backend), "user/hostile"), {}, "user/hostile", "0")
    monkeypatch.setitem(model_registry._hub_models, entry.id, entry)
    return entry.id


def drain(generator):
    async def go():
        return [outputs async for outputs in generator]

    return run(go())


def test_failing_tokenizer_is_a_sentence(hostile_model):
    visitor = SimpleNamespace(session_hash="x")
    (outputs,) = drain(write.on_generate(hostile_model, "a" * 3000 + "!", 100, 0.8, 0, 1.0, 0.0, 1, False, visitor))
    assert "Nothing was written: the tokenizer fails on this text" in outputs[3]


def test_prompt_is_tokenized_outside_the_event_loop(monkeypatch):
    threads, encode = set(), Tokenizer.encode

    def record(self, text):
        threads.add(threading.current_thread())
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", record)
    settings = (50, 0.8, 0, 1.0, 0.0, 1, False)
    drain(write.on_generate("bigram-shakespeare", "To be", *settings, SimpleNamespace(session_hash="x")))
    assert threads
    assert threading.current_thread() not in threads


def test_text_html_escapes_every_character():
    html = text_html('<b a="1">&\'', "b", "<script>alert(1)</script>")
    assert "<script" not in html
    assert "<b a" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<s>b</s>" in html


def test_models_are_sorted_by_text_then_from_worst_to_best():
    entries = list_models()
    texts = [(e.training_log["data"]["name"], "lines" in e.training_log["data"]) for e in entries]
    assert list(dict.fromkeys(texts)) == [("shakespeare", False), ("shakespeare", True), ("names", True)]
    for text in set(texts):
        bits = [e.training_log["held_out"]["bits_per_character"] for e, of in zip(entries, texts, strict=True) if of == text]
        assert bits == sorted(bits, reverse=True)
    assert default_model() is get_model("gpt-shakespeare")


def test_each_model_is_described():
    for entry in list_models():
        name, facts = entry.label.split("\n")
        assert name == entry.id
        assert facts.endswith(" bits per character")
        assert ("at most" in facts) == (entry.family.likelihood == "bound")
        assert len(entry.explanation) > 40
    assert "sees the last 256 tokens" in get_model("bpe-shakespeare").label


def test_page_opens_with_the_pinned_model_of_a_space(monkeypatch):
    shipped, bigram = list_models(), get_model("bigram-shakespeare")
    pinned = replace(bigram, id="user/repo@0", commit="0")
    monkeypatch.setattr(model_registry, "_shipped_models", lambda: [*shipped, pinned])
    assert default_model() is pinned
    mixture = get_model("mixture-shakespeare")
    monkeypatch.setattr(model_registry, "_shipped_models", lambda: [mixture])
    assert default_model() is mixture  # the only one

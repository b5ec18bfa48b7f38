"""What visitors may request, its limits, the link that shows a text again, and the text while it grows."""

import asyncio
import math
import threading
import time
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from loops import run

from gpt import LanguageModel, SamplingParams, Tokenizer
from gpt.distribution import encode_distribution
from gpt.scheduler import Batch, BatchScheduler
from ui import model_registry
from ui.model_registry import default_model, get_model, list_models
from ui.schema import MAX_PROMPT_CHARS, MAX_TEXT_TOKENS
from ui.session import MAX_SESSIONS, GenerationRequest, GenerationSession, SessionStore, active_states, scheduler

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
        make_request("bigram-shakespeare", forced=((3, 7), (12, 45))),
    ],
)
def test_link_keeps_the_whole_request(request_):
    assert GenerationRequest.from_query(request_.query(request_.params.max_new_tokens), "gpt-shakespeare") == request_


def test_link_replaces_a_lone_surrogate():
    request = GenerationRequest.from_query({"prompt": "a\ud800b\0"}, "bigram-shakespeare")
    assert dict(parse_qsl(request.query(10)))["prompt"] == "a\ufffdb\ufffd"


def test_link_has_defaults():
    request = GenerationRequest.from_query({"prompt": "x"}, "bigram-shakespeare")
    assert (request.model, request.params.temperature, request.params.max_new_tokens) == ("bigram-shakespeare", 0.8, 300)
    assert request.params.seed is not None


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("temperature=warm", "temperature is 'warm'"),
        ("temperature=nan", "temperature is 'nan'"),
        ("temperature=3", "temperature is '3'"),
        ("top_p=0", "top_p is '0'"),
        ("length=-1", "length is '-1'"),
        (f"length={MAX_TEXT_TOKENS + 1}", f"from 0 to {MAX_TEXT_TOKENS:,}"),
        ("seed=1.5", "seed is '1.5'"),
        ("branch=3", "branch is '3'"),
        ("branch=5.1,3.2", "branch is '5.1,3.2'"),
        ("top_k=" + "9" * 30, "top_k is '9999"),
        ("seed=" + "9" * 5_000, "seed is '9999"),
        ("model=nobody", "no model called 'nobody'"),
        ("prompt=" + "a" * (MAX_PROMPT_CHARS + 1), f"up to {MAX_PROMPT_CHARS:,}"),
    ],
)
def test_invalid_link_is_refused_in_a_sentence(query, name):
    with pytest.raises(ValueError, match=name) as error:
        GenerationRequest.from_query(query, "bigram-shakespeare")
    assert "\n" not in str(error.value)


def read(session, start, end):
    """Read a session; returns the number of tokens of each update."""

    async def go():
        async with aclosing(session.read(start, end)) as batches:
            return [len(tokens) async for tokens in batches]

    return run(go())


def text_of(session):
    return "".join(token.text for token in session.tokens)


def test_continued_text_equals_one_long_run():
    session = GenerationSession(REQUEST)
    for start, end in ((0, 30), (30, 31), (31, 80)):
        assert sum(read(session, start, end)) == end - start
    assert text_of(session) == get_model("bigram-shakespeare").lm.generate(REQUEST.prompt, REQUEST.params).text


def test_each_token_has_its_surprisal_and_distribution():
    session = GenerationSession(REQUEST)
    read(session, 0, 40)
    for token, step in zip(session.tokens, session.lm.stream(REQUEST.prompt, REQUEST.params), strict=False):
        assert (token.id, token.text) == (step.token_id, step.text)
        assert token.bits == pytest.approx(-step.logprob / math.log(2))
        assert token.distribution == encode_distribution(step.logits)


def test_branch_takes_its_token_and_keeps_the_random_numbers():
    lm = get_model("bigram-shakespeare").lm
    plain = lm.generate(REQUEST.prompt, REQUEST.params)
    session = GenerationSession(replace(REQUEST, params=replace(REQUEST.params, forced=((5, 40),))))
    read(session, 0, 60)
    ids = [token.id for token in session.tokens]
    assert ids[:5] == plain.token_ids[:5]
    assert ids[5] == 40 != plain.token_ids[5]
    # A bigram sees the last character only: from where both texts have the same one, the same random numbers give the same text.
    assert ids[-20:] == plain.token_ids[40:60]


def test_tokens_that_exist_are_not_computed_again(monkeypatch):
    session = GenerationSession(REQUEST)
    read(session, 0, 50)
    monkeypatch.setattr(BatchScheduler, "stream", None)  # would fail if it were called
    assert read(session, 10, 50) == [40]


@pytest.mark.slow
def test_text_stops_growing_when_its_last_reader_leaves(slow_generation):
    session = GenerationSession(REQUEST)

    async def leave_at_once():
        async with aclosing(session.read(0, MAX_TEXT_TOKENS)) as batches:
            await anext(batches)
        await asyncio.wait_for(session._run, 30)

    run(leave_at_once())
    stopped = len(session.tokens)
    assert 0 < stopped < MAX_TEXT_TOKENS
    assert sum(read(session, stopped, stopped + 30)) == 30
    params = replace(REQUEST.params, max_new_tokens=stopped + 30)
    assert text_of(session) == get_model("bigram-shakespeare").lm.generate(REQUEST.prompt, params).text
    deadline = time.monotonic() + 30
    while scheduler.is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_readers_share_one_computation(slow_generation, monkeypatch):
    streams, stream = [], BatchScheduler.stream

    def record(self, *arguments):
        streams.append(arguments)
        return stream(self, *arguments)

    monkeypatch.setattr(BatchScheduler, "stream", record)
    session = GenerationSession(REQUEST)

    async def read_to(end):
        async with aclosing(session.read(0, end)) as batches:
            return [token async for tokens in batches for token in tokens]

    async def go():
        return await asyncio.gather(read_to(60), read_to(60), read_to(20))

    first, second, third = run(go())
    assert len(streams) == 1
    assert first == second == session.tokens
    assert third == session.tokens[:20]


def test_error_reaches_its_reader_and_the_next_one_starts_again(monkeypatch):
    session = GenerationSession(REQUEST)
    read(session, 0, 10)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", None)
        with pytest.raises(TypeError):
            read(session, 10, 20)
    assert sum(read(session, 10, 20)) == 10
    assert text_of(session) == get_model("bigram-shakespeare").lm.generate(REQUEST.prompt, REQUEST.params).text[:20]


def test_store_gives_one_session_for_all_lengths_of_a_text(monkeypatch):
    monkeypatch.setattr("ui.session.MAX_SESSIONS", 2)
    store = SessionStore()

    async def go():
        first = await store.get(REQUEST)
        assert await store.get(replace(REQUEST, params=replace(REQUEST.params, max_new_tokens=5))) is first
        others = [make_request("bigram-shakespeare", seed=seed) for seed in (1, 2)]
        for other in others:
            assert await store.get(other) is not first
        assert await store.get(others[0]) is await store.get(others[0])
        assert await store.get(REQUEST) is not first  # the least recently used one was forgotten

    run(go())
    assert MAX_SESSIONS == 64


def test_prompt_is_tokenized_outside_the_event_loop(monkeypatch):
    threads, encode = set(), Tokenizer.encode

    def record(self, text):
        threads.add(threading.current_thread())
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", record)

    async def go():
        session = await SessionStore().get(REQUEST)
        async with aclosing(session.read(0, 5)) as batches:
            assert [token async for tokens in batches for token in tokens] == session.tokens

    run(go())
    assert threads
    assert threading.current_thread() not in threads


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
    read(session, 0, 20)
    params = SamplingParams(max_new_tokens=20, seed=1)
    assert text_of(session) == get_model("gpt-names").lm.generate("emma", params).text


def test_models_are_sorted_by_text_then_from_worst_to_best():
    entries = list_models()
    texts = [(e.training_log["data"]["name"], "lines" in e.training_log["data"]) for e in entries]
    assert list(dict.fromkeys(texts)) == [("shakespeare", False), ("shakespeare", True), ("names", True)]
    for text in set(texts):
        bits = [e.training_log["held_out"]["bits_per_character"] for e, of in zip(entries, texts, strict=True) if of == text]
        assert bits == sorted(bits, reverse=True)
    assert default_model() is get_model("gpt-shakespeare")


def test_each_model_is_described():
    labels = {entry.id: entry.label for entry in list_models()}
    for text in ("shakespeare", "names"):
        own = [label for id, label in labels.items() if id.endswith(f"-{text}")]
        assert len(set(own)) == len(own)
    assert labels["ngram-names"] == "N-gram"
    assert labels["bpe-shakespeare"] == "GPT on word pieces"
    assert all(len(entry.explanation) > 40 for entry in list_models())
    assert get_model("bpe-shakespeare").memory == "sees the last 256 tokens"
    assert get_model("lstm-shakespeare").memory == "remembers everything, in 1,280 numbers"


def test_page_opens_with_the_pinned_model_of_a_space(monkeypatch):
    shipped, bigram = list_models(), get_model("bigram-shakespeare")
    pinned = replace(bigram, id="user/repo@0", commit="0")
    monkeypatch.setattr(model_registry, "_shipped_models", lambda: [*shipped, pinned])
    assert default_model() is pinned
    mixture = get_model("mixture-shakespeare")
    monkeypatch.setattr(model_registry, "_shipped_models", lambda: [mixture])
    assert default_model() is mixture  # the only one


def test_store_forgets_texts_that_hold_too_much_memory(monkeypatch):
    async def go():
        store, sessions = SessionStore(), []
        for seed in range(4):
            sessions.append(await store.get(make_request("gpt-names", seed=seed)))
            async with aclosing(sessions[-1].read(0, 20)) as batches:
                assert [token async for tokens in batches for token in tokens]
            await sessions[-1]._run
        return store, sessions

    store, sessions = run(go())
    state = sessions[0]._sequence.state.nbytes
    assert state < sessions[0].nbytes < state + 20_000
    assert store.nbytes == sum(session.nbytes for session in sessions)
    monkeypatch.setattr("ui.session.MAX_SESSION_BYTES", 2.5 * sessions[0].nbytes)
    assert run(store.get(make_request("gpt-names", seed=3))) is sessions[3]
    assert list(store._sessions.values()) == sessions[2:]
    monkeypatch.setattr("ui.session.MAX_SESSION_BYTES", 1)
    assert run(store.get(make_request("gpt-names", seed=2))) is sessions[2]  # the one that is asked for stays


def test_store_forgets_texts_of_closed_models(monkeypatch):
    entry = replace(get_model("bigram-names"), id="user/repo@0", commit="0")
    request = make_request("bigram-names", seed=1)

    async def go():
        store = SessionStore()
        with monkeypatch.context() as patch:
            patch.setitem(model_registry._hub_models, entry.id, entry)
            hub_session = await store.get(replace(request, model=entry.id))
            shipped = await store.get(request)
            assert list(store._sessions.values()) == [hub_session, shipped]
        await store.get(request)
        return list(store._sessions.values()) == [shipped]

    assert run(go())


def test_short_prompts_do_not_wait_for_long_ones(monkeypatch):
    release, prefill = threading.Event(), LanguageModel.prefill

    def held_prefill(self, prompt, params):
        if len(prompt) > 256:
            assert release.wait(60)
        return prefill(self, prompt, params)

    monkeypatch.setattr(LanguageModel, "prefill", held_prefill)
    long, short = (GenerationSession(make_request("bigram-names", prompt)) for prompt in ("a" * 257, "a" * 256))

    async def first(session):
        async with aclosing(session.read(0, 1)) as batches:
            return await anext(batches)

    async def go():
        waiting = asyncio.create_task(first(long))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(first(short), 60)
        assert not waiting.done()
        release.set()
        assert await waiting

    run(go())


def test_text_without_room_for_its_state_is_refused_in_a_sentence(monkeypatch):
    session, other = (GenerationSession(make_request("gpt-names", seed=seed)) for seed in (1, 2))
    monkeypatch.setattr("ui.session.MAX_ACTIVE_BYTES", 1.5 * session.lm.prefill("").state.nbytes)

    async def go():
        async with aclosing(session.read(0, MAX_TEXT_TOKENS)) as batches:
            assert await anext(batches)
            async with aclosing(other.read(0, 5)) as refused:
                with pytest.raises(ValueError, match="Too many people"):
                    await anext(refused)
        await session._run

    run(go())
    assert active_states.nbytes == 0
    assert sum(read(other, 0, 5)) == 5

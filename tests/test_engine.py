"""The engine in C against the GPT in PyTorch, which it must agree with, and what happens where it cannot run."""

import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from copy import deepcopy
from itertools import islice

import pytest
import torch

from gpt import GPT, Bigram, BigramConfig, LanguageModel, RotatingKVCache, SamplingParams, engine, load
from gpt.checkpoint import WEIGHTS
from gpt.engine.binding import Engine, engine_for
from gpt.generation import ENGINES

SHAPES = {
    "like the shipped": {},
    "shared keys": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "one pair of keys": {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16},
    "odd head": {"head_dim": 40, "hidden_size": 72},
    "odd everything": {"hidden_size": 37, "intermediate_size": 51, "head_dim": 10, "vocab_size": 67, "sliding_window": 13},
    "smaller than a register": {"hidden_size": 3, "intermediate_size": 1, "head_dim": 2, "vocab_size": 5, "sliding_window": 1},
    "wide": {"hidden_size": 200, "intermediate_size": 264, "head_dim": 96, "num_hidden_layers": 1},
}
PARAMS = [
    SamplingParams(seed=1, max_new_tokens=60),
    SamplingParams(seed=2, max_new_tokens=7, temperature=0),
    SamplingParams(seed=3, max_new_tokens=45, temperature=1.4, top_k=9),
    SamplingParams(seed=4, max_new_tokens=60, top_p=0.8),
    SamplingParams(seed=5, max_new_tokens=30, temperature=0.5, min_p=0.05),
    SamplingParams(seed=6, max_new_tokens=60),
]
PROMPTS = ["", "W", "The old clock", "QUIET, DULL, GREY, FOGBOUND. Both walked on", "before", "a dozen"]

needs_compiler = pytest.mark.skipif(not engine._compiler(), reason="there is no C compiler: the engine was not tried")


@pytest.fixture(params=SHAPES)
def model(request, make_gpt):
    return make_gpt(**SHAPES[request.param])


@pytest.fixture
def built(monkeypatch):
    """A function that makes the engine of a model, which must run here."""
    if not engine._compiler():
        pytest.skip("there is no C compiler: the engine was not tried")

    def of(model: GPT) -> Engine:
        made = engine_for(model)
        assert made is not None
        return made

    return of


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder of compiled libraries, and none opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "_opened", {})
    return tmp_path / "from-bigram-to-gpt"


@pytest.fixture
def compiled(monkeypatch):
    """The times that a compiler was called."""
    calls, run = [], subprocess.run

    def counting(command, **options):
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counting)
    return calls


def ids_of(model: GPT, rows: int, length: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))


def read(model: GPT, ids: torch.Tensor) -> list[RotatingKVCache]:
    """The caches of rows of ids (B, T), each read alone."""
    with torch.inference_mode():
        return [model(row[None])[1] for row in ids]


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal within the rounding of float32: of logits that go up to about 20, by sums in another order."""
    torch.testing.assert_close(a, b, atol=5e-5, rtol=0)


@torch.inference_mode()
def test_logits_are_those_of_the_reference_at_every_position(model, built):
    fast, ids = built(model), ids_of(model, 3, 90)
    expected, caches = model(ids)[0], read(model, ids[:, :1])
    for at in range(1, ids.shape[1]):
        same(fast.forward(ids[:, at].tolist(), caches), expected[:, at])


@torch.inference_mode()
def test_logits_far_past_the_window_are_those_of_the_reference(make_gpt, built):
    model = make_gpt(sliding_window=64)
    fast, ids = built(model), ids_of(model, 1, 4097)
    state, (mine,) = model(ids[:, :257])[1], read(model, ids[:, :257])
    for at in range(257, ids.shape[1]):
        logits, state = model(ids[:, at : at + 1], state)
        same(fast.forward([int(ids[0, at])], [mine]), logits[:, 0])


@torch.inference_mode()
def test_logits_of_the_shipped_gpt_are_those_of_the_reference(built):
    model = load(WEIGHTS / "gpt-shakespeare").model
    fast, ids = built(model), ids_of(model, 1, 700)
    expected, caches = model(ids)[0], read(model, ids[:, :1])
    for at in range(1, ids.shape[1]):
        same(fast.forward([int(ids[0, at])], caches), expected[:, at])


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_to_the_last_bit_in_any_company(model, built, threads, monkeypatch):
    monkeypatch.setattr(engine, "cores", lambda: threads)
    fast, count = built(model), 37
    ids = ids_of(model, count, 60)
    alone = [read(model, row[None, : 1 + i])[0] for i, row in enumerate(ids)]  # each has read one more
    together = deepcopy(alone)
    for at in range(40, 60):
        some = list(range(at % 3, count, 1 + at % 4))  # now these, now others
        logits = fast.forward(ids[some, at].tolist(), [together[row] for row in some])
        for i, row in enumerate(some):
            assert torch.equal(fast.forward([int(ids[row, at])], [alone[row]])[0], logits[i])
    for mine, other in zip(alone, together, strict=True):
        assert torch.equal(mine.keys, other.keys)
        assert torch.equal(mine.values, other.values)
        assert torch.equal(mine.length, other.length)


@torch.inference_mode()
def test_a_state_goes_from_one_to_the_other_and_back(model, built):
    fast, ids = built(model), ids_of(model, 3, 120)
    expected, caches, at = model(ids)[0], read(model, ids[:, :5]), 5
    for turn in range(8):
        for _ in range(7):  # in the memory of a batch, too
            same(fast.forward(ids[:, at].tolist(), caches), expected[:, at])
            at += 1
        length = 1 + turn % 5
        logits, whole = model(ids[:, at : at + length], RotatingKVCache.stack(caches))
        same(logits, expected[:, at : at + length])
        caches, at = whole.split(), at + length


def test_a_state_that_has_read_nothing_starts_a_text(make_gpt, built):
    model = make_gpt()
    fresh = RotatingKVCache(model.config, 1, like=model.lm_head.weight.detach())
    ids = ids_of(model, 1, 2)
    with torch.inference_mode():
        expected = model(ids)[0]
        same(built(model).forward([int(ids[0, 0])], [fresh]), expected[:, 0])
        same(model(ids[:, 1:], fresh)[0], expected[:, 1:])


@needs_compiler
def test_the_engine_sees_weights_that_change(lm):
    before = lm.generate("Both", PARAMS[0])
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(-1)
    after = lm.generate("Both", PARAMS[0])
    lm.engine = "PyTorch"
    assert after.text == lm.generate("Both", PARAMS[0]).text != before.text


@pytest.mark.parametrize("token", [-1, 65])
def test_a_token_that_cannot_be_is_refused(make_gpt, built, token):
    model = make_gpt()
    with pytest.raises(IndexError, match="must be below 65"):
        built(model).forward([token], read(model, ids_of(model, 1, 1)))


@needs_compiler
def test_texts_are_those_of_the_reference(lm):
    """For every filter, with a batch whose rows end at different times, and alone."""
    assert lm.engine == "C"
    texts = {}
    for name in ENGINES:
        lm.engine = name
        assert lm.engine == name
        batch = list(zip(*lm.stream_batch(PROMPTS, PARAMS), strict=True))
        texts[name] = ["".join(step.text for step in row if step) for row in batch]
        assert texts[name] == [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    assert texts["C"] == texts["PyTorch"]


@needs_compiler
def test_steps_are_the_same_to_the_last_bit_alone_and_together(lm):
    batch = list(zip(*lm.stream_batch(PROMPTS, PARAMS), strict=True))
    for prompt, params, row in zip(PROMPTS, PARAMS, batch, strict=True):
        for mine, other in zip(lm.stream(prompt, params), row, strict=False):
            assert (mine.token_id, mine.text, mine.logprob) == (other.token_id, other.text, other.logprob)
            for name in ("logits", "probs", "sampling_probs"):
                assert torch.equal(getattr(mine, name), getattr(other, name))


@pytest.mark.parametrize("name", ENGINES)
def test_rows_join_and_leave_and_write_what_they_write_alone(lm, name):
    lm.engine = name
    written = ["" for _ in PROMPTS]
    rows = {}
    for step in range(100):
        if step % 8 == 0 and step // 8 < len(PROMPTS):  # one more joins
            rows[step // 8] = lm.open(PROMPTS[step // 8], PARAMS[step // 8])
        for i, one in zip(list(rows), lm.step(list(rows.values())), strict=True):
            written[i] += one.text
        if step == 30:
            rows.pop(0)  # a visitor who leaves
        rows = {i: row for i, row in rows.items() if row.left}
    assert not rows
    alone = [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    assert written == [alone[0][:31], *alone[1:]]


@needs_compiler
def test_two_threads_write_at_once_on_one_model(lm):
    alone = [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    texts = [""] * len(PROMPTS)

    def write(i):
        texts[i] = lm.generate(PROMPTS[i], PARAMS[i]).text

    for _ in range(5):
        threads = [threading.Thread(target=write, args=(i,)) for i in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == alone


@needs_compiler
def test_a_token_is_computed_when_it_is_asked_for(lm, monkeypatch):
    calls, forward = [], Engine.forward
    monkeypatch.setattr(Engine, "forward", lambda self, *args: (calls.append(args[0]), forward(self, *args))[1])
    stream = lm.stream("Both", SamplingParams(max_new_tokens=3, seed=1))
    steps = [next(stream)]
    assert calls == []
    steps += stream
    assert calls == [[steps[0].token_id], [steps[1].token_id]]  # the last is not read in vain


def test_an_engine_that_is_none_is_refused(lm):
    with pytest.raises(ValueError, match="the engine is 'c'; it must be one of C, PyTorch"):
        lm.engine = "c"


# Where it cannot run


def check_fallback(lm: LanguageModel, expected: str) -> None:
    lm = LanguageModel(lm.model, lm.tokenizer)
    assert lm.generate("Both", PARAMS[3]).text == expected
    assert lm.engine == "PyTorch"
    lm.engine = "C"  # a wish
    assert lm.engine == "PyTorch"


@pytest.fixture
def expected(lm):
    """What the reference writes."""
    lm.engine = "PyTorch"
    return lm.generate("Both", PARAMS[3]).text


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler(lm, expected, cache, monkeypatch, capfd):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(cache / "nothing"))
    check_fallback(lm, expected)
    monkeypatch.setenv("CC", str(cache / "cc"))
    check_fallback(lm, expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "does", ["echo broken >&2; exit 1", "exit 0", "kill -9 $$", 'echo no library > "$(echo "$@" | cut -d" " -f11)"']
)
def test_with_a_broken_compiler(lm, expected, cache, tmp_path, monkeypatch, capfd, does):
    monkeypatch.setenv("CC", script(tmp_path / "broken", does))
    check_fallback(lm, expected)
    assert capfd.readouterr() == ("", "")
    assert not [path for path in cache.iterdir() if not path.name.startswith("engine-")]  # nothing half done is left


def test_with_a_compiler_that_never_ends(lm, expected, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path / "slow", "exec sleep 60"))
    monkeypatch.setattr(engine, "COMPILE_TIMEOUT_S", 0.1)
    check_fallback(lm, expected)


def test_where_nothing_can_be_kept(lm, expected, cache, compiled):
    cache.write_text("a file in the place of the folder")
    check_fallback(lm, expected)
    assert compiled == []


def test_without_a_home(lm, expected, cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    check_fallback(lm, expected)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_in_which_others_may_write_is_not_used(lm, expected, cache, compiled, mode):
    cache.mkdir()
    cache.chmod(mode)
    check_fallback(lm, expected)
    assert compiled == []
    assert list(cache.iterdir()) == []


def test_a_cache_of_somebody_else_is_not_used(lm, expected, cache, compiled, monkeypatch):
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    check_fallback(lm, expected)
    assert compiled == []


def test_a_cache_that_a_link_leads_to_is_not_used(lm, expected, cache, compiled, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    check_fallback(lm, expected)
    assert compiled == []


def test_models_of_another_precision(lm):
    double = LanguageModel(deepcopy(lm.model).double(), lm.tokenizer)
    assert double.generate("Both", PARAMS[3]).text == lm.generate("Both", PARAMS[3]).text
    assert double.engine == "PyTorch"
    assert engine_for(lm.model.bfloat16()) is None


def test_a_model_on_another_device(make_gpt):
    assert engine_for(make_gpt().to("meta")) is None


def test_models_of_another_type(lm, make_gpt):
    class Other(GPT):
        """Its forward may do anything."""

    assert engine_for(Other(make_gpt().config)) is None
    bigram = LanguageModel(Bigram(BigramConfig(len(lm.tokenizer))), lm.tokenizer)
    assert bigram.engine == "PyTorch"
    assert bigram.generate("Both", PARAMS[3]).text


# The cache of compiled libraries


def libraries(cache):
    return sorted(cache.iterdir())


@needs_compiler
def test_it_is_compiled_once_into_a_folder_of_the_users_own(lm, cache, compiled, monkeypatch):
    assert lm.engine == "C"
    (path,) = libraries(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(engine, "_opened", {})  # as in a new process
    assert engine.library()
    assert len(compiled) == 1
    assert libraries(cache) == [path]


@needs_compiler
def test_another_source_flag_or_cpu_is_another_library(cache, monkeypatch, tmp_path):
    cc = engine._compiler()
    keys = {engine._key(cc)}
    monkeypatch.setattr(engine, "FLAGS", ("-O2", *engine.FLAGS[1:]))
    keys.add(engine._key(cc))
    monkeypatch.setattr(engine, "_cpu", lambda: ["another"])
    keys.add(engine._key(cc))
    (tmp_path / "engine.c").write_text("/* another */")
    monkeypatch.setattr(engine, "SOURCE", tmp_path / "engine.c")
    keys.add(engine._key(cc))
    keys.add(engine._key(script(tmp_path / "cc", "exit 1")))
    assert len(keys) == 5


@needs_compiler
@pytest.mark.parametrize("damage", [lambda content: content[:5000], lambda content: b"", lambda content: content[:-1] + b"!"])
def test_a_damaged_library_is_not_opened_but_made_again(lm, cache, compiled, monkeypatch, damage):
    engine.library()
    (path,) = libraries(cache)
    content = path.read_bytes()
    path.unlink()  # this process has it open
    path.write_bytes(damage(content))
    monkeypatch.setattr(engine, "_opened", {})
    assert lm.engine == "C"
    assert len(compiled) == 2
    assert engine._sha(path.read_bytes()) in path.name or len(libraries(cache)) == 2


@needs_compiler
def test_processes_that_compile_at_once_do_not_disturb_each_other(cache):
    told = "from gpt import load; lm = load('gpt-shakespeare'); print(lm.engine)"
    processes = [subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["C\n", "C\n"]
    assert all(path.stem.endswith(engine._sha(path.read_bytes())) for path in libraries(cache))


# Any length


@pytest.mark.parametrize("name", ENGINES)
def test_a_long_text_takes_no_more_memory(lm, name):
    """Thousands of tokens after the window was full, everything is as large as it was."""
    lm.engine = name
    stream = lm.stream("Both", SamplingParams(seed=1, max_new_tokens=3_000))
    deque(islice(stream, 500), maxlen=0)
    tracemalloc.start()
    try:
        deque(islice(stream, 500), maxlen=0)
        before = tracemalloc.get_traced_memory()[0]
        deque(stream, maxlen=0)
        assert tracemalloc.get_traced_memory()[0] < before + 20_000  # bytes; a step kept would be about 1,000 each
    finally:
        tracemalloc.stop()

"""The C kernel agrees with the GPT in PyTorch; where it cannot run, PyTorch does its work."""

import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from copy import deepcopy
from itertools import islice
from pathlib import Path

import pytest
import torch

from gpt import GPT, BatchGenerator, Bigram, BigramConfig, LanguageModel, RotatingKVCache, SamplingParams, load
from gpt.checkpoint import WEIGHTS
from gpt.engine import Engine, binding, engine_for
from gpt.generation import ENGINES

SHAPES = {
    "as shipped": {},
    "GQA": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "one key/value head": {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16},
    "odd head size": {"head_dim": 40, "hidden_size": 72},
    "odd everything": {"hidden_size": 37, "intermediate_size": 51, "head_dim": 10, "vocab_size": 67, "sliding_window": 13},
    "smaller than a vector": {"hidden_size": 3, "intermediate_size": 1, "head_dim": 2, "vocab_size": 5, "sliding_window": 1},
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

needs_compiler = pytest.mark.skipif(not binding._find_compiler(), reason="there is no C compiler")


@pytest.fixture(params=SHAPES)
def model(request, make_gpt):
    return make_gpt(**SHAPES[request.param])


@pytest.fixture
def make_engine():
    """A function that returns the engine of a model, which must run here."""
    if not binding._find_compiler():
        pytest.skip("there is no C compiler")

    def make(model: GPT) -> Engine:
        engine = engine_for(model)
        assert engine is not None
        return engine

    return make


@pytest.fixture
def cache_dir(monkeypatch, tmp_path):
    """An empty cache folder for compiled libraries, as in a new process."""
    monkeypatch.setattr(binding.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(binding, "_libraries", {})
    return tmp_path / "from-bigram-to-gpt"


@pytest.fixture
def compiler_calls(monkeypatch):
    """The commands that were run."""
    calls, run = [], subprocess.run

    def record(command, **options):
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", record)
    return calls


def random_ids(model: GPT, batch_size: int, length: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(0))


def prefill(model: GPT, ids: torch.Tensor) -> list[RotatingKVCache]:
    """One cache for each row of ids (B, T)."""
    with torch.inference_mode():
        return [model(row[None])[1] for row in ids]


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal within the rounding of float32: logits go up to about 20, and sums are in another order."""
    torch.testing.assert_close(a, b, atol=5e-5, rtol=0)


@torch.inference_mode()
def test_logits_equal_pytorch_at_every_position(model, make_engine):
    engine, ids = make_engine(model), random_ids(model, 3, 90)
    expected, caches = model(ids)[0], prefill(model, ids[:, :1])
    for position in range(1, ids.shape[1]):
        assert_close(engine.forward(ids[:, position].tolist(), caches), expected[:, position])


@pytest.mark.slow
@torch.inference_mode()
def test_logits_equal_pytorch_far_beyond_the_window(make_gpt, make_engine):
    model = make_gpt(sliding_window=64)
    engine, ids = make_engine(model), random_ids(model, 1, 1_500)
    state, (cache,) = model(ids[:, :257])[1], prefill(model, ids[:, :257])
    for position in range(257, ids.shape[1]):
        logits, state = model(ids[:, position : position + 1], state)
        assert_close(engine.forward([int(ids[0, position])], [cache]), logits[:, 0])


@pytest.mark.slow
@torch.inference_mode()
def test_logits_of_the_shipped_gpt_equal_pytorch(make_engine):
    model = load(WEIGHTS / "gpt-shakespeare").model
    engine, ids = make_engine(model), random_ids(model, 1, 700)
    expected, caches = model(ids)[0], prefill(model, ids[:, :1])
    for position in range(1, ids.shape[1]):
        assert_close(engine.forward([int(ids[0, position])], caches), expected[:, position])


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_batch(model, make_engine, threads, monkeypatch):
    monkeypatch.setattr(binding, "cores", lambda: threads)
    engine, count = make_engine(model), 37
    ids = random_ids(model, count, 60)
    single = [prefill(model, row[None, : 1 + i])[0] for i, row in enumerate(ids)]  # each one token longer
    batched = deepcopy(single)
    for position in range(40, 60):
        rows = list(range(position % 3, count, 1 + position % 4))  # another selection each time
        logits = engine.forward(ids[rows, position].tolist(), [batched[row] for row in rows])
        for i, row in enumerate(rows):
            assert torch.equal(engine.forward([int(ids[row, position])], [single[row]])[0], logits[i])
    for one, other in zip(single, batched, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.length, other.length)


@torch.inference_mode()
def test_a_state_moves_between_kernel_and_pytorch(model, make_engine):
    engine, ids = make_engine(model), random_ids(model, 3, 120)
    expected, caches, position = model(ids)[0], prefill(model, ids[:, :5]), 5
    for turn in range(8):
        for _ in range(7):
            assert_close(engine.forward(ids[:, position].tolist(), caches), expected[:, position])
            position += 1
        length = 1 + turn % 5
        logits, merged = model(ids[:, position : position + length], RotatingKVCache.merge(caches))
        assert_close(logits, expected[:, position : position + length])
        caches, position = [merged.extract(i) for i in range(len(ids))], position + length


def test_an_empty_state_starts_a_text(make_gpt, make_engine):
    model = make_gpt()
    cache = RotatingKVCache.empty(model.config, 1, like=model.lm_head.weight.detach())
    ids = random_ids(model, 1, 2)
    with torch.inference_mode():
        expected = model(ids)[0]
        assert_close(make_engine(model).forward([int(ids[0, 0])], [cache]), expected[:, 0])
        assert_close(model(ids[:, 1:], cache)[0], expected[:, 1:])


STEP = """
import torch
from gpt import GPT, GPTConfig
from gpt.engine import binding
model = GPT(GPTConfig(5, 4, 4, 1, 1, 1, 2, 4))
engine = binding.engine_for(model)
for cores, batch_size in ((128, 300), (128, 1_100), (1, 70), (0, 5), (-1, 0)):
    binding.cores = lambda: cores
    with torch.inference_mode():
        caches = [model(torch.zeros(1, 1, dtype=torch.long))[1] for _ in range(batch_size)]
        print(cores, *engine.forward([0] * batch_size, caches).shape)
"""


@pytest.mark.slow
@needs_compiler
def test_any_number_of_cpus_steps_any_number_of_sequences():
    """In a process of its own, which may crash."""
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "128 300 5\n128 1100 5\n1 70 5\n0 5 5\n-1 0 5\n"


@needs_compiler
def test_the_engine_sees_weights_that_change_in_place(lm):
    before = lm.generate("Both", PARAMS[0])
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(-1)
    after = lm.generate("Both", PARAMS[0])
    lm.engine = "PyTorch"
    assert after.text == lm.generate("Both", PARAMS[0]).text != before.text


@pytest.mark.parametrize("token", [-1, 65])
def test_a_token_outside_the_vocabulary_is_an_error(make_gpt, make_engine, token):
    model = make_gpt()
    with pytest.raises(IndexError, match="must be from 0 to 64"):
        make_engine(model).forward([token], prefill(model, random_ids(model, 1, 1)))


@pytest.mark.slow
@needs_compiler
def test_texts_equal_those_of_pytorch(lm):
    """For every filter, in a batch whose sequences end at different times, and one by one."""
    assert lm.engine == "C"
    texts = {}
    for name in ENGINES:
        lm.engine = name
        assert lm.engine == name
        batch = list(zip(*lm.stream_batch(PROMPTS, PARAMS), strict=True))
        texts[name] = ["".join(step.text for step in steps if step) for steps in batch]
        assert texts[name] == [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    assert texts["C"] == texts["PyTorch"]


@needs_compiler
def test_steps_are_equal_to_the_last_bit_in_a_batch_and_alone(lm):
    batch = list(zip(*lm.stream_batch(PROMPTS, PARAMS), strict=True))
    for prompt, params, steps in zip(PROMPTS, PARAMS, batch, strict=True):
        for one, other in zip(lm.stream(prompt, params), steps, strict=False):
            assert (one.token_id, one.text, one.logprob) == (other.token_id, other.text, other.logprob)
            for name in ("logits", "probs", "sampling_probs"):
                assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_sequences_that_join_and_leave_give_the_same_texts(lm, name):
    lm.engine = name
    batch, sequences, texts = BatchGenerator(lm), {}, ["" for _ in PROMPTS]
    for step in range(100):
        if step % 8 == 0 and step // 8 < len(PROMPTS):
            i = step // 8
            sequences[i] = lm.prefill(PROMPTS[i], PARAMS[i])
            batch.insert(sequences[i])
        for i, result in zip(list(sequences), batch.step() if sequences else [], strict=True):
            texts[i] += result.text
        if step == 30:
            batch.remove(sequences.pop(0))  # a cancelled request
        for i in [i for i, sequence in sequences.items() if not sequence.remaining]:
            batch.remove(sequences.pop(i))
    assert not sequences
    expected = [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    assert texts == [expected[0][:31], *expected[1:]]


@pytest.mark.slow
@needs_compiler
def test_threads_generate_at_once_with_one_model(lm):
    expected = [lm.generate(prompt, p).text for prompt, p in zip(PROMPTS, PARAMS, strict=True)]
    texts = [""] * len(PROMPTS)

    def generate(i):
        texts[i] = lm.generate(PROMPTS[i], PARAMS[i]).text

    for _ in range(5):
        threads = [threading.Thread(target=generate, args=(i,)) for i in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == expected


@needs_compiler
def test_no_more_tokens_are_computed_ahead_than_were_requested(lm, monkeypatch):
    calls, generate = [], Engine.generate
    monkeypatch.setattr(
        Engine, "generate", lambda self, requests: (calls.append(len(requests[0].uniforms)), generate(self, requests))[1]
    )
    stream = lm.stream("Both", SamplingParams(max_new_tokens=29, seed=1))
    assert calls == []
    next(stream)
    assert calls == [1]
    next(stream)
    assert calls == [1, 2]
    deque(stream, maxlen=0)
    assert calls == [1, 2, 4, 8, 8, 6]


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_prefill_equals_pytorch(model, make_engine, threads, monkeypatch):
    """From an empty cache and from one that was used, below and above the window and the size of a chunk."""
    monkeypatch.setattr(binding, "cores", lambda: threads)
    engine, ids = make_engine(model), random_ids(model, 1, 400)
    expected, cache = model(ids)[0], RotatingKVCache.empty(model.config, 1, like=torch.empty(0))
    start = 0
    for end in (1, 8, 20, 53, 190, 399):
        assert_close(engine.prefill(ids[0, start:end].tolist(), cache), expected[0, end - 1])
        start = end
    assert_close(engine.forward([int(ids[0, 399])], [cache]), expected[:, 399])


@torch.inference_mode()
def test_prefill_does_not_depend_on_threads(model, make_engine, monkeypatch):
    engine, ids, results = make_engine(model), random_ids(model, 1, 300)[0].tolist(), []
    for threads in (1, 2, 3):
        monkeypatch.setattr(binding, "cores", lambda threads=threads: threads)
        cache = RotatingKVCache.empty(model.config, 1, like=torch.empty(0))
        results.append((engine.prefill(ids, cache), cache.keys, cache.values))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@torch.inference_mode()
def test_half_precision_weights_give_the_same_bits(model, make_engine, monkeypatch):
    """Where float16 is exact, the kernel reads it instead of float32."""
    for p in model.parameters():
        p.copy_(p.half())
    ids, results = random_ids(model, 1, 40)[0].tolist(), []
    for reads_half in (1, 0):
        monkeypatch.setattr(binding.load_library(), "reads_half", lambda reads_half=reads_half: reads_half)
        engine, cache = make_engine(model), RotatingKVCache.empty(model.config, 1, like=torch.empty(0))
        logits = [engine.prefill(ids[:30], cache), *(engine.forward([token], [cache])[0] for token in ids[30:])]
        results.append(torch.stack(logits))
    assert torch.equal(*results)


def test_an_unknown_engine_is_an_error(lm):
    with pytest.raises(ValueError, match="must be one of C, PyTorch"):
        lm.engine = "c"


# Where it cannot run


def check_fallback(lm: LanguageModel, expected: str) -> None:
    lm = LanguageModel(lm.model, lm.tokenizer)
    assert lm.generate("Both", PARAMS[3]).text == expected
    assert lm.engine == "PyTorch"
    lm.engine = "C"  # ignored where it cannot run
    assert lm.engine == "PyTorch"


@pytest.fixture
def expected(lm):
    """The text that PyTorch generates."""
    lm.engine = "PyTorch"
    return lm.generate("Both", PARAMS[3]).text


def write_script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler(lm, expected, cache_dir, monkeypatch, capfd):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(cache_dir / "missing"))
    check_fallback(lm, expected)
    monkeypatch.setenv("CC", str(cache_dir / "cc"))
    check_fallback(lm, expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "behavior", ["echo broken >&2; exit 1", "exit 0", "kill -9 $$", 'echo no library > "$(echo "$@" | cut -d" " -f10)"']
)
def test_with_a_broken_compiler(lm, expected, cache_dir, tmp_path, monkeypatch, capfd, behavior):
    monkeypatch.setenv("CC", write_script(tmp_path / "broken", behavior))
    check_fallback(lm, expected)
    assert capfd.readouterr() == ("", "")
    assert not [path for path in cache_dir.iterdir() if not path.name.startswith("engine-")]  # no partial files


def test_with_a_compiler_that_never_ends(lm, expected, cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", write_script(tmp_path / "slow", "exec sleep 60"))
    monkeypatch.setattr(binding, "COMPILE_TIMEOUT_S", 0.1)
    check_fallback(lm, expected)


def test_without_a_cache_folder(lm, expected, cache_dir, compiler_calls):
    cache_dir.write_text("a file where the folder should be")
    check_fallback(lm, expected)
    assert compiler_calls == []


def no_home(name):
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("user_cache_path", [no_home, lambda name: Path("~/.cache") / name], ids=["platformdirs", "older"])
def test_without_a_home_directory(lm, expected, monkeypatch, compiler_calls, tmp_path, user_cache_path):
    """A folder named "~" must not appear in the working directory."""
    monkeypatch.setattr(binding, "_libraries", {})
    monkeypatch.setattr(binding.platformdirs, "user_cache_path", user_cache_path)
    monkeypatch.chdir(tmp_path)
    check_fallback(lm, expected)
    assert compiler_calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_folder_that_others_may_write_is_not_used(lm, expected, cache_dir, compiler_calls, mode):
    cache_dir.mkdir()
    cache_dir.chmod(mode)
    check_fallback(lm, expected)
    assert compiler_calls == []
    assert list(cache_dir.iterdir()) == []


def test_a_cache_folder_of_another_user_is_not_used(lm, expected, cache_dir, compiler_calls, monkeypatch):
    cache_dir.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: cache_dir.stat().st_uid + 1)
    check_fallback(lm, expected)
    assert compiler_calls == []


def test_a_cache_folder_that_is_a_link_is_not_used(lm, expected, cache_dir, compiler_calls, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache_dir.symlink_to(tmp_path / "elsewhere")
    check_fallback(lm, expected)
    assert compiler_calls == []


def test_models_of_another_precision(lm):
    double = LanguageModel(deepcopy(lm.model).double(), lm.tokenizer)
    assert double.generate("Both", PARAMS[3]).text == lm.generate("Both", PARAMS[3]).text
    assert double.engine == "PyTorch"
    assert engine_for(lm.model.bfloat16()) is None


def test_a_model_on_another_device(make_gpt):
    assert engine_for(make_gpt().to("meta")) is None


def test_models_of_another_type(lm, make_gpt):
    class Subclass(GPT):
        """Its forward may compute anything."""

    assert engine_for(Subclass(make_gpt().config)) is None
    bigram = LanguageModel(Bigram(BigramConfig(len(lm.tokenizer))), lm.tokenizer)
    assert bigram.engine == "PyTorch"
    assert bigram.generate("Both", PARAMS[3]).text


# The cache of compiled libraries


def libraries(cache_dir):
    return sorted(cache_dir.iterdir())


@pytest.mark.slow
@needs_compiler
def test_it_is_compiled_once_into_a_private_folder(lm, cache_dir, compiler_calls, monkeypatch):
    assert lm.engine == "C"
    (path,) = libraries(cache_dir)
    assert stat.S_IMODE(cache_dir.stat().st_mode) == 0o700
    monkeypatch.setattr(binding, "_libraries", {})  # as in a new process
    assert binding.load_library()
    assert len(compiler_calls) == 1
    assert libraries(cache_dir) == [path]


@needs_compiler
def test_another_source_flag_cpu_or_compiler_is_another_library(monkeypatch, tmp_path):
    compiler = binding._find_compiler()
    keys = {binding._cache_key(compiler)}
    monkeypatch.setattr(binding, "FLAGS", ("-O2", *binding.FLAGS[1:]))
    keys.add(binding._cache_key(compiler))
    monkeypatch.setattr(binding, "_cpu_model", lambda: ["another"])
    keys.add(binding._cache_key(compiler))
    (tmp_path / "kernel.c").write_text("/* another */")
    monkeypatch.setattr(binding, "SOURCES", (*binding.SOURCES, tmp_path / "kernel.c"))
    keys.add(binding._cache_key(compiler))
    keys.add(binding._cache_key(write_script(tmp_path / "cc", "exit 1")))
    assert len(keys) == 5


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("damage", [lambda content: content[:5000], lambda content: b"", lambda content: content[:-1] + b"!"])
def test_a_damaged_library_is_compiled_again(lm, cache_dir, compiler_calls, monkeypatch, damage):
    binding.load_library()
    (path,) = libraries(cache_dir)
    content = path.read_bytes()
    path.unlink()  # this process has mapped it
    path.write_bytes(damage(content))
    monkeypatch.setattr(binding, "_libraries", {})
    assert lm.engine == "C"
    assert len(compiler_calls) == 2
    assert binding._sha256(path.read_bytes()) in path.name or len(libraries(cache_dir)) == 2


@pytest.mark.slow
@needs_compiler
def test_processes_may_compile_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "from gpt import load; lm = load('gpt-shakespeare'); print(lm.engine)"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["C\n", "C\n"]
    for path in (tmp_path / "from-bigram-to-gpt").iterdir():
        assert path.stem.endswith(binding._sha256(path.read_bytes()))


# Any length


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_memory_does_not_grow_with_the_text(lm, name):
    """Measured thousands of tokens after the window was full."""
    lm.engine = name
    stream = lm.stream("Both", SamplingParams(seed=1, max_new_tokens=3_000))
    deque(islice(stream, 500), maxlen=0)
    tracemalloc.start()
    try:
        deque(islice(stream, 500), maxlen=0)
        before = tracemalloc.get_traced_memory()[0]
        deque(stream, maxlen=0)
        assert tracemalloc.get_traced_memory()[0] < before + 20_000  # bytes; each step that is kept is about 1,000
    finally:
        tracemalloc.stop()

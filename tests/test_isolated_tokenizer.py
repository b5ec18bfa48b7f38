import os
import sys
import time

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ui import isolated_tokenizer
from ui.isolated_tokenizer import IsolatedTokenizer

TEXTS = ("", "the frost", "The  clock\n\n", "👩\u200d👧 e\u0301", "a\ud800b", "\0" * 300)


@pytest.fixture
def hostile():
    """A tokenizer that `Tokenizer.from_json` refuses: its pattern backtracks exponentially."""
    backend = Backend(models.BPE(vocab={"\n": 0, "a": 1, "b": 2}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    return IsolatedTokenizer(backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer", "bpe"])
def test_tokens_are_those_of_the_tokenizer(name, request):
    tokenizer = request.getfixturevalue(name)
    isolated = IsolatedTokenizer(tokenizer.backend)
    for text in TEXTS:
        assert isolated.encode(text) == tokenizer.encode(text)
        assert isolated.spans(text) == tokenizer.spans(text)
        assert isolated.decode(isolated.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


def test_a_text_is_encoded_once(tokenizer, monkeypatch):
    isolated, runs = IsolatedTokenizer(tokenizer.backend), []
    run = isolated_tokenizer.subprocess.run
    monkeypatch.setattr(isolated_tokenizer.subprocess, "run", lambda *args, **options: runs.append(args) or run(*args, **options))
    first = isolated.encode("the frost").ids
    first.append(3)  # a caller may do that
    assert isolated.encode("the frost").ids == first[:-1]
    assert isolated.spans("the frost") == [(i, i + 1) for i in range(9)]
    assert isolated.encode("").ids == []
    assert len(runs) == 1


def test_text_that_the_tokenizer_fails_on_is_refused(hostile, capfd):
    assert hostile.encode("ab").ids == [1, 2]
    with pytest.raises(ValueError, match=r"^The tokenizer of this model fails on this text; [^\n]*$"):
        hostile.encode("a" * 60 + "b")  # a panic in Rust
    assert capfd.readouterr() == ("", "")


def test_process_that_takes_too_long_is_killed(tokenizer, monkeypatch, tmp_path):
    """It takes the place of a tokenizer that never ends."""
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(isolated_tokenizer, "WORKER", (sys.executable, "-c", program))
    monkeypatch.setattr(isolated_tokenizer, "ENCODE_TIMEOUT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^The tokenizer of this model takes too long for this text; [^\n]*$"):
        IsolatedTokenizer(tokenizer.backend).encode("the frost")
    assert time.monotonic() - start < 60
    if pid_file.exists():  # it does not if the machine is too busy to start it in time
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


def test_process_gets_no_secrets(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = tmp_path / "environment"
    program = f"import os; open({str(file)!r}, 'w').write(str(os.environ)); print('[[], []]')"
    monkeypatch.setattr(isolated_tokenizer, "WORKER", (sys.executable, "-c", program))
    assert IsolatedTokenizer(tokenizer.backend).encode("the frost").ids == []
    assert "hf_secret" not in file.read_text()
    assert "PATH" in file.read_text()


@pytest.mark.slow
def test_memory_of_the_process_is_limited():
    """A tokenizer whose text grows without end: the process fails, the page goes on."""
    backend = Backend(models.BPE(vocab={"\n": 0, "a": 1}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.normalizer = normalizers.Sequence([normalizers.Replace("a", "aaaa")] * 16)  # 4**16 letters for each
    with pytest.raises(ValueError, match="The tokenizer of this model "):
        IsolatedTokenizer(backend).encode("a")

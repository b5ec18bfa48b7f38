"""A .pt2 file writes what the folder writes, without this project; and whatever is wrong with one is a sentence."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from gpt import LanguageModel, SamplingParams, load
from gpt.__main__ import main
from gpt.checkpoint import CheckpointError, save
from gpt.export import CARRIED, export, open_program

STANDALONE = Path(__file__).parent.parent / "docs" / "standalone.py"
W = 16  # the window of the tiny GPT, in which the second layer sees further back than the first
PROMPT, LENGTH = "The old clock", 350
KINDS = {"qwen3": "tiny_gpt", "bigram": "tiny_bigram"}
CALL = """
import runpy, sys
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sorted({"gpt", "train", "ui", "tests", "tokenizers", "safetensors"} & sys.modules.keys()), file=sys.stderr, end="")
"""


@pytest.fixture(params=CARRIED)
def pair(request, tokenizer, tmp_path):
    """A model of each type, and the program of it."""
    lm = LanguageModel(request.getfixturevalue(KINDS[request.param]), tokenizer, "tiny")
    export(lm, tmp_path / "model.pt2")
    return lm, open_program(tmp_path / "model.pt2")


@pytest.fixture
def run(command):
    return command("python -m gpt", main)


@pytest.fixture
def exported(lm, tmp_path):
    export(lm, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def greedy(lm):
    return lm.generate(PROMPT, SamplingParams(temperature=0, max_new_tokens=LENGTH)).text


def standalone(file, folder):
    """What the script writes, away from this project; it may not even have imported it."""
    call = f"import sys; sys.argv = [{str(STANDALONE)!r}, {str(file)!r}, {PROMPT!r}, '{LENGTH}']{CALL}"
    done = subprocess.run([sys.executable, "-I", "-c", call], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_are_those_of_the_model_for_any_batch_and_length(pair):
    lm, program = pair
    for rows, length in ((1, 1), (1, 5), (3, 1), (2, W), (5, W + 1), (2, 4 * W + 3)):
        ids = torch.randint(len(lm.tokenizer), (rows, length), generator=torch.Generator().manual_seed(length))
        expected, _ = lm.model(ids)
        assert expected.std() > 0.1
        same(program.model(ids)[0], expected)
        state, read = None, []
        for piece in ids.split(3, dim=1):
            logits, state = program.model(piece, state)
            read.append(logits)
        same(torch.cat(read, dim=1), expected)


def test_it_writes_what_the_model_writes_greedy_or_drawn_alone_or_in_company(pair):
    lm, program = pair
    assert (program.name, program.window, program.parameters) == ("tiny", lm.window, lm.parameters)
    assert greedy(program) == greedy(lm)
    prompts = ["", PROMPT, "before " * 9]
    params = [SamplingParams(seed=seed, temperature=1.2, top_k=20, max_new_tokens=60 + seed) for seed in range(3)]
    rows = zip(*program.stream_batch(prompts, params), strict=True)
    texts = ["".join(step.text for step in row if step) for row in rows]
    assert texts == [lm.generate(prompt, p).text for prompt, p in zip(prompts, params, strict=True)]
    assert program.score(PROMPT).nats == pytest.approx(lm.score(PROMPT).nats, abs=1e-4)


def test_a_state_that_was_handed_in_is_as_it_was(lm, exported):
    model = open_program(exported).model
    _, state = model(torch.ones(1, 5, dtype=torch.long))
    before = [tensor.clone() for tensor in state]
    model(torch.ones(1, 5, dtype=torch.long), state)
    assert all(map(torch.equal, before, state))


def test_the_script_writes_it_without_this_project(lm, exported, tmp_path):
    assert standalone(exported, tmp_path) == greedy(lm)


def test_the_script_writes_with_a_bigram(tiny_bigram, tokenizer, tmp_path):
    lm = LanguageModel(tiny_bigram, tokenizer)
    export(lm, tmp_path / "bigram.pt2")
    assert standalone(tmp_path / "bigram.pt2", tmp_path) == greedy(lm)


def test_pieces_of_words_are_written_by_the_library_and_refused_by_the_script(bpe, make_gpt, tmp_path):
    lm, file = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe), tmp_path / "model.pt2"
    export(lm, file)
    assert greedy(open_program(file)) == greedy(lm)
    done = subprocess.run([sys.executable, STANDALONE, file, PROMPT, "9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"which need more than torch: python -m gpt --model {file}\n")


def test_the_command_line_makes_one_and_writes_with_it(run, folder, tmp_path):
    out = tmp_path / "made" / "model.pt2"
    status, said, err = run("export", folder, "--out", out)
    assert (status, said) == (0, "")
    assert err.startswith(f"{out} (")
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    for options in (["--temperature", 0], ["--temperature", 0.9, "--top-p", 0.9, "--seed", 3]):
        write = "--prompt", PROMPT, "--length", LENGTH, "--seed", 1, *options
        assert run("--model", out, *write) == run("--model", folder, *write)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")
def test_a_compiled_one_writes_the_same(run, lm, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "model.pt2"
    status, said, _ = run("export", folder, "--out", out, "--compile")
    assert (status, said) == (0, "")
    with zipfile.ZipFile(out) as archive:
        assert any(name.endswith(".so") for name in archive.namelist())
    assert greedy(open_program(out)) == greedy(lm)
    assert standalone(out, tmp_path) == greedy(lm)
    ids = torch.randint(len(lm.tokenizer), (3, 4 * W + 3), generator=torch.Generator().manual_seed(0))
    same(open_program(out).model(ids)[0], lm.model(ids)[0])


def test_the_file_names_no_class_and_no_place_of_ours(exported):
    with zipfile.ZipFile(exported) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        assert archive.read("archive/data/sample_inputs/model.pt") == b""  # which would be a pickle
    for trace in (b"gpt.models.transformer", b"gpt.export", b"transformer.py", str(STANDALONE.parent.parent).encode()):
        assert trace not in content


# Bad input


def refusal(run, *args):
    status, out, err = run(*args)
    assert (out, err) == ("", "")
    assert str(status).startswith("python -m gpt: ")
    assert "\n" not in status
    return status.removeprefix("python -m gpt: ")


def test_a_file_is_never_replaced(run, folder, tmp_path):
    out = tmp_path / "model.pt2"
    out.write_text("mine")
    assert refusal(run, "export", folder, "--out", out) == f"{out} is there already; remove it, or choose another --out"
    assert out.read_text() == "mine"


def test_another_ending_is_refused(run, folder, tmp_path):
    assert refusal(run, "export", folder, "--out", tmp_path / "m.pt").endswith(
        "must end in .pt2, as every program of PyTorch does"
    )


def test_a_place_that_cannot_be_written_is_told(run, folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "model.pt2 cannot be written (" in refusal(run, "export", folder, "--out", tmp_path / "file" / "model.pt2")


def test_what_is_no_model_is_told_and_nothing_is_left(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json is missing" in refusal(run, "export", tmp_path / "empty", "--out", tmp_path / "model.pt2")
    assert "there is no model 'gpt-shakespear'" in refusal(run, "export", "gpt-shakespear", "--out", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_write_that_breaks_off_leaves_nothing(run, folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    out = tmp_path / "new" / "model.pt2"
    assert "cannot be written (No space left on device)" in refusal(run, "export", folder, "--out", out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("compiler", ["none", "one that compiles nothing"])
def test_without_a_compiler_that_works_nothing_is_compiled(folder, tmp_path, monkeypatch, compiler):
    cxx = tmp_path / "g++"
    if compiler != "none":
        cxx.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "g++ 12.2.0"\n')
        cxx.chmod(0o755)
    monkeypatch.setenv("CXX", str(cxx))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "model.pt2"
    call = [sys.executable, "-m", "gpt", "export", folder, "--out", out, "--compile"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("python -m gpt: --compile needs a C++ compiler that works; ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_file_that_is_missing_is_told(run, tmp_path):
    said = refusal(run, "--model", tmp_path / "model.pt2")
    assert said.startswith(
        f"there is no file {tmp_path / 'model.pt2'}; make it with `python -m gpt export FOLDER --out model.pt2`"
    )


def test_a_damaged_file_is_told_before_anything_in_it_runs(run, exported, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("it was opened")

    monkeypatch.setattr("torch.export.pt2_archive._package.load_pt2", opened)
    whole = exported.read_bytes()
    middle = len(whole) // 2
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("archive/extra/model.json", "[]")
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"no zip", whole[:-1], whole[:middle], flipped, other.getvalue()):
        exported.write_bytes(content)
        assert f"{exported} is damaged, or no program that" in refusal(run, "--model", exported)


def test_a_program_of_somebody_else_is_told(run, tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "model.pt2")
    assert "no program that `python -m gpt export` wrote" in refusal(run, "--model", tmp_path / "model.pt2")


def test_a_program_that_this_pytorch_cannot_run_is_told(run, exported):
    with zipfile.ZipFile(exported) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(exported, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content.replace(b"aten.linear", b"aten.linolium") if name.endswith("model.json") else content)
    said = refusal(run, "--model", exported)
    assert said.startswith(f"PyTorch {torch.__version__} on this machine cannot run {exported}, which {torch.__version__} wrote;")


def test_a_revision_is_refused(run, exported):
    assert "has no revision 'main'" in refusal(run, "--model", exported, "--revision", "main")


def test_nothing_but_the_command_line_opens_one(lm, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in (exported, "model.pt2", exported.rename(tmp_path / "runs" / "model.pt2"), "runs/model.pt2"):
        if Path(path).exists():
            with pytest.raises(CheckpointError, match="is a program, which runs code when it is opened"):
                load(path)
    with pytest.raises(CheckpointError):
        load("model.pt2")


def test_a_folder_may_have_that_ending(run, tiny_gpt, tokenizer, tmp_path):
    save(tmp_path / "odd.pt2", tiny_gpt, tokenizer)
    assert run("--model", tmp_path / "odd.pt2", "--length", 3, "--seed", 1)[0] == 0


def test_every_type_of_model_is_tried():
    assert KINDS.keys() == CARRIED.keys()


@pytest.mark.parametrize("name", ["ngram-shakespeare", "mixture-shakespeare"])
def test_what_searches_a_table_cannot_be_exported(run, tmp_path, name):
    status, _, _ = run("export", name, "--out", tmp_path / "model.pt2")
    kind = name.partition("-")[0]
    assert status == f"python -m gpt: {name} is a model of the kind {kind!r}; a program can be bigram or qwen3"
    assert not list(tmp_path.iterdir())

"""A .pt2 file generates what the folder generates, without this project; errors are one sentence."""

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
from gpt.export import export, open_program
from gpt.models.registry import MODEL_REGISTRY

STANDALONE = Path(__file__).parent.parent / "docs" / "standalone.py"
W = 16  # the window of the tiny GPT; its second layer sees further back than the first
PROMPT, LENGTH = "The old clock", 350
MODELS = {"gpt": "tiny_gpt", "bigram": "tiny_bigram"}  # fixtures
EXPORTABLE = [name for name, family in MODEL_REGISTRY.items() if family.functional_state]
CALL = """
import runpy, sys
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sorted({"gpt", "train", "ui", "tests", "tokenizers", "safetensors"} & sys.modules.keys()), file=sys.stderr, end="")
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder of .pt2 files by family, each exported once: that takes seconds."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(params=EXPORTABLE)
def pair(request, tokenizer, programs):
    """A model of each exportable family, and its program."""
    lm, path = LanguageModel(request.getfixturevalue(MODELS[request.param]), tokenizer, "tiny"), programs / f"{request.param}.pt2"
    if not path.exists():
        export(lm, path)
    return lm, open_program(path)


@pytest.fixture
def exported(lm, programs, tmp_path):
    """A .pt2 file of `lm`."""
    if not (programs / "gpt.pt2").exists():
        export(lm, programs / "gpt.pt2")
    return Path(shutil.copy(programs / "gpt.pt2", tmp_path / "model.pt2"))


@pytest.fixture
def run(command):
    return command("python -m gpt", main)


def greedy(lm, prompt=PROMPT):
    return lm.generate(prompt, SamplingParams(temperature=0, max_new_tokens=LENGTH)).text


def standalone(file, folder, prompt=PROMPT):
    """What the script generates in another folder, without importing this project."""
    call = f"import sys; sys.argv = [{str(STANDALONE)!r}, {str(file)!r}, {prompt!r}, '{LENGTH}']{CALL}"
    done = subprocess.run([sys.executable, "-I", "-c", call], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_logits_equal_those_of_the_model_for_any_batch_and_length(pair):
    lm, program = pair
    for batch_size, length in ((1, 1), (1, 5), (3, 1), (2, W), (5, W + 1), (2, 4 * W + 3)):
        ids = torch.randint(len(lm.tokenizer), (batch_size, length), generator=torch.Generator().manual_seed(length))
        expected, _ = lm.model(ids)
        assert expected.std() > 0.1
        assert_close(program.model(ids)[0], expected)
        state, parts = None, []
        for piece in ids.split(3, dim=1):
            logits, state = program.model(piece, state)
            parts.append(logits)
        assert_close(torch.cat(parts, dim=1), expected)


@pytest.mark.slow
def test_texts_equal_those_of_the_model_greedy_or_sampled_alone_or_in_a_batch(pair):
    lm, program = pair
    assert (program.name, program.context_length) == ("tiny", lm.context_length)
    assert program.num_parameters == lm.num_parameters
    assert greedy(program) == greedy(lm)
    prompts = ["", PROMPT, "before " * 9]
    params = [SamplingParams(seed=seed, temperature=1.2, top_k=20, max_new_tokens=60 + seed) for seed in range(3)]
    batch = zip(*program.stream_batch(prompts, params), strict=True)
    texts = ["".join(step.text for step in steps if step) for steps in batch]
    assert texts == [lm.generate(prompt, p).text for prompt, p in zip(prompts, params, strict=True)]
    assert program.score(PROMPT).nll == pytest.approx(lm.score(PROMPT).nll, abs=1e-4)


@pytest.mark.slow
def test_a_call_does_not_change_its_input_state(lm, exported):
    model = open_program(exported).model
    _, state = model(torch.ones(1, 5, dtype=torch.long))
    before = [tensor.clone() for tensor in state]
    model(torch.ones(1, 5, dtype=torch.long), state)
    assert all(map(torch.equal, before, state))


@pytest.mark.slow
def test_the_script_runs_a_gpt_without_this_project(lm, exported, tmp_path):
    assert standalone(exported, tmp_path) == greedy(lm)


@pytest.mark.slow
def test_the_script_runs_a_bigram(tiny_bigram, tokenizer, tmp_path):
    lm = LanguageModel(tiny_bigram, tokenizer)
    export(lm, tmp_path / "bigram.pt2")
    assert standalone(tmp_path / "bigram.pt2", tmp_path) == greedy(lm)


@pytest.mark.slow
def test_the_script_starts_each_document_afresh(make_gpt, tokenizer, tmp_path):
    model = make_gpt(vocab_size=len(tokenizer), eos_token_id=tokenizer.start_id)
    lm = LanguageModel(model, tokenizer)
    with torch.no_grad():
        model.lm_head.weight[lm.eos_token_id] *= 3  # so that documents end
    export(lm, tmp_path / "documents.pt2")
    for prompt in ("", PROMPT):
        expected = greedy(lm, prompt)
        assert "\n" in expected
        assert standalone(tmp_path / "documents.pt2", tmp_path, prompt) == expected


@pytest.mark.slow
def test_a_prompt_of_unknown_characters_is_an_error_in_the_script(exported):
    done = subprocess.run([sys.executable, STANDALONE, exported, "é~", "9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "é" in done.stderr


@pytest.mark.slow
def test_bpe_runs_in_the_library_and_is_an_error_in_the_script(bpe, make_gpt, tmp_path):
    lm, file = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe), tmp_path / "model.pt2"
    export(lm, file)
    assert greedy(open_program(file)) == greedy(lm)
    done = subprocess.run([sys.executable, STANDALONE, file, PROMPT, "9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python -m gpt --model {file}" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_line_exports_and_generates(run, folder, tmp_path):
    out = tmp_path / "made" / "model.pt2"
    status, out_text, err = run("export", folder, "--out", out)
    assert (status, out_text) == (0, "")
    assert err.startswith(f"{out} (")
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    for options in (["--temperature", 0], ["--temperature", 0.9, "--top-p", 0.9, "--seed", 3]):
        write = "--prompt", PROMPT, "--length", LENGTH, "--seed", 1, *options
        assert run("--model", out, *write) == run("--model", folder, *write)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler is installed")
def test_a_compiled_program_generates_the_same(run, lm, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "model.pt2"
    status, out_text, _ = run("export", folder, "--out", out, "--compile")
    assert (status, out_text) == (0, "")
    with zipfile.ZipFile(out) as archive:
        assert any(name.endswith(".so") for name in archive.namelist())
    assert greedy(open_program(out)) == greedy(lm)
    assert standalone(out, tmp_path) == greedy(lm)
    ids = torch.randint(len(lm.tokenizer), (3, 4 * W + 3), generator=torch.Generator().manual_seed(0))
    assert_close(open_program(out).model(ids)[0], lm.model(ids)[0])


def test_the_file_contains_no_class_and_no_path_of_this_project(exported):
    with zipfile.ZipFile(exported) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        assert archive.read("archive/data/sample_inputs/model.pt") == b""  # which would be a pickle
    for trace in (b"gpt.models.transformer", b"gpt.export", b"transformer.py", str(STANDALONE.parent.parent).encode()):
        assert trace not in content


# Bad input


def error_of(run, *args):
    status, out, err = run(*args)
    assert (out, err) == ("", "")
    assert str(status).startswith("python -m gpt: ")
    assert "\n" not in status
    return status.removeprefix("python -m gpt: ")


def test_an_existing_file_is_not_replaced(run, folder, tmp_path):
    out = tmp_path / "model.pt2"
    out.write_text("mine")
    assert error_of(run, "export", folder, "--out", out) == f"{out} exists; remove it, or choose another --out"
    assert out.read_text() == "mine"


def test_another_suffix_is_an_error(run, folder, tmp_path):
    assert error_of(run, "export", folder, "--out", tmp_path / "m.pt").startswith(f"{tmp_path / 'm.pt'} must end in .pt2")


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_an_error(run, folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "model.pt2 cannot be written (" in error_of(run, "export", folder, "--out", tmp_path / "file" / "model.pt2")


def test_a_missing_model_is_an_error_and_leaves_no_file(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json is missing" in error_of(run, "export", tmp_path / "empty", "--out", tmp_path / "model.pt2")
    assert "there is no model 'gpt-shakespear'" in error_of(run, "export", "gpt-shakespear", "--out", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.slow
def test_an_interrupted_write_leaves_no_file(run, folder, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    out = tmp_path / "new" / "model.pt2"
    assert "cannot be written (No space left on device)" in error_of(run, "export", folder, "--out", out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["none", "one that compiles nothing"])
def test_a_missing_or_broken_cxx_compiler_is_an_error(folder, tmp_path, monkeypatch, compiler):
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


def test_a_missing_file_is_an_error(run, tmp_path):
    message = error_of(run, "--model", tmp_path / "model.pt2")
    assert message.startswith(
        f"there is no file {tmp_path / 'model.pt2'}; make it with `python -m gpt export FOLDER --out model.pt2`"
    )


def test_a_damaged_file_is_an_error_before_any_of_its_code_runs(run, exported, tmp_path, monkeypatch):
    def load_pt2(*_, **__):
        raise AssertionError("it was opened")

    monkeypatch.setattr("torch.export.pt2_archive._package.load_pt2", load_pt2)
    whole = exported.read_bytes()
    middle = len(whole) // 2
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("archive/extra/model.json", "[]")
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"no zip", whole[:-1], whole[:middle], flipped, other.getvalue()):
        exported.write_bytes(content)
        assert f"{exported} is damaged or was not written by" in error_of(run, "--model", exported)


def test_a_program_of_another_project_is_an_error(run, tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "model.pt2")
    assert "was not written by `python -m gpt export`" in error_of(run, "--model", tmp_path / "model.pt2")


def test_a_program_that_this_pytorch_cannot_run_is_an_error(run, exported):
    with zipfile.ZipFile(exported) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(exported, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content.replace(b"aten.linear", b"aten.linolium") if name.endswith("model.json") else content)
    message = error_of(run, "--model", exported)
    version = torch.__version__
    assert message.startswith(f"PyTorch {version} on this machine cannot run {exported}, which PyTorch {version} wrote;")


def test_a_revision_of_a_file_is_an_error(run, exported):
    assert "--revision is 'main'" in error_of(run, "--model", exported, "--revision", "main")


def test_load_never_opens_a_program(lm, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in (exported, "model.pt2", exported.rename(tmp_path / "runs" / "model.pt2"), "runs/model.pt2"):
        if Path(path).exists():
            with pytest.raises(CheckpointError, match="is a program, which runs code when it is opened"):
                load(path)
    with pytest.raises(CheckpointError):
        load("model.pt2")


def test_a_folder_may_have_that_suffix(run, tiny_gpt, tokenizer, tmp_path):
    save(tmp_path / "odd.pt2", tiny_gpt, tokenizer)
    assert run("--model", tmp_path / "odd.pt2", "--length", 3, "--seed", 1)[0] == 0


def test_every_exportable_family_is_tested():
    assert set(EXPORTABLE) == set(MODELS)


@pytest.mark.parametrize("name", ["ngram-shakespeare", "mixture-shakespeare"])
def test_export_error_names_families_as_people_know_them(run, tmp_path, name):
    message = error_of(run, "export", name, "--out", tmp_path / "model.pt2")
    assert message.startswith(f"{name} is ")
    assert "gpt" in message
    assert "bigram" in message
    assert "qwen3" not in message
    assert not list(tmp_path.iterdir())

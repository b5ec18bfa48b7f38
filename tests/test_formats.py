"""Other programs generate the same greedy text from what `python -m gpt export` writes. Programs that are missing are skipped."""

import sys

import pytest
import torch

from gpt import LanguageModel, SamplingParams, Tokenizer
from gpt.__main__ import main
from gpt.checkpoint import WEIGHTS, load

PROMPT, LENGTH = "The old clock", 60  # longer than the tiny window of 16
SCRIPT = "ünïcödé 日本語 👍🏽\n e\u0301 <|x|> Ġ"


@pytest.fixture
def run(command):
    return command("python -m gpt", main)


def greedy(lm, prompt=PROMPT, length=LENGTH):
    return lm.generate(prompt, SamplingParams(temperature=0, max_new_tokens=length)).text


def error_of(run, *args):
    status, out, err = run(*args)
    assert (out, err) == ("", "")
    assert "\n" not in status
    return status.removeprefix("python -m gpt: ")


@pytest.fixture
def other_models(make_gpt, bpe, tokenizer):
    """Models whose tokenizers or documents differ, and a prompt for each; `~` is in no vocabulary of characters."""
    script = Tokenizer.from_text(SCRIPT)
    lines = make_gpt(vocab_size=len(tokenizer), eos_token_id=tokenizer.start_id, num_attention_heads=4)
    return [
        (LanguageModel(make_gpt(vocab_size=len(tokenizer)), tokenizer, "characters"), PROMPT + "~"),
        (LanguageModel(make_gpt(vocab_size=len(script)), script, "script"), SCRIPT + " 木 ü~"),
        (LanguageModel(make_gpt(vocab_size=len(bpe)), bpe, "bytes"), f"{PROMPT} don't  see {SCRIPT}"),
        (LanguageModel(lines, tokenizer, "lines"), PROMPT),
    ]


# GGUF


def open_in_llama_cpp(path):
    """A function (prompt, length) -> the ids of the prompt and the greedy text, in float32."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed (pip install llama-cpp-python)")
    f32 = llama_cpp.GGML_TYPE_F32
    llama = llama_cpp.Llama(str(path), n_ctx=1024, n_threads=1, type_k=f32, type_v=f32, verbose=False)

    def generate(prompt, length):
        ids, pieces = llama.tokenize(prompt.encode()), []
        for token in llama.generate(ids, temp=0):
            if token == llama.token_eos() or len(pieces) == length:
                break
            pieces.append(llama.detokenize([token]))
        return ids, b"".join(pieces).decode(errors="replace")

    return generate


@pytest.mark.slow
def test_llama_cpp_generates_the_same(other_models, tmp_path):
    from gpt.gguf import export_gguf

    for lm, prompt in other_models:
        export_gguf(lm, tmp_path / f"{lm.name}.gguf")
        ids, text = open_in_llama_cpp(tmp_path / f"{lm.name}.gguf")(prompt, LENGTH)
        assert ids == lm.context_ids(lm.tokenizer.encode(prompt).ids)
        assert text == greedy(lm, prompt).partition("\n" if lm.eos_token_id is not None else "\0")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-shakespeare", "bpe-shakespeare"])
def test_llama_cpp_generates_the_text_of_a_shipped_model(run, name, tmp_path):
    out = tmp_path / "model.gguf"
    assert run("export", name, "--format", "gguf", "--out", out)[:2] == (0, "")
    assert open_in_llama_cpp(out)("ROMEO:", 500)[1] == greedy(load(WEIGHTS / name), "ROMEO:", 500)


@pytest.mark.slow
def test_gguf_has_the_weights_in_float32_and_an_end_token_that_is_never_the_likeliest(other_models, tmp_path):
    import gguf

    from gpt.gguf import END, export_gguf

    for lm, _ in other_models:
        export_gguf(lm, tmp_path / f"{lm.name}.gguf")
        reader = gguf.GGUFReader(tmp_path / f"{lm.name}.gguf")
        tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        size, head, tokens = len(lm.tokenizer), lm.model.lm_head.weight, reader.fields["tokenizer.ggml.tokens"].contents()
        assert torch.equal(tensors["output.weight"][:size], head)
        end = reader.fields["tokenizer.ggml.eos_token_id"].contents()
        if lm.eos_token_id is None:
            assert tokens[end] == END
            assert end == size
            logits = torch.randn(100, head.shape[1], generator=torch.Generator().manual_seed(0)) @ tensors["output.weight"].T
            assert (logits[:, end] < logits[:, :size].max(dim=-1).values).all()
        else:
            assert end == lm.eos_token_id
            assert len(tokens) == size


def test_gguf_errors_are_one_sentence(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "model.gguf"
    export = "export", folder, "--format", "gguf", "--out"
    assert error_of(run, *export, tmp_path / "model.pt2").startswith(f"{tmp_path / 'model.pt2'} must end in .gguf")
    assert error_of(run, *export, out, "--compile") == "--compile is for --format pt2, not gguf; leave it out"
    assert "ngram-names is an n-gram" in error_of(run, "export", "ngram-names", "--format", "gguf", "--out", out)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert error_of(run, *export, out) == "GGUF needs the package gguf; install it with `pip install gguf`"
    out.write_text("mine")
    assert error_of(run, *export, out) == f"{out} exists; remove it, or choose another --out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "tiny"]

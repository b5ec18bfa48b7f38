"""Other programs generate the same greedy text from what `python -m gpt export` writes. Programs that are missing are skipped."""

import json
import os
import subprocess
import sys

import numpy as np
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


# ONNX


class ONNXModel:
    """What an ONNX runtime computes, with the cache that its outputs make."""

    def __init__(self, folder):
        onnxruntime = pytest.importorskip("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options)
        self.inputs, self.outputs = (
            {value.name: value.shape for value in values} for values in (self.session.get_inputs(), self.session.get_outputs())
        )

    def forward(self, ids, mask, past=None):
        """Logits (B, T, V) of ids (B, T), and the cache; the mask (B, S) is 0 for padding on the left."""
        names = [name for name in self.inputs if name.startswith("past_key_values.")]
        if past is None:
            past = [np.zeros((len(ids), self.inputs[name][1], 0, self.inputs[name][3]), np.float32) for name in names]
        positions = (mask.cumsum(1) - 1).clip(min=0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions} | dict(zip(names, past, strict=True))
        logits, *past = self.session.run(None, feeds)
        return torch.from_numpy(logits), past


@pytest.mark.slow
@torch.no_grad()
def test_onnx_logits_are_those_of_the_model_with_and_without_a_cache_or_padding(other_models, tmp_path):
    from gpt.onnx import export_onnx

    for lm, _ in other_models:
        export_onnx(lm, tmp_path / lm.name)
        onnx, layers = ONNXModel(tmp_path / lm.name), range(lm.model.config.num_hidden_layers)
        cache = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        assert [*onnx.inputs] == ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in cache)]
        assert [*onnx.outputs] == ["logits", *(f"present.{name}" for name in cache)]
        ids = torch.randint(len(lm.tokenizer), (2, 50), generator=torch.Generator().manual_seed(0))
        mask = np.ones((2, 50), np.int64)
        mask[1, :7] = 0
        logits, past = onnx.forward(ids[:, :30].numpy(), mask[:, :30])
        parts = [logits]
        for i in range(30, 50):
            logits, past = onnx.forward(ids[:, i : i + 1].numpy(), mask[:, : i + 1], past)
            parts.append(logits)
        logits = torch.cat(parts, dim=1)
        torch.testing.assert_close(logits[0], lm.model(ids[:1])[0][0], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[1, 7:], lm.model(ids[1:, 7:])[0][0], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-shakespeare", "bpe-shakespeare"])
def test_onnx_generates_the_text_of_a_shipped_model_in_python_and_node(run, name, tmp_path):
    out = tmp_path / "model"
    assert run("export", name, "--format", "onnx", "--out", out)[:2] == (0, "")
    lm, onnx = load(WEIGHTS / name), ONNXModel(out)
    expected = greedy(lm, "ROMEO:", 300)
    ids, past, token_ids = np.array([lm.tokenizer.encode("ROMEO:").ids]), None, []
    while len(token_ids) < 300:
        mask = np.ones((1, ids.shape[1] + (past[0].shape[2] if past else 0)), np.int64)
        logits, past = onnx.forward(ids, mask, past)
        token_ids.append(int(logits[0, -1].argmax()))
        ids = np.array([token_ids[-1:]])
    assert lm.tokenizer.decode(token_ids) == expected

    if not (WEIGHTS.parent / "node_modules" / "@huggingface" / "transformers").exists():
        pytest.skip("transformers.js is not installed (npm install --no-save @huggingface/transformers)")
    done = subprocess.run(["node", "docs/generate.js", out, "ROMEO:", "300"], capture_output=True, text=True, cwd=WEIGHTS.parent)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_onnx_folder_has_what_transformers_js_reads(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "new" / "model"
    status, printed, err = run("export", folder, "--format", "onnx", "--out", out)
    assert (status, printed) == (0, "")
    assert err.endswith("opens in ONNX Runtime and transformers.js\n")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert files == ["config.json", "generation_config.json", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads((out / "config.json").read_text())
    assert config.pop("transformers.js_config") == {"dtype": "fp32"}
    assert config == json.loads((folder / "config.json").read_text())
    assert os.listdir(out.parent) == ["model"]
    assert "exists" in error_of(run, "export", folder, "--format", "onnx", "--out", out)
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = error_of(run, "export", folder, "--format", "onnx", "--out", tmp_path / "other")
    assert message == "ONNX needs the package onnx; install it with `pip install onnx`"


# mlx-lm


@pytest.mark.slow
def test_mlx_lm_opens_the_weights_folder_and_generates_the_same_text():
    mx, mlx_lm = (pytest.importorskip(name, reason="mlx-lm is not installed") for name in ("mlx.core", "mlx_lm"))
    mx.set_default_device(mx.cpu)
    model, tokenizer = mlx_lm.load(str(WEIGHTS / "gpt-shakespeare"))
    model.set_dtype(mx.float32)  # else it computes in float16, as the weights are stored
    text = mlx_lm.generate(model, tokenizer, "ROMEO:", max_tokens=240)  # up to the window, which its Qwen3 does not have
    assert text == greedy(load("gpt-shakespeare"), "ROMEO:", 240)

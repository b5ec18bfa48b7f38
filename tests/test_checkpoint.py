import json
import os
import struct

import pytest
import safetensors
import safetensors.torch
import torch

import gpt.checkpoint
from gpt import GPTConfig, SamplingParams, Tokenizer, load
from gpt.checkpoint import NEEDED, CheckpointError, atomic_write, names, save

MEND = "train or download the model again"


def refusal(folder) -> str:
    """What `load` says of a folder: one sentence, with what to do."""
    with pytest.raises(CheckpointError) as error:
        load(folder)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 400 + len(str(folder))
    assert said.endswith(f"; {MEND}")
    return said.removesuffix(f"; {MEND}")


def metadata(folder) -> dict[str, str]:
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.metadata()


# GenerationSession


def test_a_folder_has_the_files_that_engines_read(folder):
    assert {path.name for path in folder.iterdir()} == {*NEEDED, "generation_config.json", "tokenizer_config.json"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["do_sample"] is True
    assert generation["temperature"] == SamplingParams().temperature
    assert generation["top_k"] == 0


def test_saving_again_gives_the_same(tiny_gpt, tokenizer, folder, tmp_path):
    save(tmp_path / "again", tiny_gpt, tokenizer)
    for path in folder.iterdir():
        again = (tmp_path / "again" / path.name).read_bytes()
        if path.suffix == ".safetensors":  # the library writes the two keys of its metadata in any order
            assert metadata(tmp_path / "again") == metadata(folder)
            assert len(again) == path.stat().st_size
        else:
            assert again == path.read_bytes()


def test_weights_carry_their_sha256(folder):
    assert len(metadata(folder)["sha256"]) == 64
    assert metadata(folder)["format"] == "pt"


def test_weights_of_less_precision_can_be_saved_and_opened(tiny_gpt, tokenizer, tmp_path):
    save(tmp_path / "half", tiny_gpt.bfloat16(), tokenizer)
    opened = load(tmp_path / "half").model.state_dict()
    assert all(torch.equal(opened[name], weight.float()) for name, weight in tiny_gpt.state_dict().items())


def test_an_open_model_and_its_file_do_not_change_each_other(folder, tiny_bigram, tokenizer):
    weights = (folder / "model.safetensors").read_bytes()
    lm, other = load(folder), load(folder)
    params = SamplingParams(temperature=0, max_new_tokens=20)
    text = lm.generate("The", params).text
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == weights
    save(folder, tiny_bigram, tokenizer)
    assert lm.generate("The", params).text == text


def test_opening_a_model_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert all(tensor.device.type == "cpu" for tensor in load(folder).model.buffers())
    assert torch.equal(torch.rand(4), expected)


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    atomic_write(path, "old")

    def fail(*_):
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="the disk is full"):
                atomic_write(path, "new")
        assert path.read_text() == "old"
        assert list(path.parent.iterdir()) == [path]
    atomic_write(path, b"new")
    assert path.read_text() == "new"


# Finding


def test_a_name_under_weights(folder, monkeypatch):
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", folder.parent)
    assert names() == ["tiny"]
    assert load("tiny").name == "tiny"


def test_a_name_under_weights_comes_before_a_folder_here(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", folder.parent)
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load("tiny").parameters > 0


def test_a_folder_is_named_after_itself(folder, monkeypatch):
    assert load(folder).name == load(str(folder) + "/").name == "tiny"
    monkeypatch.chdir(folder)
    assert load(".").name == "tiny"


def test_the_nearest_name_is_suggested(folder, monkeypatch):
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", folder.parent)
    with pytest.raises(CheckpointError, match="there is no model 'tinny'; did you mean 'tiny'"):
        load("tinny")
    with pytest.raises(CheckpointError, match=r"there is no model 'zebra'; weights/ has tiny. A folder or a Hub id"):
        load("zebra")


@pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "a b/c", "../none", "/none/at/all", "a/b/c", "a/b--c", "a/b.git", "a/-b"])
def test_what_is_no_model_at_all_is_refused(name):
    with pytest.raises(CheckpointError, match=r"there is no model|cannot be a Hub id"):
        load(name)


# Damage


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert refusal(folder) == f"{folder / name} is missing"


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path / 'config.json'} is missing"


@pytest.mark.parametrize("name", NEEDED)
def test_a_folder_in_the_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refusal(folder) == f"{folder / name} is missing"


@pytest.mark.parametrize("name", NEEDED[:2])
def test_a_file_that_cannot_be_read_is_named(folder, name, monkeypatch):
    read = type(folder).read_text

    def refuse(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(type(folder), "read_text", refuse)
    assert refusal(folder) == f"{folder / name} cannot be read (Permission denied)"


def test_weights_that_cannot_be_read_are_named(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    assert refusal(folder) == f"{folder / 'model.safetensors'} cannot be read (Permission denied)"


def test_a_shipped_model_tells_how_to_restore_it(folder, monkeypatch):
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", folder.parent)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is missing; restore it with `git checkout -- weights/tiny`$"):
        load("tiny")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b'"qwen3"', "it is not a JSON object"),
        (b"{}", "it has no model_type"),
        (b'{"model_type": ["qwen3"]}', "it has no model_type"),
        (b'{"model_type": "bigram"}', "vocab_size is None; it must be a whole number above 0 and at most 16,384"),
        (b'{"model_type": "bigram", "vocab_size": 1000000000000}', "vocab_size is 1000000000000; it must be a whole number"),
    ],
)
def test_a_damaged_config_is_named(folder, content, reason):
    (folder / "config.json").write_bytes(content)
    said = refusal(folder)
    assert said.startswith(f"{folder / 'config.json'} is damaged or does not fit ({reason}")


def test_a_model_of_an_unknown_kind_is_told(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        CheckpointError,
        match=r"^tiny is a model of the kind 'llama'; what opens here is bigram, ngram, lstm, vae, qwen3, mixture$",
    ):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("hidden_size", 10**12),
        ("hidden_size", 63.5),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "2"),
        ("num_hidden_layers", -1),
        ("num_key_value_heads", 3),
        ("vocab_size", 10**12),
        ("sliding_window", 10**12),
        ("head_dim", 31),
        ("rope_parameters", 10_000),
        ("rms_norm_eps", float("nan")),
        ("layer_types", ["full_attention"] * 2),
    ],
)
def test_a_config_with_a_wrong_value_is_named(folder, name, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    said = refusal(folder)
    assert said.startswith(f"{folder / 'config.json'} is damaged or does not fit (")
    assert "key/value heads" in said or f"({name} is " in said


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"])
def test_weights_of_other_sizes_than_the_config_are_refused(folder, name):
    config = json.loads((folder / "config.json").read_text())
    config[name] *= 2
    config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    said = refusal(folder)
    assert said.startswith(f"{folder / 'model.safetensors'} is damaged or does not fit (")
    assert "config.json wants" in said


def test_the_greatest_sizes_are_refused_without_taking_memory(folder):
    greatest = GPTConfig(
        vocab_size=len(load(folder).tokenizer),
        hidden_size=2**18,
        intermediate_size=2**18,
        num_hidden_layers=40,
        num_attention_heads=2**18,
        num_key_value_heads=2**18,
        head_dim=2**18,
        sliding_window=2**15,
    )
    (folder / "config.json").write_text(json.dumps(greatest.to_dict()))
    assert "config.json wants" in refusal(folder)


def test_weights_of_another_model_are_refused(folder, tiny_bigram, tokenizer, tmp_path):
    save(tmp_path / "bigram", tiny_bigram, tokenizer)
    (folder / "model.safetensors").write_bytes((tmp_path / "bigram" / "model.safetensors").read_bytes())
    assert "lm_head.weight is not there, config.json wants (" in refusal(folder)


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.5, 0.999])
def test_weights_cut_short_are_named(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(folder) == f"{path} is damaged or does not fit (it is cut short, or no safetensors file)"


def test_weights_that_are_another_file_are_named(folder):
    path = folder / "model.safetensors"
    for content in (b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 100):
        path.write_bytes(content)
        assert refusal(folder) == f"{path} is damaged or does not fit (it is cut short, or no safetensors file)"


def test_every_flipped_bit_is_found(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = [0, 3, 7, 8, 9, 20, 100, header - 2, header, header + 1, (header + len(content)) // 2, len(content) - 1]
    for place in places:
        for bit in (0, 6):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            assert refusal(folder).startswith(f"{path} is damaged or does not fit ("), (place, bit)
    path.write_bytes(content)
    assert load(folder).parameters > 0


@pytest.mark.parametrize("where", ["length", "tensor"])
def test_a_header_that_claims_terabytes_is_refused(folder, where):
    path = folder / "model.safetensors"
    if where == "length":
        path.write_bytes(struct.pack("<Q", 2**43) + path.read_bytes()[8:])
    else:
        size = 2**43
        header = json.dumps({"logits": {"dtype": "F32", "shape": [2**41], "data_offsets": [0, size]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    assert refusal(folder) == f"{path} is damaged or does not fit (it is cut short, or no safetensors file)"


def test_weights_without_a_sha256_open(folder, tiny_gpt):
    safetensors.torch.save_file(tiny_gpt.state_dict(), folder / "model.safetensors")
    assert load(folder).parameters > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1, 2]", b'{"model": {"type": "BPE", "vocab": 3}}'])
def test_a_broken_tokenizer_is_named(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert refusal(folder).startswith(f"{folder / 'tokenizer.json'} is damaged or does not fit (")


def test_a_tokenizer_of_another_size_is_named(folder):
    (folder / "tokenizer.json").write_text(Tokenizer.from_text("abc").files()["tokenizer.json"])
    assert "tokenizer.json is damaged or does not fit (it has 4 tokens, config.json says" in refusal(folder)


def test_nothing_is_unpickled(folder):
    # A pickle in the place of the weights is refused before any of it is run.
    torch.save({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert "it is cut short, or no safetensors file" in refusal(folder)

import errno
import json
import os
import struct

import pytest
import safetensors
import safetensors.torch
import torch

import gpt.checkpoint
import gpt.tokenizer
from gpt import GPTConfig, LatentModel, SamplingParams, Tokenizer, load
from gpt.checkpoint import NEEDED, CheckpointError, atomic_write, names, save
from gpt.models.registry import MODEL_REGISTRY

HINT = "train or download the model again"
NOT_SAFETENSORS = "it is truncated, or not a safetensors file"


@pytest.fixture
def shipped(folder, monkeypatch):
    """The folder of a tiny GPT, as the only model under weights/."""
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", folder.parent)
    return folder


def error_of(model, **options) -> str:
    """The message of `load`: one sentence without line breaks."""
    with pytest.raises(CheckpointError) as error:
        load(model, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(model)[:200])
    return message


def damage_of(folder) -> str:
    """What is wrong with a folder, without the hint."""
    message = error_of(folder)
    assert message.endswith(f"; {HINT}")
    return message.removesuffix(f"; {HINT}")


def metadata(folder) -> dict[str, str]:
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        return file.metadata()


# Save


def test_folder_has_the_files_that_engines_read(folder):
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
        if path.suffix == ".safetensors":  # the order of the two metadata keys varies
            assert metadata(tmp_path / "again") == metadata(folder)
            assert len(again) == path.stat().st_size
        else:
            assert again == path.read_bytes()


def test_weights_of_lower_precision_round_trip(tiny_gpt, tokenizer, tmp_path):
    save(tmp_path / "half", tiny_gpt.bfloat16(), tokenizer)
    loaded = load(tmp_path / "half").model.state_dict()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in tiny_gpt.state_dict().items())


def test_loaded_model_and_its_file_are_independent(folder, tiny_bigram, tokenizer):
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


def test_load_leaves_the_global_generator_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert all(tensor.device.type == "cpu" for tensor in load(folder).model.buffers())
    assert torch.equal(torch.rand(4), expected)


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    atomic_write(path, "old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="the disk is full"):
                atomic_write(path, "new")
        assert path.read_text() == "old"
        assert list(path.parent.iterdir()) == [path]
    atomic_write(path, b"new")
    assert path.read_text() == "new"


# Find


def test_name_under_weights_wins_over_a_folder_of_the_same_name(shipped, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names() == ["tiny"]
    assert load("tiny").name == "tiny"
    (shipped / "model.safetensors").unlink()
    assert "restore it with `git checkout -- weights/tiny`" in error_of("tiny")


def test_folder_is_named_after_itself(folder, monkeypatch):
    assert load(folder).name == load(str(folder) + "/").name == "tiny"
    monkeypatch.chdir(folder)
    assert load(".").name == "tiny"


def test_nearest_name_is_suggested(shipped):
    assert "there is no model 'tinny'; did you mean 'tiny'?" in error_of("tinny")
    assert "weights/ has tiny" in error_of("zebra")


def test_mistyped_folder_is_reported_as_a_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "there is no folder 'runs/mins'; did you mean 'runs/mine'?" in error_of("runs/mins")
    for name in ("runs/nothing", "./x", "../none", "~/none", "/none/at/all", "a/b/c", "runs/nothing/at/all", "a b/c"):
        assert f"there is no folder {name!r}; " in error_of(name)


@pytest.mark.parametrize("name", ["", "\0", "./\0/x", "x" * 5000, "a\nb", "a/b--c", "a/b.git", "a/-b"])
def test_string_that_cannot_be_a_model_is_refused(name):
    assert "there is no" in (message := error_of(name)) or "cannot be a Hub id" in message


def test_shipped_name_in_an_installation_without_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt.checkpoint, "WEIGHTS", tmp_path / "none")
    message = error_of("gpt-shakespeare")
    assert "clone" in message
    assert "user/repo" in message
    assert load(folder).name == "tiny"


def test_local_model_has_no_revision(shipped, tmp_path):
    for model in ("tiny", str(shipped)):
        assert "has no revision 'main'" in error_of(model, revision="main")


def test_device_is_passed_to_the_model(folder):
    lm = load(folder, device="meta")  # no second device exists on the test machine
    assert lm.device.type == "meta"
    assert {parameter.device.type for parameter in lm.model.parameters()} == {"meta"}
    vae = load("vae-names", device="meta")
    assert isinstance(vae, LatentModel)
    assert vae.device.type == "meta"


def test_run_stopped_before_its_first_evaluation_suggests_resume(tmp_path):
    (tmp_path / "resume.pt").write_bytes(b"")
    message = error_of(tmp_path)
    assert "before its first evaluation" in message
    assert "--resume" in message


# Damage


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("is_folder", [False, True])
def test_missing_file_is_named(folder, name, is_folder):
    (folder / name).unlink()
    if is_folder:
        (folder / name).mkdir()
    assert damage_of(folder) == f"{folder / name} is missing"


@pytest.mark.parametrize(
    ("name", "owner", "method"),
    [
        ("config.json", gpt.checkpoint, "read_text"),
        ("tokenizer.json", gpt.tokenizer, "read_text"),
        ("model.safetensors", safetensors, "safe_open"),
    ],
)
def test_unreadable_file_is_named(folder, name, owner, method, monkeypatch):
    original = getattr(owner, method)

    def refuse(path, *args, **kwargs):
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(owner, method, refuse)
    assert damage_of(folder) == f"{folder / name} cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b'"qwen3"', "it is not a JSON object"),
        (b"{}", "it has no model_type"),
        (b'{"model_type": ["qwen3"]}', "it has no model_type"),
        (b'{"model_type": "llama"}', "its model_type is 'llama'; supported are "),
        (b'{"model_type": "bigram"}', "vocab_size is None; it must be a whole number"),
        (b'{"model_type": "bigram", "vocab_size": 1000000000000}', "vocab_size is 1000000000000; it must be a whole number"),
    ],
)
def test_damaged_config_is_named(folder, content, reason):
    (folder / "config.json").write_bytes(content)
    message = damage_of(folder)
    assert message.startswith(f"{folder / 'config.json'} is damaged or does not fit ({reason}")
    assert "supported" not in reason or all(family.model_type in message for family in MODEL_REGISTRY.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("hidden_size", 10**12),
        ("hidden_size", 63.5),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_key_value_heads", 3),
        ("vocab_size", 10**12),
        ("head_dim", 31),
        ("rope_parameters", 10_000),
        ("rms_norm_eps", float("nan")),
        ("layer_types", ["full_attention"] * 2),
    ],
)
def test_wrong_value_in_a_config_is_named(folder, name, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    message = damage_of(folder)
    assert message.startswith(f"{folder / 'config.json'} is damaged or does not fit (")
    assert "key/value heads" in message or f"({name} is " in message


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"])
def test_weights_that_do_not_fit_the_config_are_refused(folder, name):
    config = json.loads((folder / "config.json").read_text())
    config[name] *= 2
    config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    message = damage_of(folder)
    assert message.startswith(f"{folder / 'model.safetensors'} is damaged or does not fit (")
    assert "config.json needs" in message


def test_largest_sizes_are_refused_without_allocating_memory(folder):
    largest = GPTConfig(
        vocab_size=len(load(folder).tokenizer),
        hidden_size=2**18,
        intermediate_size=2**18,
        num_hidden_layers=40,
        num_attention_heads=2**18,
        num_key_value_heads=2**18,
        head_dim=2**18,
        sliding_window=2**15,
    )
    (folder / "config.json").write_text(json.dumps(largest.to_dict()))
    assert "config.json needs" in damage_of(folder)


def test_weights_of_another_model_are_refused(folder, tiny_bigram, tokenizer, tmp_path):
    save(tmp_path / "bigram", tiny_bigram, tokenizer)
    (folder / "model.safetensors").write_bytes((tmp_path / "bigram" / "model.safetensors").read_bytes())
    assert "lm_head.weight is missing, config.json needs (" in damage_of(folder)


def test_file_that_is_not_safetensors_is_named(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    truncated = [content[: int(len(content) * share)] for share in (0, 0.0001, 0.01, 0.5, 0.999)]
    terabytes = struct.pack("<Q", 2**43) + content[8:]
    header = json.dumps({"logits": {"dtype": "F32", "shape": [2**41], "data_offsets": [0, 2**43]}}).encode()
    claims = struct.pack("<Q", len(header)) + header + b"\0" * 64
    for other in (*truncated, terabytes, claims, b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(other)
        assert damage_of(folder) == f"{path} is damaged or does not fit ({NOT_SAFETENSORS})"


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
            assert damage_of(folder).startswith(f"{path} is damaged or does not fit ("), (place, bit)
    path.write_bytes(content)
    assert load(folder).num_parameters > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tiny_gpt, tokenizer, tmp_path, value):
    tiny_gpt.model["norm"].weight.data[3] = value
    save(tmp_path / "tiny", tiny_gpt, tokenizer)
    path = tmp_path / "tiny" / "model.safetensors"
    assert damage_of(path.parent) == f"{path} is damaged or does not fit (model.norm.weight contains numbers that are not finite)"


def test_weights_of_another_kind_are_named(folder, tiny_gpt):
    weights = tiny_gpt.state_dict()
    weights["model.norm.weight"] = weights["model.norm.weight"].long()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    assert "model.norm.weight is stored as torch.int64, which does not fit torch.float32" in damage_of(folder)


def test_weights_without_a_sha256_open(folder, tiny_gpt):
    safetensors.torch.save_file(tiny_gpt.state_dict(), folder / "model.safetensors")
    assert load(folder).num_parameters > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1, 2]", b'{"model": {"type": "BPE", "vocab": 3}}'])
def test_damaged_tokenizer_is_named(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert damage_of(folder).startswith(f"{folder / 'tokenizer.json'} is damaged or does not fit (")


def test_tokenizer_of_another_size_is_named(folder):
    (folder / "tokenizer.json").write_text(Tokenizer.from_text("abc").files()["tokenizer.json"])
    assert "tokenizer.json is damaged or does not fit (it has 4 tokens, config.json says" in damage_of(folder)


def test_pickle_is_not_opened(folder):
    torch.save({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert NOT_SAFETENSORS in damage_of(folder)

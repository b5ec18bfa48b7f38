"""Weights folders of strangers: configs and safetensors files that are broken, do not fit, or compute nonsense."""

import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import randomized

from gpt import (
    LSTM,
    VAE,
    Bigram,
    BigramConfig,
    CheckpointError,
    LanguageModel,
    LSTMConfig,
    Mixture,
    NGram,
    SamplingParams,
    Tokenizer,
    VAEConfig,
    load,
)
from gpt.checkpoint import save
from gpt.inspection import find_gpt, inspect
from gpt.models.ngram import count_ngrams

pytestmark = pytest.mark.usefixtures("clean_output")

NEVER_FINITE = (float("nan"), float("inf"), -float("inf"))
PARAMS = (SamplingParams(max_new_tokens=8, seed=1), SamplingParams(temperature=0, top_k=3, top_p=0.5, max_new_tokens=8, seed=1))


@pytest.fixture
def models(tiny_gpt, tiny_bigram, tokenizer, text) -> dict[str, torch.nn.Module]:
    """A tiny model of each family that the page opens from the Hub."""
    size, ids = len(tokenizer), torch.tensor(tokenizer.encode(text).ids)
    ngram = NGram.from_counts(count_ngrams(ids, size, 3), size)
    return {
        "gpt": tiny_gpt,
        "bigram": tiny_bigram,
        "ngram": ngram,
        "lstm": randomized(LSTM(LSTMConfig(size, 16, 1))),
        "mixture": Mixture.of(tiny_gpt, ngram, 0.5),
        "vae": randomized(VAE(VAEConfig(size, 0, 16, 8, 4))),
    }


def write_weights(folder, weights) -> None:
    """Replace the weights of a folder, without their sha256, as whoever damages them on purpose does."""
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def use(lm) -> None:
    """With any weights, text comes out, or one sentence."""
    for engine in ("C", "PyTorch") if isinstance(lm, LanguageModel) else ():
        lm.engine = engine
        for params in PARAMS:
            assert all(0 <= i < len(lm.tokenizer) for i in lm.generate("the", params).token_ids)


@pytest.mark.parametrize("name", ["gpt", "bigram", "ngram", "lstm", "mixture", "vae"])
def test_weights_that_are_not_finite_are_refused(attack, models, tokenizer, tmp_path, name):
    save(tmp_path, models[name], tokenizer)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    places = [key for key, tensor in weights.items() if tensor.is_floating_point()]
    for i, key in enumerate(places):
        changed = weights[key].clone()
        changed.view(-1)[-1] = NEVER_FINITE[i % 3]
        write_weights(tmp_path, weights | {key: changed})
        message = attack.refused(lambda: load(tmp_path), CheckpointError)
        assert key in message or name in ("ngram", "mixture")


@pytest.mark.parametrize("name", ["gpt", "bigram", "lstm", "mixture", "vae"])
def test_huge_weights_end_in_text_or_a_sentence(attack, models, tokenizer, tmp_path, name):
    """They are finite, but what is computed with them is not."""
    save(tmp_path, models[name], tokenizer)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for scale in (1e4, 1e38, -3e38):
        changed = {
            key: tensor.float().sign() * scale if tensor.is_floating_point() and "probs" not in key else tensor
            for key, tensor in weights.items()
        }
        write_weights(tmp_path, changed)
        lm = attack.survived(lambda: load(tmp_path), CheckpointError)
        if lm is None:
            continue
        attack.survived(lambda lm=lm: use(lm), ValueError)
        attack.survived(lambda lm=lm: lm.score("the clock"), ValueError)
        if gpt := find_gpt(lm.model):
            attack.survived(lambda gpt=gpt: inspect(gpt, torch.tensor([1, 2, 3])), ValueError)


def test_guard_stops_numbers_that_are_not_finite(attack, models, tokenizer):
    """Also where a model was made in memory, so that nothing checked it."""
    for name, model in models.items():
        for value in NEVER_FINITE:
            damaged = {
                key: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
                for key, tensor in model.state_dict().items()
            }
            if name in ("ngram", "mixture"):  # they check their own table
                continue
            model.load_state_dict(damaged)
            lm = LanguageModel(model, tokenizer)
            for engine in ("C", "PyTorch"):
                lm.engine = engine
                for params in PARAMS:
                    attack.refused(lambda lm=lm, params=params: lm.generate("the", params), ValueError)
            attack.refused(lambda lm=lm: lm.score("the"), ValueError)


def test_tensors_of_other_types_are_refused(attack, folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        for key in list(weights)[:4]:
            write_weights(folder, weights | {key: torch.ones_like(weights[key]).to(dtype)})
            attack.refused(lambda: load(folder), CheckpointError)
    for dtype in (torch.float64, torch.bfloat16, torch.float8_e4m3fn):
        write_weights(folder, {key: tensor.to(dtype) for key, tensor in weights.items()})
        attack.survived(lambda: use(load(folder)), CheckpointError)


def test_tables_of_ngrams_that_point_nowhere_are_refused(attack, models, tokenizer, tmp_path):
    save(tmp_path, models["ngram"], tokenizer)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    ids = weights["ngram_ids"]
    tables = [ids.flip(0), ids * 0, ids - 1, ids + 2**40, -ids, ids.sort(descending=True).values, torch.full_like(ids, 2**62)]
    for table in tables:
        write_weights(tmp_path, weights | {"ngram_ids": table})
        attack.refused(lambda: load(tmp_path), CheckpointError)
    for probs in (weights["probs"] * 0 + 1, -weights["probs"], weights["probs"] * 0 + 6e4):
        write_weights(tmp_path, weights | {"probs": probs})
        attack.refused(lambda: load(tmp_path), CheckpointError)


# The header of a safetensors file

CONTENT = safetensors.torch.save({"logits": torch.zeros(3, 3)}, {"format": "pt"})
SIZE = struct.unpack("<Q", CONTENT[:8])[0]
HEADER = json.loads(CONTENT[8 : 8 + SIZE])


@pytest.fixture
def table_folder(tmp_path):
    """The folder of a bigram of three tokens, which opens in a moment."""
    save(tmp_path / "table", Bigram(BigramConfig(3)), Tokenizer.from_text("ab"))
    return tmp_path / "table"


def open_weights(attack, folder, content: bytes):
    (folder / "model.safetensors").write_bytes(content)
    return attack.survived(lambda: load(folder), CheckpointError)


def with_header(header: bytes, data: bytes = CONTENT[8 + SIZE :], size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def test_hostile_headers(attack, table_folder):
    facts = HEADER["logits"]
    dtypes = ("F64", "I8", "F4", "", "f32", None, 4, "F" * 10_000)
    shapes = ([], [9], [3, 3, 1], [3, -3], [2**63, 2], [2**64], [0, 3], None, 9, [[3]], [1.5, 6], [3] * 50)
    places = ([0, 35], [36, 0], [0, 2**64], [-1, 35], [4, 40], [0], [], None, [0, 36, 36])
    tensors = [facts | {"dtype": dtype} for dtype in dtypes]
    tensors += [facts | {"shape": shape} for shape in shapes]
    tensors += [facts | {"data_offsets": place} for place in places]
    tensors += [{}, [], None, "logits", 3, facts | {"unheard of": 1}]
    names = ("", "\n", "\0", "a" * 100_000, "logits\nTraceback", "\u202elogits", "__metadata__")
    metadata = (None, [], 3, {"sha256": "0" * 64}, {"sha256": 3}, {"a": "b" * 10**6}, {"": {}})
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [36, 36]}
    headers = [HEADER | {"logits": tensor} for tensor in tensors]
    headers += [{name: facts} for name in names]
    headers += [HEADER | {"__metadata__": value} for value in metadata]
    headers += [HEADER | {f"t{i}": empty for i in range(count)} for count in (1, 20_000)]
    headers += [[], None, 3, "x", {}, {"logits": facts, "other": facts}]
    for header in headers:
        open_weights(attack, table_folder, with_header(json.dumps(header).encode()))
    raw = json.dumps(HEADER).encode()
    garbage = (b"", b"{", b"\xff", b"{}" * 2, b"[" * 100_000, b'{"a":' * 100_000, b"\0" * 100)
    for header in (*garbage, raw + b" " * 10**6, raw[:-1], raw * 2):
        open_weights(attack, table_folder, with_header(header))
    for size in (0, 1, 7, SIZE - 1, SIZE + 1, len(CONTENT), 2**31, 2**32, 2**63, 2**64 - 1):
        open_weights(attack, table_folder, with_header(raw, size=size))
    for end in range(0, len(CONTENT), 1 if attack.is_full else 8):
        open_weights(attack, table_folder, CONTENT[:end])


def test_file_that_is_larger_than_it_takes_on_the_disk(attack, table_folder):
    with open(table_folder / "model.safetensors", "wb") as file:
        file.write(CONTENT)
        file.truncate(2**40)
    attack.refused(lambda: load(table_folder), CheckpointError)
    for name in ("config.json", "tokenizer.json"):
        with open(table_folder / name, "wb") as file:
            file.truncate(2**40)
        attack.refused(lambda: load(table_folder), CheckpointError)


@given(data=st.data())
def test_changed_bytes(attack, table_folder, data):
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    open_weights(attack, table_folder, bytes(content))


KEYS = st.text(max_size=8) | st.sampled_from(sorted(HEADER["logits"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)
ODD_VALUES = st.sampled_from([0, 1, 2, -1, 2**15, 2**31, 1e308, 5e-324, "", "qwen3", "bigram", [], {}])


@given(name=st.sampled_from([*HEADER["logits"], "__metadata__", "logits"]), value=JSON_VALUES)
def test_changed_header(attack, table_folder, name, value):
    header = HEADER | ({name: value} if name in HEADER else {"logits": HEADER["logits"] | {name: value}})
    open_weights(attack, table_folder, with_header(json.dumps(header).encode()))


# config.json


@given(data=st.data(), name=st.sampled_from(["gpt", "bigram", "ngram", "lstm", "mixture", "vae"]))
def test_changed_config(attack, models, tokenizer, tmp_path, data, name):
    folder = tmp_path / name
    if not folder.exists():
        save(folder, models[name], tokenizer)
        (folder / "original.json").write_bytes((folder / "config.json").read_bytes())
    config = json.loads((folder / "original.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    config[key] = data.draw(JSON_VALUES | ODD_VALUES)
    (folder / "config.json").write_text(json.dumps(config))
    lm = attack.survived(lambda: load(folder), CheckpointError)
    if lm is not None:
        attack.survived(lambda: use(lm), ValueError)


# Names of models


@given(st.text(max_size=300) | st.from_regex(r"[\w./~-]{1,40}/[\w.-]{1,40}", fullmatch=True))
def test_names_of_models(attack, name):
    attack.refused(lambda: load(name, local_files_only=True), CheckpointError)

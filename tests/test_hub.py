"""`load("user/repo")` against a local Hub: downloading, the cache, and everything that can fail."""

import json
import logging
import os
import shutil
import struct
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging

from gpt import CheckpointError, load
from gpt.checkpoint import FILES, NEEDED, WEIGHTS, download, sha256_of_file
from gpt.hub import HubError, NullProgress, RepoFiles, list_files

V1, V2 = WEIGHTS / "bigram-names", WEIGHTS / "ngram-names"


@pytest.fixture
def model(tmp_path):
    """A copy of a weights folder, to be damaged."""
    return Path(shutil.copytree(V1, tmp_path / "tiny"))


@pytest.fixture
def no_waiting(monkeypatch):
    """The seconds that the client would have waited between its retries."""
    waits = []
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", waits.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    return waits


def error_of(*args, **options) -> str:
    """The message of `load`: one sentence."""
    with pytest.raises(CheckpointError) as error:
        load(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def publish(hub, folder):
    """Commit a folder as the newest version of alice/tiny."""
    repo = hub.repos.get(("model", "alice/tiny")) or hub.add("model", "alice/tiny", {})
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "publish")
    return repo.branches["main"]


def downloads(hub):
    return [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]


# The cache


def test_newer_commit_replaces_the_cached_one(hub):
    publish(hub, V1)
    assert load("alice/tiny").model.config.to_dict()["model_type"] == "bigram"
    publish(hub, V2)
    assert load("alice/tiny").model.config.to_dict()["model_type"] == "ngram"


def test_cached_model_is_not_downloaded_again(hub):
    publish(hub, V1)
    load("alice/tiny")
    hub.requests.clear()
    load("alice/tiny")
    assert len(hub.requests) == 1  # which commit is it now?
    assert downloads(hub) == []


@pytest.mark.parametrize("outage", ["no connection", "HF_HUB_OFFLINE", "no answer", "503", "local_files_only"])
def test_cache_is_used_without_the_hub(hub, outage, monkeypatch):
    publish(hub, V1)
    load("alice/tiny")
    publish(hub, V2)
    hub.requests.clear()
    if outage == "no connection":
        hub.close()
    elif outage == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif outage == "no answer":
        monkeypatch.setattr("gpt.hub.READ_TIMEOUT_S", 0.2)
        hub.stall = 5
    elif outage == "503":
        hub.status = 503
    start = time.monotonic()
    lm = load("alice/tiny", local_files_only=outage == "local_files_only")
    assert lm.model.config.to_dict()["model_type"] == "bigram"
    assert time.monotonic() - start < 4
    assert len(hub.requests) == (outage in ("no answer", "503"))


def test_pinned_commit_makes_no_request(hub):
    first = publish(hub, V1)
    publish(hub, V2)
    assert load("alice/tiny", first).model.config.to_dict()["model_type"] == "bigram"
    hub.requests.clear()
    assert load("alice/tiny", first).model.config.to_dict()["model_type"] == "bigram"
    assert hub.requests == []


def test_local_files_only_makes_no_request(hub):
    publish(hub, V1)
    assert "alice/tiny is not in the cache" in error_of("alice/tiny", local_files_only=True)
    assert hub.requests == []


def test_branch_is_opened(hub):
    publish(hub, V1)
    repo = hub.repos["model", "alice/tiny"]
    repo.commit("v2/wide", {path.name: path.read_bytes() for path in V2.iterdir()}, "publish")
    assert load("alice/tiny", "v2/wide").model.config.to_dict()["model_type"] == "ngram"
    assert load("alice/tiny").model.config.to_dict()["model_type"] == "bigram"


def test_damaged_cache_says_how_to_repair_it(hub):
    publish(hub, V1)
    load("alice/tiny")
    (weights,) = Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/model.safetensors")
    os.truncate(weights, 100)
    assert "remove it with `hf cache rm model/alice/tiny`" in error_of("alice/tiny")


def test_interrupted_download_is_not_opened_as_a_whole(hub, no_waiting):
    publish(hub, V1)
    hub.cut_downloads = 500
    error_of("alice/tiny")
    assert "is not in the cache" in error_of("alice/tiny", local_files_only=True)
    hub.cut_downloads = None
    assert load("alice/tiny").num_parameters > 0
    assert load("alice/tiny", local_files_only=True).num_parameters > 0


def test_list_files_resolves_a_revision_in_one_request(hub):
    commit = publish(hub, V1)
    files = list_files("alice/tiny", token=False)
    sha256 = {"model.safetensors": sha256_of_file(V1 / "model.safetensors")}
    assert files == RepoFiles(commit, {path.name: path.stat().st_size for path in V1.iterdir()}, sha256)
    assert len(hub.requests) == 1


def test_other_cache_leaves_no_file_behind(hub, tmp_path):
    commit = publish(hub, V1)
    folder = download("alice/tiny", commit, tmp_path / "temporary", NullProgress, token=False)
    assert folder.name == commit
    assert {path.name for path in folder.iterdir()} == {name for name in FILES if (V1 / name).is_file()}
    assert not Path(constants.HF_HUB_CACHE).exists()


# A library changes nothing of the process


def test_load_leaves_the_client_and_its_verbosity_alone(hub):
    publish(hub, V1)
    hub_logging.set_verbosity_warning()
    session, level = huggingface_hub.get_session(), logging.getLogger("huggingface_hub").level
    load("alice/tiny")
    error_of("alice/none")
    assert huggingface_hub.get_session() is session
    assert logging.getLogger("huggingface_hub").level == level


def test_folder_and_shipped_name_make_no_request(hub):
    load("bigram-shakespeare")
    load(V1)
    error_of("no-such-model")
    assert hub.requests == []


def test_folder_that_does_not_exist_makes_no_request(hub, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "there is no folder 'runs/nothing'" in error_of("runs/nothing")
    assert hub.requests == []
    assert "runs/nothing is not on the Hub" in error_of("runs/nothing", "main")  # a revision means the Hub


def test_installation_without_weights_opens_hub_models(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("gpt.checkpoint.WEIGHTS", tmp_path / "none")
    publish(hub, V1)
    assert load("alice/tiny").num_parameters > 0


# What cannot be opened


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["alice/none"], "alice/none is not on the Hub, or is private; check its name, or log in with `hf auth login`"),
        (["alice/secret"], "alice/secret is not on the Hub, or is private; "),
        (["alice/tiny", "v9"], "alice/tiny has no revision 'v9' on the Hub; "),
        (["alice/tiny", "0" * 40], f"alice/tiny has no revision '{'0' * 40}' on the Hub; "),
        (["alice/a--b"], "alice/a--b cannot be a Hub id; "),
    ],
)
def test_missing_repository_or_revision_is_named(hub, args, message):
    publish(hub, V1)
    hub.add_folder(V1, "alice/secret", private=True)
    assert error_of(*args).startswith(message)


def test_token_opens_a_private_model(hub, monkeypatch):
    hub.add_folder(V1, "alice/secret", private=True)
    monkeypatch.setenv("HF_TOKEN", hub.OTHER)
    assert "is not on the Hub, or is private" in error_of("alice/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "the Hub does not know this token" in error_of("alice/secret")
    monkeypatch.setenv("HF_TOKEN", hub.READ)
    assert load("alice/secret").num_parameters > 0
    with pytest.raises(HubError, match="is private"):
        list_files("alice/secret", token=False)


def test_unreachable_hub_fails_at_once(hub, monkeypatch):
    hub.close()
    start = time.monotonic()
    assert "127.0.0.1 cannot be reached" in error_of("alice/tiny")
    assert time.monotonic() - start < 5  # the library's download would retry for 23 s
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error_of("alice/tiny")


def test_hub_that_stops_while_it_sends_is_one_sentence(hub, no_waiting):
    publish(hub, V1)
    for size in (500, 0):
        hub.cut_downloads = size
        assert "127.0.0.1 cannot be reached, or closed the connection" in error_of("alice/tiny")


def test_cache_that_cannot_be_written_is_one_sentence(hub, monkeypatch, tmp_path):
    publish(hub, V1)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert "alice/tiny cannot be stored (" in error_of("alice/tiny")


@pytest.mark.parametrize("name", NEEDED)
def test_file_that_is_missing_on_the_hub_is_named(hub, model, name):
    (model / name).unlink()
    torch.save({"logits": torch.zeros(1)}, model / "pytorch_model.bin")  # a pickle is never downloaded
    publish(hub, model)
    assert f"alice/tiny/{name} is missing" in error_of("alice/tiny")
    assert not [path for path in downloads(hub) if path.endswith(".bin")]


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 2_000), "it is truncated, or not a safetensors file"),
    "flipped bit": (lambda f: flip_bit(f / "model.safetensors"), "its content does not match its own sha256"),
    "header of terabytes": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**43) + bytes(100)),
        "it is truncated, or not a safetensors file",
    ),
    "pickle": (lambda f: torch.save({}, f / "model.safetensors"), "it is truncated, or not a safetensors file"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "it is not JSON"),
    "unknown family": (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "its model_type is 'llama'"),
    "other size": (
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "bigram", "vocab_size": 28})),
        "it has 27 tokens, config.json says 28",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model_on_the_hub_is_refused(hub, model, tmp_path, damage):
    spoil, message = DAMAGE[damage]
    spoil(model)
    publish(hub, model)
    for _ in range(2):  # it is refused from the cache, too
        error = error_of("alice/tiny")
        assert message in error
        assert str(tmp_path) not in error
    has_weights = any(path.endswith("model.safetensors") for path in downloads(hub))
    assert has_weights == (damage not in ("no json", "unknown family", "other size"))  # the weights are downloaded last
    publish(hub, V1)
    assert load("alice/tiny").num_parameters > 0

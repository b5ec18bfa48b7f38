"""The panel "Open a model from the Hub", against a local Hub."""

import json
import tempfile
import threading

import pytest
import torch
from fake_hub import empty
from huggingface_hub import constants

from gpt import SamplingParams, load
from gpt.checkpoint import FILES
from ui import model_registry
from ui.hub_panel import on_open, open_from_hub
from ui.isolated_tokenizer import IsolatedTokenizer
from ui.model_registry import get_model, model_ids, open_hub_model
from ui.session import GenerationRequest
from ui.snippets import command_line, programs, python

SETTINGS = SamplingParams(max_new_tokens=40, seed=5)


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch, tmp_path):
    """Where models are downloaded to; nothing may stay there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    model_registry._hub_models.clear()
    assert empty(folder)
    assert empty(tmp_path / "home")


def weight_downloads(hub):
    return [path for method, path in hub.requests if method == "GET" and path.endswith("model.safetensors")]


def refused(id):
    """The sentence that a visitor sees instead of a model."""
    before = model_ids()
    *_, (message, opened) = on_open(id)
    assert "is open" not in message
    assert opened == ""
    assert model_ids() == before
    return message


@pytest.mark.slow
def test_model_is_downloaded_with_progress_and_generates(hub, folder):
    commit = hub.add_folder(folder).branches["main"]
    hub.stall = 0.3
    *messages, id = open_from_hub("alice/tiny")
    assert id == f"alice/tiny@{commit}"
    assert messages[0] == "Looking for alice/tiny on the Hub…"
    size = sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file()) / 1e6
    assert messages[-1].startswith("Downloading alice/tiny: ")
    assert messages[-1].endswith(f" of {size:.1f} MB…")
    assert id in model_ids()
    mine, theirs = get_model(id).lm, load(folder)
    assert isinstance(mine.tokenizer, IsolatedTokenizer)
    assert mine.generate("abc", SETTINGS).text == theirs.generate("abc", SETTINGS).text
    request = GenerationRequest(id, "x", SETTINGS)
    assert f"load('alice/tiny', revision='{commit}')" in python(request, 10)
    assert f"--model=alice/tiny --revision={commit} " in command_line(request, 10)
    (page,) = programs(request.query(40))["files"]
    assert page == {"name": "alice/tiny on the Hub", "url": f"https://huggingface.co/alice/tiny/tree/{commit}", "bytes": None}
    assert GenerationRequest.from_query(request.query(40), "gpt-shakespeare") == request


@pytest.mark.parametrize(
    "id", ["alice/tiny", " https://huggingface.co/alice/tiny/ ", "https://huggingface.co/alice/tiny", "alice/tiny@COMMIT"]
)
def test_ways_to_name_a_model(hub, folder, id):
    commit = hub.add_folder(folder).branches["main"]
    assert [*open_from_hub(id.replace("COMMIT", commit))][-1] == f"alice/tiny@{commit}"


@pytest.mark.parametrize(
    "id",
    ["", "tiny", "gpt-shakespeare", "../x", "a/b/c", "alice/tiny@main", "alice/ti ny", "<script>alert(1)</script>/x", "é/x"],
)
def test_invalid_hub_id_is_a_sentence(hub, id):
    message = refused(id)
    assert "does not have the form user/name" in message
    assert "<script>" not in message
    assert hub.requests == []


def test_too_large_model_is_not_downloaded(hub, folder, monkeypatch):
    hub.add_folder(folder)
    monkeypatch.setattr(model_registry, "MAX_MODEL_BYTES", 20_000)
    assert "MB; this page opens models of up to 0 MB." in refused("alice/tiny")
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_unsupported_model_is_not_downloaded(hub, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    hub.add_folder(folder)
    message = refused("alice/tiny")
    assert "It was not opened: alice/tiny/config.json" in message
    assert "llama" in message
    assert weight_downloads(hub) == []


def test_code_and_pickles_are_not_downloaded(hub, folder):
    (folder / "modeling_evil.py").write_text("1 / 0")
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}))
    hub.add_folder(folder)
    assert [*open_from_hub("alice/tiny")][-1].startswith("alice/tiny@")
    assert {path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path} <= set(FILES)
    hub.repos.clear()
    (folder / "model.safetensors").unlink()
    hub.add_folder(folder)
    assert "alice/tiny/model.safetensors is missing" in refused("alice/tiny")


def test_private_model_of_the_host_is_not_found(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.WRITE)
    hub.add_folder(folder, private=True)
    assert "alice/tiny is not on the Hub, or is private" in refused("alice/tiny")


def test_unreachable_hub_is_a_sentence(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused("alice/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.close()
    assert "cannot be reached" in refused("alice/tiny")


def test_broken_download_is_a_sentence(hub, folder, monkeypatch):
    hub.add_folder(folder)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_downloads = 1_000
    assert "It was not opened: " in refused("alice/tiny")


def test_least_recently_used_model_is_closed(hub, folder):
    ids = []
    for number in range(model_registry.MAX_HUB_MODELS + 1):
        hub.add_folder(folder, f"alice/tiny{number}")
        ids.append([*open_from_hub(f"alice/tiny{number}")][-1])
        get_model(ids[0])  # recently used: it stays open
    assert set(model_ids()) >= {ids[0], *ids[2:]}
    with pytest.raises(ValueError, match=r"alice/tiny1@\w{40} is not open here"):
        get_model(ids[1])


@pytest.mark.slow
def test_concurrent_visitors_download_a_model_once(hub, folder):
    commit = hub.add_folder(folder).branches["main"]
    hub.stall = 0.1
    ids = []
    threads = [threading.Thread(target=lambda: ids.append([*open_from_hub(f"alice/tiny@{commit}")][-1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == [f"alice/tiny@{commit}"] * 4
    assert len(weight_downloads(hub)) == 1


def test_open_model_is_not_downloaded_again(hub, folder):
    commit = hub.add_folder(folder).branches["main"]
    ids = [[*open_from_hub(id)][-1] for id in ("alice/tiny", "alice/tiny", f"alice/tiny@{commit}")]
    assert ids == [f"alice/tiny@{commit}"] * 3
    assert len(weight_downloads(hub)) == 1
    (folder / "README.md").write_text("a new commit")
    newer = hub.add_folder(folder).branches["main"]
    assert newer != commit
    assert [*open_from_hub("alice/tiny")][-1] == f"alice/tiny@{newer}"


@pytest.mark.slow
def test_started_download_is_finished_and_a_waiting_one_is_dropped(hub, folder):
    for name in ("one", "two", "three"):
        hub.add_folder(folder, f"alice/{name}")
    hub.stall = 0.3
    leavers = [open_hub_model(f"alice/{name}") for name in ("one", "two")]
    for visitor in leavers:
        next(visitor)
    for visitor in leavers:
        visitor.close()
    assert [*open_from_hub("alice/three")][-1].startswith("alice/three@")
    assert {id.partition("@")[0] for id in model_ids() if "@" in id} == {"alice/one", "alice/three"}
    assert not [path for _, path in hub.requests if "alice/two" in path]


@pytest.mark.browser
def test_open_generate_and_follow_the_link(visit, hub, folder):
    commit = hub.add_folder(folder).branches["main"]
    first = visit()
    first.page.click("#hub > button")
    first.page.fill("#hub-id textarea, #hub-id input", "no such model")
    first.page.click("#hub-open")
    first.until(lambda: "does not have the form user/name" in first.page.text_content("#hub-message"), "a sentence")
    first.page.fill("#hub-id textarea, #hub-id input", "alice/tiny")
    first.page.click("#hub-open")
    first.until(lambda: "alice/tiny is open" in first.page.text_content("#hub-message"), "the model to open")
    chosen = f"#models input[value='alice/tiny@{commit}']:checked"
    first.page.wait_for_selector(chosen)
    first.generate("abc")
    text = first.wait_for_text()
    model_registry._hub_models.clear()  # as after a restart
    other = visit("/?" + first.query())
    assert other.wait_for_text() == text
    other.page.wait_for_selector(chosen)

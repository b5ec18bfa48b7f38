"""The part "Open a model from the Hub" of the page, against a Hub on loopback."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from fake_hub import empty
from huggingface_hub import constants

from gpt import SamplingParams, load
from gpt.checkpoint import FILES
from ui import shelf
from ui.hub_panel import choices, on_open, opening
from ui.model_registry import fetched, take
from ui.session import GenerationRequest
from ui.snippets import command_line, files, python

SETTINGS = SamplingParams(max_new_tokens=40, seed=5)


@pytest.fixture(autouse=True)
def no_guests():
    yield
    shelf._hub_models.clear()


@pytest.fixture
def trained(run_folder, tmp_path):
    """A copy of the folder that a run wrote, to be damaged."""
    return Path(shutil.copytree(run_folder, tmp_path / "tiny"))


def refused(id):
    """The sentence that a visitor sees in place of a model."""
    before = choices()
    *_, (model, told) = on_open(id)
    assert "is open" not in told
    assert "choices" not in model
    assert choices() == before
    return told


def test_a_model_is_fetched_with_progress_and_then_writes_as_any_other(hub, run_folder, tmp_path):
    commit = hub.add_folder(run_folder).branches["main"]
    hub.stall = 0.3
    *told, id = opening("alice/tiny")
    assert id == f"alice/tiny@{commit}"
    assert told[0] == "Asking the Hub for alice/tiny…"
    size = sum((run_folder / name).stat().st_size for name in FILES if (run_folder / name).is_file()) / 1e6
    assert told[-1].startswith("Fetching alice/tiny: ")
    assert told[-1].endswith(f" of {size:.1f} MB…")
    assert (id in dict(choices()).values(), id in shelf.offered()) == (True, True)
    mine, theirs = take(id).lm, load(run_folder)
    assert mine.generate("abc", SETTINGS).text == theirs.generate("abc", SETTINGS).text
    assert empty(tmp_path / "home")  # nothing of it stays on the disk
    ask = GenerationRequest(id, "x", SETTINGS)
    assert f"load('alice/tiny', revision='{commit}')" in python(ask, 10)
    assert f"--model=alice/tiny --revision={commit} " in command_line(ask, 10)
    assert f'href="https://huggingface.co/alice/tiny/tree/{commit}"' in files(id)
    assert GenerationRequest.from_query(ask.query(40), "gpt-shakespeare") == ask


@pytest.mark.parametrize(
    "id", ["alice/tiny", " https://huggingface.co/alice/tiny/ ", "https://huggingface.co/alice/tiny", "alice/tiny@COMMIT"]
)
def test_the_ways_to_name_one(hub, run_folder, id):
    commit = hub.add_folder(run_folder).branches["main"]
    assert [*opening(id.replace("COMMIT", commit))][-1] == f"alice/tiny@{commit}"


@pytest.mark.parametrize(
    "id",
    ["", "tiny", "gpt-shakespeare", "../x", "a/b/c", "alice/tiny@main", "alice/ti ny", "<script>alert(1)</script>/x", "é/x"],
)
def test_what_is_no_model_on_the_hub_is_a_sentence(hub, id):
    told = refused(id)
    assert "is no model on the Hub; give one like user/name" in told
    assert "<script>" not in told
    assert hub.requests == []


def test_a_model_that_is_too_large_is_refused_before_it_comes(hub, run_folder, monkeypatch):
    hub.add_folder(run_folder)
    monkeypatch.setattr(shelf, "MOST", 20_000)
    assert "MB; this page opens models of up to 0 MB." in refused("alice/tiny")
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_a_model_of_an_unknown_kind_is_a_sentence(hub, trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    hub.add_folder(trained)
    said = refused("alice/tiny")
    told = "alice/tiny is a model of the kind &#x27;llama&#x27;; what opens here is bigram, ngram, lstm, vae, qwen3, mixture."
    assert f"It was not opened: {told}" in said
    assert not [path for _, path in hub.requests if path.endswith("model.safetensors")]
    assert empty(tmp_path / "home")


def test_code_and_pickles_of_a_repo_are_not_even_fetched(hub, trained):
    (trained / "modeling_evil.py").write_text("1 / 0")
    torch.save({"x": torch.zeros(1)}, trained / "pytorch_model.bin")
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}))
    hub.add_folder(trained)
    assert [*opening("alice/tiny")][-1].startswith("alice/tiny@")
    assert {path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path} <= set(FILES)
    hub.repos.clear()
    (trained / "model.safetensors").unlink()
    hub.add_folder(trained)
    assert "alice/tiny has no model.safetensors on the Hub" in refused("alice/tiny")


def test_a_visitor_does_not_see_what_the_host_may(hub, run_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.WRITE)
    hub.add_folder(run_folder, private=True)
    assert "alice/tiny is not on the Hub, or is private" in refused("alice/tiny")


def test_no_hub_at_all_is_a_sentence(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused("alice/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.close()
    assert "cannot be reached" in refused("alice/tiny")
    assert empty(tmp_path / "home")


def test_a_hub_that_dies_while_it_sends_is_a_sentence(hub, run_folder, monkeypatch, tmp_path):
    hub.add_folder(run_folder)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_downloads = 1_000
    assert "It was not opened: alice/tiny could not be had from the Hub" in refused("alice/tiny")
    assert empty(tmp_path / "home")


def test_the_newest_guests_stay_and_the_others_are_told_apart_from_nonsense(hub, run_folder):
    ids = []
    for number in range(shelf.MAX_HUB_MODELS + 1):
        hub.add_folder(run_folder, f"alice/tiny{number}")
        ids.append([*opening(f"alice/tiny{number}")][-1])
        take(ids[0])  # in use: it stays
    assert set(shelf.offered()) >= {ids[0], *ids[2:]}
    with pytest.raises(
        ValueError, match=r"The model alice/tiny1@\w{40} is not open here \(any more\); open it from the Hub again"
    ):
        take(ids[1])


def test_a_class_that_opens_one_link_fetches_it_once(hub, run_folder):
    commit = hub.add_folder(run_folder).branches["main"]
    hub.stall = 0.1
    ids = []
    pupils = [threading.Thread(target=lambda: ids.append([*opening(f"alice/tiny@{commit}")][-1])) for _ in range(4)]
    for pupil in pupils:
        pupil.start()
    for pupil in pupils:
        pupil.join()
    assert ids == [f"alice/tiny@{commit}"] * 4
    assert len([path for method, path in hub.requests if method == "GET" and path.endswith("model.safetensors")]) == 1


def test_what_has_begun_is_finished_though_the_visitor_leaves_and_what_has_not_is_dropped(hub, run_folder, tmp_path):
    for name in ("one", "two", "three"):
        hub.add_folder(run_folder, f"alice/{name}")
    hub.stall = 0.3
    leaving = [fetched(f"alice/{name}") for name in ("one", "two")]
    for visitor in leaving:
        next(visitor)
    for visitor in leaving:
        visitor.close()
    assert [*opening("alice/three")][-1].startswith("alice/three@")
    assert {id.partition("@")[0] for id in shelf.offered() if "@" in id} == {"alice/one", "alice/three"}
    assert not [path for _, path in hub.requests if "alice/two" in path]
    assert empty(tmp_path / "home")


@pytest.mark.browser
def test_open_write_and_send_the_link(visit, hub, run_folder):
    commit = hub.add_folder(run_folder).branches["main"]
    first = visit()
    first.page.click("#hub > button")
    first.page.fill("#hub-id textarea, #hub-id input", "no such model")
    first.page.click("#hub-open")
    first.until(lambda: "is no model on the Hub" in first.page.text_content("#hub-told"), "a sentence")
    first.page.fill("#hub-id textarea, #hub-id input", "alice/tiny")
    first.page.click("#hub-open")
    first.until(lambda: "alice/tiny is open" in first.page.text_content("#hub-told"), "the model to open")
    assert first.page.is_checked(f"#models input[value='alice/tiny@{commit}']")
    first.generate("abc")
    text = first.done()
    shelf._hub_models.clear()  # as after a restart
    other = visit("/?" + first.query())
    assert other.done() == text
    assert other.page.is_checked(f"#models input[value='alice/tiny@{commit}']")

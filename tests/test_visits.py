"""Visits: what of a visitor is kept, who can reach it, and that nothing is left when a visit is over."""

import json
import shutil
import stat
import sys
import threading
from pathlib import Path
from tempfile import gettempdir

import pytest
from browser import served
from loops import run
from visitors import TEXT, Visitor, wait_until

from gpt import SamplingParams
from ui import api, routes, visits
from ui.model_registry import get_model, model_ids, own_models
from ui.session import GenerationRequest
from ui.visits import Visit, VisitStore


def folders():
    return set(Path(gettempdir()).glob("from-bigram-to-gpt-*"))


def the_visit():
    (visit,) = visits.visits._visits.values()
    return visit


def query_of(id):
    return f"model={id}&prompt=a&seed=1"


def add(visit, source, folder, number):
    """Add a copy of a model that says that it is another one."""
    shutil.copytree(source, folder)
    log = json.loads((folder / "training.json").read_text())
    log["check"]["nll"][0] += number
    (folder / "training.json").write_text(json.dumps(log))
    return visit.add_model(folder, "GPT")


def test_first_text_begins_a_visit(visitor):
    one = visitor()
    first, second = (one.upload(text)["visit"] for text in (TEXT, TEXT * 2))
    assert first == second
    assert len(first) >= 43  # 32 random bytes: nobody guesses it
    assert the_visit().text == TEXT * 2


def test_only_the_owner_can_read_the_folder(visitor):
    visitor().upload(TEXT)
    assert stat.S_IMODE(the_visit().folder.stat().st_mode) == 0o700


def test_unknown_token_is_no_visit(visitor):
    one = visitor()
    one.client.headers[visits.HEADER] = "guessed"
    assert one.post("visit/ping", {}).json() == {"is_open": False}
    assert "Please give it again" in one.post("train/report", {"is_lines": False, "tokenizer": "char"}).json()["error"]
    assert one.upload(TEXT)["visit"] != "guessed"


@pytest.mark.slow
def test_models_of_a_visit_work_everywhere(visitor, fake_worker):
    one = visitor()
    one.train("quick " + TEXT)
    gpt, bigram = sorted(one.model_ids(), reverse=True)
    assert (gpt[:7], bigram[:10]) == ("my-gpt-", "my-bigram-")
    for id in (gpt, bigram):
        answer = one.post("generate", {"query": query_of(id), "start": 0, "end": 5})
        assert '"texts"' in answer.text
        programs = one.post("programs", {"query": query_of(id)}).json()
        assert programs["programs"].keys() == {"Python", "Command line"}
        assert f"load({id!r})" in programs["programs"]["Python"]
        assert programs["files"] == []
        assert "not here" in one.post("copied", {"model": id, "text": "abc"}).json()["error"]
        assert "no recording" in one.get(f"replay/{id}").json()["error"]
    scores = one.post("score", {"models": [gpt, bigram, "bigram-names"], "text": "abc"}).json()["models"]
    assert all(score["bits_per_character"] > 0 for score in scores)
    assert one.post("inspect", {"model": gpt, "prompt": "abc"}).json()["layers"] == 2
    assert one.get(f"bigram/{bigram}").json()["tokens"] == list("\n abcde")
    described = {model["id"]: model for model in one.get("models").json()["models"]}
    assert (described[gpt]["label"], described[gpt]["card"], described[gpt]["dataset"]) == ("GPT", "", "chain")
    assert not described["gpt-names"]["is_own"]


@pytest.mark.slow
def test_nobody_else_reaches_the_models_of_a_visit(visitor, fake_worker):
    one, other, stranger = visitor(), visitor(), visitor()
    one.train("quick " + TEXT)
    other.train("quick " + TEXT)
    assert len(one.model_ids()) == len(other.model_ids()) == 2
    assert not set(one.model_ids()) & set(other.model_ids())
    assert stranger.model_ids() == []
    for id in one.model_ids():
        for visitor_ in (other, stranger):
            assert id not in visitor_.get("models").text
            for path, body in (
                ("generate", {"query": query_of(id), "start": 0, "end": 5}),
                ("programs", {"query": query_of(id)}),
                ("inspect", {"model": id, "prompt": "abc"}),
                ("copied", {"model": id, "text": "abc"}),
            ):
                answer = visitor_.post(path, body)
                assert (answer.status_code, "belongs to another visit" in answer.json()["error"]) == (422, True), path
            for path in (f"bigram/{id}", f"replay/{id}", f"train/zip/{id}"):
                answer = visitor_.get(path)
                assert (answer.status_code, "belongs to another visit" in answer.json()["error"]) == (422, True), path
            (score,) = visitor_.post("score", {"models": [id], "text": "abc"}).json()["models"]
            assert "belongs to another visit" in score["error"]
            assert visitor_.client.get(f"/weights/{id}/config.json").status_code == 404
        assert one.client.get(f"/weights/{id}/config.json").status_code == 404  # an address has no visit
        with pytest.raises(ValueError, match="belongs to another visit"):
            get_model(id)  # as Gradio's own endpoints and events call it
        assert id not in model_ids()
        assert id not in [model["id"] for model in api.list_models()]


@pytest.mark.slow
def test_nothing_is_left_of_a_visit_that_is_over(visitor, fake_worker):
    before, one, guest = folders(), visitor(), visitor()
    one.train("quick " + TEXT)
    (folder,) = folders() - before
    ids = one.model_ids()
    for id in ids:
        one.post("generate", {"query": query_of(id), "start": 0, "end": 300})
    assert {session.request.model for session in routes.sessions._sessions.values()} >= set(ids)
    guest.client.headers[visits.HEADER] = one.client.headers[visits.HEADER]  # another tab of the same browser
    assert guest.model_ids() == ids
    assert one.post("visit/end", {}).json() == {}
    assert not folder.exists()
    assert folders() == before
    assert guest.model_ids() == one.model_ids() == []
    assert not {session.request.model for session in routes.sessions._sessions.values()} & set(ids)
    assert "its visit" not in one.post("visit/end", {}).text  # once more does no harm


@pytest.mark.slow
def test_text_of_an_ended_visit_stops_in_a_sentence(visitor, fake_worker, slow_generation):
    one, tab = visitor(), visitor()
    one.train("quick " + TEXT)
    tab.client.headers[visits.HEADER] = one.client.headers[visits.HEADER]
    body = {"query": query_of(one.model_ids()[0]), "start": 0, "end": 5000}
    with one.client.stream("POST", "/page/generate", json=body) as response:
        lines = response.iter_lines()
        next(lines), next(lines)
        tab.post("visit/end", {})
        *_, last = lines
    assert "is over" in last
    wait_until(lambda: not any(thread.name == "scheduler" for thread in threading.enumerate()), "")


def test_visit_ends_without_a_sign_of_life(visitor, monkeypatch):
    monkeypatch.setattr(visits, "IDLE_S", 0.4)
    before, one = folders(), visitor()
    one.upload(TEXT)
    for _ in range(8):  # longer than that, but not idle
        wait_until(lambda: the_visit().idle_seconds() > 0.1, "a moment")
        assert one.post("visit/ping", {}).json() == {"is_open": True}
    wait_until(lambda: not visits.visits._visits, "the end of the visit")
    assert folders() == before
    assert one.post("visit/ping", {}).json() == {"is_open": False}


@pytest.mark.slow
def test_visit_does_not_end_while_it_trains(visitor, fake_worker, monkeypatch):
    monkeypatch.setattr(visits, "IDLE_S", 0.2)
    one = visitor()
    one.upload("slow " + TEXT)
    with one.training() as events:
        for _ in range(15):
            next(events)
        assert the_visit().job


def test_least_recently_used_visit_ends_for_another(visitor, monkeypatch):
    monkeypatch.setattr(visits, "MAX_VISITS", 2)
    first, second, third = visitor(), visitor(), visitor()
    first.upload(TEXT)
    second.upload(TEXT)
    first.post("visit/ping", {})
    third.upload(TEXT)
    is_open = [one.post("visit/ping", {}).json()["is_open"] for one in (first, second, third)]
    assert is_open == [True, False, True]


@pytest.mark.slow
def test_visit_that_trains_does_not_end_for_another(visitor, fake_worker, monkeypatch):
    monkeypatch.setattr(visits, "MAX_VISITS", 2)
    trainer, second, third = visitor(), visitor(), visitor()
    trainer.upload("slow " + TEXT)
    with trainer.training() as events:
        next(events)
        second.upload(TEXT)
        third.upload(TEXT)
        assert trainer.post("visit/ping", {}).json() == {"is_open": True}
        assert second.post("visit/ping", {}).json() == {"is_open": False}


def test_oldest_models_are_dropped(own_models, tmp_path, monkeypatch):
    monkeypatch.setattr(visits, "MAX_MODELS", 2)
    store, gone = VisitStore(), []
    store.on_models_gone(gone.extend)

    async def go():
        visit = store.open()
        ids = [add(visit, own_models / "gpt", tmp_path / str(i), i).id for i in range(4)]
        store.drop_oldest_models(visit)
        assert gone == ids[:2]
        assert list(visit.models) == ids[2:]
        assert sorted(path.name for path in visit.folder.iterdir()) == sorted(ids[2:])
        assert [entry.label for entry in visit.models.values()] == ["GPT #3", "GPT #4"]
        store.end(visit)
        assert gone == ids

    run(go())


def test_model_that_is_there_already_is_not_added_again(own_models, tmp_path):
    visit = Visit()
    first, second = (add(visit, own_models / "gpt", tmp_path / name, 0) for name in "ab")
    assert first is second
    assert len(visit.models) == 1
    visit.close()


def test_request_names_a_model_of_its_visit_only():
    entry = get_model("bigram-names")
    reset = own_models.set({"my-bigram-1": entry})
    assert get_model("my-bigram-1") is entry
    assert GenerationRequest("my-bigram-1", "", SamplingParams())
    own_models.reset(reset)
    with pytest.raises(ValueError, match="belongs to another visit"):
        GenerationRequest("my-bigram-1", "", SamplingParams())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_terminated_page_leaves_no_folder(temporary_folder):
    before = folders()
    with served() as address:
        one = Visitor(address)
        one.upload(TEXT)
        assert len(folders() - before) == 1
        one.close()
    wait_until(lambda: folders() == before, "the folder of the visit is deleted", 30)

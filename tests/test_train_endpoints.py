"""The endpoints of the tab "Train yours": texts of all kinds, trainings that end in every way, and models to take home."""

import gc
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import gradio as gr
import httpx
import pytest
from visitors import TEXT, Visitor, wait_until

from gpt import load
from ui import jobs, training
from ui.endpoints import MAX_BODY_BYTES
from ui.jobs import KILLED
from ui.tabs import train
from ui.training import MAX_TEXT_BYTES
from ui.visits import visits

LEAVING_S = 3  # after which the process of a visitor who has left must be gone
SENTENCE = "the river ran past an old mill and a miller counted sacks of flour by the light of his lamp"
WORDS = SENTENCE.split(" ")
STORY = " ".join(WORDS[i * i % len(WORDS)] for i in range(1_000))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until_event(events, name):
    return next(event for event in events if event["event"] == name)


# Texts


def test_upload_reports_on_the_text(visitor):
    report = visitor().upload("b\r\na\r\n" * 100)
    assert (report["characters"], report["lines"], report["is_lines"]) == (400, 200, True)


def test_file_of_50_mb_is_refused_before_it_is_read(visitor):
    one = visitor()
    with suppress(httpx.WriteError):  # the server closes the connection, which a client may notice before it reads the answer
        assert "more than 2 MB" in one.upload(bytes(50_000_000))["error"]
    assert one.get("models").status_code == 200


def test_visitor_who_leaves_an_upload_is_no_error(endpoints, monkeypatch):
    def free_places():
        return min((semaphore._value for semaphore in training.uploads._semaphores.values()), default=4)

    errors = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *args, **_: errors.append(args))
    url = httpx.URL(endpoints)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(b"POST /page/train/text HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nThe beginning")
        wait_until(lambda: free_places() < 4, "the upload begins")
    wait_until(lambda: free_places() == 4, "the upload ends")
    assert errors == []


def test_report_with_other_choices_needs_no_second_upload(visitor):
    one = visitor()
    one.upload("anna\nbert\n" * 100)
    report = one.post("train/report", {"is_lines": False, "tokenizer": "bpe:288"}).json()
    assert (report["is_lines"], report["tokenizer"]) == (False, "bpe:288")


BAD_TEXTS = {
    "nothing": (b"", "empty"),
    "spaces": (b"  \n \n", "empty"),
    "too short": (b"abc", "3 characters"),
    "not UTF-8": ("Gr\u00fc\u00dfe, ".encode("latin-1") * 50, "not UTF-8"),
    "a binary file": (bytes(range(256)) * 20, "binary"),
    "NUL": (b"abc\0def" * 50, "NUL"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
    "too long": (b"a" * (MAX_TEXT_BYTES + 1), "more than 2 MB"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_text_is_a_sentence(visitor, name):
    content, words = BAD_TEXTS[name]
    one = visitor()
    answer = one.upload(content)
    sentence = answer.get("error") or answer["problem"]
    assert words in sentence
    assert sentence[0].isupper()
    assert sentence[-1] == "."
    refused = one.post("train/run", {**CHOICES_FOR_RUN, "is_lines": False})
    assert refused.status_code == 422  # nothing is trained
    assert one.get("models").status_code == 200  # the page lives on


CHOICES_FOR_RUN = {"kind": "gpt", "size": "small", "tokenizer": "char", "dropout": None, "seconds": 15}
UNUSUAL_TEXTS = {
    "one character": "a" * 1_000,
    "one line many times": "again and again\n" * 200,
    "one line of 2 MB": "a b" * (MAX_TEXT_BYTES // 3),
    "UTF-16": STORY.encode("utf-16"),
    "UTF-8 with a mark": STORY.encode("utf-8-sig"),
    "Windows": STORY.replace(" ", "\r\n"),
    "Chinese": "".join(chr(0x4E00 + i) for i in range(5_000)),
    "right to left": "שלום עולם " * 100,
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 " * 100,
    "HTML": "<script>alert(1)</script><p>text</p>\n" * 50,
}


@pytest.mark.parametrize("name", UNUSUAL_TEXTS)
def test_unusual_text_is_taken(visitor, name):
    report = visitor().upload(UNUSUAL_TEXTS[name])
    assert report["characters"] > 0
    assert not report["problem"]


def test_other_endpoints_keep_their_limit(visitor):
    one = visitor()
    one.upload(TEXT)
    for path in ("generate", "score", "train/run", "train/report"):
        answer = one.post(path, {"text": "a" * MAX_BODY_BYTES})
        assert (answer.status_code, "more than 256 kB" in answer.json()["error"]) == (422, True)


def test_name_of_a_file_becomes_a_word(visitor):
    one = visitor()
    for given, name in (("My Poems.txt", "My-Poems"), ("../../etc/passwd", "etc-passwd"), ("", "my-text"), ("<b>.txt", "b")):
        token = one.upload(TEXT, given)["visit"]
        assert visits.find(token).name == name


def test_texts_to_try(visitor):
    one = visitor()
    texts = one.get("train/texts").json()
    assert [text["name"] for text in texts] == ["places", "recipes", "dialogue"]
    for text in texts:
        report = one.upload(one.get(f"train/texts/{text['name']}").json()["text"])
        assert not report["problem"]
        assert report["is_lines"] == (text["name"] == "places")
    assert "no text called" in one.get("train/texts/index").json()["error"]


# Trainings


BAD_CHOICES = {
    "kind": ("vae", "kind is 'vae'"),
    "size": (3, "The size is 3; it must be one of small, medium."),
    "seconds": (16, "The seconds is 16; it must be one of 15, 30, 60, 120."),
    "dropout": (0.9, "from 0 to 0.5"),
    "tokenizer": ("bpe:9999", "bpe:N with N up to"),
    "is_lines": ("yes", "true or false"),
}


@pytest.mark.parametrize("name", BAD_CHOICES)
def test_bad_choice_is_refused_in_a_sentence(visitor, name):
    value, words = BAD_CHOICES[name]
    one = visitor()
    one.upload(TEXT)
    answer = one.post("train/run", {**CHOICES_FOR_RUN, "is_lines": False, name: value})
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_training_needs_a_text(visitor):
    assert "Please give it again" in visitor().post("train/run", CHOICES_FOR_RUN).json()["error"]


@pytest.mark.slow
def test_end_names_the_models(visitor, fake_worker):
    one = visitor()
    last = one.train("quick " + TEXT)
    assert [model["id"] for model in last["models"]] == one.model_ids()
    assert {model["name"] for model in last["models"]} == {"gpt", "bigram"}
    assert "folder" not in json.dumps(last)
    (visit,) = visits._visits.values()
    assert {path.name for path in visit.folder.iterdir()} == set(one.model_ids())  # nothing of the run is left


@pytest.mark.slow
def test_stop_keeps_the_best_model(visitor, fake_worker):
    one = visitor()
    one.upload("slow " + TEXT)
    with one.training() as events:
        until_event(events, "step")
        assert one.post("train/stop", {}).json() == {}
        *_, last = events
    assert (last["event"], last["stopped"], len(one.model_ids())) == ("end", True, 2)
    assert one.post("train/stop", {}).json() == {}  # there is nothing to stop


@pytest.mark.slow
def test_second_visitor_sees_the_queue(visitor, fake_worker, monkeypatch):
    monkeypatch.setattr(training.queue, "places", 1)
    first, second = visitor(), visitor()
    first.upload("slow " + TEXT)
    second.upload("quick " + TEXT)
    with first.training(seconds=30) as events:
        until_event(events, "step")
        with second.training() as waiting:
            queued = next(waiting)
            assert (queued["event"], queued["before"]) == ("queue", 1)
            assert queued["seconds"] == pytest.approx(40, abs=5)
            first.post("train/stop", {})
            assert [event["event"] for event in waiting][-1] == "end"


@pytest.mark.slow
def test_second_training_of_a_visit_ends_the_first(visitor, fake_worker):
    one, tab = visitor(), visitor()
    one.upload("slow " + TEXT)
    tab.client.headers.update(one.client.headers)
    with one.training() as events:
        pid = until_event(events, "start")["parameters"]
        with tab.training() as others:
            until_event(others, "start")
            assert not is_alive(pid)
            *_, last = events
            assert last["message"] == jobs.CANCELLED


@pytest.mark.slow
@pytest.mark.parametrize("action", ["slow", "deaf"])
def test_process_ends_when_the_visitor_leaves(visitor, fake_worker, action):
    one = visitor()
    one.upload(f"{action} {TEXT}")
    with one.training() as events:
        pid = until_event(events, "start")["parameters"]
    wait_until(lambda: not is_alive(pid), "the process ends", LEAVING_S)
    wait_until(lambda: not training.queue.running, "its place is free")


@pytest.mark.slow
def test_process_ends_with_the_visit(visitor, fake_worker):
    one = visitor()
    one.upload("deaf " + TEXT)
    with one.training() as events:
        pid = until_event(events, "start")["parameters"]
        one.post("visit/end", {})
        assert not is_alive(pid)
        assert [event["event"] for event in events][-1] == "error"


@pytest.mark.slow
def test_visitor_who_leaves_the_queue_makes_room(visitor, fake_worker, monkeypatch):
    monkeypatch.setattr(training.queue, "places", 1)
    first, second = visitor(), visitor()
    first.upload("slow " + TEXT)
    second.upload("slow " + TEXT)
    with first.training() as events:
        until_event(events, "step")
        with second.training() as waiting:
            next(waiting)
            assert len(training.queue.waiting) == 1
        wait_until(lambda: not training.queue.waiting, "the visitor has left the queue", LEAVING_S)


@pytest.mark.slow
def test_damaged_model_is_a_sentence(visitor, fake_worker, own_models, tmp_path, monkeypatch):
    (tmp_path / "gpt").mkdir()
    monkeypatch.setenv("FAKE_MODELS", str(tmp_path))
    last = visitor().train("quick " + TEXT)
    assert last["event"] == "error"
    assert "could not be opened" in last["message"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files and memory in /proc")
def test_fifty_trainings_leave_everything_as_it_was(visitor, fake_worker):
    def resources():
        gc.collect()
        children = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
        folders = sorted(Path(gettempdir()).glob("from-bigram-to-gpt-*"))
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children, folders

    def resident_mb():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    one = visitor()

    def train_once(action):
        one.upload(f"{action} {TEXT}")
        with one.training() as events:
            for event in events:
                if event["event"] == "step":
                    break  # the visitor leaves
        wait_until(lambda: not training.queue.running, "the end of the training")
        for id in one.model_ids():
            one.post("generate", {"query": f"model={id}&prompt=a", "start": 0, "end": 20})
        one.post("visit/end", {})

    for action in ("quick", "slow", "error"):
        train_once(action)
    before, memory = resources(), resident_mb()
    for i in range(50):
        train_once(("quick", "quick", "slow", "error", "quick")[i % 5])
    wait_until(lambda: resources() == before, f"{resources()} is {before} again", 10)
    assert resident_mb() < memory + 25


# With real training


@pytest.fixture
def quick_training(monkeypatch):
    monkeypatch.setattr(training, "SECONDS", (1, 15, 60))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "lstm", "bigram"])
def test_trained_models_write_and_are_taken_home(visitor, quick_training, tmp_path, kind):
    one = visitor()
    last = one.train(STORY, kind=kind, seconds=1)
    assert last["event"] == "end", last
    assert {"bigram", "ngram"} < {model["name"] for model in last["models"]}
    for model in last["models"]:
        lines = one.post("generate", {"query": f"model={model['id']}&prompt=the", "start": 0, "end": 20}).text
        assert '"texts"' in lines
        answer = one.get(f"train/zip/{model['id']}")
        assert answer.headers["content-disposition"] == f'attachment; filename="{model["id"]}.zip"'
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert {Path(name).parts[0] for name in archive.namelist()} == {model["id"]}
            archive.extractall(tmp_path)
        folder = tmp_path / model["id"]
        assert {"config.json", "model.safetensors", "tokenizer.json", "training.json", "README.md"} <= set(os.listdir(folder))
        assert f'load("{model["id"]}")' in (folder / "README.md").read_text()
        assert gettempdir() not in (folder / "README.md").read_text() + (folder / "training.json").read_text()
        assert load(folder).generate("the").text
    program = one.post("programs", {"query": f"model={last['models'][-1]['id']}&prompt=the&seed=3&length=20"}).json()
    done = subprocess.run(
        [sys.executable, "-c", program["programs"]["Python"]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(jobs.ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("the")


@pytest.mark.slow
def test_zip_opens_in_transformers(visitor, quick_training, tmp_path):
    one = visitor()
    last = one.train(STORY, seconds=1)
    (gpt,) = (model["id"] for model in last["models"] if model["name"] == "gpt")
    with zipfile.ZipFile(io.BytesIO(one.get(f"train/zip/{gpt}").content)) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer, model = (c.from_pretrained(sys.argv[1]) for c in (AutoTokenizer, AutoModelForCausalLM))\n"
        "ids = model.generate(**tokenizer('the', return_tensors='pt'), max_new_tokens=9, do_sample=False)\n"
        "print(tokenizer.decode(ids[0]))"
    )
    done = subprocess.run([sys.executable, "-c", program, gpt], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the")


@pytest.mark.slow
def test_killed_training_is_a_sentence_and_the_next_one_works(visitor, quick_training):
    one = visitor()
    one.upload(STORY)
    with one.training(seconds=60) as events:
        until_event(events, "step")
        (job,) = training.queue.running
        os.kill(job._process.pid, signal.SIGKILL)
        *_, last = events
    assert last == {"event": "error", "message": KILLED}
    assert one.train(STORY, seconds=1)["event"] == "end"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["baselines", "step"])
def test_real_process_ends_when_the_visitor_leaves(visitor, quick_training, moment):
    one = visitor()
    one.upload(STORY)
    with one.training(seconds=60) as events:
        until_event(events, moment)
        (job,) = training.queue.running
        pid = job._process.pid
    wait_until(lambda: not is_alive(pid), "the process ends", LEAVING_S)


@pytest.mark.slow
def test_real_training_stops_in_time(visitor, quick_training):
    one = visitor()
    one.upload(STORY)
    with one.training(seconds=60) as events:
        until_event(events, "evaluation")
        start = time.monotonic()
        one.post("train/stop", {})
        *_, last = events
    assert last["stopped"] is True
    assert time.monotonic() - start < 10  # 3 s on a machine with nothing else to do
    assert len(one.model_ids()) >= 3


# In the whole page, and on the Hub


@pytest.mark.slow
def test_whole_page_ends_the_process_of_a_visitor_who_leaves(address, fake_worker):
    """Between the endpoint and the visitor, there is the middleware of Gradio."""
    one = Visitor(address)
    one.upload("deaf " + TEXT)
    with one.training() as events:
        pid = until_event(events, "start")["parameters"]
    wait_until(lambda: not is_alive(pid), "the process ends", LEAVING_S)
    one.post("visit/end", {})
    one.close()


@pytest.fixture
def published(visitor, fake_worker, hub):
    """A visitor with a model, and a function that publishes it."""
    one = visitor()
    gpt = next(model["id"] for model in one.train("quick " + TEXT)["models"] if model["name"] == "gpt")

    def publish(repo="alice/mine", model=gpt, token=hub.WRITE):
        oauth = gr.OAuthToken(token=token, scope="manage-repos", expires_at=0) if token else None
        (visit,) = visits._visits
        return list(train.on_publish(repo, model, visit, oauth))

    return publish


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
def test_model_is_published_with_the_login_of_its_visitor(published, hub, monkeypatch):
    *_, last = published()
    assert f"{hub.url}/alice/mine is published" in last
    files = hub.repos["model", "alice/mine"].files()
    assert {"model.safetensors", "config.json", "README.md"} <= files.keys()
    assert 'load("alice/mine")' in files["README.md"].decode()
    assert hub.WRITE.encode() not in b"".join(files.values())
    assert "HF_TOKEN" not in os.environ


@pytest.mark.slow
def test_refused_publication_is_a_sentence(published, hub):
    assert "Sign in" in published(token=None)[-1]
    assert "can only read" in published(token=hub.READ)[-1]
    assert "does not know this token" in published(token="hf_wrong")[-1]
    assert "cannot be a Hub id" in published(repo="mine")[-1]
    assert "not here any more" in published(model="gpt-names")[-1]
    assert hub.repos == {}


@pytest.mark.slow
@pytest.mark.parametrize("has_login", [True, False])
def test_form_is_there_where_the_page_is_a_space_with_oauth(has_login):
    names = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL") if has_login else ()
    env = {**os.environ, **dict.fromkeys(names, "https://hub.test"), "SPACE_ID": "alice/page", "SYSTEM": "spaces"}
    # The page compiles its kernel in a thread, which must end before the process does.
    program = """
import threading
from app import demo
print(demo.expects_oauth, *(block.elem_id for block in demo.blocks.values()))
for thread in threading.enumerate():
    if thread.daemon:
        thread.join(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=jobs.ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert done[0] == str(has_login)
    assert ("publish-login" in done) == has_login
    assert "train" in done

"""`python -m train publish` against a local Hub: what is sent, what is refused, and what is undone."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from browser import served
from fake_hub import Handler, Hub, RefusalError
from gradio_client import Client
from huggingface_hub import HfApi, ModelCard, SpaceCard, constants
from visitors import Visitor

from gpt import CheckpointError, SamplingParams, load
from gpt.checkpoint import FILES, WEIGHTS, names, save
from gpt.hub import HubError
from train.publish import publish, space_files
from ui.model_registry import list_models

# the client itself passes httpx2 a file as `data` when it uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[1]
OTHER_RUN = WEIGHTS / "bigram-shakespeare"


@pytest.fixture
def model(tmp_path):
    """A copy of a weights folder, to be damaged."""
    return Path(shutil.copytree(WEIGHTS / "bigram-names", tmp_path / "tiny"))


@pytest.fixture
def send(monkeypatch, hub, model):
    """A function that publishes the folder with a token and returns the sentences."""

    def run(folder=model, repo="alice/tiny", token=hub.WRITE, **options):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        return list(publish(folder, repo, **options))

    return run


@pytest.fixture
def no_waiting(monkeypatch):
    """The seconds that the client would have waited between its retries."""
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    return waits


def error_of(call, *args, **options) -> str:
    """The message of an error: one sentence, without a token."""
    with pytest.raises((CheckpointError, HubError)) as error:
        call(*args, **options)
    message = str(error.value)
    assert "\n" not in message
    assert "hf_" not in message
    return message


def remote(hub):
    """Everything that the Hub has, to see that it stays as it was."""
    return {key: (repo.private, dict(repo.branches), repo.files(), len(repo.commits)) for key, repo in hub.repos.items()}


def local(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def edit(folder, name, **changes):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def python(hub, home, *args, token=None, cwd=ROOT):
    """Run a new process, which knows only this Hub."""
    env = hub.env(token, home=home)
    done = subprocess.run([sys.executable, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not [token for token in hub.tokens if token in done.stdout + done.stderr]
    return done


# Upload


@pytest.mark.slow
def test_published_model_opens_in_new_processes_and_in_transformers(hub, tmp_path):
    folder = WEIGHTS / "gpt-names"
    done = python(hub, tmp_path / "a", "-m", "train", "publish", folder, "--repo", "alice/tiny", token=hub.WRITE)
    repo = hub.repos["model", "alice/tiny"]
    assert done.stdout.splitlines()[-1] == f"{hub.url}/alice/tiny is published, at {repo.branches['main'][:8]}."
    assert "model.safetensors: 100%" in done.stderr
    assert len(repo.commits) == 2  # the empty one, and one with all files
    published = {name for name in (*FILES, "loss_curve.svg", "README.md") if (folder / name).is_file()}
    assert set(repo.files()) - {".gitattributes"} == published
    for name in published - {"README.md"}:  # a card names the repository
        assert repo.files()[name] == (folder / name).read_bytes()

    lm = load(folder)
    ids = torch.randint(len(lm.tokenizer), (1, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = lm.model(ids)[0]
    torch.save(ids, tmp_path / "ids.pt")
    script = f"""if 1:
        import sys, torch
        sys.path.insert(0, {str(ROOT)!r})
        from gpt import load
        with torch.no_grad():
            torch.save(load("alice/tiny").model(torch.load("ids.pt", weights_only=True))[0], "ours.pt")
        from transformers import AutoModelForCausalLM, AutoTokenizer
        model, tokenizer = AutoModelForCausalLM.from_pretrained("alice/tiny"), AutoTokenizer.from_pretrained("alice/tiny")
        with torch.no_grad():
            torch.save(model(torch.load("ids.pt", weights_only=True)).logits.float(), "theirs.pt")
        print(tokenizer("ab  c").input_ids == tokenizer("ab  c", add_special_tokens=False).input_ids)
    """
    assert python(hub, tmp_path / "b", "-c", script, cwd=tmp_path).stdout == "True\n"
    assert torch.equal(torch.load(tmp_path / "ours.pt", weights_only=True), expected)
    torch.testing.assert_close(torch.load(tmp_path / "theirs.pt", weights_only=True), expected, atol=1e-3, rtol=0)
    hub.close()  # what is in the cache needs no Hub
    args = ["-m", "gpt", "--model", "alice/tiny", "--prompt", "em", "--temperature", 0, "--length", 8]
    greedy = lm.generate("em", SamplingParams(temperature=0, max_new_tokens=8)).text
    assert python(hub, tmp_path / "b", *args).stdout == f"em{greedy}\n"


@pytest.mark.slow
def test_space_starts_from_what_was_uploaded_answers_and_trains(hub, model, tmp_path, send, chain_text):
    send(space="alice/page")
    space, commit = hub.repos["space", "alice/page"], hub.repos["model", "alice/tiny"].branches["main"]
    assert (space.sdk, space.private, len(space.commits)) == ("gradio", False, 2)
    # As the Hub builds it: the repository in a folder, and what the front matter preloads in the cache.
    for name, content in space.files().items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    for line in SpaceCard.load(tmp_path / "space" / "README.md").data.preload_from_hub:
        repo, files, revision = line.split()
        for file in files.split(","):
            HfApi(hub.url, token=False).hf_hub_download(repo, file, revision=revision, cache_dir=tmp_path / "b" / "hub")
    # As ZeroGPU runs it: without a function for its GPU it starts nothing. Gradio passes it each handler.
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "spaces.py").write_text(
        "def GPU(function):\n    open('gpu', 'w').close()\n    return function\n\n\n"
        "def gradio_auto_wrap(function):\n    return function\n"
    )
    hub.requests.clear()
    env = hub.env(home=tmp_path / "b") | {"SYSTEM": "spaces", "SPACE_ID": "alice/page"}
    env |= {"SPACES_ZERO_GPU": "1", "PYTHONPATH": str(tmp_path / "zero")}
    with served(tmp_path / "space", env) as address:
        client = Client(address, verbose=False)
        models = client.predict(api_name="/list-models")
        assert {each["id"] for each in models[:-1]} == {entry.id for entry in list_models()}
        assert models[-1]["id"] == f"alice/tiny@{commit}"
        text = client.predict(models[-1]["id"], "abc", 0.8, 60, 0, 1.0, 0.0, 7, api_name="/generate")
        visitor = Visitor(address)
        visitor.upload(chain_text(2_000))
        with visitor.training() as events:
            next(event for event in events if event["event"] == "evaluation")
            visitor.post("train/stop", {})
            assert [event["event"] for event in events][-1] == "end"
        assert len(visitor.model_ids()) >= 3
        visitor.close()
    assert (tmp_path / "space" / "gpu").exists()
    assert text == load(model).generate("abc", SamplingParams(max_new_tokens=60, seed=7)).text
    assert hub.requests == []


def test_model_is_published_with_its_card(hub, send, model):
    _, message = send()
    repo = hub.repos["model", "alice/tiny"]
    assert message == f"{hub.url}/alice/tiny is published, at {repo.branches['main'][:8]}."
    assert ("POST", "/api/validate-yaml") in hub.requests
    card = repo.files()["README.md"].decode()
    facts = json.loads((model / "training.json").read_text())
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("bits_per_character", round(facts["held_out"]["bits_per_character"], 4))
    assert 'load("alice/tiny")' in card
    assert "python -m gpt --model alice/tiny " in card
    assert str(model) not in card


def test_files_of_a_space(hub, send, model):
    send(space="alice/page")
    files = hub.repos["space", "alice/page"].files()
    paths = [path for folder in ("gpt", "train", "ui") for path in (ROOT / folder).rglob("*") if path.is_file()]
    code = {path.relative_to(ROOT).as_posix() for path in paths}
    code = {path for path in code if "__pycache__" not in path and not path.endswith("py.typed")} | {"app.py", "LICENSE"}
    code |= {"weights/texts/shakespeare.txt.xz", "weights/texts/names.txt.xz"}
    shipped = {f"weights/{name}/{file}" for name in names() for file in FILES if (WEIGHTS / name / file).is_file()}
    assert set(files) == code | shipped | {"README.md", "requirements.txt", "weights/hub.json", ".gitattributes"}
    for name in code | shipped:
        assert files[name] == (ROOT / name).read_bytes()
    commit = hub.repos["model", "alice/tiny"].branches["main"]
    assert json.loads(files["weights/hub.json"]) == {"alice/tiny": commit}

    front_matter = SpaceCard(files["README.md"].decode()).data
    published = ",".join(name for name in FILES if (model / name).is_file())  # a build fails if one is missing on the Hub
    added = {"models": ["alice/tiny"], "preload_from_hub": [f"alice/tiny {published} {commit}"]}
    assert front_matter.to_dict() == SpaceCard.load(ROOT / "README.md").data.to_dict() | added
    assert (front_matter.sdk, front_matter.app_file, front_matter.python_version) == ("gradio", "app.py", "3.12")
    requirements = files["requirements.txt"].decode()
    ours = (ROOT / "requirements.txt").read_text()
    assert re.search(r"^torch>=2\.8,<2\.12\b", requirements, re.MULTILINE)  # the newest on ZeroGPU is 2.11
    assert re.sub(r"^torch.*\n", "", requirements, flags=re.MULTILINE) == re.sub(r"^torch.*\n", "", ours, flags=re.MULTILINE)


def test_shipped_model_is_not_in_its_space_twice():
    files = space_files(OTHER_RUN, {"alice/bigram": "0" * 40})
    assert not [name for name in files if name.startswith("weights/bigram-shakespeare")]
    assert "weights/gpt-shakespeare/model.safetensors" in files


@pytest.mark.slow
def test_publishing_again_uploads_nothing(hub, send):
    send(space="alice/page")
    before = remote(hub)
    hub.requests.clear()
    assert sum("nothing was uploaded" in message for message in send(space="alice/page")) == 2
    assert remote(hub) == before
    assert not [path for method, path in hub.requests if method in ("PUT", "DELETE") or "/commit/" in path]


@pytest.mark.slow
def test_newer_run_replaces_the_older_and_the_page(hub, send):
    send(space="alice/page")
    space = hub.repos["space", "alice/page"]
    space.commit("main", space.files() | {"ui/old.py": b"1 / 0\n", "notes.md": b"of the owner\n"}, "by hand")
    send(OTHER_RUN, space="alice/page")
    repo = hub.repos["model", "alice/tiny"]
    assert repo.files()["model.safetensors"] == (OTHER_RUN / "model.safetensors").read_bytes()
    assert len(repo.commits) == 3
    assert json.loads(space.files()["weights/hub.json"]) == {"alice/tiny": repo.branches["main"]}
    assert "ui/old.py" not in space.files()
    assert space.files()["notes.md"] == b"of the owner\n"


def test_dry_run_lists_everything_and_sends_nothing(hub, send, model):
    out = "\n".join(send(space="alice/page", dry_run=True, token=None))
    assert (hub.requests, hub.repos) == ([], {})
    sizes = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ +([\d,]+)  (\S+)$", out, re.MULTILINE)}
    assert sizes["model.safetensors"] == (model / "model.safetensors").stat().st_size
    assert not [name for name in sizes if re.search(r"test|__pycache__|\.git|\.pt$|docs/|\.ci", name)]
    assert out.endswith("This was a dry run: nothing was sent.")
    send(space="alice/page")
    assert {name for repo in hub.repos.values() for name in repo.files()} == {*sizes, ".gitattributes"}


def test_private_model(hub, send, monkeypatch):
    send(private=True)
    assert hub.repos["model", "alice/tiny"].private
    before = remote(hub)
    assert "a Space can only open a public model" in error_of(send, private=True, space="alice/page")
    assert "alice/tiny is private on the Hub already" in error_of(send, space="alice/page")
    send()  # it stays private
    assert remote(hub) == before
    send(repo="alice/open")
    assert "alice/open is public on the Hub already" in error_of(send, repo="alice/open", private=True)


def test_branch_is_created(hub, send, model):
    send()
    repo = hub.repos["model", "alice/tiny"]
    first = repo.branches["main"]
    send(OTHER_RUN, branch="v2/wide")
    assert repo.branches["main"] == first
    assert repo.files("v2/wide")["model.safetensors"] == (OTHER_RUN / "model.safetensors").read_bytes()


def test_unknown_settings_are_published_as_they_are(hub, send, model):
    edit(model, "config.json", use_warp_drive=True, transformers_version="99.0")
    send()
    assert hub.repos["model", "alice/tiny"].files()["config.json"] == (model / "config.json").read_bytes()


# What is refused before anything is sent


@pytest.mark.parametrize("name", names())
def test_fingerprint_of_shipped_weights_is_that_of_their_run(name):
    check = json.loads((WEIGHTS / name / "training.json").read_text())["check"]
    nll = load(name).fingerprint(check["text"])
    assert nll == pytest.approx(check["nll"], abs=1e-4)
    assert load(name).fingerprint(check["text"]) == nll


def replace_weights(folder):
    """Other weights under a valid sha256: what a run leaves that is killed between two files."""
    lm = load(folder)
    with torch.no_grad():
        lm.model.logits.mul_(1.2)
    save(folder, lm.model, lm.tokenizer)


DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no log": (lambda f: (f / "training.json").unlink(), "training.json is missing"),
    "no generation config": (lambda f: (f / "generation_config.json").unlink(), "generation_config.json is missing"),
    "truncated weights": (lambda f: os.truncate(f / "model.safetensors", 2_000), "it is truncated, or not a safetensors file"),
    "other weights": (replace_weights, "are not those in its training.json"),
    "no check": (lambda f: edit(f, "training.json", check=None), "training.json is damaged, or of an older version"),
    "empty log": (lambda f: (f / "training.json").write_text("[]"), "training.json is damaged, or of an older version"),
    "no folder": (shutil.rmtree, "is missing; publish a folder that `python -m train run` wrote"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folder_is_refused_before_anything_is_sent(hub, send, model, damage):
    spoil, message = DAMAGE[damage]
    spoil(model)
    before = local(model)
    error = error_of(send, space="alice/page")
    assert message in error
    assert str(model) in error
    assert hub.requests == []
    assert local(model) == before


@pytest.mark.parametrize(
    "repo", ["tiny", "alice/tiny/x", "../tiny", "alice/ti ny", "alice/", "https://huggingface.co/alice/tiny"]
)
def test_string_that_is_no_hub_id_is_refused(hub, send, repo):
    for options in ({"repo": repo}, {"space": repo}):
        assert f"{repo!r} cannot be a Hub id" in error_of(send, **options)
    assert hub.requests == []


def test_name_that_only_the_hub_refuses_is_one_sentence(hub, send):
    for repo in ("alice/a--b", "alice/x.git", "alice/-x"):
        error_of(send, repo=repo)
    assert hub.repos == {}
    send()
    before = remote(hub)
    assert "a..b" in error_of(send, branch="a..b")
    assert remote(hub) == before


# What the Hub refuses


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "the Hub asks who you are; log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_unknown", "the Hub does not know this token; "),
        (Hub.READ, "the token of alice can only read; "),
        (Hub.OTHER, "this token has no permission for alice/tiny; "),
        ("hf_é", "the request to the Hub for alice/tiny failed"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_token_without_permission_changes_nothing(hub, send, model, token, message, exists):
    if exists:
        hub.add_folder(model)
    before = remote(hub)
    assert message in error_of(send, token=token)
    assert remote(hub) == before


def test_other_content_is_not_overwritten(hub, send):
    hub.add("model", "alice/tiny", {"config.json": b"{}", "model.safetensors": b"of someone's thesis"})
    hub.add("space", "alice/page", {"app.py": b"print('mine')"})
    before = remote(hub)
    assert "alice/tiny on the Hub has other content" in error_of(send)
    assert "alice/page on the Hub has other content" in error_of(send, repo="alice/new", space="alice/page")
    assert remote(hub) == before
    hub.add("model", "alice/empty", {})
    send(repo="alice/empty")


def test_concurrent_commit_is_not_overwritten(hub, send, monkeypatch):
    send()
    repo, create_commit = hub.repos["model", "alice/tiny"], HfApi.create_commit

    def late(self, *args, **options):
        repo.commit("main", repo.files() | {"notes.md": b"theirs"}, "by someone else")
        return create_commit(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    assert "was changed by another commit at the same time" in error_of(send, OTHER_RUN)
    assert repo.commits[repo.branches["main"]].title == "by someone else"


@pytest.mark.parametrize("options", [{}, {"branch": "v2"}])
def test_interrupted_upload_leaves_nothing(hub, send, model, options, no_waiting):
    folder = model
    if options:
        send()
        folder = OTHER_RUN
    before, files = remote(hub), local(folder)
    hub.cut_uploads = 1_000
    assert "127.0.0.1 cannot be reached, or closed the connection" in error_of(send, folder, **options)
    assert 0 < sum(no_waiting) < 60
    assert (remote(hub), local(folder)) == (before, files)
    hub.cut_uploads = None
    send(folder, **options)


def test_hub_that_closes_during_an_upload_is_one_sentence(hub, send, monkeypatch, no_waiting):
    send()
    before = remote(hub)
    preupload = Handler.preupload

    def close(handler, *args):
        threading.Thread(target=hub.close).start()
        hub.closing.wait()
        return preupload(handler, *args)

    monkeypatch.setattr(Handler, "preupload", close)
    assert "127.0.0.1 cannot be reached, or closed the connection" in error_of(send, OTHER_RUN)
    assert remote(hub) == before


def test_hub_that_is_down_is_one_sentence(hub, send, monkeypatch, no_waiting):
    def fail(*_):
        raise RefusalError(503, "down for maintenance")

    monkeypatch.setattr(Handler, "commit", fail)
    assert error_of(send) == "127.0.0.1 is busy or down (503); try again later"
    assert hub.repos == {}


@pytest.mark.slow
def test_space_that_fails_leaves_the_model_published(hub, send, monkeypatch, no_waiting):
    commit = Handler.commit

    def fail(handler, repo, *args):
        if repo.kind == "space":
            raise RefusalError(503, "down for maintenance")
        return commit(handler, repo, *args)

    monkeypatch.setattr(Handler, "commit", fail)
    assert "is busy or down (503)" in error_of(send, space="alice/page")
    assert set(hub.repos) == {("model", "alice/tiny")}
    monkeypatch.setattr(Handler, "commit", commit)
    assert "nothing was uploaded" in send(space="alice/page")[1]
    assert set(hub.repos) == {("model", "alice/tiny"), ("space", "alice/page")}


def test_no_network_is_one_sentence(hub, send, monkeypatch):
    hub.close()
    assert "127.0.0.1 cannot be reached" in error_of(send)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error_of(send)

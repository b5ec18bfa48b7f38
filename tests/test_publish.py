"""From a training run to the Hub and back: published, opened in fresh processes, hosted, and all that can go wrong there."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from browser import served
from fake_hub import Handler, Hub, Refusal, empty
from gradio_client import Client
from huggingface_hub import HfApi, ModelCard, SpaceCard, constants

from gpt import SamplingParams, load
from gpt.__main__ import main as write
from gpt.checkpoint import FILES, NEEDED, WEIGHTS, names, save
from train.__main__ import main as train
from train.data import SOURCES, TextDataset
from train.publish import space_files

# the client itself hands httpx2 a file as `data` when it uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {*FILES, "loss_curve.svg", "README.md"}


@pytest.fixture
def trained(run_folder, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(run_folder, tmp_path / "tiny"))


@pytest.fixture
def publish(command, monkeypatch, hub, trained):
    """Run `python -m train publish` on the trained folder, as whoever has the token."""
    run = command("python -m train", train)

    def go(*options, token=hub.WRITE, folder=trained, repo="alice/tiny"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        status, out, err = run("publish", folder, "--repo", repo, *options)
        for token in (*hub.tokens, "hf_"):
            assert token not in f"{status}{out}{err}"
        return status, out, err

    return go


@pytest.fixture
def cli(command):
    """Run `python -m gpt` on a model."""
    run = command("python -m gpt", write)
    return lambda *args: run("--length", 20, "--seed", 1, *args)


def remote(hub):
    """All that the Hub holds, to see that it stayed as it was."""
    return {key: (repo.private, dict(repo.branches), repo.files(), len(repo.commits)) for key, repo in hub.repos.items()}


def on_disk(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(answer):
    """What a command said: one sentence in place of a trace, and an exit code that is not 0."""
    status, out, err = answer
    assert isinstance(status, str)  # which ends a process with 1
    assert re.match(r"python -m (train|gpt): \S", status)
    assert "\n" not in status
    assert "Traceback" not in out + err
    return status.partition(": ")[2]


def python(hub, home, *args, token=None, cwd=ROOT):
    """A fresh process, which knows this Hub alone."""
    done = subprocess.run(
        [sys.executable, *map(str, args)], env=hub.env(token, home=home), cwd=cwd, capture_output=True, text=True, timeout=300
    )
    for token in hub.tokens:
        assert token not in done.stdout + done.stderr
    return done


# There and back


def test_trained_published_and_opened_elsewhere(hub, run_folder, tmp_path):
    done = python(hub, tmp_path / "a", "-m", "train", "publish", run_folder, "--repo", "alice/tiny", token=hub.WRITE)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["model", "alice/tiny"]
    assert done.stdout.splitlines()[-1] == f"{hub.url}/alice/tiny is published, at {repo.branches['main'][:8]}."
    assert "model.safetensors: 100%" in done.stderr  # the bar
    assert len(repo.commits) == 2  # that which made it, and one with everything
    assert set(repo.files()) - {".gitattributes"} == PUBLISHED
    for name in PUBLISHED - {"README.md"}:
        assert repo.files()[name] == (run_folder / name).read_bytes()

    lm = load(run_folder)
    ids = torch.randint(len(lm.tokenizer), (1, 50), generator=torch.Generator().manual_seed(0))
    expected = lm.model(ids)[0].detach()
    torch.save(ids, tmp_path / "ids.pt")
    script = """if 1:
        import sys, torch
        from gpt import load
        ids = torch.load("ids.pt", weights_only=True)
        with torch.no_grad():
            torch.save(load("alice/tiny", revision=sys.argv[1]).model(ids)[0], "logits.pt")
    """
    for revision in ("main", repo.branches["main"]):
        hub.requests.clear()
        again = python(
            hub, tmp_path / "b", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}", revision, cwd=tmp_path
        )
        assert again.returncode == 0, again.stderr
        assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)
        # The bar is for what is fetched; the commit is in the cache already, and opens with no network at all.
        assert ("Fetching" in again.stderr, bool(hub.requests)) == (revision == "main",) * 2

    greedy = lm.generate("abc", SamplingParams(temperature=0, max_new_tokens=30)).text
    script = """if 1:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
        model, tokenizer = AutoModelForCausalLM.from_pretrained("alice/tiny"), AutoTokenizer.from_pretrained("alice/tiny")
        with torch.no_grad():
            torch.save(model(torch.load("ids.pt", weights_only=True)).logits, "theirs.pt")
        assert tokenizer("ab  c").input_ids == tokenizer("ab  c", add_special_tokens=False).input_ids
        write = pipeline("text-generation", "alice/tiny")
        print(write("abc", do_sample=False, max_new_tokens=30)[0]["generated_text"])
    """
    theirs = python(hub, tmp_path / "c", "-c", script, cwd=tmp_path)
    assert theirs.returncode == 0, theirs.stderr
    torch.testing.assert_close(torch.load(tmp_path / "theirs.pt", weights_only=True), expected, atol=1e-4, rtol=0)
    assert theirs.stdout == f"abc{greedy}\n"

    hub.close()  # what is in the cache needs nobody
    offline = python(
        hub, tmp_path / "b", "-m", "gpt", "--model", "alice/tiny", "--prompt", "abc", "--temperature", 0, "--length", 30
    )
    assert (offline.returncode, offline.stdout) == (0, f"abc{greedy}\n"), offline.stderr


def test_a_space_starts_from_what_was_uploaded_and_answers(hub, run_folder, tmp_path):
    options = ["--repo", "alice/tiny", "--space", "alice/page"]
    done = python(hub, tmp_path / "a", "-m", "train", "publish", run_folder, *options, token=hub.WRITE)
    assert done.returncode == 0, done.stderr
    space, commit = hub.repos["space", "alice/page"], hub.repos["model", "alice/tiny"].branches["main"]
    assert (space.sdk, space.private, len(space.commits)) == ("gradio", False, 2)
    assert done.stdout.splitlines()[-1] == f"{hub.url}/spaces/alice/page is published, at {space.branches['main'][:8]}."
    # As the Hub builds it: the repo in a folder, and what the front matter wants preloaded in the cache.
    for name, content in space.files().items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    for wanted in SpaceCard.load(tmp_path / "space" / "README.md").data.preload_from_hub:
        repo, files, revision = wanted.split()
        api = HfApi(hub.url, token=False)
        for file in files.split(","):
            api.hf_hub_download(repo, file, revision=revision, cache_dir=tmp_path / "b" / "hub")
    # As ZeroGPU runs it: it wants a function for its GPU, or starts nothing.
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "spaces.py").write_text(
        "def GPU(function):\n    open('gpu', 'w').close()\n    return function\n\n\n"
        "def gradio_auto_wrap(function):\n    return function\n"  # gradio hands it each of its handlers
    )
    hub.requests.clear()
    env = hub.env(home=tmp_path / "b") | {"SYSTEM": "spaces", "SPACE_ID": "alice/page"}
    env |= {"SPACES_ZERO_GPU": "1", "PYTHONPATH": str(tmp_path / "zero")}
    with served(tmp_path / "space", env) as address:
        client = Client(address, verbose=False)
        models = client.predict(api_name="/list-models")
        assert {model["id"] for model in models[:-1]} == set(names())
        assert models[-1]["id"] == f"alice/tiny@{commit}"
        written = client.predict(models[-1]["id"], "abc", 0.8, 60, 0, 1.0, 0.0, 7, api_name="/generate")
    assert (tmp_path / "space" / "gpu").exists()
    assert written == load(run_folder).generate("abc", SamplingParams(max_new_tokens=60, seed=7)).text
    assert hub.requests == []


def test_what_a_space_holds(hub, publish, trained):
    assert publish("--space", "alice/page")[0] == 0
    files = hub.repos["space", "alice/page"].files()
    code = {p.relative_to(ROOT).as_posix() for folder in ("gpt", "ui") for p in ROOT.glob(f"{folder}/*.py")}
    code |= {"app.py", "gpt/engine.c"}
    shipped = {f"weights/{name}/{file}" for name in names() for file in FILES if (WEIGHTS / name / file).is_file()}
    others = {"README.md", "LICENSE", "requirements.txt", "weights/hub.json", ".gitattributes"}
    assert set(files) == code | shipped | others
    for name in code | shipped:
        assert files[name] == (ROOT / name).read_bytes()
    commit = hub.repos["model", "alice/tiny"].branches["main"]
    assert json.loads(files["weights/hub.json"]) == {"alice/tiny": commit}

    front = SpaceCard(files["README.md"].decode()).data
    known = SpaceCard.load(ROOT / "README.md").data.to_dict()
    assert front.to_dict() == known | {"models": ["alice/tiny"], "preload_from_hub": [f"alice/tiny {','.join(FILES)} {commit}"]}
    assert (front.sdk, front.app_file, front.python_version) == ("gradio", "app.py", "3.12")
    assert re.fullmatch(r"6\.\d+\.\d+", front.sdk_version)
    requirements = files["requirements.txt"].decode()
    ours = (ROOT / "requirements.txt").read_text()
    assert re.search(r"^torch>=2\.8,<2\.12\b", requirements, re.MULTILINE)  # the newest of ZeroGPU is 2.11
    assert re.sub(r"^torch.*\n", "", requirements, flags=re.MULTILINE) == re.sub(r"^torch.*\n", "", ours, flags=re.MULTILINE)


def test_a_shipped_model_does_not_lie_in_its_space_twice():
    files = space_files(WEIGHTS / "gpt-shakespeare", "alice/gpt", "0" * 40)
    assert not [name for name in files if name.startswith("weights/gpt-shakespeare")]
    assert "weights/bigram-shakespeare/model.safetensors" in files


def test_publishing_again_uploads_nothing(hub, publish):
    assert publish("--space", "alice/page")[0] == 0
    before = remote(hub)
    hub.requests.clear()
    status, out, _ = publish("--space", "alice/page")
    assert status == 0
    assert out.count(": nothing was uploaded.") == 2
    assert remote(hub) == before
    assert not [path for method, path in hub.requests if method in ("PUT", "DELETE") or "/commit/" in path]


def test_a_newer_run_replaces_the_older_and_an_older_page(hub, publish, trained, tmp_path, train_tiny):
    assert publish("--space", "alice/page")[0] == 0
    space = hub.repos["space", "alice/page"]
    space.commit("main", space.files() | {"ui/old.py": b"1 / 0\n", "notes.md": b"of the owner\n"}, "by hand")
    train_tiny(tmp_path / "new", seed=2)
    assert publish("--space", "alice/page", folder=tmp_path / "new")[0] == 0
    repo = hub.repos["model", "alice/tiny"]
    assert repo.files()["model.safetensors"] == (tmp_path / "new" / "model.safetensors").read_bytes()
    assert [commit.title for commit in repo.commits.values()][1:] == ["Publish from from-bigram-to-gpt"] * 2
    assert json.loads(space.files()["weights/hub.json"]) == {"alice/tiny": repo.branches["main"]}
    assert "ui/old.py" not in space.files()
    assert space.files()["notes.md"] == b"of the owner\n"


def test_a_dry_run_lists_everything_and_sends_nothing(hub, publish, trained):
    status, out, _ = publish("--space", "alice/page", "--dry-run", token=None)
    assert status == 0
    assert hub.requests == []
    assert hub.repos == {}
    sizes = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ +([\d,]+)  (\S+)$", out, re.MULTILINE)}
    assert PUBLISHED <= set(sizes)
    assert sizes["model.safetensors"] == (trained / "model.safetensors").stat().st_size
    assert {"app.py", "ui/page.py", "gpt/hub.py", "weights/hub.json", "requirements.txt"} <= set(sizes)
    assert not [name for name in sizes if re.search(r"test|__pycache__|\.git|\.pt$|^train/|docs/|\.ci", name)]
    assert out.endswith("This was a dry run: nothing was sent.\n")
    publish("--space", "alice/page")
    assert {name for repo in hub.repos.values() for name in repo.files()} == {*sizes, ".gitattributes"}


def test_a_private_model(hub, publish, cli, monkeypatch):
    assert publish("--private")[0] == 0
    assert hub.repos["model", "alice/tiny"].private
    assert cli("--model", "alice/tiny")[0] == 0  # its owner's token is set
    monkeypatch.setenv("HF_TOKEN", hub.OTHER)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-of-bob")
    assert refused(cli("--model", "alice/tiny")).startswith("alice/tiny is not on the Hub, or is private; ")
    before = remote(hub)
    assert refused(publish("--private", "--space", "alice/page")).startswith("a Space opens public models alone; ")
    assert refused(publish("--space", "alice/page")).startswith("alice/tiny is private on the Hub already; ")
    assert publish()[0] == 0  # what is private stays so
    assert remote(hub) == before
    assert publish(repo="alice/open")[0] == 0
    assert refused(publish("--private", repo="alice/open")).startswith("alice/open is public on the Hub already; ")


def test_a_branch_of_its_own(hub, publish, cli, trained, tmp_path, train_tiny):
    assert publish()[0] == 0
    repo = hub.repos["model", "alice/tiny"]
    first = repo.branches["main"]
    train_tiny(tmp_path / "new", seed=2)
    assert publish("--revision", "v2/wide", folder=tmp_path / "new")[0] == 0
    assert repo.branches["main"] == first
    assert repo.files("v2/wide")["model.safetensors"] != repo.files()["model.safetensors"]
    for revision, folder in (("v2/wide", tmp_path / "new"), ("main", trained), (first, trained)):
        told = cli("--model", "alice/tiny", "--revision", revision)
        assert told[:2] == (0, cli("--model", folder)[1])


# The card


def test_the_card_says_what_the_run_knows_and_the_hub_takes_it(hub, publish, data, monkeypatch, tmp_path, train_tiny):
    named = TextDataset("shakespeare", data.text, data.sha256, SOURCES["shakespeare"])
    train_tiny(tmp_path / "run", named)
    assert publish(folder=tmp_path / "run")[0] == 0
    assert ("POST", "/api/validate-yaml") in hub.requests
    text = hub.repos["model", "alice/tiny"].files()["README.md"].decode()
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    front = ModelCard(text).data
    assert (front.license, front.language, front.library_name, front.pipeline_tag) == (
        "mit",
        "en",
        "transformers",
        "text-generation",
    )
    assert front.datasets == ["karpathy/tiny_shakespeare"]
    assert {"from-bigram-to-gpt", "character-level", "gpt"} <= set(front.tags)
    (result,) = front.eval_results
    assert (result.metric_type, result.metric_value) == ("bits_per_character", round(facts["held_out"]["bits_per_character"], 4))
    for figure in (
        f"{facts['parameters']:,}",
        f"the last {facts['window']} characters",
        f"{facts['evaluate']['nats_per_token']:.4f}",
    ):
        assert figure in text
    assert f"{facts['baselines']['bigram']:.4f}" in text
    assert f"{facts['baselines']['uniform']:.4f}" in text
    assert "(loss_curve.svg)" in text
    assert f"seed={facts['sample']['seed']}" in text
    assert 'load("alice/tiny")' in text
    assert 'pipeline("text-generation", "alice/tiny")' in text
    assert "python -m gpt --model alice/tiny" in text
    assert "## Limits" in text
    assert str(tmp_path) not in text


# What is refused before anything is sent


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def reseal(folder):
    """Other weights, under a sha256 of their own: what a run leaves behind that was killed between two files."""
    lm = load(folder)
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(1.2)
    save(folder, lm.model, lm.tokenizer)


def edit(folder, name, **changes):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no log": (lambda f: (f / "training.json").unlink(), "training.json is missing"),
    "no generation config": (lambda f: (f / "generation_config.json").unlink(), "generation_config.json is missing"),
    "cut short": (lambda f: os.truncate(f / "model.safetensors", 5_000), "it is cut short, or no safetensors file"),
    "a bit flipped": (lambda f: flip(f / "model.safetensors", -100), "its content does not match its own sha256"),
    "a header of terabytes": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**43) + bytes(100)),
        "it is cut short, or no safetensors file",
    ),
    "other weights": (reseal, "does not compute what its training run wrote down"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "it is not JSON"),
    "unknown kind": (lambda f: edit(f, "config.json", model_type="llama"), "a model of the kind 'llama'"),
    "sizes that do not fit": (lambda f: edit(f, "config.json", intermediate_size=64), "config.json wants"),
    "no check": (
        lambda f: edit(f, "training.json", check_posterior_collapse=None),
        "training.json is damaged, or of an older version",
    ),
    "a log of nothing": (lambda f: (f / "training.json").write_text("[]"), "training.json is damaged, or of an older version"),
    "no folder": (shutil.rmtree, "is missing; publish a folder that `python -m train run` wrote"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_before_anything_is_sent(hub, publish, trained, damage):
    spoil, said = DAMAGE[damage]
    spoil(trained)
    before = on_disk(trained)
    assert said in refused(publish("--space", "alice/page"))
    assert hub.requests == []
    assert on_disk(trained) == before


def test_settings_that_nobody_knows_do_no_harm(hub, publish, trained, cli):
    """A config.json with keys of a later transformers opens, is published as it is, and says the same."""
    said = cli("--model", trained)
    edit(trained, "config.json", use_warp_drive=True, transformers_version="99.0")
    assert cli("--model", trained) == said
    assert publish()[0] == 0
    assert cli("--model", "alice/tiny")[:2] == said[:2]


@pytest.mark.parametrize(
    "repo", ["tiny", "alice/tiny/x", "../tiny", "alice/ti ny", "alice/", "https://huggingface.co/alice/tiny"]
)
def test_what_is_no_hub_id_is_refused(hub, publish, repo):
    for options, name in (((), repo), (("--space", repo), "alice/tiny")):
        assert refused(publish(*options, repo=name)) == f"{repo!r} cannot be a Hub id; give one like user/name"
    assert hub.requests == []


def test_names_that_only_the_hub_refuses(hub, publish):
    for name in ("alice/a--b", "alice/x.git", "alice/-x"):
        assert "\n" not in refused(publish(repo=name))
    assert hub.repos == {}
    publish()
    before = remote(hub)
    assert "a..b" in refused(publish("--revision", "a..b"))
    assert remote(hub) == before


# What the Hub refuses, and what becomes of it when it dies


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "the Hub wants to know who asks; log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_nobodys_token", "the Hub does not know this token; log in with `hf auth login`, or set HF_TOKEN"),
        (Hub.READ, "the token of alice may only read; log in with `hf auth login`, or set HF_TOKEN with one that may write"),
        (
            Hub.OTHER,
            "this token may not do that to alice/tiny; log in with `hf auth login`, or set HF_TOKEN with one that may write",
        ),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_who_may_not_publish(hub, publish, run_folder, token, said, there):
    if there:
        hub.add_folder(run_folder)
    before = remote(hub)
    assert refused(publish(token=token)).startswith(said)
    assert remote(hub) == before


@pytest.mark.parametrize("token", ["hf_é", "hf_a b", "hf_\x07"])
def test_a_token_that_cannot_be_sent(hub, publish, token):
    refused(publish(token=token))
    assert hub.repos == {}


def test_what_is_something_else_is_not_overwritten(hub, publish):
    hub.add("model", "alice/tiny", {"config.json": b"{}", "model.safetensors": b"of someone's diploma"})
    hub.add("space", "alice/page", {"app.py": b"print('mine')"})
    before = remote(hub)
    assert refused(publish()).startswith("alice/tiny on the Hub holds something else, which would be overwritten; ")
    assert refused(publish("--space", "alice/page", repo="alice/new")).startswith("alice/page on the Hub holds something else")
    assert remote(hub) == before
    hub.add("model", "alice/made-by-hand", {})  # empty: that is what it was made for
    assert publish(repo="alice/made-by-hand")[0] == 0


def test_somebody_else_at_the_same_moment(hub, publish, monkeypatch):
    assert publish()[0] == 0
    repo, commit = hub.repos["model", "alice/tiny"], HfApi.create_commit

    def late(self, *args, **options):
        repo.commit("main", repo.files() | {"notes.md": b"theirs"}, "by somebody else")
        return commit(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    monkeypatch.setattr("train.publish.PROJECT", "from-bigram-to-gpt, again")  # a card that differs
    monkeypatch.setattr("train.publish._existing", lambda hub, repo, kind: hub.repo_info(repo, repo_type=kind))
    monkeypatch.setattr("train.card.PROJECT", "from-bigram-to-gpt, again")
    assert "somebody else changed alice/tiny at this moment; nothing was changed" in refused(publish())
    assert repo.commits[repo.branches["main"]].title == "by somebody else"


@pytest.mark.parametrize("options", [(), ("--revision", "v2")])
def test_an_upload_that_breaks_off_leaves_nothing(hub, publish, trained, options, data, tmp_path, train_tiny):
    """New repo, or new branch of an old one: it is gone again."""
    if options:
        assert publish()[0] == 0
        train_tiny(tmp_path / "new", seed=2)
    folder = tmp_path / "new" if options else trained
    before, local = remote(hub), on_disk(folder)
    hub.cut_uploads = 1_000
    started = time.monotonic()
    said = refused(publish(*options, folder=folder))
    assert said == "127.0.0.1 cannot be reached, or broke off; check the network, and try again"
    assert time.monotonic() - started < 20  # the client's own tries would take 23 s and more
    assert len([path for method, path in hub.requests if method == "PUT"]) == 1 + bool(options)
    assert (remote(hub), on_disk(folder)) == (before, local)
    hub.cut_uploads = None
    assert publish(*options, folder=folder)[0] == 0


def test_a_hub_that_dies_in_the_middle_of_an_upload(hub, publish, trained, monkeypatch):
    assert publish()[0] == 0
    before, local = remote(hub), on_disk(trained)
    monkeypatch.setattr("train.card.PROJECT", "from-bigram-to-gpt, again")
    preupload = Handler.preupload

    def die(handler, *args):
        threading.Thread(target=hub.close).start()
        hub.closing.wait()
        return preupload(handler, *args)

    monkeypatch.setattr(Handler, "preupload", die)
    said = refused(publish())
    assert said == "127.0.0.1 cannot be reached, or broke off; check the network, and try again"
    assert (remote(hub), on_disk(trained)) == (before, local)


def test_a_hub_that_is_out_of_order(hub, publish, monkeypatch):
    def broken(*_):
        raise Refusal(503, "down for maintenance")

    monkeypatch.setattr(Handler, "commit", broken)
    assert refused(publish()) == "127.0.0.1 is busy or out of order (503); try again later"
    assert len([path for _, path in hub.requests if "/commit/" in path]) == 1
    assert hub.repos == {}


def test_a_space_that_cannot_be_made_leaves_the_model_published_and_itself_as_it_was(hub, publish, monkeypatch):
    commit = Handler.commit

    def broken(handler, repo, *args):
        if repo.kind == "space":
            raise Refusal(503, "down for maintenance")
        return commit(handler, repo, *args)

    monkeypatch.setattr(Handler, "commit", broken)
    assert refused(publish("--space", "alice/page")) == "127.0.0.1 is busy or out of order (503); try again later"
    assert set(hub.repos) == {("model", "alice/tiny")}
    monkeypatch.setattr(Handler, "commit", commit)
    status, out, _ = publish("--space", "alice/page")
    assert (status, "nothing was uploaded" in out) == (0, True)  # the model is there; the Space comes now
    assert set(hub.repos) == {("model", "alice/tiny"), ("space", "alice/page")}


def test_no_network(hub, publish, cli, monkeypatch):
    hub.close()
    assert refused(publish()) == "127.0.0.1 cannot be reached, or broke off; check the network, and try again"
    assert refused(cli("--model", "alice/tiny")) == "127.0.0.1 cannot be reached, or broke off; check the network, and try again"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(cli("--model", "alice/tiny")).startswith("HF_HUB_OFFLINE is set, so the Hub was not asked for alice/tiny; ")
    assert refused(publish()).startswith("HF_HUB_OFFLINE is set, so the Hub was not asked")


# Opening


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_that_is_missing_on_the_hub(hub, cli, run_folder, tmp_path, name):
    repo = hub.add_folder(run_folder)
    repo.commit("main", {path: content for path, content in repo.files().items() if path != name}, "less")
    said = refused(cli("--model", "alice/tiny"))
    assert said == f"alice/tiny has no {name} on the Hub; what opens here has config.json, tokenizer.json, model.safetensors"
    assert empty(tmp_path / "home")


@pytest.mark.parametrize(
    "damage", ["cut short", "a bit flipped", "a header of terabytes", "no json", "unknown kind", "sizes that do not fit"]
)
def test_a_damaged_model_on_the_hub_is_refused_and_not_kept(hub, cli, trained, tmp_path, damage):
    spoil, said = DAMAGE[damage]
    spoil(trained)
    hub.add_folder(trained)
    told = refused(cli("--model", "alice/tiny"))
    assert said in told
    assert str(tmp_path) not in told  # where it was fetched to is nobody's concern
    assert empty(tmp_path / "home")
    fetched = [path for method, path in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert len(fetched) == (damage not in ("no json", "unknown kind"))  # those are seen before the weights come


def test_a_pickle_is_never_opened(hub, cli, trained, tmp_path):
    (trained / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(1)}, trained / "pytorch_model.bin")
    hub.add_folder(trained)
    assert "has no model.safetensors" in refused(cli("--model", "alice/tiny"))
    torch.save({"lm_head.weight": torch.zeros(1)}, trained / "model.safetensors")
    hub.add_folder(trained)
    assert "no safetensors file" in refused(cli("--model", "alice/tiny"))
    assert empty(tmp_path / "home")


@pytest.mark.parametrize("size", [1_000, 0])
def test_a_hub_that_dies_in_the_middle_of_a_download(hub, cli, run_folder, tmp_path, size, monkeypatch):
    hub.add_folder(run_folder)
    waits = []
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", waits.append)
    hub.cut_downloads = size
    said = refused(cli("--model", "alice/tiny"))
    assert said == "alice/tiny could not be had from the Hub (the connection broke off); check network and disk, and try again"
    assert sum(waits) <= 10  # over all files; it goes on each time where it was
    assert empty(tmp_path / "home")
    hub.cut_downloads = None
    assert cli("--model", "alice/tiny")[0] == 0


def test_what_is_fetched_comes_whole_or_not_at_all(hub, run_folder, tmp_path, monkeypatch):
    """A process that is killed while it moves the files into the cache leaves nothing that opens as half a model."""
    hub.add_folder(run_folder)
    replace, moved = os.replace, []

    def kill(source, target):
        if "snapshots" in str(target):
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            load("alice/tiny")
    assert moved
    hub.requests.clear()
    assert load("alice/tiny").parameters > 0
    assert hub.requests  # the cache did not pass for whole


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["alice/none"],
            "alice/none is not on the Hub, or is private; check its name, or log in with `hf auth login`, or set HF_TOKEN",
        ),
        (["alice/secret"], "alice/secret is not on the Hub, or is private; check its name, or log in with"),
        (
            ["alice/tiny", "--revision", "v9"],
            "alice/tiny has no revision 'v9' on the Hub; leave it out, or name a branch, tag or commit",
        ),
        (["alice/a--b"], "alice/a--b cannot be a Hub id; give one like user/repo, as its page shows it"),
    ],
)
def test_what_cannot_be_found(hub, cli, run_folder, tmp_path, args, said):
    hub.add_folder(run_folder)
    hub.add_folder(run_folder, "alice/secret", private=True)
    assert refused(cli("--model", *args)).startswith(said)
    assert empty(tmp_path / "home")


def test_what_is_here_never_asks_the_hub(hub, cli, run_folder):
    assert cli("--model", "bigram-shakespeare")[0] == 0
    assert cli("--model", run_folder)[0] == 0
    assert refused(cli("--model", "no-such-model"))
    assert hub.requests == []


def test_the_cache_is_opened_with_no_request_and_says_how_to_mend_it(hub, cli, run_folder):
    hub.add_folder(run_folder)
    first = cli("--model", "alice/tiny")
    hub.requests.clear()
    hub.close()
    assert cli("--model", "alice/tiny")[:2] == first[:2]
    assert hub.requests == []
    (weights,) = Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/model.safetensors")
    os.truncate(weights, 100)
    said = refused(cli("--model", "alice/tiny"))
    assert said.endswith("remove it with `hf cache rm model/alice/tiny`, and open it again")


def test_a_cache_that_cannot_be_written(hub, cli, run_folder, monkeypatch, tmp_path):
    hub.add_folder(run_folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert refused(cli("--model", "alice/tiny")).startswith(f"{tmp_path / 'file' / 'hub'} cannot be written")


def test_a_bigram_travels_too(hub, publish, cli):
    folder = WEIGHTS / "bigram-shakespeare"
    assert publish(folder=folder, repo="alice/bigram")[0] == 0
    assert cli("--model", "alice/bigram")[:2] == cli("--model", folder)[:2]

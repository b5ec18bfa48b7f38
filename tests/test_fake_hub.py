"""The local Hub answers the real client as the real Hub does."""

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from fake_hub import Hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, close_session, constants, file_download
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

# the client itself hands httpx2 a file as `data` when it uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

CARD = b"---\nlicense: mit\nlibrary_name: transformers\ntags: [tiny]\n---\n# Tiny\n"
WEIGHTS = bytes(range(256)) * 16
FILES = {"README.md": CARD, "config.json": b"{}\n", "sub/model.safetensors": WEIGHTS, "empty.bin": b""}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # set in conftest.py, and looked at on each call
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as hub:
        yield hub
        close_session()


@pytest.fixture
def alice(hub):
    return HfApi(hub.url, token=hub.WRITE)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that the client would have waited between its retries."""
    seconds = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def add(files):
    return [CommitOperationAdd(path, data) for path, data in files.items()]


def send(api, files=FILES, **options):
    return api.create_commit("alice/tiny", add(files), commit_message="add", **options)


def call(hub, method, path, body=None, token=None, **headers):
    """Send a request that the real client would not send; returns status, headers and body."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    try:
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, json.dumps(body) if isinstance(body, dict | list) else body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_round_trip(hub, alice, tmp_path):
    url = alice.create_repo("alice/tiny")
    assert (url, url.repo_id, url.repo_type) == (f"{hub.url}/alice/tiny", "alice/tiny", "model")
    first = hub.repos["model", "alice/tiny"].branches["main"]
    done = send(alice, parent_commit=first)
    repo = hub.repos["model", "alice/tiny"]
    assert repo.branches == {"main": done.oid}
    assert repo.commits[done.oid].parent == first
    assert (repo.commits[done.oid].title, repo.commits[first].parent) == ("add", None)
    assert repo.files() == {".gitattributes": repo.files(first)[".gitattributes"], **FILES}

    info = alice.model_info("alice/tiny", files_metadata=True)
    assert (info.sha, info.private, info.card_data.license) == (done.oid, False, "mit")
    assert {"tiny", "transformers", "license:mit"} <= set(info.tags)
    siblings = {file.rfilename: file for file in info.siblings}
    assert {path: file.size for path, file in siblings.items()} == {path: len(data) for path, data in repo.files().items()}
    assert siblings["sub/model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert siblings["config.json"].lfs is None
    assert siblings["config.json"].blob_id == "0967ef424bce6791893e9a57bb952f80fd536e93"  # git hash-object
    assert alice.model_info("alice/tiny", expand=["sha"]).siblings is None

    tree = {entry.path: entry for entry in alice.list_repo_tree("alice/tiny")}
    assert set(tree) == {".gitattributes", "README.md", "config.json", "empty.bin", "sub"}
    assert [entry.path for entry in alice.list_repo_tree("alice/tiny", "sub")] == ["sub/model.safetensors"]
    assert set(alice.list_repo_files("alice/tiny")) == set(repo.files())
    assert [entry.path for entry in alice.get_paths_info("alice/tiny", ["sub", "config.json", "no"])] == ["sub", "config.json"]

    folder = alice.snapshot_download("alice/tiny", local_dir=tmp_path / "local", cache_dir=tmp_path / "cache")
    assert folder == str(tmp_path / "local")
    assert {path: (tmp_path / "local" / path).read_bytes() for path in FILES} == FILES
    assert alice.hf_hub_download("alice/tiny", "config.json", cache_dir=tmp_path / "cache")


def test_unchanged_commit_adds_nothing(hub, alice):
    alice.create_repo("alice/tiny")
    done = send(alice)
    hub.requests.clear()
    assert send(alice).oid == done.oid
    assert not [path for method, path in hub.requests if method == "PUT" or "/commit/" in path]
    same = {"key": "lfsFile", "value": {"path": "sub/model.safetensors", "algo": "sha256"}}
    same["value"]["oid"] = hashlib.sha256(WEIGHTS).hexdigest()
    assert json.loads(commit(hub, same)[2])["commitOid"] == done.oid
    assert len(hub.repos["model", "alice/tiny"].commits) == 2


def test_files_are_deleted(hub, alice):
    alice.create_repo("alice/tiny")
    send(alice)
    gone = [CommitOperationDelete("sub/"), CommitOperationDelete("empty.bin")]
    alice.create_commit("alice/tiny", gone, commit_message="less")
    assert set(hub.repos["model", "alice/tiny"].files()) == {".gitattributes", "README.md", "config.json"}
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist"):
        alice.create_commit("alice/tiny", gone[1:], commit_message="less")


def test_repos_are_created(hub, alice):
    alice.create_repo("tiny", private=True)
    assert alice.create_repo("alice/tiny", exist_ok=True) == f"{hub.url}/alice/tiny"
    with pytest.raises(HfHubHTTPError, match="already created this model") as conflict:
        alice.create_repo("alice/tiny")
    assert conflict.value.response.json()["url"] == f"{hub.url}/alice/tiny"
    assert hub.repos["model", "alice/tiny"].private

    url = alice.create_repo("alice/tiny", repo_type="space", space_sdk="gradio")
    assert (url, url.repo_type) == (f"{hub.url}/spaces/alice/tiny", "space")
    space = hub.repos["space", "alice/tiny"]
    assert (space.sdk, space.private, set(space.files())) == ("gradio", False, {".gitattributes", "README.md"})
    page = b"---\ntitle: Tiny\nsdk: gradio\n---\n"
    alice.create_commit("alice/tiny", add({"README.md": page}), commit_message="page", repo_type="space")
    info = alice.space_info("alice/tiny")
    assert (info.sdk, info.card_data.title) == ("gradio", "Tiny")
    assert alice.whoami()["auth"]["accessToken"]["role"] == "write"


def test_repos_are_deleted(hub, alice):
    hub.add("model", "alice/tiny", FILES)
    for token, error in [(False, RepositoryNotFoundError), (hub.READ, HfHubHTTPError), (hub.OTHER, HfHubHTTPError)]:
        with pytest.raises(error):
            HfApi(hub.url, token=token).delete_repo("alice/tiny")
    assert hub.repos
    alice.delete_repo("alice/tiny")
    assert not hub.repos
    with pytest.raises(RepositoryNotFoundError):
        alice.delete_repo("alice/tiny")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "type": "space"},
        {"name": "x", "type": "space", "sdk": "qt"},
        {"name": "x", "type": "bucket"},
        {"name": "x", "visibility": "secret"},
        {"name": ".x"},
        {"name": "a--b"},
        {"name": "x.git"},
        {"name": "x" * 97},
        {"name": ""},
        {"name": 1},
        {},
        [],
        b"{",
    ],
)
def test_invalid_repo_is_refused(hub, body):
    assert call(hub, "POST", "/api/repos/create", body, hub.WRITE)[0] == 400
    assert not hub.repos


def test_write_permissions(hub):
    repo = hub.add("model", "alice/tiny", FILES)
    for token, status, error in [
        (False, 401, RepositoryNotFoundError),
        ("hf_wrong", 401, HfHubHTTPError),
        (hub.READ, 403, HfHubHTTPError),
        (hub.OTHER, 403, HfHubHTTPError),
    ]:
        api = HfApi(hub.url, token=token)
        tries = [
            lambda api: send(api, {"config.json": b"[]\n"}),
            lambda api: api.create_branch("alice/tiny", branch="v1"),
            lambda api: api.create_repo("alice/other"),
        ]
        for attempt in tries:
            with pytest.raises(HfHubHTTPError) as refused:
                attempt(api)
            assert refused.value.response.status_code == status
            assert refused.value.response.headers["X-Error-Message"]
            assert type(refused.value) is (HfHubHTTPError if attempt is tries[-1] else error)
        for path in ("/api/models/alice/tiny/commit/main", "/alice/tiny.git/info/lfs/objects/batch"):
            assert call(hub, "POST", path, {}, token or None)[0] == status
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(hub.url, token="hf_wrong").whoami()
    assert call(hub, "GET", "/api/whoami-v2")[0] == 401
    assert len(repo.commits) == 2
    assert set(repo.branches) == {"main"}
    assert list(hub.repos) == [("model", "alice/tiny")]


def test_read_permissions(hub, tmp_path):
    hub.add("model", "alice/tiny", FILES, private=True)
    hub.add("model", "alice/open", FILES)
    for token, status in [(False, 401), (hub.OTHER, 404)]:
        api = HfApi(hub.url, token=token)
        assert api.model_info("alice/open").private is False
        for repo in ("alice/tiny", "alice/none"):  # nobody else can tell these two apart
            for attempt in (api.model_info, api.list_repo_files, lambda repo, api=api: api.hf_hub_download(repo, "config.json")):
                with pytest.raises(RepositoryNotFoundError) as refused:
                    attempt(repo)
                assert refused.value.response.status_code == status
                assert refused.value.response.headers["X-Error-Code"] == "RepoNotFound"
    with pytest.raises(RepositoryNotFoundError):
        send(HfApi(hub.url, token=hub.OTHER))
    assert HfApi(hub.url, token=hub.READ).model_info("alice/tiny").private is True
    assert HfApi(hub.url, token=hub.READ).hf_hub_download("alice/tiny", "config.json", cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(hub.url, token="hf_wrong").model_info("alice/open")


def test_branches(hub, alice):
    repo = hub.add("model", "alice/tiny", FILES)
    first, head = repo.commits
    alice.create_branch("alice/tiny", branch="v1", revision=first)
    alice.create_branch("alice/tiny", branch="dev/x")
    done = send(alice, {"config.json": b"[]\n"}, revision="dev/x")
    assert repo.branches == {"main": head, "v1": first, "dev/x": done.oid}
    assert {b.name: b.target_commit for b in alice.list_repo_refs("alice/tiny").branches} == repo.branches
    assert repo.files("dev/x")["config.json"] == b"[]\n"
    assert alice.model_info("alice/tiny", revision="dev/x").sha == done.oid
    assert alice.list_repo_files("alice/tiny", revision="v1") == [".gitattributes"]
    alice.create_branch("alice/tiny", branch="v1", exist_ok=True)
    alice.create_branch("alice/tiny", branch="gone/x")
    alice.delete_branch("alice/tiny", branch="gone/x")
    assert "gone/x" not in repo.branches
    for branch in ("gone/x", "main"):
        with pytest.raises(HfHubHTTPError):
            alice.delete_branch("alice/tiny", branch=branch)
    with pytest.raises(HfHubHTTPError, match="409"):
        alice.create_branch("alice/tiny", branch="v1")
    with pytest.raises(BadRequestError):
        alice.create_branch("alice/tiny", branch="refs/pr/5")
    with pytest.raises(RevisionNotFoundError):
        alice.create_branch("alice/tiny", branch="v2", revision="none")
    with pytest.raises(RevisionNotFoundError):
        send(alice, revision="none")
    assert call(hub, "POST", "/api/models/alice/tiny/commit/none", b"", hub.WRITE)[0] == 404
    with pytest.raises(RevisionNotFoundError):
        send(alice, revision=first)  # a commit is no branch


def test_outdated_parent_is_refused(hub, alice):
    repo = hub.add("model", "alice/tiny", FILES)
    first, head = repo.commits
    for parent in (first, "0" * 40):
        with pytest.raises(HfHubHTTPError, match="A commit has happened since") as late:
            send(alice, {"config.json": b"[]\n"}, parent_commit=parent)
        assert late.value.response.status_code == 412
    assert repo.branches["main"] == head
    send(alice, {"config.json": b"[]\n"}, parent_commit=head[:7])
    assert repo.files()["config.json"] == b"[]\n"


def commit(hub, *lines, header=("header", {"summary": "x"}), branch="main", kind="application/x-ndjson"):
    lines = [{"key": header[0], "value": header[1]}, *lines]
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return call(hub, "POST", f"/api/models/alice/tiny/commit/{branch}", body, hub.WRITE, **{"Content-Type": kind})


def line(key, path, **value):
    return {"key": key, "value": {"path": path, **value}}


@pytest.mark.parametrize(
    "lines",
    [
        [line("lfsFile", "a.bin", algo="sha256", oid="0" * 64, size=1)],  # never uploaded
        [line("lfsFile", "a.bin", algo="sha256", oid=hashlib.sha256(WEIGHTS).hexdigest(), size=1)],
        [line("lfsFile", "a.bin", algo="md5", oid=hashlib.sha256(WEIGHTS).hexdigest())],
        [line("file", "a.txt", content="not base64!")],
        [line("file", "a.safetensors", content="AAAA")],  # must go by LFS
        [line("file", "README.md", content="LS0tCmxpY2Vuc2U6IFsKLS0tCg==")],  # license: [
        [line("file", "../a.txt", content="")],
        [line("file", "/a.txt", content="")],
        [line("file", ".git/config", content="")],
        [line("file", "a.txt")],
        [line("rename", "a.txt")],
        [{"key": "file"}],
        [b"{"],
        [b"[]"],
    ],
)
def test_invalid_commit_is_refused(hub, lines):
    repo = hub.add("model", "alice/tiny", FILES)
    status, headers, body = commit(hub, *lines)
    assert status == 400
    assert headers["X-Error-Message"]
    assert json.loads(body)["error"]
    assert len(repo.commits) == 2


def test_commit_needs_a_header(hub):
    hub.add("model", "alice/tiny", FILES)
    for wrong in [{"header": ("file", {})}, {"header": ("header", {"summary": ""})}, {"kind": "application/json"}]:
        assert commit(hub, **wrong)[0] == 400
    assert call(hub, "POST", "/api/models/alice/tiny/commit/main?create_pr=1", b"", hub.WRITE)[0] == 404


def test_upload_must_match_its_announcement(hub):
    repo = hub.add("model", "alice/tiny", {})
    oid = hashlib.sha256(WEIGHTS).hexdigest()

    def batch(size, operation="upload"):
        asked = {"operation": operation, "objects": [{"oid": oid, "size": size}]}
        status, _, body = call(hub, "POST", "/alice/tiny.git/info/lfs/objects/batch", asked, hub.WRITE)
        return status, json.loads(body)

    path = batch(len(WEIGHTS))[1]["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
    assert call(hub, "PUT", path, WEIGHTS[:-1])[0] == 400
    assert call(hub, "PUT", path, WEIGHTS[:-1] + b"x")[0] == 400
    small = batch(1)[1]["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
    assert call(hub, "PUT", small, WEIGHTS)[0] == 400
    assert call(hub, "PUT", "/lfs/guessed", WEIGHTS)[0] == 403
    assert not repo.objects
    assert batch(1, "download")[0] == 422
    assert call(hub, "PUT", path, iter([WEIGHTS[:1000], WEIGHTS[1000:]]))[0] == 200  # chunked
    assert repo.objects == {oid: WEIGHTS}
    assert batch(len(WEIGHTS))[1]["objects"] == [{"oid": oid, "size": len(WEIGHTS)}]


def test_files_are_read(hub, alice, tmp_path):
    head = hub.add("model", "alice/tiny", FILES).branches["main"]
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        alice.hf_hub_download("alice/tiny", "none.json", cache_dir=tmp_path)
    assert missing.value.response.headers["X-Repo-Commit"] == head
    with pytest.raises(RemoteEntryNotFoundError):
        list(alice.list_repo_tree("alice/tiny", "none"))
    for attempt in (
        alice.model_info,
        alice.list_repo_files,
        lambda repo, revision: alice.get_paths_info(repo, "x", revision=revision),
    ):
        with pytest.raises(RevisionNotFoundError):
            attempt("alice/tiny", revision="none")
    with pytest.raises(RevisionNotFoundError):
        alice.hf_hub_download("alice/tiny", "config.json", revision="0" * 40, cache_dir=tmp_path)
    with pytest.raises(BadRequestError):
        alice.model_info("alice/tiny", expand=["widgetData"])

    path = "/alice/tiny/resolve/main/sub/model.safetensors"
    status, headers, body = call(hub, "HEAD", path)
    assert (status, body, headers["Content-Length"], headers["X-Linked-Size"]) == (200, b"", "4096", "4096")
    assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    for asked, part in [("0-9", WEIGHTS[:10]), ("4000-", WEIGHTS[4000:]), ("-7", WEIGHTS[-7:]), ("4090-9999", WEIGHTS[4090:])]:
        status, headers, body = call(hub, "GET", path, Range=f"bytes={asked}")
        start = WEIGHTS.rindex(part)
        assert (status, body) == (206, part)
        assert asked == "0-9" or headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/4096"
    assert call(hub, "GET", path, Range="bytes=4096-")[0] == 416
    assert call(hub, "GET", path, Range="lines=1-2")[2] == WEIGHTS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/none", 404),
        ("GET", "/api/kernels/alice/tiny", 404),
        ("GET", "/api/models/alice/tiny/none", 404),
        ("POST", "/api/models/alice/tiny", 404),
        ("PUT", "/api/models/alice/tiny/settings", 404),
        ("DELETE", "/api/models/alice/tiny", 404),
        ("GET", "/buckets/alice/tiny/resolve/main/config.json", 404),
        ("GET", "/alice/tiny/resolve/main", 404),
        ("GET", "/api/models/tiny", 404),
        ("POST", "/api/models/alice/tiny/preupload/main", 400),
    ],
)
def test_unknown_request_is_refused(hub, method, path, status):
    hub.add("model", "alice/tiny", FILES)
    assert call(hub, method, path, {} if method == "POST" else None, hub.WRITE)[0] == status


def test_cards_are_validated(hub, alice):
    repo = hub.add("model", "alice/tiny", FILES)
    for card in [b"license: [", b"license: 3", b"license: [mit, 3]", b"license:", b"- a\n- b", b"date: 2026-13-45"]:
        with pytest.raises(ValueError, match="Invalid metadata"):
            send(alice, {"README.md": b"---\n" + card + b"\n---\n"})
    for card in [b"colorFrom: mauve", b"sdk: qt", b"short_description: " + b"x" * 61]:
        status, _, body = call(
            hub, "POST", "/api/validate-yaml", {"repoType": "space", "content": f"---\n{card.decode()}\n---\n"}
        )
        assert (status, len(json.loads(body)["errors"])) == (400, 1)
    assert len(repo.commits) == 2
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        send(alice, {"README.md": b"# Tiny\n"})
    assert alice.model_info("alice/tiny").card_data is None


def test_interrupted_upload_is_retried(hub, alice, waits):
    repo = hub.add("model", "alice/tiny", {})
    hub.cut_uploads = 1000
    with pytest.raises(RuntimeError, match=r"Error while uploading 'sub/model.safetensors'"):
        send(alice)
    assert waits == [1, 2, 4, 8, 8]
    assert len([path for method, path in hub.requests if method == "PUT"]) == 6
    assert not repo.objects
    assert len(repo.commits) == 1
    hub.cut_uploads = len(WEIGHTS)
    send(alice)
    assert repo.files()["sub/model.safetensors"] == WEIGHTS


def test_interrupted_download_is_resumed(hub, alice, waits, monkeypatch, tmp_path):
    hub.add("model", "alice/tiny", FILES)
    hub.cut_downloads = 1500
    with pytest.raises(httpx2.RemoteProtocolError):
        alice.hf_hub_download("alice/tiny", "sub/model.safetensors", cache_dir=tmp_path)
    assert waits == [1] * 5  # it keeps nothing of a part smaller than this
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.requests.clear()
    path = alice.hf_hub_download("alice/tiny", "sub/model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    assert [method for method, _ in hub.requests] == ["HEAD", "GET", "GET", "GET"]
    hub.cut_downloads = 0
    with pytest.raises(httpx2.RemoteProtocolError):
        alice.hf_hub_download("alice/tiny", "config.json", cache_dir=tmp_path)


@pytest.mark.slow
def test_slow_and_closed_hub(hub, alice, waits, tmp_path):
    hub.add("model", "alice/tiny", FILES)
    hub.stall = 0.2
    start = time.monotonic()
    alice.model_info("alice/tiny")
    assert time.monotonic() - start >= 0.2
    hub.stall = 60
    with pytest.raises(httpx2.ReadTimeout):
        alice.model_info("alice/tiny", timeout=0.2)
    hub.close()
    with pytest.raises(httpx2.ConnectError):
        alice.model_info("alice/tiny")
    assert waits == []
    with pytest.raises(LocalEntryNotFoundError):
        alice.hf_hub_download("alice/tiny", "config.json", cache_dir=tmp_path)
    assert waits == [1, 2, 4, 8, 8]
    assert not hub.server.threads


def test_error_in_the_local_hub_fails_the_test(capfd):
    hub = Hub().__enter__()
    hub.add("model", "alice/tiny", FILES).branches = None
    assert call(hub, "GET", "/api/models/alice/tiny")[0] == 501
    with pytest.raises(ExceptionGroup, match="the local Hub failed"):
        hub.__exit__()
    with Hub() as hub:  # a client that leaves is no fault
        with socket.create_connection(("127.0.0.1", hub.server.server_port)) as client:
            client.sendall(b"PUT /lfs/x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
        call(hub, "GET", "/")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_other_process_uses_the_local_hub(hub, tmp_path):
    hub.add("model", "alice/tiny", FILES, private=True)
    script = """if 1:
        import huggingface_hub
        print(huggingface_hub.whoami()["name"], huggingface_hub.create_repo("new"))
        print(huggingface_hub.snapshot_download("alice/tiny"))
        huggingface_hub.upload_folder(repo_id="alice/new", folder_path="up")
    """
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "model.safetensors").write_bytes(WEIGHTS)
    env = hub.env(hub.WRITE, home=tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"alice {hub.url}/alice/new"
    assert done.stdout.splitlines()[1].startswith(str(tmp_path / "home" / "hub"))
    assert hub.repos["model", "alice/new"].files()["model.safetensors"] == WEIGHTS
    assert "HF_TOKEN" not in hub.env(home=tmp_path)

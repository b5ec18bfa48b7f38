"""A local Hugging Face Hub for the real client: the requests that publishing and downloading make.

It refuses what the real Hub refuses and answers 4xx to every other request, so that a test cannot pass on a call that would
fail on the real Hub.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
SDKS = ("gradio", "streamlit", "docker", "static")
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
LFS_SIZE = 1_000_000  # a file larger than this is stored by LFS under any name
LFS_ENDINGS = (
    "7z|arrow|bin|bz2|ckpt|ftz|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet|pb|pickle|pkl|pt|pth|rar|safetensors|"
    "tar|tflite|tgz|wasm|xz|zip|zst"
)
GITATTRIBUTES = re.sub(r"(\w+)\|?", r"*.\1 filter=lfs diff=lfs merge=lfs -text\n", LFS_ENDINGS).encode()


class RefusalError(Exception):
    def __init__(self, status, message, code=None, headers=None, **more):
        super().__init__(status, message)
        # a header is one line of Latin-1, a message may quote a file
        shown = " ".join(message.split()).encode("ascii", "replace").decode()
        headers = {"X-Error-Message": shown, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = Answer({"error": message, **more}, status, headers)


class Answer:
    def __init__(self, body, status=200, headers=None, cut=None):
        self.body = body if isinstance(body, bytes) else json.dumps(body, default=str).encode()
        self.status = status
        self.headers = headers or {"Content-Type": "application/json; charset=utf-8"}
        self.cut = cut  # close the connection after so many bytes of the body


def is_lfs(path, size):
    return size > LFS_SIZE or (size > 0 and re.search(rf"\.({LFS_ENDINGS})$", path) is not None)


def git_oid(data, kind=b"blob"):
    return hashlib.sha1(b"%s %d\0%s" % (kind, len(data), data)).hexdigest()


def describe(path, data):
    """A file's size and oids. Of an LFS file git holds a pointer."""
    if not is_lfs(path, len(data)):
        return {"size": len(data), "oid": git_oid(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
    return {"size": len(data), "oid": git_oid(pointer), "lfs": lfs}


def content_oid(path, data):
    """The id that the client compares its own file with, and that names it in its cache."""
    about = describe(path, data)
    return about.get("lfs", about)["oid"]


def read_card(readme, kind):
    """The metadata of a README, and its errors."""
    block = re.match(rb"\s*---[\r\n]+(.*?)[\r\n]+---(\r|\n|$)", readme, re.DOTALL)
    try:
        card = yaml.safe_load(block[1]) if block else None
    except (yaml.YAMLError, ValueError) as problem:
        return {}, [str(problem)]
    if card is None:
        return {}, []
    if not isinstance(card, dict):
        return {}, ["metadata must be of type object"]
    errors = []
    licenses = card.get("license", [])
    if not all(isinstance(name, str) for name in (licenses if isinstance(licenses, list) else [licenses])):
        errors.append('"license" must be a string or an array of strings')
    if kind == "space":
        errors += [
            f'"{key}" must be one of [{", ".join(known)}]'
            for key, known in (("colorFrom", COLORS), ("colorTo", COLORS), ("sdk", SDKS))
            if key in card and card[key] not in known
        ]
        if len(str(card.get("short_description", ""))) > 60:
            errors.append('"short_description" length must be less than or equal to 60 characters long')
    return card, errors


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, bytes]
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000Z")


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS files; each repo sees only its own

    def __post_init__(self):
        files = {".gitattributes": GITATTRIBUTES}
        if self.kind == "space":
            files["README.md"] = f"---\ntitle: {self.id.partition('/')[2]}\nsdk: {self.sdk}\n---\n".encode()
        self.commit("main", files, "initial commit")

    @property
    def path(self):
        return ("" if self.kind == "model" else f"{self.kind}s/") + self.id

    def commit_at(self, revision):
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def files(self, revision="main"):
        return dict(self.commit_at(revision).files)

    def commit(self, branch, files, title):
        parent = self.branches.get(branch)
        if parent and self.commits[parent].files == files:
            return parent
        self.objects |= {content_oid(path, data): data for path, data in files.items() if is_lfs(path, len(data))}
        sha = secrets.token_hex(20)
        self.commits[sha] = Commit(sha, parent, title, files)
        self.branches[branch] = sha
        return sha

    def tree(self, commit):
        """The description of every file and folder, by path."""
        entries = {}
        for path, data in sorted(commit.files.items()):
            for folder in [path[: slash.start()] for slash in re.finditer("/", path)]:
                oid = git_oid(folder.encode(), b"tree")
                entries.setdefault(folder, {"type": "directory", "path": folder, "oid": oid, "size": 0})
            entries[path] = {"type": "file", "path": path, **describe(path, data)}
        return entries

    def info(self, commit, blobs=False):
        card, _ = read_card(commit.files.get("README.md", b""), self.kind)
        tags = [
            *as_list(card, "tags"),
            *as_list(card, "library_name"),
            *as_list(card, "pipeline_tag"),
            *as_list(card, "language"),
        ]
        for key in ("license", "datasets", "base_model"):
            tags += [f"{key.removesuffix('s')}:{value}" for value in as_list(card, key)]
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        for sibling in siblings if blobs else ():
            about = describe(sibling["rfilename"], commit.files[sibling["rfilename"]])
            sibling |= {"size": about["size"], "blobId": about["oid"]}
            if "lfs" in about:
                sibling["lfs"] = {"sha256": about["lfs"]["oid"], **about["lfs"]}
        info = {
            "_id": hashlib.sha1(self.path.encode()).hexdigest()[:24],
            "id": self.id,
            "author": self.id.partition("/")[0],
            "sha": commit.sha,
            "createdAt": next(iter(self.commits.values())).date,
            "lastModified": commit.date,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [*([self.sdk] if self.sdk else []), *tags, "region:us"],
            "siblings": siblings,
        }
        info |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
        return info | ({"cardData": card} if card else {}) | ({"sdk": self.sdk} if self.sdk else {})


def as_list(card, key):
    value = card.get(key) or []
    return value if isinstance(value, list) else [value]


def get_field(values, name, kind, default=None):
    """A field of a request. Refuses one of another type."""
    value = values.get(name, default) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise RefusalError(400, f'"{name}" must be of type {kind.__name__}')
    return value


def parse_json(text):
    try:
        return json.loads(text)
    except ValueError as problem:
        raise RefusalError(400, f"not JSON: {problem}") from None


def is_true(query, name):
    return query.get(name, [""])[0].lower() in ("true", "1")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def handle_any(self):
        self.hub = self.server.hub
        self.hub.requests.append((self.command, self.path))
        try:
            body = self.read()
            with self.hub.lock:
                self.hub.raise_if_closing()
                if self.hub.status:
                    raise RefusalError(self.hub.status, "down for maintenance")
                answer = self.route(body)
        except RefusalError as refusal:
            answer = refusal.answer
        except ConnectionError:
            raise
        except Exception as fault:
            self.hub.faults.append(fault)
            answer = Answer({"error": repr(fault)}, 501)  # at a 500 the client would try again for 23 s
        if self.hub.stall:
            self.hub.closing.wait(self.hub.stall)
        self.hub.raise_if_closing()
        self.send_response(answer.status)
        for name, value in ({"Content-Length": len(answer.body)} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None and answer.cut < len(answer.body):
                self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def read(self):
        """The request's body."""
        body, cut = bytearray(), self.hub.cut_uploads if self.command == "PUT" else None
        for piece in self.pieces():
            if not piece:
                raise ConnectionAbortedError("the client went away")
            body += piece
            if cut is not None and len(body) > cut:
                raise ConnectionAbortedError("cut")
        return bytes(body)

    def pieces(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            left = int(self.headers.get("Content-Length", 0))
            while left:
                piece = self.rfile.read1(min(left, 65536))
                left -= len(piece)
                yield piece
            return
        while size := int(self.rfile.readline() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        yield from () if self.rfile.readline() else (b"",)  # the empty line that ends the body

    def route(self, body):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        parts = [unquote(part) for part in url.path[1:].split("/")]
        self.user, self.role = self.authenticate()
        match [self.command, *parts]:
            case ["GET", "api", "whoami-v2"]:
                self.require_user()
                token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": self.role}}
                return Answer({"type": "user", "name": self.user, "orgs": [], "auth": token})
            case ["POST", "api", "repos", "create"]:
                return self.create(parse_json(body))
            case ["DELETE", "api", "repos", "delete"]:
                return self.delete(parse_json(body))
            case ["POST", "api", "validate-yaml"]:
                return self.validate(parse_json(body))
            case ["PUT", "lfs", ticket]:
                return self.upload(ticket, body)
            case [method, "api", kind, owner, name, *call] if kind in KINDS:
                repo = self.repo(KINDS[kind], owner, name, writing=method != "GET" and call[:1] != ["paths-info"])
                match [method, *call]:
                    case ["GET"]:
                        return self.info(repo, "main", query)
                    case ["GET", "revision", revision]:
                        return self.info(repo, revision, query)
                    case ["GET", "tree", revision, *path]:
                        return self.tree(repo, revision, "/".join(path), is_true(query, "recursive"))
                    case ["GET", "refs"]:
                        heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in repo.branches.items()]
                        return Answer({"branches": heads, "converts": [], "tags": []})
                    case ["POST", "paths-info", revision]:
                        tree = repo.tree(repo.commit_at(revision))
                        return Answer(
                            [tree[path] for path in parse_qs(body.decode(errors="replace")).get("paths", []) if path in tree]
                        )
                    case ["POST", "preupload", branch]:
                        return self.preupload(repo, branch, parse_json(body))
                    case ["POST", "commit", branch] if not query:
                        return self.commit(repo, branch, body)
                    case ["POST", "branch", branch]:
                        return self.branch(repo, branch, parse_json(body))
                    case ["DELETE", "branch", branch]:
                        if branch == "main":
                            raise RefusalError(403, "Forbidden: cannot delete the default branch")
                        self.head(repo, branch)
                        del repo.branches[branch]
                        return Answer(b"")
        kind = KINDS[parts.pop(0)] if parts[0] in ("datasets", "spaces") else "model"
        match [self.command, *parts]:
            case ["GET" | "HEAD", owner, name, "resolve", revision, _, *_]:
                return self.resolve(self.repo(kind, owner, name), revision, "/".join(parts[4:]))
            case ["POST", owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                return self.batch(self.repo(kind, owner, name.removesuffix(".git"), writing=True), parse_json(body))
        raise RefusalError(404, "Sorry, we can't find the page you are looking for.")

    def authenticate(self):
        header = self.headers.get("Authorization")
        if header is None:
            return None, None
        if header.removeprefix("Bearer ") not in self.hub.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[header.removeprefix("Bearer ")]

    def require_user(self, code=None):
        if self.user is None:
            raise RefusalError(401, "Invalid username or password.", code)

    def repo(self, kind, owner, name, writing=False):
        """A repo that this user may see, or write to."""
        repo = self.hub.repos.get((kind, f"{owner}/{name}"))
        hidden = repo is None or (repo.private and self.user != owner)
        if hidden or writing:
            self.require_user("RepoNotFound")  # the same answer as for a repo that does not exist
        if hidden:
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        if writing and self.user != owner:
            raise RefusalError(403, "Authorization error.")
        if writing and self.role != "write":
            raise RefusalError(403, "you must use a write token to upload to a repository")
        return repo

    def create(self, fields):
        self.require_user()
        kind, name = get_field(fields, "type", str, "model"), get_field(fields, "name", str)
        owner = fields.get("organization") or self.user
        visibility = fields.get("visibility", "public")
        if kind not in KINDS.values():
            raise RefusalError(400, f'"type" must be one of [{", ".join(KINDS.values())}]')
        if (owner, "write") != (self.user, self.role):
            raise RefusalError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if not re.fullmatch(r"(?!.*(--|\.\.))(?!.*\.git$)\w([\w.-]{0,94}\w)?", name, re.ASCII):
            raise RefusalError(400, f"Invalid repo name: {name}")
        if visibility not in ("public", "private"):
            raise RefusalError(400, '"visibility" must be one of [public, private]')
        if kind == "space" and fields.get("sdk") not in SDKS:
            raise RefusalError(400, f'"sdk" must be one of [{", ".join(SDKS)}]')
        repo = self.hub.repos.get((kind, f"{owner}/{name}"))
        if repo:
            raise RefusalError(409, f"You already created this {kind} repo", url=f"{self.hub.url}/{repo.path}")
        repo = Repo(kind, f"{owner}/{name}", visibility == "private", fields["sdk"] if kind == "space" else None)
        self.hub.repos[kind, repo.id] = repo
        return Answer({"url": f"{self.hub.url}/{repo.path}", "name": repo.id, "private": repo.private})

    def delete(self, fields):
        kind, name = get_field(fields, "type", str, "model"), get_field(fields, "name", str)
        repo = self.repo(kind, fields.get("organization") or self.user, name, writing=True)
        del self.hub.repos[kind, repo.id]
        return Answer(b"")

    def validate(self, fields):
        kind = get_field(fields, "repoType", str, "model")
        if kind not in KINDS.values():
            raise RefusalError(400, f'"repoType" must be one of [{", ".join(KINDS.values())}]')
        card, errors = read_card(get_field(fields, "content", str).encode(), kind)
        warnings = [] if card or errors else ["empty or missing yaml metadata in repo card"]
        say = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return Answer(say, 400 if errors else 200)

    def info(self, repo, revision, query):
        info = repo.info(repo.commit_at(revision), is_true(query, "blobs"))
        wanted = query.get("expand", info)
        if not set(wanted) <= {*info, "cardData", "library_name", "pipeline_tag"}:
            raise RefusalError(400, f'"expand" is unknown: {wanted}')
        return Answer({key: info[key] for key in ("_id", "id", *wanted) if key in info})

    def tree(self, repo, revision, folder, recursive):
        entries = repo.tree(repo.commit_at(revision))
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise RefusalError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        start = f"{folder}/" if folder else ""
        inside = {path: path.removeprefix(start) for path in entries if path.startswith(start)}
        return Answer([entries[path] for path, rest in inside.items() if recursive or "/" not in rest])

    def resolve(self, repo, revision, path):
        commit = repo.commit_at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise RefusalError(404, "Entry not found", "EntryNotFound", headers)
        data = commit.files[path]
        size, etag = len(data), f'"{content_oid(path, data)}"'
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": size, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        byte_range = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", self.headers.get("Range", ""))
        if self.command == "HEAD" or not byte_range:
            return Answer(data, 200, headers, self.hub.cut_downloads)
        first, last = (
            (int(byte_range[1]), int(byte_range[2] or size)) if byte_range[1] else (max(size - int(byte_range[2]), 0), size)
        )
        if first >= size or last < first:
            raise RefusalError(416, "Range Not Satisfiable", None, {"Content-Range": f"bytes */{size}"})
        data = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
        return Answer(data, 206, headers, self.hub.cut_downloads)

    def preupload(self, repo, branch, fields):
        files, answers = self.head(repo, branch).files, []
        for file in get_field(fields, "files", list):
            path, size, _ = get_field(file, "path", str), get_field(file, "size", int), get_field(file, "sample", str)
            oid = content_oid(path, files[path]) if path in files else None
            mode = "lfs" if is_lfs(path, size) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": answers})

    def batch(self, repo, fields):
        if get_field(fields, "operation", str) != "upload" or fields.get("hash_algo", "sha256") != "sha256":
            raise RefusalError(422, "only uploads by sha256")
        objects = []
        for item in get_field(fields, "objects", list):
            oid, size = get_field(item, "oid", str), get_field(item, "size", int)
            objects.append({"oid": oid, "size": size})
            if oid not in repo.objects:
                ticket = secrets.token_hex(8)  # authorises the upload: the client sends no token with a PUT
                self.hub.tickets[ticket] = repo, oid, size
                objects[-1]["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{ticket}"}}
        return Answer({"transfer": "basic", "objects": objects})

    def upload(self, ticket, data):
        if ticket not in self.hub.tickets:
            raise RefusalError(403, "no such upload")
        repo, oid, size = self.hub.tickets[ticket]
        if (len(data), hashlib.sha256(data).hexdigest()) != (size, oid):
            raise RefusalError(400, "the content is not what was announced")
        repo.objects[oid] = data
        return Answer(b"")

    def head(self, repo, branch):
        return repo.commit_at(branch if branch in repo.branches else f"branch {branch}")  # a sha cannot be written to

    def commit(self, repo, branch, body):
        head = self.head(repo, branch)
        if self.headers.get("Content-Type") != "application/x-ndjson":
            raise RefusalError(400, "a commit is application/x-ndjson")
        lines = [(get_field(line, "key", str), get_field(line, "value", dict)) for line in map(parse_json, body.splitlines())]
        if not lines or lines[0][0] != "header":
            raise RefusalError(400, "the first line must be the header")
        title, parent = get_field(lines[0][1], "summary", str), get_field(lines[0][1], "parentCommit", str, head.sha)
        if not title:
            raise RefusalError(400, '"summary" is not allowed to be empty')
        if len(parent) < 5 or not head.sha.startswith(parent):
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for key, value in lines[1:]:
            self.operate(repo, files, key, value)
        _, errors = read_card(files.get("README.md", b""), repo.kind)
        if errors:
            raise RefusalError(400, "Invalid metadata in README.md: " + "; ".join(errors))
        sha = repo.commit(branch, files, title)
        return Answer({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo.path}/commit/{sha}"})

    def operate(self, repo, files, key, value):
        """One line of a commit, done to its files."""
        path = get_field(value, "path", str)
        if {"", ".", "..", ".git"} & set((path.removesuffix("/") if key == "deletedFolder" else path).split("/")):
            raise RefusalError(400, f"Invalid path: {path}")
        if key == "file":
            try:
                data = base64.b64decode(get_field(value, "content", str), validate=True)
            except ValueError:
                raise RefusalError(400, f"{path} is not base64") from None
            if is_lfs(path, len(data)):
                raise RefusalError(400, f"Your push was rejected because it holds a file that must go by LFS: {path}")
            files[path] = data
        elif key == "lfsFile":
            data = repo.objects.get(get_field(value, "oid", str))
            if data is None:
                raise RefusalError(
                    400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}"
                )
            if value.get("algo") != "sha256" or value.get("size", len(data)) != len(data):
                raise RefusalError(400, f"{path} is not what was uploaded")
            files[path] = data
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.removesuffix("/") + "/"
            gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(folder))]
            if not gone:
                raise RefusalError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise RefusalError(400, f"Unknown operation: {key}")

    def branch(self, repo, branch, fields):
        if not re.fullmatch(r"(?!refs/)(?!.*(\.\.|//))\w[\w./-]*", branch):
            raise RefusalError(400, f"Invalid reference for a branch: {branch}")
        start = repo.commit_at(get_field(fields, "startingPoint", str, "main"))
        if branch in repo.branches:
            raise RefusalError(409, f"Reference already exists: refs/heads/{branch}")
        repo.branches[branch] = start.sha
        return Answer({})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub):
        self.hub = hub
        self.threads = {}  # by connection
        super().__init__(("127.0.0.1", 0), Handler)

    def process_request_thread(self, request, client_address):
        self.threads[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self.threads[request]

    def handle_error(self, request, client_address):
        if not isinstance(fault := sys.exc_info()[1], ConnectionError):
            self.hub.faults.append(fault)


class Hub:
    WRITE, READ, OTHER = "hf_alice_may_write", "hf_alice_may_read", "hf_bob_may_write"
    tokens = {WRITE: ("alice", "write"), READ: ("alice", "read"), OTHER: ("bob", "write")}  # noqa: RUF012

    def __init__(self):
        self.requests = []  # (method, path), in order
        self.repos = {}  # by (kind, "owner/name")
        self.faults = []  # errors in this module, which fail the test
        self.cut_uploads = self.cut_downloads = self.stall = self.status = None  # bytes, bytes, seconds, HTTP status
        self.tickets = {}
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.server = Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.close()
        if self.faults:
            raise ExceptionGroup("the local Hub failed", self.faults)

    def close(self):
        """Refuse new connections and end the open ones."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        for connection, thread in list(self.server.threads.items()):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    def raise_if_closing(self):
        """Requests get no answer while it is closing, on open connections, too."""
        if self.closing.is_set():
            raise ConnectionAbortedError("closed")

    def add(self, kind, repo_id, files, private=False):
        """Add a repo without HTTP."""
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private, "gradio" if kind == "space" else None)
        repo.commit("main", repo.files() | files, "add files")
        return repo

    def add_folder(self, folder, repo_id="alice/tiny", **options):
        """Add a model without HTTP, from a folder."""
        return self.add(
            "model", repo_id, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, **options
        )

    def env(self, token=None, *, home):
        """The environment of a process that uses only this Hub, with no other token."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        env |= dict.fromkeys(["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"], "1")
        return env | ({"HF_TOKEN": token} if token else {})


def empty(folder):
    """Whether a folder has no files, neither complete nor partial."""
    return not [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]

"""A Hugging Face Hub on loopback: as much of it as publishing and downloading need, for the real client.

It refuses what the real Hub refuses, and with a 4xx whatever it does not know, so a test cannot pass on a call that would
fail there.
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
LFS_SIZE = 1_000_000  # a file larger than this is stored by LFS whatever its name
LFS_ENDINGS = (
    "7z|arrow|bin|bz2|ckpt|ftz|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet|pb|pickle|pkl|pt|pth|rar|safetensors|"
    "tar|tflite|tgz|wasm|xz|zip|zst"
)
GITATTRIBUTES = re.sub(r"(\w+)\|?", r"*.\1 filter=lfs diff=lfs merge=lfs -text\n", LFS_ENDINGS).encode()


class Refusal(Exception):
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
    """What the client compares its own file with, and what names it in the client's cache."""
    about = describe(path, data)
    return about.get("lfs", about)["oid"]


def read_card(readme, kind):
    """The metadata of a README, and what is wrong with it."""
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
    objects: dict[str, bytes] = field(default_factory=dict)  # what LFS holds: no repo sees another's

    def __post_init__(self):
        files = {".gitattributes": GITATTRIBUTES}
        if self.kind == "space":
            files["README.md"] = f"---\ntitle: {self.id.partition('/')[2]}\nsdk: {self.sdk}\n---\n".encode()
        self.commit("main", files, "initial commit")

    @property
    def path(self):
        return ("" if self.kind == "model" else f"{self.kind}s/") + self.id

    def at(self, revision):
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def files(self, revision="main"):
        return dict(self.at(revision).files)

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
        """What the Hub says of every file and folder, by path."""
        entries = {}
        for path, data in sorted(commit.files.items()):
            for folder in [path[: slash.start()] for slash in re.finditer("/", path)]:
                oid = git_oid(folder.encode(), b"tree")
                entries.setdefault(folder, {"type": "directory", "path": folder, "oid": oid, "size": 0})
            entries[path] = {"type": "file", "path": path, **describe(path, data)}
        return entries

    def info(self, commit, blobs=False):
        card, _ = read_card(commit.files.get("README.md", b""), self.kind)
        tags = [*listed(card, "tags"), *listed(card, "library_name"), *listed(card, "pipeline_tag"), *listed(card, "language")]
        for key in ("license", "datasets", "base_model"):
            tags += [f"{key.removesuffix('s')}:{value}" for value in listed(card, key)]
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


def listed(card, key):
    value = card.get(key) or []
    return value if isinstance(value, list) else [value]


def take(values, name, kind, default=None):
    """A field of a request, which must be of that kind."""
    value = values.get(name, default) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise Refusal(400, f'"{name}" must be of type {kind.__name__}')
    return value


def parse(text):
    try:
        return json.loads(text)
    except ValueError as problem:
        raise Refusal(400, f"not JSON: {problem}") from None


def is_on(query, name):
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
                self.hub.be_alive()
                answer = self.route(body)
        except Refusal as refusal:
            answer = refusal.answer
        except ConnectionError:
            raise
        except Exception as fault:
            self.hub.faults.append(fault)
            answer = Answer({"error": repr(fault)}, 501)  # at a 500 the client would try again for 23 s
        if self.hub.stall:
            self.hub.closing.wait(self.hub.stall)
        self.hub.be_alive()
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
        self.user, self.role = self.who()
        match [self.command, *parts]:
            case ["GET", "api", "whoami-v2"]:
                self.need_user()
                token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": self.role}}
                return Answer({"type": "user", "name": self.user, "orgs": [], "auth": token})
            case ["POST", "api", "repos", "create"]:
                return self.create(parse(body))
            case ["DELETE", "api", "repos", "delete"]:
                return self.delete(parse(body))
            case ["POST", "api", "validate-yaml"]:
                return self.validate(parse(body))
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
                        return self.tree(repo, revision, "/".join(path), is_on(query, "recursive"))
                    case ["GET", "refs"]:
                        heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in repo.branches.items()]
                        return Answer({"branches": heads, "converts": [], "tags": []})
                    case ["POST", "paths-info", revision]:
                        tree = repo.tree(repo.at(revision))
                        return Answer(
                            [tree[path] for path in parse_qs(body.decode(errors="replace")).get("paths", []) if path in tree]
                        )
                    case ["POST", "preupload", branch]:
                        return self.preupload(repo, branch, parse(body))
                    case ["POST", "commit", branch] if not query:
                        return self.commit(repo, branch, body)
                    case ["POST", "branch", branch]:
                        return self.branch(repo, branch, parse(body))
                    case ["DELETE", "branch", branch]:
                        if branch == "main":
                            raise Refusal(403, "Forbidden: cannot delete the default branch")
                        self.head(repo, branch)
                        del repo.branches[branch]
                        return Answer(b"")
        kind = KINDS[parts.pop(0)] if parts[0] in ("datasets", "spaces") else "model"
        match [self.command, *parts]:
            case ["GET" | "HEAD", owner, name, "resolve", revision, _, *_]:
                return self.resolve(self.repo(kind, owner, name), revision, "/".join(parts[4:]))
            case ["POST", owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                return self.batch(self.repo(kind, owner, name.removesuffix(".git"), writing=True), parse(body))
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def who(self):
        header = self.headers.get("Authorization")
        if header is None:
            return None, None
        if header.removeprefix("Bearer ") not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[header.removeprefix("Bearer ")]

    def need_user(self, code=None):
        if self.user is None:
            raise Refusal(401, "Invalid username or password.", code)

    def repo(self, kind, owner, name, writing=False):
        """A repo that this user may see, or write to."""
        repo = self.hub.repos.get((kind, f"{owner}/{name}"))
        hidden = repo is None or (repo.private and self.user != owner)
        if hidden or writing:
            self.need_user("RepoNotFound")  # who may not know is told the same as of a repo that is not there
        if hidden:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if writing and self.user != owner:
            raise Refusal(403, "Authorization error.")
        if writing and self.role != "write":
            raise Refusal(403, "you must use a write token to upload to a repository")
        return repo

    def create(self, asked):
        self.need_user()
        kind, name = take(asked, "type", str, "model"), take(asked, "name", str)
        owner = asked.get("organization") or self.user
        visibility = asked.get("visibility", "public")
        if kind not in KINDS.values():
            raise Refusal(400, f'"type" must be one of [{", ".join(KINDS.values())}]')
        if (owner, "write") != (self.user, self.role):
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if not re.fullmatch(r"(?!.*(--|\.\.))(?!.*\.git$)\w([\w.-]{0,94}\w)?", name, re.ASCII):
            raise Refusal(400, f"Invalid repo name: {name}")
        if visibility not in ("public", "private"):
            raise Refusal(400, '"visibility" must be one of [public, private]')
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise Refusal(400, f'"sdk" must be one of [{", ".join(SDKS)}]')
        repo = self.hub.repos.get((kind, f"{owner}/{name}"))
        if repo:
            raise Refusal(409, f"You already created this {kind} repo", url=f"{self.hub.url}/{repo.path}")
        repo = Repo(kind, f"{owner}/{name}", visibility == "private", asked["sdk"] if kind == "space" else None)
        self.hub.repos[kind, repo.id] = repo
        return Answer({"url": f"{self.hub.url}/{repo.path}", "name": repo.id, "private": repo.private})

    def delete(self, asked):
        kind, name = take(asked, "type", str, "model"), take(asked, "name", str)
        repo = self.repo(kind, asked.get("organization") or self.user, name, writing=True)
        del self.hub.repos[kind, repo.id]
        return Answer(b"")

    def validate(self, asked):
        kind = take(asked, "repoType", str, "model")
        if kind not in KINDS.values():
            raise Refusal(400, f'"repoType" must be one of [{", ".join(KINDS.values())}]')
        card, errors = read_card(take(asked, "content", str).encode(), kind)
        warnings = [] if card or errors else ["empty or missing yaml metadata in repo card"]
        say = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return Answer(say, 400 if errors else 200)

    def info(self, repo, revision, query):
        info = repo.info(repo.at(revision), is_on(query, "blobs"))
        wanted = query.get("expand", info)
        if not set(wanted) <= {*info, "cardData", "library_name", "pipeline_tag"}:
            raise Refusal(400, f'"expand" is unknown: {wanted}')
        return Answer({key: info[key] for key in ("_id", "id", *wanted) if key in info})

    def tree(self, repo, revision, folder, recursive):
        entries = repo.tree(repo.at(revision))
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        start = f"{folder}/" if folder else ""
        inside = {path: path.removeprefix(start) for path in entries if path.startswith(start)}
        return Answer([entries[path] for path, rest in inside.items() if recursive or "/" not in rest])

    def resolve(self, repo, revision, path):
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        data = commit.files[path]
        size, etag = len(data), f'"{content_oid(path, data)}"'
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": size, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = re.fullmatch(r"bytes=(?=.*\d)(\d*)-(\d*)", self.headers.get("Range", ""))
        if self.command == "HEAD" or not asked:
            return Answer(data, 200, headers, self.hub.cut_downloads)
        first, last = (int(asked[1]), int(asked[2] or size)) if asked[1] else (max(size - int(asked[2]), 0), size)
        if first >= size or last < first:
            raise Refusal(416, "Range Not Satisfiable", None, {"Content-Range": f"bytes */{size}"})
        data = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
        return Answer(data, 206, headers, self.hub.cut_downloads)

    def preupload(self, repo, branch, asked):
        files, answers = self.head(repo, branch).files, []
        for file in take(asked, "files", list):
            path, size, _ = take(file, "path", str), take(file, "size", int), take(file, "sample", str)
            oid = content_oid(path, files[path]) if path in files else None
            mode = "lfs" if is_lfs(path, size) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": answers})

    def batch(self, repo, asked):
        if take(asked, "operation", str) != "upload" or asked.get("hash_algo", "sha256") != "sha256":
            raise Refusal(422, "only uploads by sha256")
        objects = []
        for item in take(asked, "objects", list):
            oid, size = take(item, "oid", str), take(item, "size", int)
            objects.append({"oid": oid, "size": size})
            if oid not in repo.objects:
                ticket = secrets.token_hex(8)  # the address itself lets one in: the client sends no token with a PUT
                self.hub.tickets[ticket] = repo, oid, size
                objects[-1]["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{ticket}"}}
        return Answer({"transfer": "basic", "objects": objects})

    def upload(self, ticket, data):
        if ticket not in self.hub.tickets:
            raise Refusal(403, "no such upload")
        repo, oid, size = self.hub.tickets[ticket]
        if (len(data), hashlib.sha256(data).hexdigest()) != (size, oid):
            raise Refusal(400, "the content is not what was announced")
        repo.objects[oid] = data
        return Answer(b"")

    def head(self, repo, branch):
        return repo.at(branch if branch in repo.branches else f"branch {branch}")  # a sha cannot be written to

    def commit(self, repo, branch, body):
        head = self.head(repo, branch)
        if self.headers.get("Content-Type") != "application/x-ndjson":
            raise Refusal(400, "a commit is application/x-ndjson")
        lines = [(take(line, "key", str), take(line, "value", dict)) for line in map(parse, body.splitlines())]
        if not lines or lines[0][0] != "header":
            raise Refusal(400, "the first line must be the header")
        title, parent = take(lines[0][1], "summary", str), take(lines[0][1], "parentCommit", str, head.sha)
        if not title:
            raise Refusal(400, '"summary" is not allowed to be empty')
        if len(parent) < 5 or not head.sha.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for key, value in lines[1:]:
            self.operate(repo, files, key, value)
        _, errors = read_card(files.get("README.md", b""), repo.kind)
        if errors:
            raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
        sha = repo.commit(branch, files, title)
        return Answer({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo.path}/commit/{sha}"})

    def operate(self, repo, files, key, value):
        """One line of a commit, done to its files."""
        path = take(value, "path", str)
        if {"", ".", "..", ".git"} & set((path.removesuffix("/") if key == "deletedFolder" else path).split("/")):
            raise Refusal(400, f"Invalid path: {path}")
        if key == "file":
            try:
                data = base64.b64decode(take(value, "content", str), validate=True)
            except ValueError:
                raise Refusal(400, f"{path} is not base64") from None
            if is_lfs(path, len(data)):
                raise Refusal(400, f"Your push was rejected because it holds a file that must go by LFS: {path}")
            files[path] = data
        elif key == "lfsFile":
            data = repo.objects.get(take(value, "oid", str))
            if data is None:
                raise Refusal(400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}")
            if value.get("algo") != "sha256" or value.get("size", len(data)) != len(data):
                raise Refusal(400, f"{path} is not what was uploaded")
            files[path] = data
        elif key in ("deletedFile", "deletedFolder"):
            folder = path.removesuffix("/") + "/"
            gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(folder))]
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation: {key}")

    def branch(self, repo, branch, asked):
        if not re.fullmatch(r"(?!refs/)(?!.*(\.\.|//))\w[\w./-]*", branch):
            raise Refusal(400, f"Invalid reference for a branch: {branch}")
        start = repo.at(take(asked, "startingPoint", str, "main"))
        if branch in repo.branches:
            raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
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
        self.requests = []  # (method, path) in the order they came
        self.repos = {}  # by (kind, "owner/name")
        self.faults = []  # what went wrong in here, which no test may pass over
        self.cut_uploads = self.cut_downloads = self.stall = None
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
            raise ExceptionGroup("the Hub itself failed", self.faults)

    def close(self):
        """Refuses further connections and ends those that are open."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        for connection, thread in list(self.server.threads.items()):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    def be_alive(self):
        """What comes once it is closing gets no answer, on connections that are still open too."""
        if self.closing.is_set():
            raise ConnectionAbortedError("closed")

    def add(self, kind, repo_id, files, private=False):
        """Puts a repo here without HTTP."""
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private, "gradio" if kind == "space" else None)
        repo.commit("main", repo.files() | files, "add files")
        return repo

    def add_folder(self, folder, repo_id="alice/tiny", **options):
        """Puts a model here without HTTP, as it lies in a folder."""
        return self.add(
            "model", repo_id, {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, **options
        )

    def env(self, token=None, *, home):
        """The environment of a process that shall know this Hub only, and nobody's token but the one given."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        env |= dict.fromkeys(["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"], "1")
        return env | ({"HF_TOKEN": token} if token else {})


def empty(folder):
    """Whether nothing was kept, nor anything half-fetched left behind."""
    return not [path for path in folder.rglob("*") if path.is_file() or path.is_symlink() or path.name.startswith("fetching")]

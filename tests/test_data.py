"""Data sets: read or downloaded, split, tokenized, cut into batches."""

import gc
import hashlib
import lzma
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gpt import CheckpointError, Tokenizer
from gpt.checkpoint import names
from train import data as module
from train.data import (
    DatasetSource,
    LineSampler,
    TextDataset,
    TokenizedDataset,
    cache_dir,
    concatenate,
    first_documents,
    last_documents,
    load_dataset,
    load_shipped_dataset,
    pad_documents,
    random_windows,
    split_documents,
)
from train.tokenizers import tokenize

CONTENT = "Row upon row of letters, é and all.\n".encode() * 5000


# From a file


def test_file_is_read_with_its_name_and_sha256(tmp_path):
    (tmp_path / "my tale.txt").write_bytes(CONTENT)
    data = load_dataset(str(tmp_path / "my tale.txt"))
    assert data == TextDataset("my tale", (CONTENT.decode(),), hashlib.sha256(CONTENT).hexdigest())
    assert data.prompt == ""


def test_line_ends_of_any_system_become_newlines(tmp_path):
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\n")
    assert load_dataset(str(tmp_path / "text")).text == "a\nb\nc\n"


def test_last_tenth_is_held_out():
    data = TextDataset("digits", ("0123456789" * 10 + "x",), "")
    train, held_out = data.split()
    assert train.text + held_out.text == data.text
    assert (len(train.text), len(held_out.text)) == (90, 11)


def refusal(data: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller checks the message)
        load_dataset(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_file_is_refused(tmp_path):
    message = refusal(str(tmp_path / "none.txt"))
    assert "(No such file or directory); give a file, or one of: shakespeare, names" in message


@pytest.mark.parametrize("name", ["", "."])
def test_folder_is_refused(name):
    assert "it is a folder; give a file" in refusal(name)


def test_text_that_is_not_utf8_is_refused_with_the_position(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    assert "latin.txt cannot be used: the file is not UTF-8 text (byte 3 is invalid)" in refusal(str(tmp_path / "latin.txt"))


# From an address


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path == "/short" else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def add_source(monkeypatch, tmp_path):
    """Make an address the source "tale", with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def add(url, content=CONTENT):
        source = DatasetSource(url, hashlib.sha256(content).hexdigest(), "our own", "someone/tale", "Row")
        monkeypatch.setitem(module.SOURCES, "tale", source)
        return source

    return add


@pytest.mark.parametrize("path", ["/text", "/unsized"])
def test_source_is_downloaded_once(server, add_source, path):
    source = add_source(server.url + path)
    first = load_dataset("tale")
    assert first == TextDataset("tale", (CONTENT.decode(),), source.sha256, source)
    assert first.prompt == "Row"
    server.shutdown()
    assert load_dataset("tale") == first
    assert server.requests == 1


def test_cached_source_needs_no_network(add_source):
    add_source("http://127.0.0.1:9/refused")
    cache_dir().mkdir(parents=True)
    (cache_dir() / "tale.txt").write_bytes(CONTENT)
    assert load_dataset("tale").text == CONTENT.decode()


def test_damaged_cache_is_downloaded_again(server, add_source):
    add_source(server.url + "/text")
    cache_dir().mkdir(parents=True)
    (cache_dir() / "tale.txt").write_bytes(CONTENT[:-1])
    assert load_dataset("tale").text == CONTENT.decode()
    assert (cache_dir() / "tale.txt").read_bytes() == CONTENT
    assert server.requests == 1


@pytest.mark.parametrize("path", ["/text", "/short"])
def test_text_with_another_sha256_is_refused_and_not_kept(server, add_source, path):
    source = add_source(server.url + path, b"another text" if path == "/text" else CONTENT)
    message = refusal("tale")
    assert message.startswith(f"{server.url}{path} gave a text with sha256 ")
    assert message.endswith(f"expected {source.sha256}; nothing was kept")
    assert not cache_dir().exists()


def test_refused_connection_is_one_sentence(add_source):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    add_source(url)
    message = refusal("tale")
    assert message.startswith(f"{url} could not be downloaded (")
    assert "refused" in message
    assert message.endswith("; download it in another way and give --data FILE")


@pytest.mark.slow
def test_server_error_is_one_sentence(server, add_source):
    add_source(server.url + "/none")
    assert "could not be downloaded (Not Found)" in refusal("tale")
    gc.collect()  # a connection that was left open warns, and a warning is an error


def test_answer_that_is_not_http_is_one_sentence(add_source):
    class NotHTTP(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1 << 16)
            self.request.sendall(b"what do you want?\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), NotHTTP) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        add_source(f"http://127.0.0.1:{server.server_address[1]}")
        assert "could not be downloaded (what do you want?); download it" in refusal("tale")
        thread.join()


def test_cache_that_cannot_be_written_is_ignored(server, add_source, tmp_path):
    add_source(server.url + "/text")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load_dataset("tale").text == CONTENT.decode()
    assert load_dataset("tale").text == CONTENT.decode()
    assert server.requests == 2


def test_cache_dir_is_that_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir().name == "from-bigram-to-gpt"
    if sys.platform == "linux":
        assert cache_dir().parent == tmp_path


# Shipped


@pytest.fixture
def ship(add_source, monkeypatch, tmp_path):
    """Ship a file as the text "tale", whose address refuses connections."""
    source = add_source("http://127.0.0.1:9/refused")
    monkeypatch.setattr(module, "SHIPPED_TEXTS", tmp_path)

    def write(content):
        (tmp_path / "tale.txt.xz").write_bytes(content)
        return source

    return write


@pytest.mark.parametrize("name", ["shakespeare", "names"])
def test_shipped_text_is_the_published_one(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no copy in the cache
    data = load_dataset(name)
    source = module.SOURCES[name]
    assert data.sha256 == source.sha256
    assert load_shipped_dataset(source.sha256, source.is_lines) == data
    assert "texts" not in names()


def test_shipped_text_needs_no_network(ship):
    source = ship(lzma.compress(CONTENT))
    assert load_dataset("tale").text == CONTENT.decode()
    assert load_shipped_dataset(source.sha256, False) == load_dataset("tale")
    assert load_shipped_dataset(source.sha256, True) == load_dataset("tale", is_lines=True)


def test_other_texts_are_not_shipped():
    assert load_shipped_dataset("0" * 64, False) is None


@pytest.mark.parametrize("content", [b"", b"no xz", lzma.compress(CONTENT)[:-9], lzma.compress(b"another text")])
def test_damaged_shipped_text_is_an_error_that_names_the_remedy(ship, content):
    source = ship(content)
    for load in (lambda: load_dataset("tale"), lambda: load_shipped_dataset(source.sha256, False)):
        with pytest.raises(CheckpointError, match=r"tale.txt.xz is missing or damaged; restore it with `git checkout"):
            load()


def test_missing_shipped_text_is_not_downloaded_for_the_page(add_source, monkeypatch, tmp_path):
    source = add_source("http://127.0.0.1:9/refused")
    monkeypatch.setattr(module, "SHIPPED_TEXTS", tmp_path / "none")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_shipped_dataset(source.sha256, False)


# Tokens


def test_running_text_is_one_document_without_end_tokens():
    tokens = tokenize(TextDataset("digits", ("0123456789" * 10,), ""))
    assert (len(tokens.train), len(tokens.held_out)) == (1, 1)
    assert (len(tokens.train[0]), len(tokens.held_out[0])) == (90, 10)
    assert tokens.eos_token_id is None
    assert tokens.held_out_text == "123456789"


@pytest.mark.parametrize("context_length", [1, 17, 18, 64, 599])
def test_shortest_allowed_text_has_a_window_to_train_on(context_length):
    least = max(20, -(-(context_length + 1) * 10 // 9))
    tokenizer = Tokenizer.from_text("a")

    def tokens(length):
        return TokenizedDataset.from_dataset(TextDataset("short", ("a" * length,), ""), tokenizer, "char", context_length)

    assert len(tokens(least).train[0]) > context_length
    with pytest.raises(ValueError, match=f"has {least - 1} characters; .* needs {least} or more"):
        tokens(least - 1)


def test_text_that_is_short_in_tokens_is_refused():
    """Most of its tokens are in the held-out part."""
    data = TextDataset("uneven", ("a" * 900 + "bcdefghij" * 11 + "b",), "")
    bpe = Tokenizer.bpe("a" * 5000, 264)
    with pytest.raises(ValueError, match="a run with windows of 64 needs"):
        TokenizedDataset.from_dataset(data, bpe, "bpe", 64)


def test_split_documents_leaves_neither_part_empty():
    documents = [torch.arange(i + 2) for i in range(20)]
    assert [len(part) for part in split_documents(documents)] == [18, 2]
    assert [len(part) for part in split_documents(documents[:2])] == [1, 1]
    whole, rest = split_documents([torch.arange(100)])
    assert [len(whole[0]), len(rest[0])] == [90, 10]


def test_first_and_last_documents():
    documents = [torch.arange(n) for n in (3, 4, 5)]
    assert [len(d) for d in first_documents(documents, 5)] == [3, 4]
    assert [len(d) for d in first_documents(documents, 0)] == [3]
    assert first_documents([torch.arange(9)], 4)[0].tolist() == [0, 1, 2, 3, 4]
    assert [len(d) for d in last_documents(documents, documents[:2])] == [4, 5]
    assert last_documents([torch.arange(9)], [torch.arange(4)])[0].tolist() == [5, 6, 7, 8]


def test_concatenated_lines_share_their_end_tokens():
    assert concatenate([torch.tensor([0, 5, 0]), torch.tensor([0, 6, 7, 0])]).tolist() == [0, 5, 0, 6, 7, 0]


# Batches


def test_windows_are_cut_from_the_text_and_their_targets_come_next():
    ids = torch.arange(100) * 3
    inputs, targets = random_windows(ids, 50, 7, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (50, 7)
    assert torch.equal(targets, inputs + 3)
    assert torch.equal(inputs, inputs[:, :1] + 3 * torch.arange(7))


def test_every_position_is_sampled_and_none_beyond():
    inputs, targets = random_windows(torch.arange(9), 300, 5, torch.Generator().manual_seed(0))
    assert set(inputs[:, 0].tolist()) == {0, 1, 2, 3}
    assert targets.max() == 8


def test_generator_determines_the_windows():
    ids = torch.arange(1000)
    one, again, other = (random_windows(ids, 4, 8, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_documents_are_padded_and_padding_is_no_target():
    documents = [torch.tensor(ids) for ids in ([0, 5, 6, 0], [0, 7, 0], [0, 1, 2, 3, 0])]
    inputs, targets = pad_documents(documents)
    assert targets.tolist() == [[5, 6, 0, -1], [7, 0, -1, -1], [1, 2, 3, 0]]
    assert inputs[0].tolist()[:3] == [0, 5, 6]
    assert inputs[2].tolist() == [0, 1, 2, 3]
    assert (inputs >= 0).all()
    longer = pad_documents(documents, 6)
    assert longer[1].tolist() == [[*row, -1, -1] for row in targets.tolist()]
    assert torch.equal(longer[0][:, :4], inputs)


@pytest.fixture
def uneven_lines():
    """Lines of one to 255 tokens, most of them short; the tokens of line i are i."""
    generator = torch.Generator().manual_seed(0)
    lengths = [*torch.randint(1, 9, (200,), generator=generator).tolist(), 30, 31, 100, 255]
    return [torch.tensor([0, *[i + 1] * n, 0]) for i, n in enumerate(lengths)]


def test_little_of_a_batch_of_lines_is_padding(uneven_lines):
    sampler, useful, total = LineSampler(uneven_lines, 1024), 0, 0
    for seed in range(200):
        _, targets = sampler.sample(torch.Generator().manual_seed(seed))
        useful, total = useful + int((targets >= 0).sum()), total + targets.numel()
        assert targets.numel() <= 1024
    assert useful / total > 0.6  # 0.02 if all lines were padded to the longest


@pytest.mark.slow
def test_every_token_has_the_same_weight_in_the_loss(uneven_lines):
    sampler, batches = LineSampler(uneven_lines, 1024), 3000
    weights = torch.zeros(len(uneven_lines) + 1)  # of each line's tokens in the mean loss of a batch
    for seed in range(batches):
        _, targets = sampler.sample(torch.Generator().manual_seed(seed))
        counted = targets[targets > 0]
        weights += counted.bincount(minlength=len(weights)) / (targets >= 0).sum() / batches
    lengths = torch.tensor([0, *(len(line) - 2 for line in uneven_lines)])
    expected = lengths / sum(len(line) - 1 for line in uneven_lines)
    for group in (lengths == 255, lengths == 100, (lengths > 20) & (lengths < 40), (lengths > 4) & (lengths < 9), lengths < 5):
        assert weights[group].sum() == pytest.approx(expected[group].sum().item(), rel=0.1)


def test_generator_determines_the_lines_and_lines_are_whole(uneven_lines):
    one, other = LineSampler(uneven_lines, 64), LineSampler(uneven_lines, 64)
    other.sample(torch.Generator().manual_seed(9))
    a, b = (sampler.sample(torch.Generator().manual_seed(4)) for sampler in (one, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    known = {tuple(line[1:].tolist()) for line in uneven_lines}
    assert {tuple(t for t in row.tolist() if t >= 0) for row in a[1]} <= known

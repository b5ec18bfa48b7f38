import gc
import hashlib
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from train import data as texts
from train.data import DatasetSource, TextDataset, cache_folder, random_batch, read

CONTENT = "Row upon row of letters, é and all.\n".encode() * 5000


# From a file


def test_a_file_is_read_with_its_name_and_sha256(tmp_path):
    (tmp_path / "my tale.txt").write_bytes(CONTENT)
    data = read(str(tmp_path / "my tale.txt"))
    assert data == TextDataset("my tale", CONTENT.decode(), hashlib.sha256(CONTENT).hexdigest(), None)
    assert data.prompt == ""


def test_new_lines_are_kept_as_they_are(tmp_path):
    (tmp_path / "text").write_bytes(b"a\r\nb\rc\n")
    assert read(str(tmp_path / "text")).text == "a\r\nb\rc\n"


def test_the_last_tenth_is_held_out():
    data = TextDataset("digits", "0123456789" * 10 + "x", "", None)
    train, evaluate = data.parts
    assert train + evaluate == data.text
    assert (len(train), len(evaluate)) == (90, 11)


def refusal(data: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (its text is what is looked at)
        read(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    name = str(tmp_path / "none.txt")
    assert (
        refusal(name)
        == f"no text could be read from {name!r} (No such file or directory); give a file, or one of: shakespeare, names"
    )


def test_a_folder_is_refused(tmp_path):
    assert "(Is a directory); give a file" in refusal(str(tmp_path))
    assert "(Is a directory); give a file" in refusal("")


def test_what_is_not_utf8_is_refused_with_the_place(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    assert refusal(str(tmp_path / "latin.txt")).endswith(
        "latin.txt is not UTF-8 text (byte 3 is no part of it); convert it first"
    )


# From an address


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
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
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked = 0
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
        monkeypatch.setitem(texts.SOURCES, "tale", source)
        return source

    return add


@pytest.mark.parametrize("path", ["/text", "/unsized"])
def test_a_source_is_downloaded_once(server, add_source, path):
    source = add_source(server.url + path)
    first = read("tale")
    assert first == TextDataset("tale", CONTENT.decode(), source.sha256, source)
    assert first.prompt == "Row"
    server.shutdown()
    assert read("tale") == first
    assert server.asked == 1


def test_what_is_cached_needs_no_network(add_source):
    add_source("http://127.0.0.1:9/refused")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "tale.txt").write_bytes(CONTENT)
    assert read("tale").text == CONTENT.decode()


def test_a_damaged_cache_is_downloaded_again(server, add_source):
    add_source(server.url + "/text")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "tale.txt").write_bytes(CONTENT[:-1])
    assert read("tale").text == CONTENT.decode()
    assert (cache_folder() / "tale.txt").read_bytes() == CONTENT
    assert server.asked == 1


@pytest.mark.parametrize("path", ["/text", "/short"])
def test_a_text_with_another_sha256_is_refused_and_not_kept(server, add_source, path):
    source = add_source(server.url + path, b"another text" if path == "/text" else CONTENT)
    said = refusal("tale")
    assert said.startswith(f"{server.url}{path} gave a text with sha256 ")
    assert said.endswith(f"expected {source.sha256}; nothing was kept")
    assert not cache_folder().exists()


def test_a_refused_connection_is_told(add_source):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    add_source(url)
    said = refusal("tale")
    assert said.startswith(f"{url} could not be downloaded (")
    assert "refused" in said
    assert said.endswith("; fetch it some other way and give --data FILE")


def test_an_error_of_the_server_is_told(server, add_source):
    add_source(server.url + "/none")
    assert "could not be downloaded (Not Found)" in refusal("tale")
    gc.collect()  # a connection that was left open would warn now, and a warning is an error


def test_an_answer_that_is_not_http_is_told(add_source):
    class Gibberish(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1 << 16)
            self.request.sendall(b"what do you want?\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Gibberish) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        add_source(f"http://127.0.0.1:{server.server_address[1]}")
        assert "could not be downloaded (what do you want?); fetch it" in refusal("tale")
        thread.join()


def test_a_cache_that_cannot_be_written_costs_no_more_than_the_download(server, add_source, tmp_path):
    add_source(server.url + "/text")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert read("tale").text == CONTENT.decode()
    assert read("tale").text == CONTENT.decode()
    assert server.asked == 2


def test_the_cache_is_under_home_without_a_setting(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "from-bigram-to-gpt"


# Batches


def test_a_batch_is_cut_from_the_text_and_its_targets_come_next():
    ids = torch.arange(100) * 3
    inputs, targets = random_batch(ids, rows=50, length=7, generator=torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (50, 7)
    assert torch.equal(targets, inputs + 3)
    assert torch.equal(inputs, inputs[:, :1] + 3 * torch.arange(7))


def test_every_place_is_drawn_and_none_beyond():
    ids = torch.arange(9)
    inputs, targets = random_batch(ids, rows=300, length=5, generator=torch.Generator().manual_seed(0))
    assert set(inputs[:, 0].tolist()) == {0, 1, 2, 3}
    assert targets.max() == 8


def test_a_batch_of_the_shortest_text():
    inputs, targets = random_batch(torch.arange(4), rows=2, length=3, generator=torch.Generator())
    assert inputs.tolist() == [[0, 1, 2]] * 2
    assert targets.tolist() == [[1, 2, 3]] * 2


def test_a_generator_repeats_its_batches():
    ids = torch.arange(1000)
    one, again, other = (random_batch(ids, 4, 8, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)

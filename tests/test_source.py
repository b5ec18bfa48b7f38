"""The source of the page as files of its server, and where the source is published."""

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ui import source


@pytest.fixture
def client():
    return TestClient(Starlette(routes=source.routes()))


def test_every_listed_file_is_sent_as_text(client):
    index = client.get("/page/source").text
    names = source.source_files()
    assert {"README.md", "app.py", "gpt/sampling.py", "ui/static/js/picker.js", "gpt/engine/kernel.c"} <= set(names)
    for name in names:
        assert f'href="source/{name}"' in index
        answer = client.get(f"/page/source/{name}")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == (source.ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "../README.md", "%2e%2e/README.md", "ui/%2e%2e/app.py", ".git/config", "ui", ""]
)
def test_nothing_else_is_sent(client, name):
    answer = client.get(f"/page/source/{name}", follow_redirects=False)
    assert answer.status_code in (404, 307)
    assert "import" not in answer.text


@pytest.mark.parametrize(
    ("citation", "space", "expected"),
    [
        ('repository-code: "https://example.org/code"\n', "user/space", "https://example.org/code"),
        ("title: x\nrepository-code: https://example.org/code # here\n", None, "https://example.org/code"),
        ("title: x\n", "user/space", "https://huggingface.co/spaces/user/space/tree/main"),
        ("title: x\n", None, "page/source"),
        (None, None, "page/source"),
    ],
)
def test_source_address(tmp_path, monkeypatch, citation, space, expected):
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.delenv("SPACE_ID", raising=False)
    if citation is not None:
        (tmp_path / "CITATION.cff").write_text(citation)
    if space is not None:
        monkeypatch.setenv("SPACE_ID", space)
    assert source.source_address() == expected

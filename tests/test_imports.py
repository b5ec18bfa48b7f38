"""Imports go one way: app -> ui -> {train, gpt}, train -> gpt. Read from the source, so that a late import counts too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_NOT = {
    "gpt": {"train", "ui", "app", "gradio", "transformers", "tests"},
    "train": {"ui", "app", "gradio", "transformers", "tests"},
    "ui": {"app", "transformers", "tests"},
    "app.py": {"transformers", "tests"},
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("place", MAY_NOT)
def test_imports_go_one_way(place):
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & MAY_NOT[place], path


def test_the_reader_of_imports_finds_them_all(tmp_path):
    file = tmp_path / "file.py"
    file.write_text("import a.b, c\ndef f():\n    from d.e import f\n    if f:\n        import g as h\n")
    assert imported(file) == {"a", "c", "d", "g"}


def test_gradio_is_found_where_it_may_be():
    assert "gradio" in imported(ROOT / "app.py") | {name for path in (ROOT / "ui").rglob("*.py") for name in imported(path)}

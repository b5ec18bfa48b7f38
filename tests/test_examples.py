"""The scripts in docs/ end with a sentence, not with a traceback, if their arguments are wrong."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each run imports torch
DOCS = Path(__file__).parent.parent / "docs"


def run(script, *args):
    done = subprocess.run([sys.executable, DOCS / script, *map(str, args)], capture_output=True, text=True)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(("script", "args"), [("bigram.py", []), ("standalone.py", []), ("standalone.py", ["file", "A", "long"])])
def test_wrong_arguments_are_a_usage_error(script, args):
    status, err = run(script, *args)
    assert status == 2
    assert err.startswith(f"usage: {script} ")


@pytest.mark.parametrize(("script", "args"), [("bigram.py", []), ("standalone.py", ["A", 3])])
def test_a_bad_file_is_an_error_of_one_sentence(script, args, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        status, err = run(script, tmp_path / name, *args)
        assert (status, err.count("\n")) == (1, 1)


def test_another_archive_is_no_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("archive/extra/model.json", "[]")
    status, err = run("standalone.py", tmp_path / "archive", "A", 3)
    assert (status, err.count("\n")) == (1, 1)


def test_a_bigram_needs_a_step(tmp_path):
    (tmp_path / "text.txt").write_text("abc")
    status, err = run("bigram.py", tmp_path / "text.txt", 0)
    assert (status, err.count("\n")) == (1, 1)

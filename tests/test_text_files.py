"""Every kind of text that people bring: it is trained on, or refused in a sentence that says what to do."""

import codecs
import math
import time

import pytest

from train.data import load_dataset
from train.short_run import Job, run_job
from train.text_files import MAX_TEXT_BYTES, decode_text
from train.text_report import report_text

PROSE = "The ferry crossed at noon, and the old man waved.\nNobody waved back; it was a cold day.\n"
FAMILY = "👩\u200d👩\u200d👧"


# Decoding


@pytest.mark.parametrize(
    "content",
    [
        "é日\nb\n".encode(),
        codecs.BOM_UTF8 + "é日\nb\n".encode(),
        "é日\nb\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "é日\nb\n".encode("utf-16-be"),
        "é日\r\nb\r\n".encode(),
        "é日\rb\r".encode(),
        "é日\r\nb\r\n".encode("utf-16"),
    ],
)
def test_text_of_any_system_is_the_same_text(content):
    assert decode_text(content) == "é日\nb\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("café".encode("latin-1"), r"not UTF-8 text \(byte 3 is invalid\); open it with its encoding and save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0\0\xd8a\0", r"not UTF-16 text \(byte \d is invalid\)"),
        ("wide text without a mark".encode("utf-16-le"), r"has a NUL character \(at position 1\)"),
        (b"a\0b", r"has a NUL character \(at position 1\)"),
        ("a\0b".encode("utf-16"), r"has a NUL character \(at position 1\)"),
        (b"\x7fELF\x02\x01\0\0\xf0\xff", "not a text but binary data"),
        (b"PK\x03\x04\x14\0\x06\0", "is a zip archive or an office document"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "is a PDF"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
    ],
)
def test_everything_else_is_refused_in_one_sentence(content, expected):
    with pytest.raises(ValueError, match=expected) as error:
        decode_text(content)
    assert "\n" not in str(error.value)
    assert "save it as" in str(error.value)


def test_invalid_lines_are_skipped_and_nul_is_refused_in_a_file_of_lines(tmp_path):
    path = tmp_path / "items.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"".join(b"item %d\r\n" % i for i in range(30)) + b"caf\xe9\n")
    dataset = load_dataset(str(path), is_lines=True)
    assert sorted(dataset.documents) == sorted(f"item {i}" for i in range(30))
    assert dataset.skipped["not UTF-8"] == 1
    path.write_bytes(b"item\0\n" * 30)
    with pytest.raises(ValueError, match=r"items.txt cannot be used: the file has a NUL character"):
        load_dataset(str(path), is_lines=True)


# From the bytes of a file to models


def train_on(content, tmp_path, tokenizer=None):
    """What the page does with a file: the report, and the last event of a run with what the report suggests."""
    report = report_text(decode_text(content), tokenizer=tokenizer)
    path = tmp_path / "text.txt"
    path.write_text(decode_text(content), encoding="utf-8")
    job = Job(str(path), "text", report.is_lines, "gpt", "small", report.tokenizer, None, 0.2, 1, str(tmp_path / "out"))
    *_, end = run_job(job, lambda: False, time.perf_counter())
    return report, end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 5_000, {"distinct_characters": 1, "tokenizer": "char"}),
        (PROSE * 2, {"lines": 4}),  # shorter than a window of the preset
        ("the same line again\n" * 400, {"is_lines": True, "lines": 400}),
        (PROSE.replace("\n", "\r\n") * 20, {"characters": 20 * len(PROSE)}),
        ("".join(chr(0x4E00 + i * 7 % 5_000) for i in range(12_000)), {"distinct_characters": 5_000, "tokenizer": "bpe:512"}),
        ("שלום עולם, מה שלומך היום? " * 80, {"is_lines": False}),
        ((FAMILY + " and 🏳️\u200d🌈 went out. ") * 80, {"is_lines": False}),
        (PROSE.replace("\n", " ") * 2_000, {"lines": 1}),
        ("<!DOCTYPE html><html><body>" + f"<p>{PROSE}</p>" * 20 + "</body></html>", {"is_lines": False}),
    ],
    ids=["one character", "short", "one line", "windows", "chinese", "right to left", "emoji", "one long line", "html"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_odd_texts_are_trained_on(tmp_path, text, expected, encoding):
    report, end = train_on(text.encode(encoding), tmp_path)
    assert {name: getattr(report, name) for name in expected} == expected
    assert report.problem == ""
    assert end["event"] == "end"
    assert [model["name"] for model in end["models"]][:3] == ["bigram", "ngram", "gpt"]
    assert all(math.isfinite(model["held_out"]) for model in end["models"])


@pytest.mark.parametrize(
    ("text", "tokenizer", "expected"),
    [
        ("", None, "The text is empty. Paste a text, or choose a file."),
        (" \n\n ", None, "The text is empty."),
        ("Too short.", None, "The text has 10 characters. Give 100 or more"),
        ("".join(chr(0x4E00 + i % 5_000) for i in range(9_000)), "char", "5,000 different characters are too many"),
    ],
)
def test_hopeless_texts_are_refused_by_report_and_run_alike(tmp_path, text, tokenizer, expected):
    report = report_text(text, tokenizer=tokenizer)
    assert report.problem.startswith(expected)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (compared below)
        train_on(text.encode(), tmp_path, tokenizer)
    assert str(error.value) == report.problem
    assert not (tmp_path / "out").exists()


def test_a_line_of_two_megabytes_is_reported():
    report = report_text("word " * (MAX_TEXT_BYTES // 5))
    assert (report.lines, report.bytes, report.problem) == (1, MAX_TEXT_BYTES, "")

"""What is said about a text before a model is trained on it."""

import json
import lzma
from pathlib import Path

import pytest

from train import text_report as module
from train.text_report import as_sentence, describe_expectation, find_warnings, looks_like_lines, report_text, suggest_subwords

VERSE = "From fairest creatures we desire increase,\nThat thereby beauty's rose might never die,\n"


def test_a_report_counts_what_there_is():
    report = report_text("Ab é\n\nAb é\n" * 30)
    assert (report.characters, report.bytes, report.distinct_characters) == (330, 390, 5)
    assert (report.lines, report.is_lines, report.skipped) == (60, True, {"empty": 30})
    assert report_text("Ab é\n\nAb é\n" * 30, is_lines=False).skipped == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n".join(f"name{i}" for i in range(20)), True),
        ("\n".join(f"name{i}" for i in range(19)), False),  # too few to hold any out
        ("\n".join(f"Upper Wick-on-the-Marsh {i}" for i in range(50)), True),
        (VERSE * 30, False),
        ("Yes.\nNo.\nWhy?\n" * 20, False),  # short, but sentences
        ("a wrapped line of prose without any stop at its end\n" * 20, False),
        ("", False),
    ],
)
def test_a_list_is_many_short_lines_without_sentences(text, expected):
    assert looks_like_lines(text) is expected


@pytest.mark.parametrize(("name", "expected"), [("names", True), ("shakespeare", False)])
def test_the_shipped_data_sets_are_recognized(name, expected):
    assert looks_like_lines(lzma.decompress(Path(f"weights/texts/{name}.txt.xz").read_bytes()).decode()) is expected


@pytest.mark.parametrize(("name", "expected"), [("places", True), ("recipes", False), ("dialogue", False)])
def test_the_texts_of_the_page_are_recognized_and_without_a_problem(name, expected):
    report = report_text(Path(f"ui/texts/{name}.txt").read_text(encoding="utf-8"))
    assert (report.is_lines, report.problem) == (expected, "")


@pytest.mark.parametrize(
    ("size", "expected"), [(1_999, "bpe:288"), (2_000, "bpe:512"), (199_999, "bpe:512"), (2**20, "bpe:1024")]
)
def test_subwords_suit_the_size(size, expected):
    assert suggest_subwords(size) == expected


def test_many_characters_suggest_subwords():
    few, many = (report_text("".join(chr(0x4E00 + i % n) for i in range(3_000))) for n in (300, 301))
    assert (few.tokenizer, many.tokenizer) == ("char", "bpe:512")
    assert report_text("many " + "".join(map(chr, range(0x4E00, 0x4E00 + 400))), tokenizer="char").warnings != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 3_000, "one character, repeated"),
        ("the same\n" * 400 + "another\n" * 300, "One line occurs 400 times"),
        (VERSE * 3, "It is short"),
        ("<html>" + VERSE * 30, "HTML"),
    ],
)
def test_warnings(text, expected):
    (warning,) = find_warnings(text, "char")
    assert expected in warning


def test_a_page_of_prose_has_no_warning():
    assert find_warnings("".join(f"Line {i} says something else, as lines do.\n" for i in range(90)), "char") == []


@pytest.mark.parametrize(("message", "expected"), [("it is so", "It is so."), ("Is it?", "Is it?"), ("Yes.", "Yes."), ("", "")])
def test_a_message_becomes_a_sentence(message, expected):
    assert as_sentence(message) == expected


def test_too_few_lines_suggest_a_running_text():
    report = report_text("one\ntwo\n", is_lines=True)
    assert report.problem == ("The text has 2 lines to learn from; a run needs 20 or more. Take it as one running text instead.")


def test_the_expectation_is_that_of_the_nearest_length(tmp_path, monkeypatch):
    rows = [
        {"characters": 1_000, "seconds": 30, "bigram": 2.5, "ngram": 2.25, "gpt": 2.625},
        {"characters": 100_000, "seconds": 30, "bigram": 2.5, "ngram": 1.75, "gpt": 1.625},
    ]
    (tmp_path / "sizes.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(module, "TEXT_SIZES", tmp_path / "sizes.json")
    assert describe_expectation(9_999) == describe_expectation(1_000)
    assert describe_expectation(10_001) == (
        "On 100,000 characters of Shakespeare, held out, in nats a character: a bigram 2.50, an n-gram 1.75, "
        "a GPT after 30 s 1.62. "
        "The best was as unsure as choosing among 5.1 equally likely characters."
    )
    describe_expectation(0)


def test_the_shipped_measurements_say_how_they_were_made():
    facts = json.loads(module.TEXT_SIZES.read_text(encoding="utf-8"))
    assert facts["command"].startswith("python benchmarks/bench_text_size.py")
    assert facts["machine"]["processor"]
    assert all(row["ngram"] < row["bigram"] for row in facts["rows"])

"""Spans that occur in a training text, against hand-worked places and a search by brute force."""

import random

import pytest

from gpt.memorization import Match, SuffixIndex, count_covered, suffix_array


def spans(training_text, text, min_length):
    return [
        (m.start, m.end, m.source_position, m.occurrences) for m in SuffixIndex(training_text).maximal_matches(text, min_length)
    ]


def all_maximal_spans(training_text, text, min_length):
    """Every span that occurs, by brute force, without those that are inside another one."""
    n = len(text)
    found = [(i, j) for i in range(n) for j in range(i + min_length, n + 1) if text[i:j] in training_text]
    return [(i, j) for i, j in found if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in found)]


@pytest.mark.parametrize("text", ["", "a", "banana", "aaaa", "mississippi", "日本 the é 👍 日本 the"])
def test_suffixes_are_sorted(text):
    assert suffix_array(text).tolist() == sorted(range(len(text)), key=lambda at: text[at:])


def test_suffixes_of_random_texts_are_sorted():
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choices("ab", k=rng.randrange(1, 200)))
        assert suffix_array(text).tolist() == sorted(range(len(text)), key=lambda at: text[at:])


def test_overlapping_spans():
    # "abcd" and "cdef" overlap in "cd"; "abcdef" does not occur.
    assert spans("abcd-cdef", "xabcdefx", 3) == [(1, 5, 0, 1), (3, 7, 5, 1)]
    assert count_covered(SuffixIndex("abcd-cdef").maximal_matches("xabcdefx", 3)) == 6


def test_span_inside_a_longer_one_is_left_out():
    # "bcd" occurs by itself, too.
    assert spans("bcd-abcde", "abcde", 3) == [(0, 5, 4, 1)]


def test_repeated_span_is_found_at_each_place():
    assert spans("hello", "hello, hello", 5) == [(0, 5, 0, 1), (7, 12, 0, 1)]


def test_first_of_several_occurrences_is_the_source():
    assert spans("one two one two one", "-one-", 3) == [(1, 4, 0, 3)]


def test_periodic_text():
    # Six a's: the training text has four in a row, at one place; each shift of them is maximal.
    assert spans("baaaab", "aaaaaa", 3) == [(0, 4, 1, 1), (1, 5, 1, 1), (2, 6, 1, 1)]
    assert count_covered(SuffixIndex("baaaab").maximal_matches("aaaaaa", 3)) == 6


def test_spans_at_both_ends_of_both_texts():
    assert spans("start...end", "end-start", 3) == [(0, 3, 8, 1), (4, 9, 0, 1)]


def test_one_character_less_than_the_least_is_no_span():
    training_text = "To be, or not to be: that is the question"
    index = SuffixIndex(training_text)
    assert index.maximal_matches("x" + training_text[:19] + "x") == []
    assert index.maximal_matches("x" + training_text[:20] + "x") == [Match(1, 21, 0, 1)]


@pytest.mark.parametrize("text", ["", "short"])
def test_text_shorter_than_the_least(text):
    assert SuffixIndex("short").maximal_matches(text) == []


def test_training_text_itself_is_one_span(text):
    assert SuffixIndex(text).maximal_matches(text) == [Match(0, len(text), 0, 1)]


def test_longer_than_the_training_text():
    assert spans("abc", "abcabc", 2) == [(0, 3, 0, 1), (3, 6, 0, 1)]


def test_empty_training_text():
    assert spans("", "abc", 1) == []


def test_case_and_whitespace_count():
    assert spans("Good night", "good  night Good\nnight", 4) == [(1, 5, 1, 1), (5, 11, 4, 1), (12, 16, 0, 1), (17, 22, 5, 1)]


def test_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="min_length is 0"):
        SuffixIndex("abc").maximal_matches("abc", 0)


@pytest.mark.parametrize("alphabet", ["ab", "abc", "ab\n日"])
def test_random_texts_against_brute_force(alphabet):
    rng = random.Random(len(alphabet))
    for _ in range(100):
        training_text, text = ("".join(rng.choices(alphabet, k=rng.randrange(40))) for _ in range(2))
        min_length = rng.randrange(1, 6)
        matches = SuffixIndex(training_text).maximal_matches(text, min_length)
        assert [(m.start, m.end) for m in matches] == all_maximal_spans(training_text, text, min_length)
        covered = {i for m in matches for i in range(m.start, m.end)}
        assert count_covered(matches) == len(covered)
        for m in matches:
            span = text[m.start : m.end]
            assert m.source_position == training_text.index(span)
            places = range(len(training_text) - len(span) + 1)
            assert m.occurrences == sum(training_text.startswith(span, at) for at in places)

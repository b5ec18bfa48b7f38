"""Where a span of Shakespeare comes from."""

import pytest

from train.data import load_dataset
from ui.plays import OPENINGS, PARAGRAPH, Place, Plays


@pytest.fixture(scope="module")
def plays():
    return Plays(load_dataset("shakespeare").text)


def test_every_opening_is_there_once_after_a_blank_line_and_in_order(plays):
    text = plays.text
    assert plays.starts == sorted(plays.starts)
    for opening, start in zip(OPENINGS.values(), plays.starts, strict=True):
        assert text.count(opening) == 1
        assert text.startswith(opening, start)
        assert start == 0 or text[start - 2 : start] == PARAGRAPH


@pytest.mark.parametrize(
    ("play", "last_line"),
    [
        ("Coriolanus", "Yet he shall have a noble memory. Assist."),
        ("Richard III", "That she may long live here, God say amen!"),
        ("Richard II", "In weeping after this untimely bier."),
        ("Romeo and Juliet", "Than this of Juliet and her Romeo."),
        ("Henry VI, Part 3", "For here, I hope, begins our lasting joy."),
        ("The Winter's Tale", "We were dissever'd: hastily lead away."),
        ("Measure for Measure", "What's yet behind, that's meet you all should know."),
        ("The Taming of the Shrew", "'Tis a wonder, by your leave, she will be tamed so."),
    ],
)
def test_every_play_ends_with_its_last_line(plays, play, last_line):
    following = plays.starts[plays.titles.index(play) + 1]
    assert plays.text[:following].rstrip("\n").endswith("\n" + last_line)


@pytest.mark.parametrize(
    ("line", "play", "speaker"),
    [
        ("Before we proceed any further", "Coriolanus", "First Citizen"),
        ("A horse! a horse! my kingdom for a horse!", "Richard III", "KING RICHARD III"),
        ("This royal throne of kings, this scepter'd isle", "Richard II", "JOHN OF GAUNT"),
        ("But, soft! what light through yonder window breaks?", "Romeo and Juliet", "ROMEO"),
        ("So many hours must I tend my flock", "Henry VI, Part 3", "KING HENRY VI"),
        ("the red blood reigns in the winter's pale", "The Winter's Tale", "AUTOLYCUS"),
        ("'Tis one thing to be tempted, Escalus", "Measure for Measure", "ANGELO"),
        ("This is a way to kill a wife with kindness", "The Taming of the Shrew", "PETRUCHIO"),
        ("Hell is empty", "The Tempest", "ARIEL"),
        ("Thou let'st thy fortune sleep--die, rather; wink'st\nWhiles thou art waking.\n", "The Tempest", "ANTONIO"),
    ],
)
def test_famous_lines(plays, line, play, speaker):
    start = plays.text.index(line)
    place = plays.find_place(start, start + len(line))
    assert (place.play, place.speaker) == (play, speaker)


def place_of(plays, span):
    start = plays.text.index(span)
    return plays.find_place(start, start + len(span))


def test_lines_around_a_span_within_a_line(plays):
    assert place_of(plays, "through yonder window") == Place(
        "Romeo and Juliet",
        "ROMEO",
        "He jests at scars that never felt a wound.\nBut, soft! what light ",
        " breaks?\nIt is the east, and Juliet is the sun.",
    )


def test_lines_around_a_span_of_whole_lines(plays):
    place = place_of(plays, "It is the east, and Juliet is the sun.\n")
    assert place.before == "But, soft! what light through yonder window breaks?\n"
    assert place.after == "Arise, fair sun, and kill the envious moon,"


def test_span_across_speeches_is_of_the_speaker_of_its_first_word(plays):
    place = place_of(plays, ".\n\nSAMPSON:\nI mean, an we be in choler")
    assert place == Place(
        "Romeo and Juliet",
        "SAMPSON",
        "GREGORY:\nNo, for then we should be colliers",
        ", we'll draw.\n\nGREGORY:",
    )
    assert place_of(plays, "be colliers.\n\nSAMPSON:").speaker == "GREGORY"


def test_both_ends_of_the_text(plays):
    whole = plays.find_place(0, len(plays.text))
    assert whole == Place("Coriolanus", "First Citizen", "", "")
    assert plays.find_place(0, 5).after == " Citizen:\nBefore we proceed any further, hear me speak."


def test_span_without_a_letter_is_placed(plays):
    at = plays.starts[1] - 3
    assert plays.text[at : at + 3] == ".\n\n"
    assert plays.find_place(at, at + 3).play == "Coriolanus"


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="substring not found"):
        Plays("another text")

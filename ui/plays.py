"""Where a span of the shipped Shakespeare comes from: the play, who speaks, and the lines around it.

The text has nine plays one after the other, with names of speakers but without titles. The last play, The Tempest, stops in
its second act, and the prologue of Romeo and Juliet is missing. Songs within a speech have no speaker of their own.
"""

from bisect import bisect_right
from dataclasses import dataclass

OPENINGS = {  # the first lines of each play, in the order of the text
    "Coriolanus": "First Citizen:\nBefore we proceed any further, hear me speak.\n",
    "Richard III": "GLOUCESTER:\nNow is the winter of our discontent\n",
    "Richard II": "KING RICHARD II:\nOld John of Gaunt, time-honour'd Lancaster,\n",
    "Romeo and Juliet": "SAMPSON:\nGregory, o' my word, we'll not carry coals.\n",
    "Henry VI, Part 3": "WARWICK:\nI wonder how the king escaped our hands.\n",
    "The Winter's Tale": "ARCHIDAMUS:\nIf you shall chance, Camillo, to visit Bohemia, on\n",
    "Measure for Measure": "DUKE VINCENTIO:\nEscalus.\n",
    "The Taming of the Shrew": "SLY:\nI'll pheeze you, in faith.\n",
    "The Tempest": "Master:\nBoatswain!\n",
}
PARAGRAPH = "\n\n"  # between speeches; the first line of each is "SPEAKER:"


@dataclass(frozen=True)
class Place:
    """Where a span comes from.

    Attributes:
        play: The title of the play.
        speaker: Who speaks its first word.
        before: The text before the span, from the start of the line above.
        after: The text after the span, to the end of the line below.
    """

    play: str
    speaker: str
    before: str
    after: str


class Plays:
    """Finds places in the text of the plays.

    Args:
        text: The shipped Shakespeare.

    Raises:
        ValueError: If an opening of a play is not in it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.titles = list(OPENINGS)
        self.starts = [text.index(opening) for opening in OPENINGS.values()]

    def find_place(self, start: int, end: int) -> Place:
        """The place of the span from `start` to `end`."""
        text = self.text
        word = next((at for at in range(start, end) if text[at].isalnum()), start)
        speech = text.rfind(PARAGRAPH, 0, word) + len(PARAGRAPH) if PARAGRAPH in text[:word] else 0
        speaker = text[speech : text.find("\n", speech)].removesuffix(":")
        above = text.rfind("\n", 0, start) + 1  # the start of the span's first line
        while above and text[above - 1] == "\n":
            above -= 1
        above = text.rfind("\n", 0, above) + 1
        below = _line_end(text, end - 1)
        while text[below : below + 1] == "\n":
            below += 1
        return Place(
            self.titles[bisect_right(self.starts, word) - 1], speaker, text[above:start], text[end : _line_end(text, below)]
        )


def _line_end(text: str, at: int) -> int:
    """The position of the first new line at `at` or after it, or the end of the text."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end

"""Which spans of a text occur word for word in a training text, found with a suffix array."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

MIN_MATCH_CHARS = 20  # shorter ones are common phrases and names of speakers


@dataclass(frozen=True)
class Match:
    """A span of a text that occurs in the training text.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        source_position: Where its first occurrence in the training text starts.
        occurrences: How often it occurs in the training text.
    """

    start: int
    end: int
    source_position: int
    occurrences: int


def suffix_array(text: str) -> np.ndarray:
    """The starts of all suffixes of `text` in the order of the suffixes.

    By prefix doubling (Manber and Myers, 1990): the ranks of all substrings of length n give those of length 2n.
    """
    ranks = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)[1].astype(np.int64) + 1
    order, length = np.argsort(ranks, kind="stable"), 1
    while len(text) > 1 and ranks[order[-1]] < len(text):  # until all ranks differ
        following = np.zeros_like(ranks)  # the end of the text comes first
        following[:-length] = ranks[length:]
        keys = ranks * (len(text) + 1) + following
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        ranks[order] = np.cumsum(np.concatenate(([1], sorted_keys[1:] != sorted_keys[:-1])))
        length *= 2
    return order.astype(np.int32)


class SuffixIndex:
    """Finds what occurs in a training text.

    Args:
        text: The training text. Building the index of 1 million characters takes about a second.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._suffixes = suffix_array(text)

    def find(self, pattern: str) -> tuple[int, int]:
        """The range of the suffix array whose suffixes start with `pattern`; it is empty if there is none."""
        text, n = self.text, len(pattern)
        start = bisect_left(self._suffixes, pattern, key=lambda at: text[at : at + n])
        end = bisect_right(self._suffixes, pattern, start, key=lambda at: text[at : at + n])
        return start, end

    def _longest(self, text: str, start: int, least: int) -> int:
        """The length of the longest prefix of `text[start:]` in the training text, given that it is `least` or more."""
        rest = text[start:]
        place = bisect_left(self._suffixes, rest, key=lambda at: self.text[at : at + len(rest)])
        longest = least
        for at in self._suffixes[max(place - 1, 0) : place + 1]:  # the longest match is next to where it would be
            while longest < len(rest) and self.text.startswith(rest[: longest + 1], at):
                longest += 1
        return longest

    def maximal_matches(self, text: str, min_length: int = MIN_MATCH_CHARS) -> list[Match]:
        """The maximal spans of `text` of `min_length` characters or more that occur in the training text.

        No span is inside another one, and none can be extended; they may overlap. They are in the order of the text.

        Raises:
            ValueError: If `min_length` is less than 1.
        """
        if min_length < 1:
            raise ValueError(f"min_length is {min_length}; it must be 1 or more")
        matches, end = [], 0
        for start in range(len(text) - min_length + 1):
            length = self._longest(text, start, max(end - start, 0))  # a match without its first character is a match
            if start + length > end:
                end = start + length
                if length >= min_length:
                    first, last = self.find(text[start:end])
                    matches.append(Match(start, end, int(self._suffixes[first:last].min()), last - first))
        return matches


def count_covered(matches: list[Match]) -> int:
    """The number of characters in any of the matches, which are in the order of the text."""
    covered = end = 0
    for match in matches:
        covered += match.end - max(match.start, end)
        end = match.end
    return covered

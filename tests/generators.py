"""Running a generator that returns a value."""

from collections.abc import Generator
from typing import TypeVar

Y = TypeVar("Y")
R = TypeVar("R")


def run_to_end(work: Generator[Y, None, R]) -> tuple[list[Y], R]:
    """What a generator yields, and its return value."""
    values = []
    try:
        while True:
            values.append(next(work))
    except StopIteration as stop:
        return values, stop.value

"""What the command lines share: numbers in a range, errors as one sentence, and how a command ends."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gpt.checkpoint import CheckpointError

EXIT_GRACE_S = 1.0  # from Ctrl-C to the end: for cleaning up, but not for threads that wait for a server
MAX_SHOWN_CHARS = 400  # of a message, which may quote what a user or a server gave
T = TypeVar("T", int, float)


def number_type(convert: Callable[[str], T], is_allowed: Callable[[T], bool], allowed: str) -> Callable[[str], T]:
    """An argparse type for numbers in a range.

    Args:
        convert: `int` or `float`.
        is_allowed: Whether a number is in the range.
        allowed: The range in words, for the error message.
    """

    def parse(text: str) -> T:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"{shorten(text)!r} is not allowed; give {allowed}")
        return value

    return parse


def shorten(text: str, most: int = 60) -> str:
    """The text, without its middle if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"


def as_line(message: str) -> str:
    """A message on one line of bounded length, with control characters escaped."""
    return shorten("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), MAX_SHOWN_CHARS)


def describe_error(error: Exception) -> str:
    """An error as one sentence."""
    match error:
        case UnicodeEncodeError():
            return f"the output cannot be written in {error.encoding}; set PYTHONUTF8=1"
        case OSError(filename=str() as name, strerror=reason):
            return f"{name} cannot be read or written ({reason})"
        case OSError(strerror=str() as reason):  # only the standard streams have no name
            return f"the output cannot be written ({reason})"
    return str(error)


@contextmanager
def command_errors(
    program: str, *errors: type[Exception], is_silent: Callable[[Exception], bool] = lambda _: False
) -> Iterator[None]:
    """Run a command. An error ends the process with one sentence and exit status 1, Ctrl-C with 130, a closed pipe with 0.

    Args:
        program: What starts the sentence.
        errors: Classes of errors to print, in addition to ValueError, OSError and CheckpointError.
        is_silent: Whether to end without the sentence, because another process prints it.
    """
    caught: tuple[type[Exception], ...] = (ValueError, OSError, CheckpointError, *errors)
    _open_closed_streams()
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            if not all(map(_is_unicode, sys.argv)):
                raise ValueError("an argument is not valid UTF-8; give file names and texts in UTF-8")
            if empty := [argument for argument in sys.argv if argument.startswith("--") and argument.endswith("=--")]:
                raise ValueError(f"{empty[0]} has no value; give one")  # argparse of Python 3.11 takes an empty list for it
            yield
        finally:
            sys.stdout.flush()  # at exit, an error would be a traceback
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        pass
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # PyTorch has no class for it on a CPU
            raise
        sys.exit(f"{program}: there is not enough memory for this; give a shorter text or a smaller model")
    except caught as error:
        sys.exit(1 if is_silent(error) else f"{program}: {as_line(describe_error(error))}")
    finally:
        _discard_unwritable_output()
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, handler)


def _interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt, and end the process soon even if threads wait for a server."""
    timer = threading.Timer(EXIT_GRACE_S, os._exit, (130,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _is_unicode(argument: str) -> bool:
    """Whether an argument was valid UTF-8; other bytes are surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in argument)


def _open_closed_streams() -> None:
    """Replace standard streams that are closed, as by `>&-`, which Python represents as None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)


def _discard_unwritable_output() -> None:
    """Send what stdout cannot write to nowhere, or Python would try to write it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

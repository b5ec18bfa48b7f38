"""What every attack needs: a time limit, the form of a refusal, and a count of what was tried.

`pytest tests/attack` runs the small form, `ATTACK=full pytest tests/attack` the large one. Both end in the number of bad inputs
and faults that were tried.
"""

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FULL = os.environ.get("ATTACK") == "full"
LIMIT_S = 10.0  # of processor time for each input: a busy machine fails no test
HANG_S = 60.0  # of time for each input; then a call that cannot be interrupted, such as one in C, ends the test run
MAX_MESSAGE_CHARS = 700
ROOT = Path(__file__).resolve().parents[2]

settings.register_profile(
    "attack",
    max_examples=1_000 if FULL else 40,
    deadline=None,  # see Attack.time_limit
    derandomize=not FULL,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("attack")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter):
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [p for report in reports if getattr(report, "when", "") == "teardown" for p in report.user_properties]
    inputs, faults = (sum(n for name, n in properties if name == kind) for kind in ("attack inputs", "attack faults"))
    if inputs or faults:
        terminalreporter.write_sep("-", f"attacks: {inputs:,} bad inputs, {faults:,} faults")


def assert_refusal(message: str) -> None:
    """A refusal is one short sentence: a line that can be printed, without a traceback."""
    assert message, "a refusal says something"
    assert message.isprintable(), f"a refusal is one line that can be printed: {message!r}"
    assert len(message) <= MAX_MESSAGE_CHARS, f"a refusal is short: {message!r}"
    assert_no_traceback(message)


def assert_no_traceback(output: str) -> None:
    """What a user or the log gets has neither a Python traceback nor a Rust panic."""
    assert "Traceback" not in output, output
    assert "panicked" not in output, output


class Attack:
    """Tries bad inputs and faults, and counts them.

    Attributes:
        inputs: Number of bad inputs.
        faults: Number of faults.
        is_full: Whether the large form runs.
    """

    is_full = FULL
    assert_refusal = staticmethod(assert_refusal)

    def __init__(self) -> None:
        self.inputs = self.faults = 0

    @contextmanager
    def time_limit(self) -> Iterator[None]:
        """Fail if the block, with the processes that end in it, takes longer than `LIMIT_S`; stop if it hangs."""
        start = sum(os.times()[:4])
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        assert (took := sum(os.times()[:4]) - start) < LIMIT_S, f"it took {took:.1f} s"

    def refused(self, call: Callable[[], Any], *errors: type[Exception]) -> str:
        """Try a bad input. `call` must raise one of `errors` with one sentence, which is returned."""
        self.inputs += 1
        with self.time_limit(), pytest.raises(errors) as caught:
            call()
        assert_refusal(str(caught.value))
        return str(caught.value)

    def survived(self, call: Callable[[], Any], *errors: type[Exception]) -> Any:
        """Try an odd input. `call` returns a result, or raises one of `errors` with one sentence; then None is returned."""
        self.inputs += 1
        with self.time_limit():
            try:
                return call()
            except errors as error:
                assert_refusal(str(error))
                return None

    def run_command(self, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `python ARGS` in the repository. It must end in time, and print no traceback.

        Args:
            args: The arguments of the interpreter, such as "-m", "gpt".
            options: Of `subprocess.run`.
        """
        options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": HANG_S - 5} | options
        with self.time_limit():
            process = subprocess.run([sys.executable, *map(str, args)], check=False, **options)
        assert_no_traceback((process.stdout or "") + (process.stderr or ""))
        return process

    def refused_command(self, *args: object, **options: Any) -> str:
        """Try a bad input of a command. It must end with an error and one sentence on stderr, its last line."""
        self.inputs += 1
        process = self.run_command(*args, **options)
        assert process.returncode in (1, 2), process
        message = process.stderr.rstrip().rpartition("\n")[2]
        assert_refusal(message)
        return message


@pytest.fixture
def attack(record_property) -> Iterator[Attack]:
    attack = Attack()
    yield attack
    record_property("attack inputs", attack.inputs)
    record_property("attack faults", attack.faults)


@pytest.fixture
def clean_output(capfd) -> Iterator[None]:
    """Fails if the test prints a traceback or a panic, also from C or Rust."""
    yield
    assert_no_traceback("".join(capfd.readouterr()))

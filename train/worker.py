"""The process that trains for the page: `python -m train.worker`.

Its first line of input is a job (`train.short_run.Job`) in JSON, a later line "stop" ends it with the best model so far, and
the end of its input, at once. It writes events as JSON lines. A job that cannot be done is an event "error" and exit status 1.
"""

import json
import os
import sys
import threading
import time
from typing import Any


def main() -> None:
    """Read a job, run it, write its events."""
    started, job_line, stop = time.perf_counter(), sys.stdin.readline(), threading.Event()
    threading.Thread(target=listen, args=(stop,), daemon=True).start()
    # PyTorch takes seconds to import, in which the process already listens.
    from gpt import CheckpointError
    from train.short_run import Job, run_job
    from train.text_report import as_sentence

    try:
        for event in run_job(Job(**read_object(job_line)), stop.is_set, started):
            write(event)
    except (ValueError, TypeError, OSError, CheckpointError) as error:
        write({"event": "error", "message": as_sentence(str(error))})
        sys.exit(1)


def listen(stop: threading.Event) -> None:
    """Set `stop` when the input says so; end the process when the input ends, because nobody waits for it any more."""
    for line in sys.stdin:
        if line.strip() == "stop":
            stop.set()
    os._exit(0)


def read_object(line: str) -> dict[str, Any]:
    """A JSON object. Raises ValueError if the line is none."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("the first line of input is not a job in JSON")
    return value


def write(event: dict[str, Any]) -> None:
    """Write an event as a line."""
    print(json.dumps(event, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()

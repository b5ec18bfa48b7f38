"""What every benchmark writes next to its figures."""

import sys
from pathlib import Path
from typing import Any

from train.runs import machine, now


def run_facts() -> dict[str, Any]:
    """Date, command and machine of the benchmark that runs."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {"date": now(), "command": command, "machine": machine()}

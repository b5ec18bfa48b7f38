"""The allocator returns what was freed to the system."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys, torch
from pathlib import Path
from ui.memory import bound_allocator

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024

if sys.argv[1] == "bounded":
    bound_allocator()
blocks = [torch.ones(2_000_000 // 4) for _ in range(100)]  # as large as KV caches
del blocks[0]  # from then on, glibc takes as large ones from its heap
blocks += [torch.ones(2_000_000 // 4) for _ in range(100)]
before, last = resident(), blocks[-1]
del blocks
print(before - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_caches_are_returned_to_the_system():
    def freed_mb(mode):
        return float(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, check=True, text=True).stdout)

    assert freed_mb("bounded") > 350  # of 398
    assert freed_mb("as it is") < 250

"""Memory of a process that runs for months: glibc's allocator keeps little of what was freed."""

import ctypes
import sys

# Of mallopt(3). Without them, each thread has an arena of its own, and a freed KV cache leaves a hole between small objects.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ARENAS = 2
MMAP_BYTES = 1 << 20  # blocks of this size and more, such as KV caches, go back to the system when they are freed
TRIM_BYTES = 16 << 20  # that may stay free at the end of the heap


def bound_allocator() -> None:
    """Set limits of glibc's allocator; does nothing on other systems. Call it before the first thread starts."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # musl has none
        for parameter, value in ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, MMAP_BYTES), (M_TRIM_THRESHOLD, TRIM_BYTES)):
            mallopt(parameter, value)

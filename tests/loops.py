"""Run coroutines in tests."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Like asyncio.run, but keep the thread's current event loop: gradio leaves one there, which nobody would close."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)

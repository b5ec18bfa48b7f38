"""A C kernel that computes the decode steps of a GPT: `kernel.c` and its ctypes binding."""

from gpt.engine.binding import Engine, engine_for

__all__ = ["Engine", "engine_for"]

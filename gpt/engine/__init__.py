"""The C decode kernel: one step of a GPT for a batch, compiled on this machine at its first use (`binding.py`, `kernel.c`)."""

from gpt.engine.binding import Engine, engine_for

__all__ = ["Engine", "engine_for"]

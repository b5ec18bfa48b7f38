"""Decode steps and sampling in C, and their ctypes bindings."""

from gpt.engine.binding import Engine, Request, engine_for
from gpt.engine.sampling import Sampler, make_sampler

__all__ = ["Engine", "Request", "Sampler", "engine_for", "make_sampler"]

"""One text in the making: what was asked for, what is written so far, and the link that shows it again."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from gpt import SamplingParams, Sequence
from ui.model_registry import take

MAX_PROMPT = 5_000  # characters that a visitor may send
MAX_TEXT = 5_000  # tokens that one text may grow to with Continue
MIN_RUN, MAX_RUN = 50, 1_000  # tokens that one press of a button writes
MAX_TEMPERATURE = 2

# What a link may say, and how it is read.
LINK = {
    "model": str,
    "prompt": str,
    "seed": int,
    "length": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
}


@dataclass(frozen=True)
class GenerationRequest:
    """A model, a prompt and how to write on. Raises ValueError, in a sentence for the visitor, if it is out of bounds."""

    model: str
    prompt: str
    params: SamplingParams

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not isinstance(self.prompt, str):
            raise ValueError("The model's name and the prompt must both be text.")
        unit = take(self.model).lm.tokenizer.unit
        if len(self.prompt) > MAX_PROMPT:
            raise ValueError(f"This prompt has {len(self.prompt):,} characters; the page takes up to {MAX_PROMPT:,}.")
        if self.params.max_new_tokens > MAX_TEXT:
            raise ValueError(f"The length is {self.params.max_new_tokens:,}; a text here has up to {MAX_TEXT:,} {unit}s.")
        if self.params.temperature > MAX_TEMPERATURE:
            raise ValueError(f"The temperature is {self.params.temperature}; here it goes from 0 to {MAX_TEMPERATURE}.")
        # Half of a character pair, and NUL, are no text to a shell or to JSON; what stands for them is, and few models know it.
        known = self.prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
        object.__setattr__(self, "prompt", known)
        if self.params.seed is None:
            object.__setattr__(self, "params", self.params.seeded())

    def same_text(self, other: "GenerationRequest") -> bool:
        """Whether both write the same characters, be it more or fewer of them."""
        mine, theirs = (replace(ask.params, max_new_tokens=0) for ask in (self, other))
        return (self.model, self.prompt, mine) == (other.model, other.prompt, theirs)

    def query(self, length: int) -> str:
        """The part of a link after its "?", which shows `length` tokens of this text again."""
        plain = SamplingParams()
        values: dict[str, Any] = {"model": self.model, "prompt": self.prompt, "seed": self.params.seed, "length": length}
        values["temperature"] = self.params.temperature
        values |= {n: v for n in ("top_k", "top_p", "min_p") if (v := getattr(self.params, n)) != getattr(plain, n)}
        return urlencode(values, errors="replace")

    @classmethod
    def from_query(cls, query: str | Mapping[str, str], default_model: str) -> "GenerationRequest":
        """Read a link again. Raises ValueError, in a sentence for the visitor, for what it cannot mean."""
        given = dict(parse_qsl(query, keep_blank_values=True)) if isinstance(query, str) else dict(query)
        values: dict[str, Any] = {"model": default_model, "prompt": ""}
        for name in given.keys() & LINK.keys():
            try:
                values[name] = LINK[name](given[name])
            except ValueError:
                whole = "whole " if LINK[name] is int else ""
                raise ValueError(f"The {name} is {given[name][:60]!r}, which is no {whole}number.") from None
        if "length" in values:
            values["max_new_tokens"] = values.pop("length")
        model, prompt = values.pop("model"), values.pop("prompt")
        return cls(model, prompt, SamplingParams(**values))  # which checks each of them itself

    def settings(self, length: int) -> dict[str, Any]:
        """What SamplingParams needs to be told to write `length` tokens of this text: all that is not its default."""
        params = replace(self.params, max_new_tokens=length)
        always = ("temperature", "max_new_tokens", "seed")
        return {f.name: v for f in fields(params) if (v := getattr(params, f.name)) != f.default or f.name in always}


def bounded(length: int) -> int:
    """A length that one press of a button may write. Raises ValueError, in a sentence for the visitor."""
    if not isinstance(length, int) or not MIN_RUN <= length <= MAX_RUN:
        raise ValueError(f"The length is {length!r}; it must be a whole number from {MIN_RUN} to {MAX_RUN:,}.")
    return length


class GenerationSession:
    """A text that grows. It keeps what the model remembers, so that it goes on later without reading anything again.

    It belongs to the page's event loop; the desk's thread does the work.
    """

    def __init__(self, ask: GenerationRequest) -> None:
        shelved = take(ask.model)
        self.ask, self.lm, self.desk = ask, shelved.lm, shelved.desk
        encoded = self.lm.tokenizer.encode(ask.prompt)
        self.prompt_tokens, self.unknown_chars = len(encoded.ids), encoded.unknown_chars
        self.row: Sequence | None = None
        self.pieces: list[str] = []  # the text of each token so far
        self.nats = 0.0
        self.speed = 0.0  # characters a second, the last time that it wrote
        self.stopping = threading.Event()  # set by whoever wants the writing to end
        self.busy = self.forgotten = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def room(self) -> int:
        """How many tokens it may still grow by."""
        return MAX_TEXT - len(self.pieces)

    @property
    def can_go_on(self) -> bool:
        """Whether all that its model remembers is here; not after its visitor left in the middle of it."""
        return self.row is not None or not self.pieces

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / max(1, len(self.text))

    def stop(self) -> None:
        if self.busy:
            self.stopping.set()

    def forget(self) -> None:
        """Its visitor left: free the memory that it would go on with."""
        self.stop()
        self.forgotten, self.row = True, None

    async def write(self, tokens: int) -> AsyncIterator[None]:
        """Write on by up to `tokens`, or until it is stopped; yields to be shown: the first character at once, then about
        twenty times a second, less often in a crowd.

        Raises ValueError if it is being written on already, as after a double click.
        """
        if self.busy:
            raise ValueError("This text is still being written; press Stop first.")
        self.busy = True
        try:
            started, characters = time.perf_counter(), 0
            params = replace(self.ask.params, max_new_tokens=MAX_TEXT)
            row, self.row = self.row, None  # until the desk has given it back
            if row is None:
                row = await asyncio.to_thread(self.lm.open, self.ask.prompt, params)
            async with aclosing(self.desk.write(row, min(tokens, self.room), self.stopping)) as batches:
                async for steps in batches:
                    self.pieces += [step.text for step in steps]
                    self.nats -= sum(step.logprob for step in steps)
                    characters += sum(len(step.text) for step in steps)
                    self.speed = characters / max(time.perf_counter() - started, 1e-6)
                    yield
            self.row = None if self.forgotten else row
        finally:
            self.busy = False
            self.stopping.clear()

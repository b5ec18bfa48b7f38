"""A text that is being generated: what was requested, its tokens so far, and the link that shows it again."""

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
from gpt.tokenizer import name_characters
from ui.model_registry import get_model

MAX_PROMPT_CHARS = 5_000
MAX_TEXT_TOKENS = 5_000  # that one text may grow to with Continue
MIN_RUN_TOKENS, MAX_RUN_TOKENS = 50, 1_000  # that one press of a button generates
MAX_TEMPERATURE = 2

# The parameters of a link, and how to parse them.
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
    """A model, a prompt and how to continue it.

    Raises:
        ValueError: In a sentence for the visitor, if something is out of bounds.
    """

    model: str
    prompt: str
    params: SamplingParams

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not isinstance(self.prompt, str):
            raise ValueError("The model's name and the prompt must both be text.")
        unit = get_model(self.model).lm.tokenizer.unit
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise ValueError(f"This prompt has {len(self.prompt):,} characters; the page takes up to {MAX_PROMPT_CHARS:,}.")
        if self.params.max_new_tokens > MAX_TEXT_TOKENS:
            raise ValueError(f"The length is {self.params.max_new_tokens:,}; a text here has up to {MAX_TEXT_TOKENS:,} {unit}s.")
        if self.params.temperature > MAX_TEMPERATURE:
            raise ValueError(f"The temperature is {self.params.temperature}; here it goes from 0 to {MAX_TEMPERATURE}.")
        # Lone surrogates and NUL are not valid in JSON or a shell: replace them by U+FFFD, which few models know.
        valid = self.prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
        object.__setattr__(self, "prompt", valid)
        if self.params.seed is None:
            object.__setattr__(self, "params", self.params.seeded())

    def is_same_text(self, other: "GenerationRequest") -> bool:
        """Whether both generate the same text, apart from its length."""
        mine, theirs = (replace(request.params, max_new_tokens=0) for request in (self, other))
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
        """Inverse of `query`.

        Raises:
            ValueError: In a sentence for the visitor, if a value is not of its type or out of bounds.
        """
        texts = dict(parse_qsl(query, keep_blank_values=True)) if isinstance(query, str) else dict(query)
        values: dict[str, Any] = {"model": default_model, "prompt": ""}
        for name in texts.keys() & LINK.keys():
            try:
                values[name] = LINK[name](texts[name])
            except ValueError:
                kind = "a whole number" if LINK[name] is int else "a number"
                raise ValueError(f"The {name} is {texts[name][:60]!r}, which is not {kind}.") from None
        if "length" in values:
            values["max_new_tokens"] = values.pop("length")
        model, prompt = values.pop("model"), values.pop("prompt")
        return cls(model, prompt, SamplingParams(**values))  # which checks each of them itself

    def settings(self, length: int) -> dict[str, Any]:
        """The arguments of `SamplingParams` that generate `length` tokens of this text, without most defaults."""
        params = replace(self.params, max_new_tokens=length)
        always = ("temperature", "max_new_tokens", "seed")
        return {f.name: v for f in fields(params) if (v := getattr(params, f.name)) != f.default or f.name in always}


def check_run_tokens(tokens: Any) -> int:
    """Return `tokens` if one press of a button may generate as many.

    Raises:
        ValueError: In a sentence for the visitor, if not.
    """
    if not isinstance(tokens, int) or not MIN_RUN_TOKENS <= tokens <= MAX_RUN_TOKENS:
        raise ValueError(f"The length is {tokens!r}; it must be a whole number from {MIN_RUN_TOKENS} to {MAX_RUN_TOKENS:,}.")
    return tokens


class GenerationSession:
    """A text that grows. It keeps the model's state, so that it continues without reading anything again.

    It belongs to the page's event loop; the scheduler's thread computes. Only its constructor may run in any thread, and
    should: it tokenizes the prompt, which may take long with a tokenizer that a visitor brought.

    Args:
        request: What to generate.

    Attributes:
        prompt: What the model reads: in lower case where the model has no capitals.
        unknown_chars: Characters of it that the model does not know; they are skipped.
        prompt_tokens: Its number of tokens.
        sequence: The model's state after the text so far; None before the first run, and while one is going on.
        pieces: The text of each token so far.
        chars_per_second: In the last run.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request, self.entry = request, get_model(request.model)
        self.lm = self.entry.lm
        self.prompt = self.lm.tokenizer.normalize(request.prompt)
        encoded = self.lm.tokenizer.encode(self.prompt)
        self.prompt_tokens, self.unknown_chars = len(encoded.ids), encoded.unknown_chars
        self.sequence: Sequence | None = None
        self.pieces: list[str] = []
        self.nll = 0.0
        self.chars_per_second = 0.0
        self.is_running = self.is_released = False
        self._stop = threading.Event()  # ends the current run; each run has its own, so that none is missed

    @property
    def text(self) -> str:
        """The text so far, without the prompt."""
        return "".join(self.pieces)

    @property
    def remaining(self) -> int:
        """How many tokens it may still grow by."""
        return MAX_TEXT_TOKENS - len(self.pieces)

    @property
    def can_continue(self) -> bool:
        """Whether the model's state is here; not after its visitor left during a run."""
        return self.sequence is not None or not self.pieces

    @property
    def bits_per_character(self) -> float | None:
        """The mean surprisal of its characters; None for a model whose likelihood of a text has only a bound."""
        if self.entry.family.likelihood != "exact" or not self.text:
            return None
        return self.nll / math.log(2) / len(self.text)

    def remarks(self) -> list[str]:
        """What the visitor should know about this prompt, in sentences."""
        remarks, unknown_chars = [], self.unknown_chars
        if self.prompt != self.request.prompt:
            remarks.append("This model knows no capital letters, so it reads the prompt in lower case.")
        if unknown_chars:
            were = "it was" if len(unknown_chars) == 1 else "they were"
            remarks.append(f"This model has never seen {name_characters(unknown_chars)}, so {were} skipped.")
            if not self.prompt_tokens:
                remarks.append("Nothing of the prompt remains, so the text starts on a new line.")
        if self.prompt_tokens > self.lm.context_length > 1:
            seen = f"{self.lm.context_length} {self.lm.tokenizer.unit}s"
            remarks.append(f"The model reads the whole prompt, but sees {seen} at a time.")
        return remarks

    def stop(self) -> None:
        """End the current run, if there is one."""
        self._stop.set()

    def release(self) -> None:
        """Its visitor left: free the model's state."""
        self.stop()
        self.is_released, self.sequence = True, None

    async def run(self, tokens: int) -> AsyncIterator[None]:
        """Generate up to `tokens` tokens, or until it is stopped.

        Yields when there is something to show: the first character at once, then about 20 times a second, less often
        with many visitors.

        Raises:
            ValueError: If a run is going on already, as after a double click.
        """
        if self.is_running:
            raise ValueError("This text is still being written; press Stop first.")
        self.is_running, self._stop = True, threading.Event()
        try:
            started, characters = time.perf_counter(), 0
            params = replace(self.request.params, max_new_tokens=MAX_TEXT_TOKENS)
            sequence, self.sequence = self.sequence, None  # the scheduler owns it until the stream ends
            if sequence is None:
                sequence = await asyncio.to_thread(self.lm.prefill, self.request.prompt, params)
            stream = self.entry.scheduler.stream(sequence, min(tokens, self.remaining), self._stop)
            async with aclosing(stream) as batches:
                async for steps in batches:
                    self.pieces += [step.text for step in steps]
                    self.nll -= sum(step.logprob for step in steps)
                    characters += sum(len(step.text) for step in steps)
                    self.chars_per_second = characters / max(time.perf_counter() - started, 1e-6)
                    yield
            self.sequence = None if self.is_released else sequence
        finally:
            self.is_running = False

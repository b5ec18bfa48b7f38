"""A text that is being generated: what was requested, its tokens so far, and the link that shows it again."""

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

import torch

from gpt import LanguageModel, SamplingParams, Sequence
from gpt.distribution import encode_distribution
from gpt.generation import PREFILL_CHUNK
from gpt.sampling import format_forced, parse_forced
from gpt.scheduler import BatchScheduler
from gpt.tokenizer import name_characters
from ui.endpoints import BUSY
from ui.model_registry import get_model, is_open
from ui.schema import MAX_TEXT_TOKENS, AnySeed, Arguments, Branch, LinkLength, MinP, ModelId, Prompt, Temperature, TopK, TopP
from ui.shutdown import RESTARTING, shutdown

MAX_RUN_TOKENS = 1_000  # that one press of a button generates
MAX_SESSIONS = 64  # texts that are kept; a forgotten one is generated again
MAX_SESSION_BYTES = 64_000_000  # that they hold together; one of a shipped model holds up to 3.5 MB
MAX_ACTIVE_BYTES = 1_000_000_000  # of the states of texts that grow; 128 of the largest shipped model need 300 MB
TOKEN_BYTES = 300  # of a token in memory, without its distribution
LENGTH = SamplingParams().max_new_tokens

scheduler = BatchScheduler()
# A long prompt takes a second. So each length has a thread of its own, and short ones do not wait for long ones.
_short_prompts, _long_prompts = ThreadPoolExecutor(1, "short-prompts"), ThreadPoolExecutor(1, "long-prompts")


class LinkArguments(Arguments):
    """The parameters of a link to a text. One without a model shows the page's default."""

    model: ModelId = ""
    prompt: Prompt = ""
    seed: AnySeed = None
    length: LinkLength = LENGTH
    temperature: Temperature = SamplingParams.temperature
    top_k: TopK = 0
    top_p: TopP = 1.0
    min_p: MinP = 0.0
    branch: Branch = ""


@dataclass(frozen=True)
class GenerationRequest:
    """A model, a prompt and how to continue it, within the bounds of `ui/schema.py`.

    Raises:
        ValueError: In a sentence for the visitor, if there is no such model, or the branch has tokens that it does not know.
    """

    model: str
    prompt: str
    params: SamplingParams

    def __post_init__(self) -> None:
        size = len(get_model(self.model).lm.tokenizer)
        if (highest := max((token for _, token in self.params.forced), default=0)) >= size:
            raise ValueError(f"The branch has token {highest}; those of this model go from 0 to {size - 1}.")
        if self.params.seed is None:
            object.__setattr__(self, "params", self.params.seeded())

    @classmethod
    def create(cls, model: str, prompt: str, length: int, branch: str, **settings: Any) -> "GenerationRequest":
        """A request from the values of a schema.

        Args:
            model: The id of a model.
            prompt: What to continue.
            length: Number of tokens.
            branch: Tokens that are given, as in a link.
            settings: Further arguments of `SamplingParams`.
        """
        return cls(model, prompt, SamplingParams(max_new_tokens=length, forced=parse_forced(branch), **settings))

    @property
    def of_any_length(self) -> "GenerationRequest":
        """The same request without a length: equal for two lengths of one text."""
        return replace(self, params=replace(self.params, max_new_tokens=MAX_TEXT_TOKENS))

    def query(self, length: int) -> str:
        """The part of a link after its "?", which shows `length` tokens of this text again."""
        plain = SamplingParams()
        values: dict[str, Any] = {"model": self.model, "prompt": self.prompt, "seed": self.params.seed, "length": length}
        values["temperature"] = self.params.temperature
        values |= {n: v for n in ("top_k", "top_p", "min_p") if (v := getattr(self.params, n)) != getattr(plain, n)}
        if self.params.forced:
            values["branch"] = format_forced(self.params.forced)
        return urlencode(values, errors="replace")

    @classmethod
    def from_query(cls, query: str | Mapping[str, str], default_model: str) -> "GenerationRequest":
        """Inverse of `query`.

        Raises:
            ValueError: In a sentence for the visitor, if a value is not of its type or out of bounds.
        """
        texts = parse_qsl(query, keep_blank_values=True) if isinstance(query, str) else query.items()
        values = {name: text for name, text in texts if name in LinkArguments.model_fields}
        link = LinkArguments.parse(values, strict=False)
        return cls.create(**dict(link) | {"model": link.model or default_model})

    def settings(self, length: int) -> dict[str, Any]:
        """The arguments of `SamplingParams` that generate `length` tokens of this text, without most defaults."""
        params = replace(self.params, max_new_tokens=length)
        always = ("temperature", "max_new_tokens", "seed")
        return {f.name: v for f in fields(params) if (v := getattr(params, f.name)) != f.default or f.name in always}


@dataclass(frozen=True)
class Token:
    """A generated token as the page shows it.

    Attributes:
        id: Its id.
        text: What it adds to the text.
        bits: Its surprisal, -log2 of the model's own probability for it.
        distribution: What `gpt.distribution.encode_distribution` made of the model's own distribution.
    """

    id: int
    text: str
    bits: float
    distribution: bytes


class Gauge:
    """How much memory the states of all texts that grow take. It belongs to the page's event loop."""

    def __init__(self) -> None:
        self.nbytes = 0

    @contextmanager
    def hold(self, nbytes: int) -> Iterator[None]:
        """Count a state while the context is open.

        Raises:
            ValueError: In a sentence for the visitor, if there is no room for it.
        """
        if self.nbytes + nbytes > MAX_ACTIVE_BYTES:
            raise ValueError(BUSY)
        self.nbytes += nbytes
        try:
            yield
        finally:
            self.nbytes -= nbytes


active_states = Gauge()


class GenerationSession:
    """A text that grows while somebody reads it. Any number of visitors may: it is computed once.

    It belongs to the page's event loop; the scheduler's thread computes. Only its constructor may run in any thread, and
    should: it tokenizes the prompt, which may take long with a tokenizer that a visitor brought.

    Args:
        request: What to generate; its length does not matter.

    Attributes:
        prompt: What the model reads: in lower case where the model has no capitals.
        unknown_chars: Characters of it that the model does not know; they are skipped.
        prompt_tokens: Its number of tokens.
        tokens: The text so far.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request, self.entry = request.of_any_length, get_model(request.model)
        self.lm: LanguageModel = self.entry.lm
        self.prompt = self.lm.tokenizer.normalize(request.prompt)
        encoded = self.lm.tokenizer.encode(self.prompt)
        self.prompt_tokens, self.unknown_chars = len(encoded.ids), encoded.unknown_chars
        self.tokens: list[Token] = []
        self._seconds = 0.0  # that they took
        self._sequence: Sequence | None = None  # the model's state after the tokens
        self._run: asyncio.Task[None] | None = None
        self._is_closed = False
        self._stop = threading.Event()  # ends the run; each run has its own, so that none is missed
        self._readers = 0
        self._changed = asyncio.Event()  # replaced at each change

    @property
    def tokens_per_second(self) -> float:
        """How fast the text was generated so far, next to the texts of other visitors."""
        return len(self.tokens) / self._seconds if self._seconds else 0.0

    @property
    def nbytes(self) -> int:
        """About how much memory it holds."""
        tokens = len(self.tokens) * (TOKEN_BYTES + (len(self.tokens[0].distribution) if self.tokens else 0))
        return tokens + (self._sequence.state.nbytes if self._sequence else 0)

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

    async def read(self, start: int, end: int) -> AsyncGenerator[list[Token]]:
        """The tokens from index `start` to before `end`, generated as far as they do not exist.

        Yields when there is something to show, at once and then about 10 times a second. When the last reader leaves, the
        text stops growing.

        Raises:
            ValueError: In a sentence for the visitor, if the text cannot grow any more.
        """
        shutdown.check()
        self._readers += 1
        shutdown.readers += 1
        try:
            while start < end:
                if shutdown.is_due:
                    raise ValueError(RESTARTING)
                if start < len(self.tokens):
                    yield self.tokens[start:end]
                    start = min(end, len(self.tokens))
                    continue
                if self._is_closed:
                    raise ValueError(f"The visit that {self.lm.name} belongs to is over.")
                if self._run is None or self._run.done():
                    self._run = asyncio.create_task(self._extend(end))
                run = self._run
                await self._changed.wait()
                if run.done():
                    await run  # raises its error
        finally:
            shutdown.readers -= 1
            self._readers -= 1
            if not self._readers:
                self._stop.set()

    def close(self) -> None:
        """End the text for good: its model is gone."""
        self._is_closed = True
        self._stop.set()

    async def _extend(self, end: int) -> None:
        """Generate tokens up to index `end`, or until it is stopped."""
        self._stop = threading.Event()
        last = time.perf_counter()
        try:
            if (sequence := self._sequence) is None:
                self.tokens, self._seconds = [], 0.0
                threads = _short_prompts if self.prompt_tokens <= PREFILL_CHUNK else _long_prompts
                prefill = partial(self.lm.prefill, self.request.prompt, self.request.params)
                sequence = await asyncio.get_running_loop().run_in_executor(threads, prefill)
            self._sequence = None  # the scheduler owns it until the stream ends
            stream = scheduler.stream(self.lm, sequence, end - len(self.tokens), self._stop)
            with active_states.hold(sequence.state.nbytes):
                async with aclosing(stream) as batches:
                    async for steps in batches:
                        encoded = encode_distribution(torch.stack([step.logits for step in steps]))
                        size = len(encoded) // len(steps)
                        for i, step in enumerate(steps):
                            bits, distribution = -step.logprob / math.log(2), encoded[i * size : (i + 1) * size]
                            self.tokens.append(Token(step.token_id, step.text, bits, distribution))
                        now = time.perf_counter()
                        self._seconds, last = self._seconds + now - last, now
                        self._notify()
            self._sequence = sequence
        finally:
            asyncio.get_running_loop().call_soon(self._notify)  # once this task is done

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class SessionStore:
    """The texts that were read last, so that a text is continued, reloaded or shared without computing it again."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[GenerationRequest, GenerationSession] = OrderedDict()

    async def get(self, request: GenerationRequest) -> GenerationSession:
        """The session of a request, which belongs to everybody who asks for the same text."""
        key = request.of_any_length
        if key not in self._sessions:
            session = await asyncio.to_thread(GenerationSession, request)
            self._sessions.setdefault(key, session)
        self._sessions.move_to_end(key)
        self._sessions = OrderedDict((k, s) for k, s in self._sessions.items() if k == key or is_open(s.entry))
        while len(self._sessions) > 1 and (len(self._sessions) > MAX_SESSIONS or self.nbytes > MAX_SESSION_BYTES):
            self._sessions.popitem(last=False)
        return self._sessions[key]

    @property
    def nbytes(self) -> int:
        """About how much memory the texts hold."""
        return sum(session.nbytes for session in self._sessions.values())

    def remove_models(self, ids: Container[str]) -> None:
        """Forget the texts of some models; those that still grow end."""
        for request in [request for request in self._sessions if request.model in ids]:
            self._sessions.pop(request).close()

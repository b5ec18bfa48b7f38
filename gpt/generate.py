"""From a prompt to a stream of steps: one token each, with its text and the probabilities that it was drawn from."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from gpt.engine import Engine, engine_for
from gpt.model import CausalModel
from gpt.sampling import SamplingParams, sample, sampling_probs
from gpt.tokenizer import Tokenizer

CHUNK = 256  # tokens of a prompt that are read at once; bounds the memory that a long one needs
ENGINES = ("C", "PyTorch")


@dataclass(frozen=True, eq=False)
class Step:
    """One token that was written.

    text            what it adds to the text: "" while a character is incomplete, for ever if the text ends in the middle of it
    logprob         natural logarithm of the model's own probability for it
    logits          (V,) the model's own, that everything else follows from
    probs           (V,) the model's own, before temperature and filters; computed when asked for
    sampling_probs  (V,) after temperature and filters: what it was drawn from; computed when asked for
    """

    token_id: int
    text: str
    logprob: float
    logits: Tensor
    params: SamplingParams

    @property
    def probs(self) -> Tensor:
        return self.logits.log_softmax(dim=-1).exp()

    @property
    def sampling_probs(self) -> Tensor:
        return sampling_probs(self.logits, self.params)


@dataclass(eq=False)
class Row:
    """A text in the making, from `LanguageModel.open`: all that it needs to go on, in any company."""

    params: SamplingParams
    left: int  # tokens that it may still get
    state: Any  # what the model remembers of it
    logits: Tensor | None  # (V,) that its next token is drawn from; None: the model has yet to read the last one
    uniforms: Iterator[float]
    text: DecodeStream
    token: int = -1  # the last that was written


@dataclass(frozen=True)
class Generation:
    """A whole text: what was written (the texts of its steps; the prompt is not repeated), each token with its
    log-probability in nats, the seed that writes it again, and the characters of the prompt that the model never saw."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    seed: int
    left_out: str


@dataclass(frozen=True)
class Score:
    """How well a model foresaw a text: each token (U+FFFD for a part of a character) and its cost in nats,
    -log p(token | all before it); and the bits of all of them for each character that they spell together."""

    tokens: list[str]
    nats: list[float]
    bits_per_character: float
    left_out: str


class LanguageModel:
    """A model and its tokenizer: what `gpt.load` gives."""

    def __init__(self, model: CausalModel, tokenizer: Tokenizer, name: str = "model") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.end_id = model.config.eos_token_id  # after it, a model of lines starts the next one afresh
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))  # a compiled program shows none

    @property
    def window(self) -> int:
        """How many tokens back the model sees."""
        return self.model.window

    @cached_property
    def _engine(self) -> Engine | None:
        return engine_for(self.model)

    @property
    def engine(self) -> str:
        """What computes each token: "C" (gpt/engine.c) where it can run, elsewhere "PyTorch". Set it to choose.

        It is settled when first asked for, by the first token if not before: then the C is compiled, once for a machine.
        """
        return ENGINES[self._engine is None]

    @engine.setter
    def engine(self, name: str) -> None:
        if name not in ENGINES:
            raise ValueError(f"the engine is {name!r}; it must be one of {', '.join(ENGINES)}")
        self._engine = engine_for(self.model) if name == "C" else None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def stream(self, prompt: str, params: SamplingParams = SamplingParams()) -> Iterator[Step]:
        """Write on from `prompt`, one Step for each token; an empty prompt starts on a new line.

        Lazy: a token is computed when it is asked for, at the same cost however long the text is.
        """
        return (steps[0] for steps in self.stream_batch([prompt], [params]) if steps[0])

    def stream_batch(self, prompts: Sequence[str], params: Sequence[SamplingParams]) -> Iterator[list[Step | None]]:
        """Write on from several prompts at once, each with its own settings; None for a row that has ended."""
        if len(prompts) != len(params):
            raise ValueError(f"{len(prompts)} prompts came with {len(params)} sets of parameters; each prompt needs one")
        return self._write(prompts, params)

    def generate(self, prompt: str, params: SamplingParams = SamplingParams()) -> Generation:
        """Write on from `prompt` and return the whole."""
        params = params.seeded()
        told = [(step.text, step.token_id, step.logprob) for step in self.stream(prompt, params)]
        texts, ids, logprobs = zip(*told, strict=True) if told else ((), (), ())
        left_out = self.tokenizer.encode(prompt).left_out
        return Generation("".join(texts), list(ids), list(logprobs), params.seed or 0, left_out)

    def open(self, prompt: str, params: SamplingParams = SamplingParams(), state: Any = None) -> Row:
        """Read a prompt, for `step` to write on from it. state: what it starts from, if not what the model does."""
        params = params.seeded()
        ids = self.tokenizer.encode(prompt).ids
        if self.end_id is not None:
            ids = self._lines([self.end_id, *ids])[-1]
        uniforms = _uniforms(params.seed or 0)
        state = self.model.start(uniforms) if state is None else state
        logits, state = self._after(ids or [self.tokenizer.start_id], state)
        return Row(params, params.max_new_tokens, state, logits, uniforms, DecodeStream(skip_special_tokens=False))

    def step(self, rows: Sequence[Row]) -> list[Step]:
        """One more token for each of these rows, together. Others may join them, and some leave, at every step.

        Rows are not locked: each belongs to one thread at a time. What a row gets does not depend on its company.
        """
        unread = [row for row in rows if row.logits is None]
        logits = self._read_last(unread) if unread else torch.empty(0)
        if len(unread) < len(rows):  # some have just read their prompt
            ahead = iter(logits)
            logits = torch.stack([next(ahead) if row.logits is None else row.logits for row in rows])
        exact = logits.double()  # (B, V)
        tokens = sample(exact, [row.params for row in rows], [next(row.uniforms) for row in rows])
        # log_softmax would wake OpenMP's threads for a few rows, and wait long for one if the cores are busy.
        logprobs = exact.softmax(dim=-1).gather(-1, tokens[:, None])[:, 0].log()
        steps = []
        for row, one, token, logprob in zip(rows, logits.unbind(), tokens.tolist(), logprobs.tolist(), strict=True):
            text = row.text.step(self.tokenizer.backend, token) or ""
            steps.append(Step(token, text, logprob, one, row.params))
            row.token, row.logits, row.left = token, None, row.left - 1
            if token == self.end_id:
                row.logits, row.state = self._after([token], self.model.start(row.uniforms))
        return steps

    def score(self, text: str) -> Score:
        """The cost of each token of `text` after a new line. Raises ValueError if no character is left to score."""
        ids, left_out = self.tokenizer.encode(text)
        if not ids:
            raise ValueError(f"there is nothing to score in {text!r}: it has no character that this model knows")
        lines = self._lines([self.tokenizer.start_id, *ids[:-1]])
        logits = torch.cat([chunk for line in lines for chunk, _ in self._read(line)])  # (T, V)
        nats = -logits.log_softmax(dim=-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        tokens = [self.tokenizer.decode([i]) for i in ids]
        bits = float(nats.double().sum()) / math.log(2) / len(self.tokenizer.decode(ids))
        return Score(tokens, nats.tolist(), bits, left_out)

    def _lines(self, ids: list[int]) -> list[list[int]]:
        """The lines of ids, each with the end before it, which stands at their beginning; all of a running text."""
        starts = [i for i, token in enumerate(ids) if token == self.end_id] if self.end_id is not None else [0]
        return [ids[start:end] for start, end in pairwise([*starts, len(ids)])]

    def _after(self, ids: list[int], state: Any = None) -> tuple[Tensor, Any]:
        """Logits (V,) after ids, and the state."""
        ((logits, state),) = deque(self._read(ids, state), maxlen=1)  # of the last chunk
        return logits[-1], state

    def _read(self, ids: list[int], state: Any = None) -> Iterator[tuple[Tensor, Any]]:
        """Read ids in chunks; for each, logits (T, V) in float32 and the state after it."""
        for chunk in torch.tensor(ids).split(CHUNK):
            logits, state = self._forward(chunk[None], state)
            yield logits[0], state

    @torch.inference_mode()
    def _forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model(ids.to(self.device), state)
        return logits.float().cpu(), state

    def _read_last(self, rows: list[Row]) -> Tensor:
        """Logits (B, V) after the last token of each row."""
        tokens, states = [row.token for row in rows], [row.state for row in rows]
        if self._engine:
            return self._engine.forward(tokens, states)
        alone = len(rows) == 1 or states[0] is None
        logits, state = self._forward(torch.tensor(tokens)[:, None], states[0] if alone else type(states[0]).stack(states))
        for row, part in zip(rows, [state] * len(rows) if alone else state.split(), strict=True):
            row.state = part
        return logits[:, -1]

    def _write(self, prompts: Sequence[str], params: Sequence[SamplingParams]) -> Iterator[list[Step | None]]:
        rows = [self.open(prompt, p) if p.max_new_tokens else None for prompt, p in zip(prompts, params, strict=True)]
        while any(rows):
            steps = iter(self.step([row for row in rows if row]))
            yield [next(steps) if row else None for row in rows]
            rows = [row if row and row.left else None for row in rows]


def _uniforms(seed: int) -> Iterator[float]:
    """The numbers in [0, 1) that a seed stands for, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:  # many at once, which are the same as one by one, only quicker
        yield from torch.rand(256, generator=generator, dtype=torch.float64).tolist()

"""From a prompt to a stream of steps: one token each, with its text and the probabilities that it was drawn from."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from gpt.model import CausalModel
from gpt.sampling import SamplingParams, draw, sampling_probs
from gpt.tokenizer import Tokenizer

CHUNK = 256  # tokens of a prompt that are read at once; bounds the memory that a long one needs


@dataclass(frozen=True, eq=False)
class Step:
    """One token that was written.

    text            what it adds to the text ("" while a character is still incomplete)
    logprob         natural logarithm of the model's own probability for it
    probs           (V,) the model's own, before temperature and filters
    sampling_probs  (V,) after temperature and filters: what it was drawn from
    """

    token_id: int
    text: str
    logprob: float
    probs: Tensor
    sampling_probs: Tensor


@dataclass(frozen=True)
class Generation:
    """A whole text: what was written (the prompt is not repeated), each token with its log-probability in nats, the
    seed that writes it again, and the characters of the prompt that the model never saw."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    seed: int
    left_out: str


@dataclass(frozen=True)
class Score:
    """How well a model foresaw a text: each token and its cost in nats, -log p(token | all before it)."""

    tokens: list[str]
    nats: list[float]
    bits_per_character: float
    left_out: str


class LanguageModel:
    """A model and its tokenizer: what `gpt.load` gives."""

    def __init__(self, model: CausalModel, tokenizer: Tokenizer, name: str = "model") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))  # a compiled program shows none

    @property
    def window(self) -> int:
        """How many tokens back the model sees."""
        return self.model.window

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
        return self._write([self._context(prompt) for prompt in prompts], [p.seeded() for p in params])

    def generate(self, prompt: str, params: SamplingParams = SamplingParams()) -> Generation:
        """Write on from `prompt` and return the whole."""
        params = params.seeded()
        steps = list(self.stream(prompt, params))
        return Generation(
            text="".join(step.text for step in steps),
            token_ids=[step.token_id for step in steps],
            logprobs=[step.logprob for step in steps],
            seed=params.seed or 0,
            left_out=self.tokenizer.encode(prompt).left_out,
        )

    @torch.inference_mode()
    def score(self, text: str) -> Score:
        """The cost of each token of `text` after a new line. Raises ValueError if no character is left to score."""
        ids, left_out = self.tokenizer.encode(text)
        if not ids:
            raise ValueError(f"there is nothing to score in {text!r}: it has no character that this model knows")
        logits = torch.cat([chunk for chunk, _ in self._read([self.tokenizer.start_id, *ids[:-1]])])  # (T, V)
        nats = -logits.log_softmax(dim=-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        tokens = [self.tokenizer.decode([i]) for i in ids]
        bits = float(nats.double().sum()) / math.log(2) / sum(map(len, tokens))
        return Score(tokens, nats.tolist(), bits, left_out)

    def _context(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt).ids or [self.tokenizer.start_id]

    def _read(self, ids: list[int]) -> Iterator[tuple[Tensor, Any]]:
        """Read ids in chunks; for each, logits (T, V) in float32 and the state after it."""
        state = None
        for chunk in torch.tensor(ids).split(CHUNK):
            logits, state = self._forward(chunk[None], state)
            yield logits[0], state

    def _forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model(ids.to(self.device), state)
        return logits.float().cpu(), state

    @torch.inference_mode()
    def _write(self, contexts: list[list[int]], params: list[SamplingParams]) -> Iterator[list[Step | None]]:
        lengths = [p.max_new_tokens for p in params]
        if not any(lengths):
            return
        generators = [torch.Generator().manual_seed(p.seed or 0) for p in params]  # a row's own: company changes nothing
        texts = [DecodeStream(skip_special_tokens=False) for _ in params]
        read = [deque(self._read(ids), maxlen=1).pop() for ids in contexts]  # the last chunk of each
        logits = torch.stack([chunk[-1] for chunk, _ in read])  # (B, V)
        states = [state for _, state in read]
        state = states[0] if len(states) == 1 or states[0] is None else type(states[0]).stack(states)
        tokens: list[int] = []  # the last of each row
        for n in range(max(lengths)):
            if tokens:
                logits, state = self._forward(torch.tensor(tokens)[:, None], state)
                logits = logits[:, -1]
            logprobs = logits.log_softmax(dim=-1)
            uniforms = [torch.rand((), generator=g, dtype=torch.float64).item() for g in generators]
            steps: list[Step | None] = [None] * len(params)
            for row in range(len(params)):
                if n < lengths[row]:
                    probs = sampling_probs(logits[row], params[row])
                    token = draw(probs, uniforms[row])
                    text = texts[row].step(self.tokenizer.backend, token) or ""
                    steps[row] = Step(token, text, float(logprobs[row, token]), logprobs[row].exp(), probs)
            yield steps
            tokens = [step.token_id if step else self.tokenizer.start_id for step in steps]

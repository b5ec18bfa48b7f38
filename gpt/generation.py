"""From a prompt to a stream of tokens: prefill, then one step for each token, for one sequence or for many."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpt.engine import Engine, Request, Sampler, engine_for, make_sampler
from gpt.models.base import UNBOUNDED_CONTEXT, CausalLM, StepEngine
from gpt.sampling import SamplingParams, check_no_nan, sample, sampling_probs
from gpt.text_model import TextModel
from gpt.tokenizer import StreamDecoder

STEPS_PER_CALL = 8  # tokens of each sequence that one call of the C kernel generates
PREFILL_CHUNK = 256  # tokens of a prompt that are read at once; bounds the memory that a long one needs
SCORE_BATCH = 16  # documents that are scored at once; more are hardly faster, and each has a KV cache
ENGINES = ("C", "PyTorch")

TokenNLL = Callable[[Tensor, list[int]], Tensor]  # `LanguageModel._token_nll`


@dataclass(frozen=True, eq=False)
class GenerationStep:
    """One generated token.

    Attributes:
        token_id: Its id.
        text: What it adds to the text; "" while a multi-byte character is incomplete.
        logprob: Natural logarithm of the model's own probability for it.
        logits: (V,) logits of the model.
        params: How it was chosen.
    """

    token_id: int
    text: str
    logprob: float
    logits: Tensor
    params: SamplingParams

    @property
    def probs(self) -> Tensor:
        """(V,) the model's own probabilities, before temperature and filters; computed on access."""
        return self.logits.log_softmax(dim=-1).exp()

    @property
    def sampling_probs(self) -> Tensor:
        """(V,) float64 probabilities after temperature and filters, which the token was sampled from; computed on access."""
        return sampling_probs(self.logits, self.params)


@dataclass(eq=False)
class Sequence:
    """One text that is being generated; made by `LanguageModel.prefill`, stepped by a `BatchGenerator`.

    Attributes:
        params: How to choose each token.
        remaining: Number of tokens that it may still get.
        state: What the model remembers of it; None while its `BatchGenerator` holds it in a merged batch.
        logits: (V,) of the next token, or None if the model has yet to read the last one.
        rng: Uniform numbers in [0, 1), one for each token.
        decoder: Turns token ids into text.
        last_token_id: The last token that was generated.
        forced: The tokens of `params.forced`, by index.
        generated: Number of tokens that were generated.
    """

    params: SamplingParams
    remaining: int
    state: Any
    logits: Tensor | None
    rng: Iterator[float]
    decoder: StreamDecoder
    last_token_id: int = -1
    forced: dict[int, int] = field(default_factory=dict)
    generated: int = 0


@dataclass(frozen=True)
class Generation:
    """A generated text.

    Attributes:
        text: What was generated, without the prompt.
        token_ids: Its tokens.
        logprobs: Natural logarithm of the model's own probability for each token.
        seed: The seed that generates it again.
        unknown_chars: Characters of the prompt that the model does not know; they were skipped.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    seed: int
    unknown_chars: str


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text.

    Attributes:
        tokens: The text of each token; U+FFFD for a part of a character.
        nll: -log p(token | the tokens before it) of each token, in nats. Of a VAE, the importance-weighted upper bound on
            it (`gpt.models.vae.iwae_nll`).
        bits_per_character: The sum of `nll` in bits, divided by the number of characters.
        unknown_chars: Characters that the model does not know; they were skipped.
    """

    tokens: list[str]
    nll: list[float]
    bits_per_character: float
    unknown_chars: str


def describe_context(context_length: int, unit: str, has_documents: bool) -> str:
    """How far back a model sees, in words.

    Args:
        context_length: In tokens.
        unit: What to call a token.
        has_documents: Whether each document is a line of its own.
    """
    if context_length == 1:
        return f"the last {unit}"
    if context_length == UNBOUNDED_CONTEXT:
        return "the line so far" if has_documents else "everything before it"
    return f"the last {context_length} {unit}s"


class LanguageModel(TextModel):
    """A model that writes from left to right and its tokenizer. The arguments are those of `TextModel`."""

    model: CausalLM

    @property
    def context_description(self) -> str:
        """How far back the model sees, in words."""
        return describe_context(self.context_length, self.tokenizer.unit, self.eos_token_id is not None)

    def example(self, prompt: str, seed: int) -> dict[str, Any]:
        """The continuation of a prompt with the default parameters."""
        params = SamplingParams(seed=seed)
        settings = {name: value for name, value in asdict(params).items() if name != "forced"}  # no token was
        return {"prompt": prompt, **settings, "text": self.generate(prompt, params).text}

    def fingerprint(self, text: str) -> list[float]:
        """-log p of each token of `text` by the model's plain `forward`, in nats, also of a VAE."""
        return self._score(text, partial(LanguageModel._token_nll, self)).nll

    @cached_property
    def _engine(self) -> StepEngine | None:
        return engine_for(self.model)

    @cached_property
    def _sampler(self) -> Sampler | None:
        return make_sampler()

    @property
    def engine(self) -> str:
        """What computes each token: "C" (`gpt.engine`) where it can run, else "PyTorch". Assign one to choose.

        It is decided on first access, by the first token at the latest; then the C kernel is compiled, once for a machine.
        """
        return "PyTorch" if self._engine is None else "C"

    @engine.setter
    def engine(self, name: str) -> None:
        if name not in ENGINES:
            raise ValueError(f"the engine is {name!r}; it must be one of {', '.join(ENGINES)}")
        self._engine = engine_for(self.model) if name == "C" else None
        self._sampler = make_sampler() if name == "C" else None

    def stream(self, prompt: str, params: SamplingParams = SamplingParams()) -> Iterator[GenerationStep]:
        """Continue a prompt, one step for each token.

        Lazy: a token is computed when it is asked for, and for a GPT in C up to seven more, in the same call. Each token has the
        same cost for any length of the text.

        Args:
            prompt: The text to continue; empty for a new document. Unknown characters are skipped.
            params: How to choose each token.
        """
        return (steps[0] for steps in self.stream_batch([prompt], [params]) if steps[0])

    def stream_batch(self, prompts: Iterable[str], params: Iterable[SamplingParams]) -> Iterator[list[GenerationStep | None]]:
        """Continue several prompts in one batch; a sequence that has ended yields None.

        Args:
            prompts: The texts to continue.
            params: One for each prompt.

        Raises:
            ValueError: If there are not as many `params` as prompts.
        """
        prompts, params = list(prompts), list(params)
        if len(prompts) != len(params):
            raise ValueError(f"{len(prompts)} prompts came with {len(params)} sets of parameters; each prompt needs one")
        return self._stream_batch(prompts, params)

    def _stream_batch(self, prompts: list[str], params: list[SamplingParams]) -> Iterator[list[GenerationStep | None]]:
        batch, active, ahead = BatchGenerator(self), {}, 1
        for i, (prompt, p) in enumerate(zip(prompts, params, strict=True)):
            if p.max_new_tokens:
                active[i] = self.prefill(prompt, p)
                batch.insert(active[i])
        while active:
            ahead = batch.steps_at_once(min([ahead, *(sequence.remaining for sequence in active.values())]))
            for results in zip(*batch.steps(ahead), strict=True):
                steps: list[GenerationStep | None] = [None] * len(prompts)
                for i, step in zip(active, results, strict=True):
                    steps[i] = step
                yield steps
            for i in [i for i, sequence in active.items() if not sequence.remaining]:
                batch.remove(active.pop(i))
            ahead *= 2  # no more tokens are computed ahead than were asked for

    def generate(self, prompt: str, params: SamplingParams = SamplingParams()) -> Generation:
        """Continue a prompt and return the whole text. The arguments are those of `stream`."""
        params = params.seeded()
        steps = [(step.text, step.token_id, step.logprob) for step in self.stream(prompt, params)]
        texts, ids, logprobs = zip(*steps, strict=True) if steps else ((), (), ())
        unknown_chars = self.tokenizer.encode(self.tokenizer.normalize(prompt)).unknown_chars
        return Generation("".join(texts), list(ids), list(logprobs), params.seed or 0, unknown_chars)

    def prefill(self, prompt: str, params: SamplingParams = SamplingParams(), state: Any = None) -> Sequence:
        """Read a prompt and return a sequence that a `BatchGenerator` continues.

        Args:
            prompt: The text to continue; empty for a new document.
            params: How to choose each token.
            state: The state to start from, which the sequence owns from then on; by default what the model starts a document
                from.

        Raises:
            ValueError: If a forced token is not in the vocabulary.
        """
        params = params.seeded()
        if params.forced and (highest := max(token for _, token in params.forced)) >= len(self.tokenizer):
            raise ValueError(f"the forced token {highest} does not exist; ids go from 0 to {len(self.tokenizer) - 1}")
        rng = _uniform_numbers(params.seed or 0)
        ids = self.context_ids(self.tokenizer.encode(self.tokenizer.normalize(prompt)).ids)
        state = self.model.init_state(rng) if state is None else state
        logits, state = self._prefill_chunked(ids, state)
        decoder = StreamDecoder(self.tokenizer)
        return Sequence(params, params.max_new_tokens, state, logits, rng, decoder, forced=dict(params.forced))

    def context_ids(self, ids: list[int]) -> list[int]:
        """The tokens that the model reads to continue `ids`: the last document only; a start token if there is nothing else."""
        if self.eos_token_id is not None:
            ids = [self.start_id, *ids]
            ids = ids[max(i for i, token in enumerate(ids) if token == self.eos_token_id) :]
        return ids or [self.start_id]

    def score(self, text: str) -> Score:
        """How well the model predicts `text`, as a new document.

        Raises:
            ValueError: If `text` has no character that the model knows, or the model's logits are not finite.
        """
        return self._score(text, self._token_nll)

    def _score(self, text: str, token_nll: TokenNLL) -> Score:
        ids, unknown_chars = self.tokenizer.encode(self.tokenizer.normalize(text))
        if not ids:
            raise ValueError(f"there is nothing to score in {text[:60]!r}: it has no character that this model knows")
        documents = self._score_documents(self._documents([self.start_id, *ids]), token_nll)
        nll = [nll for document in documents for nll in document]
        check_no_nan(torch.tensor(nll))
        tokens = [self.tokenizer.decode([i]) for i in ids]
        bits = math.fsum(nll) / math.log(2) / len(self.tokenizer.decode(ids))
        return Score(tokens, nll, bits, unknown_chars)

    def _score_documents(self, documents: list[list[int]], token_nll: TokenNLL) -> list[list[float]]:
        """-log p(token) of each token but the first of each document, in nats, computed in batches of similar lengths."""
        scores: list[list[float]] = [[] for _ in documents]
        by_length = sorted(range(len(documents)), key=lambda i: len(documents[i]))
        for start in range(0, len(documents), SCORE_BATCH):
            batch = by_length[start : start + SCORE_BATCH]
            padded = pad_sequence([torch.tensor(documents[i]) for i in batch], batch_first=True)  # with token 0, on the right
            for i, nll in zip(batch, token_nll(padded, [len(documents[i]) for i in batch]), strict=True):
                scores[i] = nll[: len(documents[i]) - 1].tolist()
        return scores

    def _token_nll(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """-log p(token) of each token but the first, (B, T - 1), in nats; what stands for padding has no meaning.

        Args:
            ids: (B, T) padded documents, each with the token before it.
            lengths: Their numbers of tokens.
        """
        nll, state = [], None
        for inputs, targets in zip(ids[:, :-1].split(PREFILL_CHUNK, 1), ids[:, 1:].split(PREFILL_CHUNK, 1), strict=True):
            logits, state = self.forward(inputs, state)
            nll.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none"))
        return torch.cat(nll, dim=1)

    def _documents(self, ids: list[int]) -> list[list[int]]:
        """Split ids into documents, each with the token before it and, unless the text stops first, its end token."""
        if self.eos_token_id is None:
            return [ids]
        ends = [i for i, token in enumerate(ids) if token == self.eos_token_id]
        documents = [ids[start : end + 1] for start, end in pairwise([*ends, len(ids)])]
        return documents if len(documents[-1]) > 1 else documents[:-1]  # the text stops with an end token

    def _prefill_chunked(self, ids: list[int], state: Any) -> tuple[Tensor, Any]:
        """Logits (V,) after ids, and the state."""
        if isinstance(self._engine, Engine):
            return self._engine.prefill(ids, state), state
        if self._engine and len(ids) == 1 and state is not None:  # a new document: most calls, for a model of short lines
            return self._engine.forward(ids, [state])[0], state
        for chunk in torch.tensor(ids).split(PREFILL_CHUNK):
            logits, state = self.forward(chunk[None], state)
        return logits[0, -1].clone(), state  # a copy, which does not keep the logits of the whole chunk

    @torch.inference_mode()
    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The model's `forward` on its device: ids (B, T) and logits (B, T, V) are on the CPU, the logits in float32."""
        logits, state = self.model(ids.to(self.device), state)
        return logits.float().cpu(), state


class BatchGenerator:
    """Continuous batching: steps several sequences together; sequences join and leave between steps.

    Results do not depend on the other sequences in the batch. It is not thread-safe.

    Args:
        lm: The model.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.sequences: list[Sequence] = []
        # Sequences whose states are merged, so that they need not be merged again while nobody joins or leaves.
        self._merged: list[Sequence] = []
        self._state: Any = None

    def insert(self, sequence: Sequence) -> None:
        """Add a sequence to the batch."""
        self.sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch. It owns its state and can be inserted again."""
        self.sequences = [other for other in self.sequences if other is not sequence]
        self._split()

    def step(self) -> list[GenerationStep]:
        """Generate one token for each sequence, in their order."""
        return [steps[0] for steps in self.steps(1)]

    def steps_at_once(self, tokens: int) -> int:
        """How many tokens of each sequence to ask `steps` for, at most `tokens`: as many as pay."""
        return min(tokens, STEPS_PER_CALL if isinstance(self.lm._engine, Engine) else 1)

    def steps(self, tokens: int) -> list[list[GenerationStep]]:
        """Generate several tokens for each sequence, in their order; in C, that is one call.

        Args:
            tokens: Number of tokens, 1 or more.
        """
        if isinstance(self.lm._engine, Engine) and self.sequences:
            return self._generate(self.lm._engine, tokens)
        return [list(steps) for steps in zip(*(self._step() for _ in range(tokens)), strict=True)]

    def _generate(self, engine: Engine, tokens: int) -> list[list[GenerationStep]]:
        requests = [
            Request(
                s.last_token_id,
                s.state,
                s.logits,
                s.params,
                list(islice(s.rng, tokens)),
                [s.forced.get(s.generated + i) for i in range(tokens)],
            )
            for s in self.sequences
        ]
        results = []
        for s, (ids, logprobs, logits) in zip(self.sequences, engine.generate(requests), strict=True):
            s.last_token_id, s.logits, s.remaining, s.generated = ids[-1], None, s.remaining - tokens, s.generated + tokens
            each = zip(ids, logprobs, logits.unbind(), strict=True)
            results.append([GenerationStep(token, s.decoder.step(token), p, row, s.params) for token, p, row in each])
        return results

    def _step(self) -> list[GenerationStep]:
        lm, unread = self.lm, [sequence for sequence in self.sequences if sequence.logits is None]
        logits = self._read_last_tokens(unread) if unread else torch.empty(0)
        if len(unread) < len(self.sequences):  # some have just read their prompt
            next_logits = iter(logits)
            logits = torch.stack([next(next_logits) if s.logits is None else s.logits for s in self.sequences])
        tokens, logprobs = self._sample(logits)
        steps = []
        for s, token, logprob, own in zip(self.sequences, tokens, logprobs, logits.unbind(), strict=True):
            steps.append(GenerationStep(token, s.decoder.step(token), logprob, own, s.params))
            s.last_token_id, s.logits, s.remaining, s.generated = token, None, s.remaining - 1, s.generated + 1
            if token == lm.eos_token_id:  # the next document starts afresh
                s.logits, s.state = lm._prefill_chunked([token], lm.model.init_state(s.rng))
        return steps

    def _sample(self, logits: Tensor) -> tuple[list[int], list[float]]:
        """A token for each sequence, and the logarithm of the model's own probability for it."""
        params, uniform = [s.params for s in self.sequences], [next(s.rng) for s in self.sequences]
        forced = [s.forced.get(s.generated) for s in self.sequences]
        if self.lm._sampler:
            return self.lm._sampler(logits, params, uniform, forced)
        exact = logits.double()  # (B, V)
        tokens = sample(exact, params, uniform)
        for i, token in enumerate(forced):
            if token is not None:
                tokens[i] = token
        # log_softmax would start OpenMP threads even for a few sequences, which is slow where the cores are busy.
        logprobs = exact.softmax(dim=-1).gather(-1, tokens[:, None])[:, 0].log()
        return tokens.tolist(), logprobs.tolist()

    def _read_last_tokens(self, sequences: list[Sequence]) -> Tensor:
        """Logits (B, V) after the last token of each sequence."""
        lm, tokens = self.lm, [sequence.last_token_id for sequence in sequences]
        if lm._engine:
            return lm._engine.forward(tokens, [sequence.state for sequence in sequences])
        if len(sequences) != len(self._merged) or any(sequence.state is not None for sequence in sequences):
            self._split()
            states = [sequence.state for sequence in sequences]
            self._state, self._merged = states[0] if len(states) == 1 else type(states[0]).merge(states), sequences
            for sequence in sequences:
                sequence.state = None
        logits, self._state = lm.forward(torch.tensor(tokens)[:, None], self._state)
        return logits[:, -1]

    def _split(self) -> None:
        """Give each merged sequence its own state."""
        for i, sequence in enumerate(self._merged):
            if sequence.state is None:  # otherwise it has started a new document
                sequence.state = self._state if len(self._merged) == 1 else self._state.extract(i)
        self._merged, self._state = [], None


def _uniform_numbers(seed: int) -> Iterator[float]:
    """An endless stream of numbers in [0, 1) for a seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:  # blocks give the same numbers as single calls, and faster
        yield from torch.rand(256, generator=generator, dtype=torch.float64).tolist()

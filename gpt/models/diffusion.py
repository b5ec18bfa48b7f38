"""Masked diffusion: a transformer that sees in both directions predicts hidden tokens.

Sources: MDLM (Sahoo et al. 2024) and MD4 (Shi et al. 2024).

Training hides a random share of a text and predicts the hidden tokens from the others. Writing is the reverse: all places
start hidden and are revealed step by step (`gpt.unmasking`). The blocks are those of the GPT (`gpt.models.transformer`), with
attention in both directions and one more embedding, which stands for a hidden token.

Shapes: B batch, T time, C channels (hidden_size), V vocabulary.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.models.base import Config, Model, check_eos_token_id, check_positive_int, config_from_dict
from gpt.models.registry import ModelFamily, family_of, register
from gpt.models.transformer import GPT, Block, GPTConfig, RotaryEmbedding, init_weights
from gpt.text_model import TextModel
from gpt.unmasking import UnmaskingParams, UnmaskingStep, unmask

GAP = re.compile("_{3,}")
GAP_LENGTHS = (4, 8, 12, 16, 24, 32)  # that are tried where the model chooses the length of a gap
EXAMPLE_LINES = 20
PROOFREADING_PASSES = 8
IGNORED = -1  # target of a token that is not hidden


@dataclass(frozen=True)
class MaskedDiffusionConfig:
    """The sizes of a masked diffusion model. Raises ValueError if one is out of range.

    Attributes:
        context_length: Tokens of the longest text. Of a model of lines, the start token and the longest line with its end; a
            shorter line is padded with end tokens.
    """

    vocab_size: int
    context_length: int = 256
    hidden_size: int = 160
    intermediate_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    eos_token_id: int | None = None
    rope_theta: float = 100.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("rope_theta", "eos_token_id"):
                check_positive_int(name, value, 2**15)
        if type(self.rope_theta) not in (int, float) or not 1 < self.rope_theta <= 1e12:
            raise ValueError(f"rope_theta is {self.rope_theta!r}; it must be a number above 1")
        check_eos_token_id(self.eos_token_id, self.vocab_size)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"a hidden_size of {self.hidden_size} does not divide into {self.num_attention_heads} heads of an even size"
            )

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json."""
        return {"model_type": "masked-diffusion", **asdict(self)}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "MaskedDiffusionConfig":
        """Inverse of `to_dict`. Raises ValueError if a value is missing or out of range."""
        return config_from_dict(cls, config)

    @staticmethod
    def gpt_config(config: Config) -> GPTConfig:
        """The config of a GPT whose weights a model can start from. Raises ValueError if it is that of another family."""
        if not isinstance(config, GPTConfig):
            raise ValueError(f"a diffusion run starts from a GPT, not from {family_of(config).title}; leave --init out")
        return config

    @property
    def blocks(self) -> GPTConfig:
        """The sizes of the blocks."""
        return GPTConfig(
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_attention_heads,
            self.hidden_size // self.num_attention_heads,
            self.context_length,
            self.rope_theta,
        )


class MaskedDiffusion(Model):
    """Embedding, blocks without a causal mask, final norm, linear head.

    It never predicts a hidden token, and needs no time input: how much is hidden can be seen. A hidden token is put before the
    text, and the output at each place predicts the next one, as that of a GPT does, whose weights it can start from.

    Args:
        config: The sizes.
        dropout: Probability of dropping a channel, in training. It is not part of the config.
    """

    config: MaskedDiffusionConfig

    def __init__(self, config: MaskedDiffusionConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.context_length, self.mask_id = config, config.context_length, config.vocab_size
        blocks = config.blocks
        self.rotary_emb = RotaryEmbedding(blocks)
        self.dropout = nn.Dropout(dropout)
        self.embed_tokens = nn.Embedding(config.vocab_size + 1, config.hidden_size)  # the last one: a hidden token
        self.layers = nn.ModuleList(Block(blocks, layer, dropout) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=blocks.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(init_weights)
        nn.init.zeros_(self.lm_head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Predict the token at each place of ids (B, T), of which hidden ones are `mask_id` -> logits (B, T, V)."""
        x = self.dropout(self.embed_tokens(F.pad(ids, (1, 0), value=self.mask_id)))  # (B, T + 1, C)
        positions = torch.arange(x.shape[1], device=ids.device)[None]  # (1, T + 1)
        rope = self.rotary_emb(positions)
        for block in self.layers:
            x = block(x, positions, rope, None, None)
        logits: Tensor = self.lm_head(self.norm(x[:, :-1]))
        return logits

    @torch.no_grad()
    def start_from(self, gpt: GPT) -> None:
        """Copy the weights of a GPT with the same sizes. A hidden token gets the mean of all embeddings."""
        weights = {name.removeprefix("model."): tensor for name, tensor in gpt.state_dict().items()}
        embeddings = weights["embed_tokens.weight"]
        weights["embed_tokens.weight"] = torch.cat((embeddings, embeddings.mean(dim=0, keepdim=True)))
        self.load_state_dict(weights)


def hide_tokens(ids: Tensor, mask_id: int, is_fixed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide exactly k tokens of each text, k uniform from 1 to the number that can be hidden, stratified over the batch.

    Args:
        ids: (B, T) on the CPU.
        mask_id: What stands for a hidden token.
        is_fixed: (T,) places that are never hidden.
        generator: Chooses the numbers and the places.

    Returns:
        Inputs (B, T), and targets (B, T): the hidden tokens, `IGNORED` elsewhere.
    """
    B, T = ids.shape
    most = T - int(is_fixed.sum())
    share = (torch.randperm(B, generator=generator) + torch.rand(B, generator=generator)) / B  # one in each of B strata
    count = 1 + (share * most).long().clamp(max=most - 1)  # (B,)
    priority = torch.rand(B, T, generator=generator).masked_fill(is_fixed, 2.0)
    is_hidden = priority.argsort(dim=1).argsort(dim=1) < count[:, None]
    return ids.masked_fill(is_hidden, mask_id), ids.masked_fill(~is_hidden, IGNORED)


def nelbo(model: MaskedDiffusion, inputs: Tensor, targets: Tensor) -> Tensor:
    """An estimate (B,) of the upper bound on -log p of each text, in nats a token: the mean cost of its hidden tokens.

    Averaged over what `hide_tokens` hides, it is the negative evidence lower bound of continuous-time masked diffusion, and
    equally the cost of writing the text one token at a time in a random order, averaged over all orders.

    Args:
        model: The model.
        inputs: (B, T) with hidden tokens.
        targets: (B, T) the hidden tokens, `IGNORED` elsewhere.
    """
    logits = model(inputs)
    nll = F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none")  # (B, T)
    return nll.sum(dim=1) / (targets != IGNORED).sum(dim=1)


@dataclass(frozen=True)
class Filling:
    """A text with gaps that were filled.

    Attributes:
        text: The whole text.
        spans: Start and end of each filled gap in it, in characters.
        canvas: The tokens that were given, None at each hidden place.
        steps: The steps that filled it.
        unknown_chars: Characters of the text that the model does not know; they were skipped.
    """

    text: str
    spans: list[tuple[int, int]]
    canvas: list[int | None]
    steps: list[UnmaskingStep]
    unknown_chars: str


@dataclass(frozen=True, eq=False)
class Proofreading:
    """How likely each token of a text is, given all others.

    Attributes:
        token_ids: The T tokens.
        nll: -log p of each token, in nats, while it and a share of the other tokens were hidden.
        logits: (T, V) of the model at each place.
        unknown_chars: Characters of the text that the model does not know; they were skipped.
    """

    token_ids: list[int]
    nll: list[float]
    logits: Tensor
    unknown_chars: str


Canvas = list[int | None]  # the tokens of a text, None at a hidden place


class TextDiffusion(TextModel):
    """A masked diffusion model and its tokenizer: what `gpt.load` returns for one."""

    model: MaskedDiffusion

    @property
    def default_params(self) -> UnmaskingParams:
        """Of a running text those that write best; of lines, one token at a time in a random order: the model's distribution."""
        return UnmaskingParams() if self.eos_token_id is None else UnmaskingParams(order="random")

    @torch.inference_mode()
    def denoise(self, ids: Tensor) -> Tensor:
        """Predict the token at each place of ids (B, T) on the CPU, hidden ones `mask_id` -> logits (B, T, V) in float32."""
        logits: Tensor = self.model(ids.to(self.device))
        return logits.float().cpu()

    def unmask(self, canvas: Canvas, params: UnmaskingParams | None = None) -> Iterator[UnmaskingStep]:
        """Reveal the hidden tokens of one text, step by step.

        Lazy: a step is computed when it is asked for.

        Args:
            canvas: Token ids, None at a hidden place.
            params: How to reveal them; by default `default_params`, as in all methods.

        Raises:
            ValueError: If there are more tokens than the model sees at once.
        """
        return (steps[0] for steps in self.unmask_batch([canvas], [params or self.default_params]) if steps[0])

    def unmask_batch(self, canvases: Sequence[Canvas], params: Sequence[UnmaskingParams]) -> Iterator[list[UnmaskingStep | None]]:
        """Reveal the hidden tokens of several texts of the same length in one batch; None for a text that is complete."""
        if (longest := max(map(len, canvases))) > self.context_length:
            raise ValueError(f"the text has {longest:,} tokens; this model sees up to {self.context_length:,} at once")
        ids = torch.tensor([[-1 if token is None else token for token in canvas] for canvas in canvases])
        return unmask(self.denoise, ids, ids < 0, self.model.mask_id, params)

    def canvas(self, prompt: str, length: int | None = None) -> Canvas:
        """A prompt and hidden places after it.

        Args:
            prompt: The beginning of the text; unknown characters are skipped.
            length: Number of hidden places. By default, and for a model of lines, as many as there is room for. A longer prompt
                loses its beginning.

        Raises:
            ValueError: If `length` is not from 1 to the number of tokens that the model sees at once.
        """
        start: Canvas = [] if self.eos_token_id is None else [self.eos_token_id]
        ids = self.tokenizer.encode(self.tokenizer.normalize(prompt)).ids
        room = self.context_length - len(start)
        if self.eos_token_id is not None:
            if len(ids) >= room:
                raise ValueError(f"the prompt has {len(ids)} characters; a line has room for {room - 1}")
            return [*start, *ids, *[None] * (room - len(ids))]
        length = max(1, room - len(ids)) if length is None else length
        if not 1 <= length <= room:
            raise ValueError(f"length is {length!r}; it must be a whole number from 1 to {room:,}")
        return [*ids[max(0, len(ids) + length - room) :], *[None] * length]

    def complete(self, canvas: Canvas, steps: Sequence[UnmaskingStep]) -> list[int]:
        """The tokens of a canvas after some steps that revealed all of it."""
        ids = list(canvas)
        for step in steps:
            for position, token in zip(step.positions, step.token_ids, strict=True):
                ids[position] = token
        return [token for token in ids if token is not None]

    def decode(self, ids: list[int]) -> str:
        """The text of a canvas that is complete; of a line, what stands before its end."""
        if self.eos_token_id is not None:
            ids = ids[1:]  # the start token
            ids = ids[: ids.index(self.eos_token_id)] if self.eos_token_id in ids else ids
        return self.tokenizer.decode(ids)

    def generate(self, prompt: str = "", params: UnmaskingParams | None = None, length: int | None = None) -> str:
        """Continue a prompt and return what follows it. The arguments are those of `canvas` and `unmask`."""
        canvas = self.canvas(prompt, length)
        ids = self.complete(canvas, list(self.unmask(canvas, params)))
        given = len([token for token in canvas if token is not None])
        start = [] if self.eos_token_id is None else ids[:1]
        return self.decode([*start, *ids[given:]])

    def sample(self, n: int, seed: int, params: UnmaskingParams | None = None) -> list[str]:
        """Write `n` texts without a prompt: lines, or texts as long as the model sees. Text i uses the seed plus i."""
        return self.sample_batch([""] * n, seed, params)

    def sample_batch(self, prompts: Sequence[str], seed: int, params: UnmaskingParams | None = None) -> list[str]:
        """Write a text from each prompt and return the whole texts. Text i uses the seed plus i."""
        canvases = [self.canvas(prompt) for prompt in prompts]
        each = [replace(params or self.default_params, seed=(seed + i) % 2**32) for i in range(len(prompts))]
        revealed: list[list[UnmaskingStep]] = [[] for _ in prompts]
        for steps in self.unmask_batch(canvases, each) if prompts else ():
            for i, step in enumerate(steps):
                if step:
                    revealed[i].append(replace(step, logits=torch.empty(0)))  # else the logits of all steps stay in memory
        return [self.decode(self.complete(canvas, steps)) for canvas, steps in zip(canvases, revealed, strict=True)]

    def gaps(self, text: str) -> tuple[list[Canvas], str]:
        """The canvases of a text with gaps, and its unknown characters.

        Three underscores are a gap whose length the model chooses, so there is a canvas for each of `GAP_LENGTHS` that fits;
        more underscores hide one character each.

        Raises:
            ValueError: If `text` has no gap, or is too long.
        """
        text = self.tokenizer.normalize(text)
        if not GAP.search(text):
            raise ValueError("the text has no gap; write ___ where something is missing")
        pieces, underscores = GAP.split(text), GAP.findall(text)
        encoded = [self.tokenizer.encode(piece) for piece in pieces]
        is_chosen = any(len(gap) == 3 for gap in underscores)
        canvases = []
        for chosen in GAP_LENGTHS if is_chosen else (0,):
            canvas: Canvas = [] if self.eos_token_id is None else [self.eos_token_id]
            for i, piece in enumerate(encoded):
                canvas += piece.ids
                if i < len(underscores):
                    canvas += [None] * (chosen if len(underscores[i]) == 3 else len(underscores[i]))
            if self.eos_token_id is not None:
                canvas += [self.eos_token_id] * max(1, self.context_length - len(canvas))
            if len(canvas) <= self.context_length:
                canvases.append(canvas)
        if not canvases:
            raise ValueError(f"the text is too long; with its gaps it may have {self.context_length:,} characters")
        return canvases, "".join(dict.fromkeys("".join(piece.unknown_chars for piece in encoded)))

    def fill(self, text: str, params: UnmaskingParams | None = None) -> Filling:
        """Fill the gaps of a text (`gaps`), given what stands on both sides.

        Where the model chooses the length, each one is tried, and the filling with the lowest mean cost is returned.

        Raises:
            ValueError: If `text` has no gap, or is too long.
        """
        params = (params or self.default_params).seeded()
        canvases, unknown_chars = self.gaps(text)
        results = []
        for canvas in canvases:
            steps = list(self.unmask(canvas, params))
            results.append((self._mean_nll(steps), canvas, steps))
        _, canvas, steps = min(results, key=lambda result: result[0])
        ids = self.complete(canvas, steps)
        spans = []
        for start, end in _hidden_runs(canvas):
            first = len(self.decode(ids[:start]))
            spans.append((first, len(self.decode(ids[:end]))))
        return Filling(self.decode(ids), spans, canvas, steps, unknown_chars)

    @staticmethod
    def _mean_nll(steps: Sequence[UnmaskingStep]) -> float:
        """-log p of the tokens when they were revealed, in nats a token."""
        total, count = 0.0, 0
        for step in steps:
            logprobs = step.logits[step.positions].double().log_softmax(dim=-1)
            total -= float(logprobs.gather(-1, torch.tensor(step.token_ids)[:, None]).sum())
            count += len(step.positions)
        return total / count

    def proofread(self, text: str, passes: int = PROOFREADING_PASSES) -> Proofreading:
        """Judge each token of a text while it is hidden, with all but 1 / `passes` of the others in view.

        Args:
            text: The text; of a model of lines, one line. A text longer than the model sees is read in parts that overlap.
            passes: 2 or more. More passes find more errors, and cost more.

        Raises:
            ValueError: If `text` has no character that the model knows, or a line has too many.
        """
        if passes < 2:
            raise ValueError(f"passes is {passes}; it must be 2 or more")
        ids, unknown_chars = self.tokenizer.encode(self.tokenizer.normalize(text))
        if not ids:
            raise ValueError(f"there is nothing to read in {text[:60]!r}: it has no character that this model knows")
        if self.eos_token_id is not None:
            room = self.context_length - 1
            if len(ids) > room or self.eos_token_id in ids:
                raise ValueError(f"this model reads one line of up to {room} characters")
            logits = self._hide_in_turn(self._pad(ids), passes)[1 : 1 + len(ids)]
        else:
            logits = self._read_in_parts(torch.tensor(ids), passes)
        nll = F.cross_entropy(logits.double(), torch.tensor(ids), reduction="none")
        return Proofreading(ids, nll.tolist(), logits, unknown_chars)

    def _pad(self, ids: list[int]) -> Tensor:
        """A line (T,) between end tokens."""
        line = [self.start_id, *ids]
        return torch.tensor([*line, *[self.start_id] * (self.context_length - len(line))])

    def _read_in_parts(self, ids: Tensor, passes: int) -> Tensor:
        """Logits (N, V) of ids (N,); where parts overlap, those of the part in which a token is farther from the edge."""
        T, step = self.context_length, self.context_length // 2
        logits = self._hide_in_turn(ids[:T], passes)
        for start in range(step, len(ids) - step, step):
            part = self._hide_in_turn(ids[start : start + T], passes)
            logits = torch.cat((logits[: start + step // 2], part[step // 2 :]))
        return logits

    def _hide_in_turn(self, ids: Tensor, passes: int) -> Tensor:
        """Logits (T, V) of ids (T,), each from the pass in which its token is hidden."""
        places = torch.arange(len(ids))
        is_hidden = places % passes == torch.arange(min(passes, len(ids)))[:, None]  # (passes, T)
        logits = self.denoise(ids.masked_fill(is_hidden, self.model.mask_id))
        return logits[places % passes, places]

    def example(self, prompt: str, seed: int) -> dict[str, Any]:
        """A text from a prompt, or some lines, with the default parameters."""
        params = replace(self.default_params, seed=seed)
        is_lines = self.eos_token_id is not None
        text = "\n".join(self.sample(EXAMPLE_LINES, seed, params)) if is_lines else self.generate(prompt, params)
        return {"prompt": prompt, **asdict(params), "text": text}

    def fingerprint(self, text: str) -> list[float]:
        """-log p of each token while it is hidden, in nats; of a model of lines, of the first line and its end tokens."""
        if self.eos_token_id is None:
            return self.proofread(text).nll
        ids = self._pad(self.tokenizer.encode(text.partition("\n")[0]).ids)
        return F.cross_entropy(self._hide_in_turn(ids, PROOFREADING_PASSES).double(), ids, reduction="none").tolist()


def _hidden_runs(canvas: Canvas) -> list[tuple[int, int]]:
    """Start and end of each run of hidden places."""
    runs: list[tuple[int, int]] = []
    for i, token in enumerate(canvas):
        if token is None:
            if runs and runs[-1][1] == i:
                runs[-1] = (runs[-1][0], i + 1)
            else:
                runs.append((i, i + 1))
    return runs


register(
    ModelFamily(
        name="diffusion",
        title="a masked diffusion model",
        model_type="masked-diffusion",
        model_class=MaskedDiffusion,
        config_class=MaskedDiffusionConfig,
        task="diffusion",
        description="A masked diffusion model: a transformer in both directions that reveals hidden {unit}s step by step",
        explain=lambda config, unit: (
            f"Starts with all {unit}s hidden and guesses all of them at once. In each step it keeps the guesses it is most sure "
            "of, until nothing is hidden."
        ),
        lm_class=TextDiffusion,
        abilities=frozenset({"infills", "draws"}),
        likelihood="bound",
        storage_dtype=torch.float16,
        layer_dtype=torch.float8_e4m3fn,  # costs less than 0.001 nats a character, and half the bytes
    )
)

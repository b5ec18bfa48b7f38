"""Held-out loss: the mean over all tokens of a text, in nats a token."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.models.base import UNBOUNDED_CONTEXT, CausalLM
from train.data import pad_documents

MAX_BATCH_TOKENS = 16_384
MAX_BATCH_LOGITS = 2**26  # 256 MB in float32, for any vocabulary
EVAL_CONTEXT = 256  # tokens


@dataclass(frozen=True)
class EvalResult:
    """The loss on a text.

    Attributes:
        nats_per_token: Mean over the targets.
        bits_per_character: Total bits divided by the characters of the targets; comparable between tokenizers.
        bits_per_byte: Total bits divided by the UTF-8 bytes of the targets.
        tokens: Number of targets.
        eval_context: Window length in which a running text was read.
    """

    nats_per_token: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    eval_context: int

    @classmethod
    def from_total(cls, nats: float, tokens: int, eval_context: int, target_text: str | None = None) -> "EvalResult":
        """Divide a total cost.

        Args:
            nats: The total.
            tokens: Number of targets.
            eval_context: Window length.
            target_text: Their text; by default one character of one byte for each target.
        """
        characters, size = (len(target_text), len(target_text.encode())) if target_text else (tokens, tokens)
        bits = nats / math.log(2)
        return cls(nats / tokens, bits / characters, bits / size, tokens, eval_context)


def eval_context(model: CausalLM) -> int:
    """The window in which a running text is read: 256 tokens, or the context length of a model with a longer one."""
    return EVAL_CONTEXT if model.context_length == UNBOUNDED_CONTEXT else max(EVAL_CONTEXT, model.context_length)


def evaluate(model: CausalLM, documents: list[Tensor], target_text: str | None = None, window: int | None = None) -> EvalResult:
    """Score every token of the documents but the first of each, once.

    Args:
        model: The model; its mode is restored afterwards.
        documents: (T,) each. A running text is read in consecutive windows that each start afresh.
        target_text: The text of the targets; by default one character of one byte for each.
        window: Tokens of a window; by default `eval_context`.
    """
    window = window or eval_context(model)
    nll = token_nll(model, documents, window).double()
    return EvalResult.from_total(nll.sum().item(), len(nll), window, target_text)


def token_nll(model: CausalLM, documents: list[Tensor], window: int | None = None) -> Tensor:
    """-log p of each target of the documents, (N,), in nats, read as `evaluate` says."""
    if model.config.eos_token_id is not None:
        return line_nll(model, documents)
    return _batch_nll(model, windows(documents[0], model, window or eval_context(model)))


def line_nll(model: CausalLM, documents: Sequence[Tensor]) -> Tensor:
    """-log p of each target of lines (T,), (N,), in nats. Each line is read on its own, also by a model of a running text."""
    return _batch_nll(model, document_batches(documents))


@torch.inference_mode()
def _batch_nll(model: CausalLM, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """-log p of each target (B, T) of the batches that is not -1, (N,)."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    nll = []
    for inputs, targets in batches:
        logits, _ = model(inputs.to(device))
        flat = targets.flatten().to(device)
        each = F.cross_entropy(logits.flatten(0, 1).float(), flat, reduction="none", ignore_index=-1)
        nll.append(each[flat >= 0])
    model.train(was_training)
    return torch.cat(nll).cpu()


def document_batches(documents: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of documents in their order, padded; padded targets are -1."""
    batch_size = max(1, MAX_BATCH_TOKENS // max(map(len, documents)))
    for start in range(0, len(documents), batch_size):
        yield pad_documents(documents[start : start + batch_size])


def windows(ids: Tensor, model: CausalLM, window: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of a text of ids (N,), in consecutive windows; the last one may be shorter."""
    batch_size = max(1, min(MAX_BATCH_TOKENS, MAX_BATCH_LOGITS // model.config.vocab_size) // window)
    tokens = len(ids) - 1
    whole = tokens - tokens % window
    inputs, targets = ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window)
    batches = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True)) if whole else []
    if whole < tokens:
        batches.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    return batches

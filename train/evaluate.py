"""Held-out loss: the mean over a whole text, in consecutive windows, in nats a token."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from gpt import GPT, Tokenizer
from gpt.models.base import CausalLM
from train.data import lines_of, padded

BATCH_TOKENS = 16_384
BATCH_LOGITS = 2**26  # a quarter of a gigabyte, however large the vocabulary
WINDOW = 256  # in which a text is read by models that were not trained in windows


@dataclass(frozen=True)
class EvalResult:
    """nats_per_token is the mean over `tokens` targets; the bits are shared by the characters, or the bytes of UTF-8, that
    they spell, so that models with different tokenizers can be compared."""

    nats_per_token: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    window: int


@torch.inference_mode()
def evaluate(model: CausalLM, ids: Tensor, window: int, target_text: str | None = None) -> EvalResult:
    """Score a text of ids (N,): each of its N - 1 next tokens once, in windows that each start afresh, or, if the model is
    one of lines, in those.

    spelled: the text of those targets, if it is not a character of one byte for each.
    """
    each = token_nll(model, ids, window).double()
    return shared(each.sum().item(), len(each), window, target_text)


def shared(nats: float, tokens: int, window: int, target_text: str | None = None) -> EvalResult:
    """What so many nats are for each of so many tokens, and for what they spell."""
    characters, size = (len(target_text), len(target_text.encode())) if target_text else (tokens, tokens)
    bits = nats / math.log(2)
    return EvalResult(nats / tokens, bits / characters, bits / size, tokens, window)


def target_text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of the targets of a text of ids: all but the first. A character that the first began is not among it."""
    return tokenizer.decode(ids)[len(tokenizer.decode(ids[:1])) :]


def eval_context(model: CausalLM) -> int:
    """The window in which a model's held-out text is read: a GPT's own, in which it learned, or 256."""
    return model.window if isinstance(model, GPT) else WINDOW


@torch.inference_mode()
def token_nll(model: CausalLM, ids: Tensor, window: int) -> Tensor:
    """What each next token of a text of ids (N,) costs, (N - 1,), in nats, read as `held_out` says."""
    was_training = model.training
    model.eval()
    ids = ids.to(next(model.parameters()).device)
    end_id = model.config.eos_token_id
    rows = max(1, min(BATCH_TOKENS, BATCH_LOGITS // model.config.vocab_size) // window)
    batches = windows(ids, window, rows) if end_id is None else line_batches(ids, end_id)
    nats = []
    for x, y in batches:
        logits, _ = model(x)
        each = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none", ignore_index=-1)
        nats.append(each[y.flatten() >= 0])
    model.train(was_training)
    return torch.cat(nats)


def line_batches(ids: Tensor, end_id: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Inputs and next tokens of the lines in ids (N,), in their order."""
    lines = lines_of(ids, end_id)
    return DataLoader(lines, BATCH_TOKENS // max(map(len, lines)), collate_fn=padded)  # type: ignore[arg-type]


def windows(ids: Tensor, window: int, rows: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Inputs and next tokens of ids (N,), in windows one after another, so many rows at once."""
    tokens = len(ids) - 1
    whole = tokens - tokens % window
    inputs, targets = ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window)
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True)) if whole else []
    if whole < tokens:  # the last window is shorter
        batches.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    return batches

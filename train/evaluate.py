"""Held-out loss: the mean over a whole text, in consecutive windows, in nats a token."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt import GPT, Tokenizer
from gpt.model import CausalModel

BATCH_TOKENS = 16_384
BATCH_LOGITS = 2**26  # a quarter of a gigabyte, however large the vocabulary
WINDOW = 256  # in which a text is read by models that were not trained in windows


@dataclass(frozen=True)
class HeldOut:
    """nats_per_token is the mean over `tokens` targets; the bits are shared by the characters, or the bytes of UTF-8, that
    they spell, so that models with different tokenizers can be compared."""

    nats_per_token: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    window: int


@torch.inference_mode()
def held_out(model: CausalModel, ids: Tensor, window: int, spelled: str | None = None) -> HeldOut:
    """Score a text of ids (N,): each of its N - 1 next tokens once, in windows that each start afresh.

    spelled: the text of those targets, if it is not a character of one byte for each.
    """
    nats, tokens = costs(model, ids, window).double().sum().item(), len(ids) - 1
    characters, size = (len(spelled), len(spelled.encode())) if spelled else (tokens, tokens)
    bits = nats / math.log(2)
    return HeldOut(nats / tokens, bits / characters, bits / size, tokens, window)


def spelled(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of the targets of a text of ids: all but the first. A character that the first began is not among it."""
    return tokenizer.decode(ids)[len(tokenizer.decode(ids[:1])) :]


def reading(model: CausalModel) -> int:
    """The window in which a model's held-out text is read: a GPT's own, in which it learned, or 256."""
    return model.window if isinstance(model, GPT) else WINDOW


@torch.inference_mode()
def costs(model: CausalModel, ids: Tensor, window: int) -> Tensor:
    """What each next token of a text of ids (N,) costs, (N - 1,), in nats, read in windows that each start afresh."""
    was_training = model.training
    model.eval()
    ids = ids.to(next(model.parameters()).device)
    tokens = len(ids) - 1
    whole = tokens - tokens % window
    inputs, targets = ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window)
    rows = max(1, min(BATCH_TOKENS, BATCH_LOGITS // model.config.vocab_size) // window)
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True)) if whole else []
    if whole < tokens:  # the last window is shorter
        batches.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    nats = []
    for x, y in batches:
        logits, _ = model(x)
        nats.append(F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none"))
    model.train(was_training)
    return torch.cat(nats)

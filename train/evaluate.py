"""Held-out loss: the mean over a whole text, in consecutive windows, in nats a token."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from gpt import GPT
from gpt.model import CausalModel
from train.data import lines_of, padded

BATCH_TOKENS = 16_384
WINDOW = 256  # in which a text is read by models that were not trained in windows


@dataclass(frozen=True)
class HeldOut:
    """nats_per_token is the mean over `tokens` targets; bits_per_character counts the characters that they spell."""

    nats_per_token: float
    bits_per_character: float
    tokens: int
    window: int


@torch.inference_mode()
def held_out(model: CausalModel, ids: Tensor, window: int, characters: int | None = None) -> HeldOut:
    """Score a text of ids (N,): each of its N - 1 next tokens once, in windows that each start afresh, or, if the model is
    one of lines, in those.

    characters: how many characters those targets spell, if a token is more than one.
    """
    each = costs(model, ids, window).double()
    nats, tokens = each.sum().item(), len(each)
    return HeldOut(nats / tokens, nats / math.log(2) / (characters or tokens), tokens, window)


def reading(model: CausalModel) -> int:
    """The window in which a model's held-out text is read: a GPT's own, in which it learned, or 256."""
    return model.window if isinstance(model, GPT) else WINDOW


@torch.inference_mode()
def costs(model: CausalModel, ids: Tensor, window: int) -> Tensor:
    """What each next token of a text of ids (N,) costs, (N - 1,), in nats, read as `held_out` says."""
    was_training = model.training
    model.eval()
    ids = ids.to(next(model.parameters()).device)
    end_id = model.config.eos_token_id
    batches = windows(ids, window) if end_id is None else line_batches(ids, end_id)
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


def windows(ids: Tensor, window: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Inputs and next tokens of ids (N,), in windows one after another."""
    tokens = len(ids) - 1
    whole = tokens - tokens % window
    inputs, targets = ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window)
    rows = max(1, BATCH_TOKENS // window)
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True)) if whole else []
    if whole < tokens:  # the last window is shorter
        batches.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    return batches

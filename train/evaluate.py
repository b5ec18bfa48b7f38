"""Held-out loss: the mean over a whole text, in consecutive windows, in nats a token."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.model import CausalModel

BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class HeldOut:
    """nats_per_token is the mean over `tokens` targets; bits_per_character counts the characters that they spell."""

    nats_per_token: float
    bits_per_character: float
    tokens: int
    window: int


@torch.inference_mode()
def held_out(model: CausalModel, ids: Tensor, window: int, characters: int | None = None) -> HeldOut:
    """Score a text of ids (N,): each of its N - 1 next tokens once, in windows that each start afresh.

    characters: how many characters those targets spell, if a token is more than one.
    """
    was_training = model.training
    model.eval()
    ids = ids.to(next(model.parameters()).device)
    tokens = len(ids) - 1
    whole = tokens - tokens % window
    inputs, targets = ids[:whole].view(-1, window), ids[1 : whole + 1].view(-1, window)
    rows = max(1, BATCH_TOKENS // window)
    batches = list(zip(inputs.split(rows), targets.split(rows), strict=True)) if whole else []
    if whole < tokens:  # the last window is shorter
        batches.append((ids[whole:-1][None], ids[whole + 1 :][None]))
    nats = 0.0
    for x, y in batches:
        logits, _ = model(x)
        nats += F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="sum").item()
    model.train(was_training)
    return HeldOut(nats / tokens, nats / math.log(2) / (characters or tokens), tokens, window)

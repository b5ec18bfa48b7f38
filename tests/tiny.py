"""Tiny models for tests."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def randomized(model: M) -> M:
    """The model with random weights: some of a new model's are zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(std=0.3, generator=generator)
    return model.eval()

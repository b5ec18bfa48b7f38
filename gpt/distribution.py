"""Distributions for the page: -log2 of each token's probability, in two bytes.

The error of -log2 p is at most 1/2048 bit, so that of p at most 0.034 %. At temperature t, the page divides the bits by t, and
with them the error. Tokens closer than 1/1024 bit can become equal. 65535 stands for 64 bits and more, as good as impossible.
"""

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

STEPS_PER_BIT = 1024
MAX_STEPS = 2**16 - 1
MAX_COMPLETE = 256  # tokens of the largest vocabulary that is sent completely
TOP_N = 64  # tokens that are sent of a larger one


def encode_distribution(logits: Tensor) -> bytes:
    """Encode the distributions of logits (..., V), one after the other: completely up to 256 tokens, else the 64 likeliest."""
    return quantize_bits(logits) if logits.shape[-1] <= MAX_COMPLETE else quantize_top(logits)


def quantize_bits(logits: Tensor) -> bytes:
    """Encode -log2 p of all tokens.

    Args:
        logits: (..., V).

    Returns:
        For each distribution V little-endian uint16, in steps of 1/1024 bit.
    """
    return _quantize(_surprisal(logits)).tobytes()


def quantize_top(logits: Tensor, n: int = TOP_N) -> bytes:
    """Encode -log2 p of the likeliest tokens and of all others together.

    Args:
        logits: (..., V).
        n: Number of tokens, below V.

    Returns:
        For each distribution, little-endian: n uint32 token ids, the likeliest first and of equal ones the lowest id first;
        n uint16 for their -log2 p, and one for that of the sum of the others, in steps of 1/1024 bit.
    """
    bits = _surprisal(logits)
    partition = np.argpartition(bits, n, axis=-1)  # the n likeliest, in no order, and the others
    ids = np.sort(partition[..., :n], axis=-1)
    top = np.take_along_axis(bits, ids, axis=-1)
    order = np.argsort(top, axis=-1, kind="stable")
    others = np.exp2(-np.take_along_axis(bits, partition[..., n:], axis=-1)).sum(axis=-1)
    records = np.empty(bits.shape[:-1], dtype=[("ids", "<u4", n), ("bits", "<u2", n), ("rest", "<u2")])
    records["ids"] = np.take_along_axis(ids, order, axis=-1)
    records["bits"] = _quantize(np.take_along_axis(top, order, axis=-1))
    with np.errstate(divide="ignore"):  # the others can be impossible
        records["rest"] = _quantize(-np.log2(others))
    return records.tobytes()


def _surprisal(logits: Tensor) -> npt.NDArray[np.float64]:
    """-log2 of the probabilities of logits (..., V)."""
    values = logits.detach().double().cpu().numpy()
    values = values - values.max(axis=-1, keepdims=True)
    bits: npt.NDArray[np.float64] = (np.log(np.exp(values).sum(axis=-1, keepdims=True)) - values) / math.log(2)
    return bits


def _quantize(bits: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    return np.rint(np.minimum(bits * STEPS_PER_BIT, MAX_STEPS)).astype("<u2")

"""ctypes binding of ngram.c."""

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpt.engine.binding import check_tokens


class LastTokens(Protocol):
    """The state of one sequence: its last tokens, (1, order - 1), -1 where it has not read as many."""

    ids: Tensor


class _Model(ctypes.Structure):
    """`Model` of ngram.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("vocab_size", "order", "num_entries")),
        *((name, ctypes.c_void_p) for name in ("ngram_ids", "probs")),
    )


class _Sequence(ctypes.Structure):
    """`Sequence` of ngram.c."""

    _fields_ = (("token", ctypes.c_int64), ("ids", ctypes.c_void_p))


class NGramEngine:
    """Computes decode steps of an n-gram in C.

    Args:
        library: The compiled kernel.
        vocab_size: Number of tokens V.
        order: Length of the longest sequences.
        ngram_ids: (E,) sorted n-gram ids, contiguous int64 on the CPU.
        probs: (E,) their probabilities, contiguous float16 on the CPU.
    """

    def __init__(self, library: ctypes.CDLL, vocab_size: int, order: int, ngram_ids: Tensor, probs: Tensor) -> None:
        self.vocab_size, self._step = vocab_size, library.ngram_step
        self._table = ngram_ids.detach(), probs.detach()  # the kernel has only pointers
        self._model = _Model(vocab_size, order, len(ngram_ids), *(tensor.data_ptr() for tensor in self._table))

    def forward(self, tokens: Sequence[int], states: Sequence[LastTokens]) -> Tensor:
        """Read one token of each sequence.

        Args:
            tokens: One token id for each sequence.
            states: One state for each sequence; updated in place.

        Returns:
            Log-probabilities (B, V) of the next token.

        Raises:
            IndexError: If a token id is not in [0, V).
        """
        check_tokens(tokens, self.vocab_size)
        logits = torch.empty(len(tokens), self.vocab_size)
        sequences = (_Sequence * len(tokens))()
        for sequence, token, state in zip(sequences, tokens, states, strict=True):
            sequence.token, sequence.ids = token, state.ids.data_ptr()
        self._step(ctypes.byref(self._model), sequences, len(tokens), logits.data_ptr())
        return logits

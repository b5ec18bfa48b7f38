"""ctypes binding of lstm.c."""

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gpt.engine.binding import check_tokens

LAYER_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of `Layer` in lstm.c


class HiddenState(Protocol):
    """The state of one sequence: hidden state h and cell state c, each (L, 1, C)."""

    h: Tensor
    c: Tensor


class _Model(ctypes.Structure):
    """`Model` of lstm.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_layers", "vocab_size", "hidden_size", "embedding_size", "latent_size")),
        *((name, ctypes.c_void_p) for name in ("embed_tokens", "head", "head_bias", "layers")),
    )


class _Sequence(ctypes.Structure):
    """`Sequence` of lstm.c."""

    _fields_ = (
        ("token", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("h", "c")),
        *((name, ctypes.c_int64) for name in ("h_stride", "c_stride")),
        ("z", ctypes.c_void_p),
    )


class LSTMEngine:
    """Computes decode steps of an LSTM in C. The weights must be contiguous float32 on the CPU.

    Args:
        library: The compiled kernel.
        embed_tokens: Its input.
        lstm: The layers.
        lm_head: Its output.
    """

    def __init__(self, library: ctypes.CDLL, embed_tokens: nn.Embedding, lstm: nn.LSTM, lm_head: nn.Linear) -> None:
        self.vocab_size, self._step = lm_head.out_features, library.lstm_step
        layers = [getattr(lstm, f"{name}_l{layer}") for layer in range(lstm.num_layers) for name in LAYER_WEIGHTS]
        # The kernel has only pointers: these references keep the memory alive.
        self._weights = [p.detach() for p in (embed_tokens.weight, lm_head.weight, lm_head.bias, *layers)]
        embedding, head, head_bias, *pointers = (weight.data_ptr() for weight in self._weights)
        self._layers = (ctypes.c_void_p * len(pointers))(*pointers)
        size = embed_tokens.embedding_dim
        sizes = (lstm.num_layers, self.vocab_size, lstm.hidden_size, size, lstm.input_size - size)
        self._model = _Model(*sizes, embedding, head, head_bias, ctypes.addressof(self._layers))

    def forward(self, tokens: Sequence[int], states: Sequence[HiddenState], latents: Sequence[Tensor] = ()) -> Tensor:
        """Read one token of each sequence.

        Results do not depend on the other sequences in the batch, to the last bit.

        Args:
            tokens: One token id for each sequence.
            states: One state for each sequence; updated in place.
            latents: One vector (1, Z) for each sequence that the layers read with each token, if the model has latent vectors.

        Returns:
            Logits (B, V) of the next token.

        Raises:
            IndexError: If a token id is not in [0, V).
            MemoryError: If an allocation fails.
        """
        check_tokens(tokens, self.vocab_size)
        logits = torch.empty(len(tokens), self.vocab_size)
        sequences = (_Sequence * len(tokens))()
        for sequence, token, state in zip(sequences, tokens, states, strict=True):
            sequence.token, sequence.h, sequence.c = token, state.h.data_ptr(), state.c.data_ptr()
            sequence.h_stride, sequence.c_stride = state.h.stride(0), state.c.stride(0)
        for sequence, z in zip(sequences, latents, strict=bool(latents)):
            sequence.z = z.data_ptr()
        if self._step(ctypes.byref(self._model), sequences, len(tokens), logits.data_ptr()):
            raise MemoryError(f"not enough memory to step {len(tokens)} sequences")
        return logits

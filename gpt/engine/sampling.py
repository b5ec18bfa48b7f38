"""ctypes binding of sampling.c."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from gpt.engine.binding import load_library
from gpt.engine.structures import Sampling, check_status
from gpt.sampling import SamplingParams


class Sampler:
    """Samples tokens as `gpt.sampling` does, in C.

    Args:
        library: The compiled kernels.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._sample = library.sample

    def __call__(
        self, logits: Tensor, params: Sequence[SamplingParams], uniform: Sequence[float], forced: Sequence[int | None]
    ) -> tuple[list[int], list[float]]:
        """Sample a token for each sequence of a batch.

        Args:
            logits: (B, V) float32 on the CPU.
            params: One for each sequence.
            uniform: One number in [0, 1) for each sequence.
            forced: For each sequence the token to take instead, or None.

        Returns:
            Token ids, and the natural logarithm of the model's own probability for each.

        Raises:
            ValueError: If the highest logit of a row is infinite, or a logit is NaN.
            MemoryError: If an allocation fails.
        """
        count, vocab_size = logits.shape
        logits = logits.contiguous()
        tokens = (ctypes.c_int64 * count)(*(-1 if token is None else token for token in forced))
        logprobs = (ctypes.c_double * count)()
        rows, numbers = (Sampling * count)(*map(Sampling.of, params)), (ctypes.c_double * count)(*uniform)
        check_status(self._sample(count, vocab_size, logits.data_ptr(), rows, numbers, tokens, logprobs))
        return list(tokens), list(logprobs)


def make_sampler() -> Sampler | None:
    """A sampler, or None where the kernels cannot be compiled."""
    library = load_library()
    return Sampler(library) if library else None

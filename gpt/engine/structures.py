"""What the bindings of the kernels share: a structure of sampling.h, and the errors that a kernel returns."""

import ctypes

from gpt.sampling import NOT_FINITE_MESSAGE, SamplingParams

NO_MEMORY, NOT_FINITE = 1, 2  # as in sampling.h


class Sampling(ctypes.Structure):
    """`Sampling` of sampling.h."""

    _fields_ = (*((name, ctypes.c_double) for name in ("temperature", "top_p", "min_p")), ("top_k", ctypes.c_int64))

    @classmethod
    def of(cls, params: SamplingParams) -> "Sampling":
        """The fields that choose a token."""
        return cls(params.temperature, params.top_p, params.min_p, min(params.top_k, 2**62))


def check_status(status: int) -> None:
    """Raises the error that a function of the library returned, if any."""
    if status == NOT_FINITE:
        raise ValueError(NOT_FINITE_MESSAGE)
    if status == NO_MEMORY:
        raise MemoryError("there is not enough memory for another token")

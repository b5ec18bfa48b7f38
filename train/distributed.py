"""Data-parallel training in several processes, which torchrun starts.

Every process holds the whole model and samples the same batch, computes the gradients of its own shard, and averages them with
the others. The average is one all-reduce of one flat vector: DistributedDataParallel would overlap it with the backward
pass, which gains nothing for models this small, and would wrap the module that the trainer compiles and saves.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

MAX_PROCESSES = 4096
START_WITH_TORCHRUN = "start the run with torchrun, which sets it, or unset WORLD_SIZE"


class WorkerLostError(ValueError):
    """Another process of the run has ended."""


@dataclass(frozen=True)
class DistributedContext:
    """The place of this process among the processes of a run. By default it is the only one, and no method communicates.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> "DistributedContext":
        """Connect to the other processes, if torchrun has started any.

        Raises:
            OSError: If an environment variable of torchrun is missing or wrong, which concerns this process only.
            ValueError: If there are fewer GPUs than processes.
        """
        size = _read_variable("WORLD_SIZE", 1, MAX_PROCESSES, "1")
        if size == 1:
            return cls()
        _read_variable("RANK", 0, size - 1)
        _read_variable("MASTER_PORT", 1, 65_535)
        address = os.environ.get("MASTER_ADDR", "")
        try:
            socket.getaddrinfo(address or "?", None)  # PyTorch would try for minutes
        except OSError:
            raise OSError(f"MASTER_ADDR is {address[:60]!r}, which is no address; {START_WITH_TORCHRUN}") from None
        if device == "cuda":
            local_size, gpus = _read_variable("LOCAL_WORLD_SIZE", 1, size), torch.cuda.device_count()
            local_rank = _read_variable("LOCAL_RANK", 0, local_size - 1)
            if local_size > gpus:
                raise ValueError(
                    f"{local_size} processes need a GPU each and there are {gpus}; start fewer, or give --device cpu"
                )
            torch.cuda.set_device(local_rank)
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        except (RuntimeError, ValueError):  # such as an address that is in use, or unknown
            place = f"{address}:{os.environ['MASTER_PORT']}"
            raise OSError(f"the processes of this run cannot meet at {place}; {START_WITH_TORCHRUN}") from None
        return cls(dist.get_rank(), size)

    @staticmethod
    def leave() -> None:
        """Disconnect."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """Whether this process evaluates, writes and prints."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """The rows of a batch (B, ...) that this process trains on."""
        return batch[self.rank :: self.size]

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ValueError if a batch cannot be divided evenly."""
        if batch_size % self.size:
            divisors = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
            raise ValueError(
                f"a batch of {batch_size} rows does not divide among {self.size} processes; start one of: {divisors}"
            )

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in place."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _translate_transport_errors():
            dist.all_reduce(flat)
        means = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def sum(self, number: float) -> float:
        """The sum of `number` over all processes; waits for all of them."""
        if self.size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        with _translate_transport_errors():
            dist.all_reduce(total)
        return total.item()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the body in the main process, then in the others."""
        if not self.is_main_process:
            self.sum(0)
        yield
        if self.is_main_process:
            self.sum(0)


def is_main_process() -> bool:
    """Whether this process prints what all processes would; known before they are connected."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _read_variable(name: str, least: int, most: int, default: str = "") -> int:
    """A whole number in the environment, which torchrun sets. Raises OSError if it is missing or out of range."""
    text = os.environ.get(name, default)
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        state = f"is {text[:20]!r}" if text else "is missing"
        raise OSError(f"{name} {state}; it must be a whole number from {least} to {most:,}: {START_WITH_TORCHRUN}")
    return int(text)


@contextmanager
def _translate_transport_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # gloo and NCCL raise it for a closed connection and for a timeout
        raise WorkerLostError("another process of this run has ended; continue with the same command and --resume") from None

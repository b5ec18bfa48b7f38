"""Data-parallel training in several processes, which torchrun starts.

Every process holds the whole model and samples the same batch, computes the gradients of its own shard, and averages them with
the others. The average is one all-reduce of one flat vector: DistributedDataParallel would overlap it with the backward
pass, which gains nothing for models this small, and would wrap the module that the trainer compiles and saves.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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
            ValueError: If there are fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if device == "cuda":
            local_size, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
            if local_size > gpus:
                raise ValueError(
                    f"{local_size} processes need a GPU each and there are {gpus}; start fewer, or give --device cpu"
                )
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
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


@contextmanager
def _translate_transport_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # gloo and NCCL raise it for a closed connection and for a timeout
        raise WorkerLostError("another process of this run has ended; continue with the same command and --resume") from None

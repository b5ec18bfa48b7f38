"""One run in several processes, as torchrun starts them: data parallel training.

Every process holds the whole model and draws the same batch; each computes the gradients of its own rows, and all take
their mean. The mean is one sum over one flat vector: DistributedDataParallel would begin it while the backward pass still
runs, which models this small have no use for, and would stand between the trainer and the model that it compiles and saves.
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
    """The processes of a run, of which this is number `rank`. Alone, it is the first of one, and nothing here does anything."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> "DistributedContext":
        """Find the others, if torchrun has started any. Raises ValueError if there are fewer GPUs than processes."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if device == "cuda":
            here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
            if here > gpus:
                raise ValueError(f"{here} processes need a GPU each and there are {gpus}; start fewer, or give --device cpu")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), size)

    @staticmethod
    def leave() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that evaluates, writes and prints."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch. Refuse with `check` what does not divide: every share counts alike."""
        return rows[self.rank :: self.size]

    def check_posterior_collapse(self, rows: int) -> None:
        """Raises ValueError if the rows of a batch cannot be shared evenly."""
        if rows % self.size:
            fit = ", ".join(str(n) for n in range(1, rows + 1) if rows % n == 0)
            raise ValueError(f"a batch of {rows} rows does not divide among {self.size} processes; start one of: {fit}")

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor its mean over all processes, in place."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _telling_of_loss():
            dist.all_reduce(flat)
        means = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def sum(self, number: float) -> float:
        """The sum of what each process hands in, told to all. Whoever comes first waits."""
        if self.size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        with _telling_of_loss():
            dist.all_reduce(total)
        return total.item()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """What it encloses is done by the first process, then by the others: they find what it has made."""
        if not self.is_main_process:
            self.sum(0)
        yield
        if self.is_main_process:
            self.sum(0)


@contextmanager
def _telling_of_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # of the transport: a connection was closed, or nobody came
        raise WorkerLostError("another process of this run has ended; the same command with --resume goes on") from None

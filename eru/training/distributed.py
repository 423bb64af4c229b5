"""Data-parallel training over the processes that `torchrun` starts, with one process as the plain case."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train one model together.

    With a single process every method returns at once. Gradients are averaged by hand, not by a wrapper around the
    model, so that the model's names, its saved weights and its methods stay its own.

    Attributes:
        rank: The number of this process, from 0.
        world_size: The number of processes.
        device: Where this process computes.

    Example:
        >>> ranks = Ranks.from_environment("cpu")
        >>> ranks.world_size, ranks.is_main, ranks.mean(0.5)
        (1, True, 0.5)
        >>> ranks.close()
    """

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def from_environment(cls, device: str | torch.device) -> "Ranks":
        """Join the processes that `torchrun` started, until `close`, or stand alone where WORLD_SIZE is not above 1.

        Args:
            device: The kind of device to compute on. Of several processes each takes the CUDA device of its
                LOCAL_RANK, whatever index is given.

        Raises:
            ValueError: A variable is missing or no number, or LOCAL_RANK has no CUDA device.
        """
        place = torch.device(device)
        world_size = _environment_number("WORLD_SIZE", default=1)
        if world_size <= 1:
            return cls(rank=0, world_size=1, device=place)
        rank, local_rank = _environment_number("RANK"), _environment_number("LOCAL_RANK")
        if place.type == "cuda":
            if local_rank >= torch.cuda.device_count():
                raise ValueError(
                    f"LOCAL_RANK={local_rank} needs {local_rank + 1} CUDA devices, but this machine has "
                    f"{torch.cuda.device_count()}: start fewer processes with --nproc-per-node"
                )
            place = torch.device("cuda", local_rank)
            torch.cuda.set_device(place)
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world_size)
        return cls(rank, world_size, place)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def check_parts(self, batch_size: int, accumulate: int) -> None:
        """Refuse a batch that cannot be cut into equal parts, so many for each process.

        Raises:
            ValueError: It cannot.
        """
        if batch_size % (self.world_size * accumulate):
            parts = f"{self.world_size} process(es) with accumulate={accumulate} parts each"
            raise ValueError(f"batch_size={batch_size}: cannot be cut into equal parts for {parts}")

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange; a missing one counts as zero.

        The result is the gradient of the joint batch where every process has the mean loss of an equal share.
        """
        if self.world_size == 1:
            return
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        bucket = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(bucket)
        bucket /= self.world_size
        for gradient, mean in zip(gradients, bucket.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: float) -> float:
        """The mean of every process's value."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item() / self.world_size

    def any(self, answer: bool) -> bool:
        """Whether the answer of any process is true, so that all of them go on alike."""
        return self.mean(float(answer)) > 0

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in their order, on the main process; elsewhere this process's own alone.

        Args:
            value: Tensors on the CPU and plain values, in lists, tuples and dicts.
        """
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return [value] if values is None else values

    def broadcast(self, module: nn.Module) -> None:
        """Give the module of every process the main process's parameters and buffers."""
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the other processes."""
        if self.world_size > 1:
            dist.destroy_process_group()


def _environment_number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ValueError(f"the variable {name} must be a number, as torchrun sets it, got {text!r}")
    return int(text)

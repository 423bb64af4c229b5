"""From a data set to the batches of a training: prepared by workers, drawn the same whenever they are drawn."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from vision.data.sample import Reader, Sample

Broken = Literal["refuse", "skip"]
Batch = tuple[Tensor, Any, int]
"""Images (N, 3, H, W), their targets, and how many broken pictures were passed over."""


class Prepare(Protocol):
    """What makes a sample into a model's input and target, with all chance from the generator it is given."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """The input and the target."""
        ...


class Prepared(TorchDataset[tuple[Tensor, Any, int]]):
    """The pictures of a data set in one epoch, each with its input, its target and the broken ones before it.

    What is drawn for a picture follows from the seed, the epoch and its number alone, so it does not depend on who
    prepares it or when.

    Args:
        reader: The data set.
        prepare: What is made of each sample.
        seed: The seed of the training.
        epoch: The number of the epoch.
        broken: Whether a picture that cannot be read is an error (``"refuse"``), or the next good one takes its place
            (``"skip"``).
    """

    def __init__(self, reader: Reader, prepare: Prepare, seed: int, epoch: int, broken: Broken) -> None:
        self.reader, self.prepare, self.seed, self.epoch, self.broken = reader, prepare, seed, epoch, broken

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, Any, int]:
        """The input, the target, and how many broken pictures were passed over to find a good one.

        Raises:
            ValueError: The picture is broken, and refused, or all are.
        """
        rng = np.random.default_rng([self.seed, self.epoch, index])
        for passed_over in range(len(self)):
            try:
                sample = self.reader[(index + passed_over) % len(self)]
            except ValueError:
                if self.broken == "refuse":
                    raise
                continue
            image, target = self.prepare(sample, rng)
            return image, target, passed_over
        raise ValueError("not one picture of the data set can be read")


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
    """Which pictures each batch of an epoch has, (batches, batch_size / ranks), for one of several processes.

    The pictures are shuffled anew every epoch; those that do not fill a batch wait for another epoch.

    Raises:
        ValueError: There are fewer pictures than a batch has, or the processes cannot share a batch equally.

    Example:
        >>> epoch_order(7, 3, seed=1, epoch=0).shape
        (2, 3)
    """
    if batch_size % ranks:
        raise ValueError(f"batch_size={batch_size}: must be a multiple of the {ranks} processes")
    if count < batch_size:
        raise ValueError(f"batch_size={batch_size}: there are only {count} training pictures")
    order = np.random.default_rng([seed, epoch]).permutation(count)
    batches = order[: count - count % batch_size].reshape(-1, ranks, batch_size // ranks)
    return batches[:, rank]


def load(prepared: Prepared, batches: Iterable[Iterable[int]], workers: int) -> Iterator[Batch]:
    """The batches in their order, prepared by so many processes ahead of time; by this one where there are none.

    Raises:
        ValueError: A picture is broken, and refused.
    """
    loader = DataLoader(
        prepared,
        batch_sampler=[[int(index) for index in batch] for batch in batches],
        num_workers=workers,
        collate_fn=collate,
        # A generator of its own: the loader draws a number, which must not move the training's own chance.
        generator=torch.Generator(),
        worker_init_fn=_use_one_thread if workers else None,
    )
    try:
        yield from loader
    except ValueError as error:
        # From a worker the message comes wrapped in its traceback; the last line is the reason.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(lines[-1].removeprefix("ValueError: ") if lines else "a picture cannot be read") from error


def collate(items: Sequence[tuple[Tensor, Any, int]]) -> Batch:
    """Stack what a batch has; objects, whose number differs, stay a list."""
    images, targets, passed_over = zip(*items, strict=True)
    stacked = list(targets) if isinstance(targets[0], dict) else default_collate(list(targets))
    return torch.stack(images), stacked, sum(passed_over)


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)

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
Item = tuple[Tensor | None, Any, int]
Batch = tuple[Tensor, Any, int]
"""Images (N, 3, H, W), their targets, and how many broken pictures were passed over."""


class Prepare(Protocol):
    """What makes a sample into a model's input and target, with all chance from the generator it is given."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """The input and the target."""
        ...


class Prepared(TorchDataset[Item]):
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
        replaced: Whether the next good one does so; otherwise it is left out, so that none counts twice.
    """

    def __init__(
        self, reader: Reader, prepare: Prepare, *, seed: int, epoch: int, broken: Broken, replaced: bool = True
    ) -> None:
        self.reader, self.prepare, self.seed, self.epoch = reader, prepare, seed, epoch
        self.broken, self.replaced = broken, replaced

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.reader)

    def __getitem__(self, index: int) -> Item:
        """The input, the target, and how many broken pictures were passed over; None is the input of one left out.

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
                if not self.replaced:
                    return None, None, 1
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


def collate(items: Sequence[Item]) -> Batch:
    """Stack what a batch has; objects, whose number differs, stay a list."""
    images = [image for image, _, _ in items if image is not None]
    targets = [target for image, target, _ in items if image is not None]
    stacked = targets if not targets or isinstance(targets[0], dict) else default_collate(targets)
    return torch.stack(images) if images else torch.empty(0), stacked, sum(passed for _, _, passed in items)


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)

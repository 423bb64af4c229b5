"""What a picture of a data set is told with: its classes, its mask, its objects."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from vision.datasets import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image

Task = Literal["classify", "multilabel", "segment", "detect"]
Split = Literal["train", "val", "test"]

IGNORED = 255
"""The value of the pixels of a mask that are neither trained on nor counted."""


@dataclass(frozen=True)
class Objects:
    """The objects in a picture.

    Attributes:
        boxes: (n, 4), float32: left, top, right and bottom in the picture's pixels, with left < right and
            top < bottom; n may be 0.
        labels: (n,), int64: indices of the dataset's categories, of which 0 is the background, so from 1.
        ignored: (n,), bool: objects that are neither trained on nor counted, such as VOC's difficult ones and COCO's
            crowds.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A picture with what its task has to find in it; of the last four attributes a task has one.

    Attributes:
        name: What the data set calls the picture, without folder and suffix.
        picture: The picture, in mode RGB.
        label: The index of its one class (``"classify"``).
        labels: (categories,), bool: which classes it has (``"multilabel"``).
        mask: (height, width), uint8: the class of each pixel, or `IGNORED` (``"segment"``).
        objects: The objects in it (``"detect"``).
    """

    name: str
    picture: "Image"
    label: int | None = None
    labels: np.ndarray | None = field(default=None, repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)
    objects: Objects | None = None


class Reader(Protocol):
    """One split of a data set, which is read picture by picture.

    Attributes:
        dataset: What its classes are called.
        names: What it calls its pictures, in order.
    """

    dataset: Dataset
    names: list[str]

    def __len__(self) -> int:
        """The number of pictures."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """The picture of that number, read from the disk.

        Raises:
            ValueError: The picture or what is told about it is broken; the message names the file.
        """
        ...

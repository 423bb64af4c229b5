"""MS COCO: pictures, and one JSON file that tells the objects in all of them."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eru.storage import read_json
from vision.data.checks import check_files, check_task, named_after, without_background
from vision.data.coco_json import Instances, read_instances
from vision.data.sample import Objects, Sample, Task
from vision.datasets import COCO, Dataset
from vision.pictures import open_picture

TASKS: tuple[Task, ...] = ("detect", "multilabel")
EmptyBoxes = Literal["drop", "refuse"]

_YEARS = ("2017", "2014", "")


class CocoReader:
    """One split of MS COCO.

    The objects are in ROOT/annotations/instances_SPLIT.json, the pictures in ROOT/SPLIT or ROOT/images/SPLIT, where
    SPLIT is the split's name, or that and a year, 2017 or 2014; the pictures' folder may lack the year. The classes
    are those of the file, ordered by their ids, and their indices follow each other where ids do not.

    Boxes are cut off at the edge of their picture. Pictures without objects are kept: they show what is none. A crowd
    is ignored by detection; of a picture's labels (``"multilabel"``) it is one as an object is.

    Args:
        root: The data set's folder.
        split: The name of the split, such as ``"train"``, ``"val"`` or ``"val2017"``.
        task: ``"detect"`` or ``"multilabel"``.
        empty_boxes: Whether objects whose box has no area within the picture, of which there are two in the training
            pictures of 2017, are dropped, or are an error (``"refuse"``).

    Attributes:
        dataset: What its classes are called: `COCO`, if they are its 80, without the background for ``"multilabel"``.
        names: What it calls its pictures, in the file's order.
        dropped: How many objects were dropped.

    Raises:
        ValueError: There is no such split or task, several files could be it, the file is none of COCO's, a picture is
            missing, or an object's box is empty, and refused.

    Source:
        Microsoft COCO: Common Objects in Context (arXiv 1405.0312); the format is that of its "object detection".

    Example:
        >>> import tempfile
        >>> from vision.data import write_shapes
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("coco", root, train=6, val=2)
        >>> reader = CocoReader(root, "val")
        >>> [reader.dataset.categories[label] for label in reader[1].objects.labels]
        ['ring', 'cross']
    """

    def __init__(
        self, root: str | Path, split: str, task: Task = "detect", *, empty_boxes: EmptyBoxes = "drop"
    ) -> None:
        check_task(task, "coco", TASKS)
        if empty_boxes not in ("drop", "refuse"):
            raise ValueError(f"empty_boxes={empty_boxes!r}: must be 'drop' or 'refuse'")
        path = _file(Path(root), split)
        told = read_instances(read_json(path), path)
        self._folder = _folder(Path(root), path.stem.removeprefix("instances_"))
        check_files(self._folder, told.files, path)
        self._task, self._path, self._files, self._sizes = task, path, told.files, told.sizes
        self.names = [Path(file).stem for file in told.files]
        self.dataset = _dataset(Path(root), told.categories, task, path)
        kept = self._place(told)
        self.dropped = int((~kept).sum())
        if self.dropped and empty_boxes == "refuse":
            first = int(kept.argmin())
            raise ValueError(
                f"{path}: annotation {told.ids[first]!r}: its box {told.boxes[first].tolist()} has no area within its "
                f"picture {told.files[told.pictures[first]]}"
            )

    def _place(self, told: Instances) -> np.ndarray:
        """Hold the objects picture by picture, and say which of all have an area."""
        corners = np.concatenate([told.boxes[:, :2], told.boxes[:, :2] + told.boxes[:, 2:]], axis=1)
        boxes = corners.clip(0, np.tile(told.sizes[told.pictures], 2)).astype(np.float32)
        kept = np.all(boxes[:, :2] < boxes[:, 2:], axis=1)
        order = np.argsort(told.pictures, kind="stable")
        order = order[kept[order]]
        self._boxes, self._labels, self._crowds = boxes[order], told.labels[order], told.crowds[order]
        self._starts = np.searchsorted(told.pictures[order], np.arange(len(told.files) + 1))
        return kept

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The picture of that number with its objects or its labels.

        Raises:
            ValueError: The picture is broken, or has another size than is told; the message names it.
        """
        index = range(len(self))[index]
        path = self._folder / self._files[index]
        picture = open_picture(path)
        width, height = self._sizes[index].tolist()
        if picture.size != (width, height):
            raise ValueError(
                f"{path}: has {picture.width}x{picture.height} pixels, but {self._path} tells {width}x{height}"
            )
        its = slice(self._starts[index], self._starts[index + 1])
        if self._task == "detect":
            # Copies, so that what is done to a sample is not done to the next one of this picture.
            objects = Objects(self._boxes[its].copy(), self._labels[its].copy(), self._crowds[its].copy())
            return Sample(self.names[index], picture, objects=objects)
        there = np.zeros(len(self.dataset.categories), dtype=bool)
        there[self._labels[its] - 1] = True
        return Sample(self.names[index], picture, labels=there)


def _file(root: Path, split: str) -> Path:
    """The file of a split, whose name may lack the year."""
    folder = root / "annotations"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; the layout coco has its JSON files there")
    wanted = [folder / f"instances_{split}{year}.json" for year in _YEARS]
    found = [path for path in wanted if path.is_file()]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.glob("instances_*.json"))) or "no such file"
        raise ValueError(f"split={split!r}: {folder} has {there}, and needs instances_{split}2017.json or the like")
    if len(found) > 1:
        names = " or ".join(path.stem.removeprefix("instances_") for path in found)
        raise ValueError(f"split={split!r}: {folder} has several that it could be: name {names}")
    return found[0]


def _folder(root: Path, name: str) -> Path:
    """The folder of a split's pictures, whose name may lack the year."""
    names = list(dict.fromkeys((name, re.sub(r"(2014|2017)$", "", name))))
    places = [root / inner / name for name in names for inner in ("", "images")]
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(f"{root}: no folder with pictures: must be {' or '.join(map(str, places))}")


def _dataset(root: Path, categories: list[str], task: Any, path: Path) -> Dataset:
    official = tuple(categories) == COCO.categories[1:]
    try:
        own = COCO if official else named_after(root, ["background", *categories])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; the background must not be one of its own") from error
    return without_background(own) if task == "multilabel" else own

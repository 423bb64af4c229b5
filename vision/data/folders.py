"""Pictures that lie in a folder for each class, as those of ImageNet do."""

import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from vision.data.checks import check_split, named_after, subfolders
from vision.data.sample import Sample, Task
from vision.datasets import IMAGENET, Dataset
from vision.pictures import open_picture, picture_suffixes

TASKS: tuple[Task, ...] = ("classify",)


class ImageNetReader:
    """One split of a data set with a folder for each class: ROOT/SPLIT/CLASS/PICTURE, in any format of pictures.

    The classes are the folders of ROOT/train, or of the split itself where there is no train, sorted by name. If they
    are the 1000 WordNet ids of ImageNet, whose sorted order is that of its classes, they get the names of `IMAGENET`.

    Args:
        root: The data set's folder.
        split: The name of the split, such as ``"train"`` or ``"val"``. It may lack classes of ``train``, and a class
            of it may lack pictures; those of ``train`` itself may not.

    Attributes:
        dataset: What its classes are called.
        names: What it calls its pictures, class by class.

    Raises:
        ValueError: There is no such folder or split, no class in it, no picture in it or in a class of ``train``, or a
            class that ``train`` lacks.

    Example:
        >>> import tempfile
        >>> from vision.data import write_shapes
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("imagenet", root, train=6, val=2)
        >>> reader = ImageNetReader(root, "val")
        >>> reader.dataset.categories[reader[0].label], reader.names
        ('circle', ['val_00000', 'val_00001'])
    """

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        check_split(root, split)
        first = "train" if (root / "train").is_dir() else split
        classes = subfolders(root / first)
        if not classes:
            raise ValueError(f"{root / first}: no folders in it; the pictures must lie in a folder for each class")
        self.dataset = _dataset(root, classes)
        self._folder, self._files = root / split, list[str]()
        labels: list[int] = []
        for name in subfolders(self._folder):
            if name not in classes:
                raise ValueError(f"{self._folder / name}: is a class that {root / first} lacks")
            found = _pictures(self._folder / name)
            if not found and split == first:
                raise ValueError(f"{self._folder / name}: no pictures in this folder")
            self._files += [f"{name}/{file}" for file in found]
            labels += [classes.index(name)] * len(found)
        if not self._files:
            raise ValueError(f"{self._folder}: no pictures; they must lie in a folder for each class")
        self._labels = np.array(labels, dtype=np.int64)
        self.names = [Path(file).stem for file in self._files]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        """The picture of that number and its label.

        Raises:
            ValueError: The picture is broken; the message names it.
        """
        picture = open_picture(self._folder / self._files[index])
        return Sample(self.names[index], picture, label=int(self._labels[index]))


def _dataset(root: Path, classes: list[str]) -> Dataset:
    if len(classes) == len(IMAGENET.categories):
        known = (files("vision") / "data" / "imagenet_ids.txt").read_text(encoding="ascii").split()
        if classes == known:
            return IMAGENET
    return named_after(root, classes)


def _pictures(folder: Path) -> list[str]:
    """The names of the pictures in a folder, sorted."""
    suffixes = picture_suffixes()
    # Of a million files, scandir alone does not ask the disk again what each is. Hidden ones are what systems left.
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    return sorted(name for name in names if Path(name).suffix.lower() in suffixes)

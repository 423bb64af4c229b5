"""PASCAL VOC: one folder of pictures, and what is in them as masks and as boxes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from vision.data.checks import (
    check_files,
    check_task,
    mask_classes,
    named_after,
    read_mask,
    read_text,
    without_background,
)
from vision.data.sample import IGNORED, Sample, Task
from vision.data.voc_objects import as_objects, read_objects
from vision.datasets import VOC, Dataset
from vision.pictures import open_picture

TASKS: tuple[Task, ...] = ("segment", "detect", "multilabel")

_PICTURES, _LABELS = "JPEGImages", "labels.txt"


class VOCReader:
    """One split of PASCAL VOC, or of several of its years together.

    A year's folder has JPEGImages/NAME.jpg; SegmentationClass/NAME.png, whose palette indices are classes or 255; the
    boxes in Annotations/NAME.xml; and lists of names, ImageSets/Segmentation/SPLIT.txt for segmentation and
    ImageSets/Main/SPLIT.txt for the other tasks. For a split whose name ends with ``aug``, such as ``"train_aug"``,
    masks are taken from SegmentationClassAug where it has them, as the SBD's are commonly stored; its lists may also
    name both files, ``/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png``. The classes are VOC's 20 and the
    background, unless labels.txt in the year's folder names others, one a line, first ``background``.

    A class is in a picture (``"multilabel"``) if an object of it is that is not difficult; of a class with difficult
    objects only, it is said that it is not there. The `size` in an XML file is not used: it is often wrong.

    Args:
        roots: The year's folder, or one with the folder VOC... or VOCdevkit/VOC... in it. Or several of these, which
            are joined, such as those of 2007 and 2012.
        split: The name of the list, such as ``"train"``, ``"val"`` or ``"trainval"``.
        task: ``"segment"``, ``"detect"`` or ``"multilabel"``.

    Attributes:
        dataset: What its classes are called; without the background for ``"multilabel"``.
        names: What it calls its pictures, as listed.

    Raises:
        ValueError: There is no such folder, split or task, a list is empty or names a picture twice, a file that it
            names is missing, labels.txt is none, or the classes of several folders differ.

    Source:
        The PASCAL Visual Object Classes Challenge 2012 (VOC2012) Development Kit; the SBD is Semantic Contours from
        Inverse Detectors (ICCV 2011).

    Example:
        >>> import tempfile
        >>> from vision.data import write_shapes
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("voc", root, train=6, val=2)
        >>> reader = VOCReader(root, "val", "detect")
        >>> [reader.dataset.categories[label] for label in reader[1].objects.labels]
        ['ring', 'cross']
    """

    def __init__(self, roots: str | Path | Sequence[str | Path], split: str, task: Task = "segment") -> None:
        check_task(task, "voc", TASKS)
        folders = [_year(Path(root)) for root in ([roots] if isinstance(roots, str | Path) else roots)]
        if not folders or len({folder.resolve() for folder in folders}) < len(folders):
            raise ValueError(f"roots={roots!r}: must be at least one folder, and none of them twice")
        datasets = [_dataset(folder) for folder in folders]
        for folder, dataset in zip(folders, datasets, strict=True):
            if dataset.categories != datasets[0].categories:
                raise ValueError(f"{folder}: has other classes than {folders[0]}; {_LABELS} of both must agree")
        self._task = task
        self.dataset = without_background(datasets[0]) if task == "multilabel" else datasets[0]
        self.names: list[str] = []
        self._files: list[tuple[Path, Path]] = []
        for folder in folders:
            list_file = folder / "ImageSets" / ("Segmentation" if task == "segment" else "Main") / f"{split}.txt"
            names = _names(list_file)
            self.names += names
            self._files += _files(folder, names, list_file, task)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The picture of that number with its mask, its objects or its labels.

        Raises:
            ValueError: The picture, or the file that tells what is in it, is broken; the message names it.
        """
        picture_path, path = self._files[index]
        sample = Sample(self.names[index], open_picture(picture_path))
        categories = self.dataset.categories
        if self._task == "segment":
            classes = mask_classes(len(categories))
            return replace(sample, mask=read_mask(path, picture_path, sample.picture, classes))
        if self._task == "detect":
            found = read_objects(path, categories[1:])
            return replace(sample, objects=as_objects(found, categories[1:], sample.picture.size, path))
        there = {thing.name for thing in read_objects(path, categories) if not thing.difficult}
        return replace(sample, labels=np.array([name in there for name in categories]))


def _year(root: Path) -> Path:
    """The folder with the pictures: the root itself, or the only one in it.

    Raises:
        ValueError: There is none, or several.
    """
    if (root / _PICTURES).is_dir():
        return root
    found = sorted(folder.parent for place in ("", "VOCdevkit") for folder in (root / place).glob(f"VOC*/{_PICTURES}"))
    if not found:
        raise ValueError(f"{root}: no folder of VOC: {_PICTURES} is neither in it nor in VOC... or VOCdevkit/VOC...")
    if len(found) > 1:
        raise ValueError(f"{root}: has {', '.join(map(str, found))}; name one of them, or several to join them")
    return found[0]


def _dataset(folder: Path) -> Dataset:
    path = folder / _LABELS
    if not path.is_file():
        return VOC
    categories = [line.strip() for line in read_text(path).splitlines()]
    if len(categories) < 2 or categories[0] != "background" or "" in categories:
        raise ValueError(f"{path}: must have 'background' in its first line and a class in each of the next")
    if len(categories) > IGNORED:
        raise ValueError(f"{path}: has {len(categories)} lines: a mask can tell {IGNORED} classes apart")
    try:
        return named_after(folder, categories)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _names(path: Path) -> list[str]:
    """The names in a list, of which each line has one, or the paths of a picture and its mask."""
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt")))
        raise ValueError(f"split={path.stem!r}: no {path}; the lists in its folder are {others or 'none'}")
    names: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        paths = len(words) == 2 and all("/" in word for word in words)
        if len(words) > 1 and not paths:
            raise ValueError(f"{path}, line {number}: {line!r} is not the name of a picture")
        names += [PurePosixPath(words[0]).stem] if paths else words
    if not names:
        raise ValueError(f"{path}: names no picture")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: names the picture {twice!r} twice")
    return names


def _files(folder: Path, names: list[str], list_file: Path, task: Task) -> list[tuple[Path, Path]]:
    """The file of each picture, and the one that tells what is in it.

    Raises:
        ValueError: One is missing.
    """
    check_files(folder / _PICTURES, [f"{name}.jpg" for name in names], list_file)
    place, suffix = ("SegmentationClass", ".png") if task == "segment" else ("Annotations", ".xml")
    extra = folder / "SegmentationClassAug"
    has_extra = task == "segment" and list_file.stem.endswith("aug") and extra.is_dir()
    taken = {path.stem for path in extra.glob("*.png")} if has_extra else set()
    others = [f"{name}{suffix}" for name in names if name not in taken]
    if others:
        check_files(folder / place, others, list_file)
    return [
        (folder / _PICTURES / f"{name}.jpg", (extra if name in taken else folder / place) / f"{name}{suffix}")
        for name in names
    ]

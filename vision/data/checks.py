"""What every reader of a data set asks of its task and of its files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from vision.data.sample import IGNORED
from vision.datasets import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image


def check_task(task: str, layout: str, tasks: Sequence[str]) -> None:
    """Refuse a task that a layout has no answers for.

    Raises:
        ValueError: It is none of the layout's tasks.
    """
    if task not in tasks:
        raise ValueError(f"task={task!r}: the layout {layout} has {', '.join(tasks)}")


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are left out.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def check_split(folder: Path, split: str) -> None:
    """Refuse a split that has no folder of its own in a folder.

    Raises:
        ValueError: There is no such folder, or no such split in it; the message says which there are.
    """
    there = subfolders(folder)
    if split not in there:
        raise ValueError(f"split={split!r}: {folder} has {_listed(there) or 'no folder at all'}")


def check_files(folder: Path, names: Iterable[str], list_file: Path) -> None:
    """Refuse a folder without one of the files that a list names, and a list that names files elsewhere.

    Raises:
        ValueError: There is no such folder, a name leads out of it, or a file is missing.
    """
    names = list(names)
    for name in names:
        if ".." in re.split(r"[/\\]", name) or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
            raise ValueError(f"{list_file}: names {name!r}, which leads out of {folder}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, though {list_file} names files in it")
    # One look at the folder is far quicker than one at each of its 100,000 files; those in sub-folders are few.
    there = {path.name for path in folder.iterdir()}
    missing = [name for name in names if name not in there and not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: lacks {len(missing)} of the files that {list_file} names: {_listed(missing)}")


def read_text(path: Path) -> str:
    """The text in a file, without the mark that some editors put before it.

    Raises:
        ValueError: The file cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8: {error}") from error


def read_mask(path: Path, picture_path: Path, picture: "Image", classes: np.ndarray) -> np.ndarray:
    """The class of each pixel of a picture, which a PNG file tells as palette indices or as grey levels.

    Args:
        path: The file.
        picture_path: The picture's file.
        picture: The picture.
        classes: (256,): the class that each value of the file stands for, or -1 where it stands for none.

    Returns:
        The classes, (height, width), uint8.

    Raises:
        ValueError: The file is no such picture, is damaged, is not of the picture's size, or has a value that stands
            for no class.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as file:
            mode, values = file.mode, np.asarray(file)
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        raise ValueError(f"{path}: cannot be read as a PNG file: {' '.join(str(error).split())}") from error
    if mode not in ("P", "L"):
        raise ValueError(f"{path}: is of Pillow's mode {mode}: a mask must have palette indices or 8-bit grey levels")
    if values.shape != (picture.height, picture.width):
        raise ValueError(
            f"{path}: has {values.shape[1]}x{values.shape[0]} pixels, "
            f"but its picture {picture_path} has {picture.width}x{picture.height}"
        )
    mask = classes[values]
    if mask.min() < 0:
        known = _listed([str(value) for value in np.flatnonzero(classes >= 0)], most=40)
        raise ValueError(f"{path}: has the value {values[mask < 0][0]}, which is none of {known}")
    return mask.astype(np.uint8)


def mask_classes(count: int) -> np.ndarray:
    """The classes that the values of a mask stand for, for `read_mask`: each for itself, or `IGNORED`."""
    classes = np.full(256, -1, dtype=np.int16)
    classes[:count] = np.arange(count)
    classes[IGNORED] = IGNORED
    return classes


def without_background(dataset: Dataset) -> Dataset:
    """The same classes without their first, the background, which no picture is without."""
    palette = dataset.palette and dataset.palette[1:]
    return Dataset(dataset.name, dataset.title, dataset.categories[1:], palette)


def named_after(root: Path, categories: Sequence[str]) -> Dataset:
    """A data set of a user's own, named as its folder is.

    Raises:
        ValueError: There is no category, or two have one name.
    """
    name = root.resolve().name or "data"
    return Dataset(name, name, tuple(categories))


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")

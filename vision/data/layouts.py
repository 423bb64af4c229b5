"""The ways in which data sets lie on the disk, and the reader for each."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vision.data import cityscapes, coco, folders, voc
from vision.data.checks import check_task
from vision.data.sample import Reader, Task

Layout = Literal["imagenet", "coco", "voc", "cityscapes"]

TASKS: dict[Layout, tuple[Task, ...]] = {
    "imagenet": folders.TASKS,
    "coco": coco.TASKS,
    "voc": voc.TASKS,
    "cityscapes": cityscapes.TASKS,
}
"""What each layout tells of its pictures."""


def open_data(layout: Layout, task: Task, root: str | Path | Sequence[str | Path], split: str) -> Reader:
    """Open one split of a data set, whose pictures are then read one by one.

    Args:
        layout: How it lies on the disk: ``"imagenet"`` (a folder for each class, `ImageNetReader`), ``"coco"``
            (`CocoReader`), ``"voc"`` (`VOCReader`) or ``"cityscapes"`` (`CityscapesReader`).
        task: What has to be found in a picture, of `TASKS` of the layout.
        root: The data set's folder; for ``"voc"`` also several, which are joined.
        split: The part of it, such as ``"train"`` or ``"val"``.

    Returns:
        Its reader, which can be sent to other processes.

    Raises:
        ValueError: There is no such layout, task, folder or split, or the files are not as the layout has them.

    Example:
        >>> import tempfile
        >>> from vision.data import write_shapes
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("voc", root, train=6, val=2)
        >>> reader = open_data("voc", "segment", root, "val")
        >>> len(reader), reader[0].mask.shape, reader.dataset.categories[1]
        (2, (128, 128), 'circle')
    """
    check_layout(layout)
    check_task(task, layout, TASKS[layout])
    if layout == "voc":
        return voc.VOCReader(root, split, task)
    if not isinstance(root, str | os.PathLike):
        raise ValueError(f"root={root!r}: must be one folder; several are joined in the layout voc only")
    if layout == "imagenet":
        return folders.ImageNetReader(root, split)
    return coco.CocoReader(root, split, task) if layout == "coco" else cityscapes.CityscapesReader(root, split)


def check_layout(layout: str) -> None:
    """Refuse what is no layout.

    Raises:
        ValueError: There is none of that name.
    """
    if layout not in TASKS:
        raise ValueError(f"layout={layout!r}: must be one of {', '.join(TASKS)}")

"""Cityscapes: streets, and the class of each of their pixels."""

from pathlib import Path

import numpy as np

from vision.data.checks import check_split, read_mask, subfolders
from vision.data.sample import IGNORED, Sample, Task
from vision.datasets import CITYSCAPES
from vision.pictures import open_picture

TASKS: tuple[Task, ...] = ("segment",)

_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label ids of the 19 classes that are trained and judged, in the order of these."""

_UNLABELLED, _IDS_IN_ALL = 0, 34
_PICTURE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"

_CLASSES = np.full(256, -1, dtype=np.int16)  # of each label id
_CLASSES[:_IDS_IN_ALL] = IGNORED
_CLASSES[list(_IDS)] = np.arange(len(_IDS))
_CLASSES[255] = IGNORED  # how 8 bits hold the id of licence plates, -1


class CityscapesReader:
    """One split of Cityscapes, for segmentation.

    Pictures are ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png, their masks
    ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png. A mask of a sample has the 19 classes that are judged, which are
    the first of `CITYSCAPES`; all other label ids become `IGNORED`. No pixel is of the last class, the background.

    Args:
        root: The data set's folder.
        split: The name of the split, such as ``"train"`` or ``"val"``.

    Attributes:
        dataset: What its classes are called: `CITYSCAPES`.
        names: What it calls its pictures, city by city, such as ``"ulm_000000_000019"``.

    Raises:
        ValueError: There is no such folder or split, no picture in it, or a mask is missing.

    Source:
        The Cityscapes Dataset (arXiv 1604.01685); label ids as its scripts define them.

    Example:
        >>> import tempfile
        >>> from vision.data import write_shapes
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("cityscapes", root, train=6, val=2)
        >>> CityscapesReader(root, "val")[0].mask.shape
        (128, 128)
    """

    def __init__(self, root: str | Path, split: str) -> None:
        pictures, masks = Path(root) / "leftImg8bit", Path(root) / "gtFine"
        check_split(pictures, split)
        self.dataset = CITYSCAPES
        self.names: list[str] = []
        self._files: list[tuple[Path, Path]] = []
        for city in subfolders(pictures / split):
            for picture in sorted((pictures / split / city).glob(f"*{_PICTURE}")):
                name = picture.name.removesuffix(_PICTURE)
                mask = masks / split / city / f"{name}{_MASK}"
                if not mask.is_file():
                    raise ValueError(f"{mask}: no such file, but there is its picture {picture}")
                self.names.append(name)
                self._files.append((picture, mask))
        if not self.names:
            raise ValueError(f"{pictures / split}: no pictures; they must be CITY/NAME{_PICTURE}")

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The picture of that number and its mask.

        Raises:
            ValueError: The picture or the mask is broken, they differ in size, or the mask has an unknown label id;
                the message names the file.
        """
        picture_path, mask_path = self._files[index]
        picture = open_picture(picture_path)
        return Sample(self.names[index], picture, mask=read_mask(mask_path, picture_path, picture, _CLASSES))


def to_label_ids(mask: np.ndarray) -> np.ndarray:
    """The official label ids of a mask's classes, as the test server of Cityscapes wants them.

    Args:
        mask: Classes of `CITYSCAPES`, of any shape and integer type. The last, the background, and `IGNORED` get the
            id 0, unlabelled.

    Returns:
        The ids, uint8.

    Raises:
        ValueError: A value is no class.

    Example:
        >>> to_label_ids(np.array([0, 13, 18, 19, IGNORED])).tolist()
        [7, 26, 33, 0, 0]
    """
    ids = np.full(256, -1)
    ids[: len(_IDS)] = _IDS
    ids[[CITYSCAPES.categories.index("background"), IGNORED]] = _UNLABELLED
    known = (mask >= 0) & (mask < 256)
    found = np.where(known, ids[np.where(known, mask, 0)], -1)
    if (found < 0).any():
        last = len(CITYSCAPES.categories) - 1
        raise ValueError(f"mask has the value {mask[found < 0][0]}: must be a class, 0..{last}, or {IGNORED}")
    return found.astype(np.uint8)

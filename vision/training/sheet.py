"""A sheet to look at: pictures of a data set with what is true of them, beside what a model says."""

from typing import TYPE_CHECKING

import numpy as np

from vision.answers import Answer, Classification, Detections, Segmentation
from vision.data.sample import IGNORED, Reader, Sample
from vision.datasets import Dataset
from vision.predictor import Predictor

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL, _GAP, _COLUMNS = 240, 8, 2  # pixels of a picture's longer side and between pictures; pairs in a row


def draw_sheet(predictor: Predictor, reader: Reader, pictures: int = 8) -> "Image":
    """Pairs of pictures, the truth on the left and the prediction on the right of each pair.

    The pictures are spread evenly over the data set; one that cannot be read is left out.

    Args:
        predictor: What makes the predictions.
        reader: The data set, of the same classes.
        pictures: How many pictures at most.
    """
    from PIL import Image

    numbers = np.unique(np.linspace(0, len(reader) - 1, pictures).round().astype(int))
    pairs: list[tuple[Image.Image, Image.Image]] = []
    for number in numbers:
        try:
            sample = reader[int(number)]
        except ValueError:  # the training itself says what is done about broken pictures
            continue
        answers = (told(sample, predictor.dataset), predictor(sample.picture))
        true, said = (_shrunk(answer.render()[".png"]) for answer in answers)
        pairs.append((true, said))
    height = max((max(a.height, b.height) for a, b in pairs), default=1) + _GAP
    width = max((max(a.width, b.width) for a, b in pairs), default=1) + _GAP
    rows = -(-len(pairs) // _COLUMNS)
    sheet = Image.new("RGB", (2 * _COLUMNS * width + _GAP * (_COLUMNS + 1), max(rows, 1) * height + _GAP), "white")
    for index, pair in enumerate(pairs):
        row, column = divmod(index, _COLUMNS)
        for side, picture in enumerate(pair):
            left = _GAP + (2 * column + side) * width + column * _GAP
            sheet.paste(picture, (left, _GAP + row * height))
    return sheet


def told(sample: Sample, dataset: Dataset) -> Answer:
    """What a data set tells about a picture, as the answer of a model that is always right and sure."""
    if sample.label is not None:
        return Classification(sample.picture, (dataset.categories[sample.label],), (1.0,))
    if sample.labels is not None:
        names = tuple(dataset.categories[i] for i in np.flatnonzero(sample.labels))
        return Classification(sample.picture, names, (1.0,) * len(names))
    if sample.mask is not None:
        # What is ignored is shown as background, or as the last class where there is none.
        other = len(dataset.categories) - 1 if dataset.background is None else dataset.background
        mask = np.where(sample.mask == IGNORED, other, sample.mask)
        found, counts = np.unique(mask, return_counts=True)
        shares = {dataset.categories[c]: 100 * n / mask.size for c, n in zip(found, counts.tolist(), strict=True)}
        return Segmentation(sample.picture, mask, shares, dataset)
    if sample.objects is None:
        raise ValueError(f"sample {sample.name!r} has nothing to find in it")
    kept = ~sample.objects.ignored
    return Detections(
        sample.picture,
        tuple(map(tuple, sample.objects.boxes[kept].tolist())),
        tuple(dataset.categories[i] for i in sample.objects.labels[kept]),
        (1.0,) * int(kept.sum()),
        dataset,
    )


def _shrunk(picture: "Image") -> "Image":
    """The picture with its longer side in the size of a cell."""
    scale = _CELL / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))

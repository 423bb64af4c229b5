"""Predictions in the files that the test servers of PASCAL VOC and Cityscapes take."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eru.storage import atomic_write
from eru.training import counted
from vision.answers import Answer, Detections, Segmentation
from vision.data.cityscapes import to_label_ids
from vision.data.sample import Reader, Sample, Task
from vision.predictor import Predictor

_LEAST_SCORE = 0.01  # VOC ranks all detections, so those that a person would not be shown count too


def write_submission(
    predictor: Predictor, reader: Reader, layout: str, task: Task, folder: str | Path, *, quiet: bool = False
) -> list[Path]:
    """Write the predictions about every picture of a data set.

    - VOC, segmentation: ``NAME.png`` with the classes as palette indices.
    - VOC, detection: ``comp4_det_CLASS.txt``, a line for each detection: name, score, and the box, whose pixels are
      counted from 1.
    - Cityscapes: ``NAME.png`` with label ids.

    Args:
        predictor: What makes the predictions.
        reader: The data set.
        layout: ``"voc"`` or ``"cityscapes"``.
        task: ``"segment"`` or ``"detect"``.
        folder: Where to write; it is made.
        quiet: Show no progress.

    Returns:
        The files that were written.

    Raises:
        ValueError: There is no server for this layout and task.
    """
    if (layout, task) not in (("voc", "segment"), ("voc", "detect"), ("cityscapes", "segment")):
        raise ValueError(f"submission={str(folder)!r}: there is no test server's format for {task} in {layout}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if task == "detect":
        return _write_boxes(predictor, reader, folder, quiet)
    written = []
    for sample, found in _predictions(predictor, reader, quiet):
        assert isinstance(found, Segmentation)
        if layout == "cityscapes":
            from PIL import Image  # here, since only who writes pictures needs it

            picture = Image.fromarray(to_label_ids(found.mask.astype(np.uint8)))
        else:
            from vision.drawing import indexed_mask

            picture = indexed_mask(found.mask, found.dataset.colours)
        written.append(folder / f"{sample.name}.png")
        with atomic_write(written[-1], "wb") as file:
            picture.save(file, format="PNG")
    return written


def _predictions(predictor: Predictor, reader: Reader, quiet: bool) -> Iterator[tuple[Sample, Answer]]:
    with counted(len(reader), "predicting for the submission", unit="pictures", quiet=quiet) as count:
        for index in range(len(reader)):
            sample = reader[index]
            yield sample, predictor(sample.picture)
            count(1)


def _write_boxes(predictor: Predictor, reader: Reader, folder: Path, quiet: bool) -> list[Path]:
    every = Predictor(predictor.model, predictor.preprocessing, predictor.dataset, threshold=_LEAST_SCORE)
    names = [name for name in predictor.dataset.categories if name != "background"]
    lines: dict[str, list[str]] = {name: [] for name in names}
    for sample, found in _predictions(every, reader, quiet):
        assert isinstance(found, Detections)
        for label, score, (left, top, right, bottom) in zip(found.labels, found.scores, found.boxes, strict=True):
            box = f"{left + 1:.2f} {top + 1:.2f} {right:.2f} {bottom:.2f}"
            lines[label].append(f"{sample.name} {score:.6f} {box}\n")
    written = []
    for name in names:
        written.append(folder / f"comp4_det_{name}.txt")
        with atomic_write(written[-1]) as file:
            file.write("".join(lines[name]))
    return written

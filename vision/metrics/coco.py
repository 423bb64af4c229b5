"""Average precision of a detector as COCO measures it, computed by COCO's own program or its faster twin."""

import contextlib
import io
from typing import Any

import numpy as np

from vision.metrics.detections import Detections

_HIGHEST_AREA = 1e10  # square pixels, COCO's own limit of "all"


class COCOAveragePrecision(Detections):
    """Mean average precision over ten overlaps, 0.5, 0.55, ..., 0.95, as COCO measures it.

    As :class:`VOCAveragePrecision`, but with these differences. Down the scores, each detection takes the object that
    it overlaps most among those that are still free. Ignored objects are COCO's crowds: a detection that takes no
    other object does not count if a large enough share of it lies in a crowd. The precision is taken at 101 recalls.
    Of each class the 100 best detections in a picture count.

    ``faster-coco-eval`` computes it, or else ``pycocotools``.

    Args:
        num_classes: How many classes there are, at least 2, with the background, class 0.

    Raises:
        ValueError: There are fewer classes, or neither program is installed.

    Source:
        Microsoft COCO (arXiv 1405.0312) and its program ``cocoeval``. Its numbers for small, medium and large objects
        are not given: they go by the area of the objects' masks, which boxes do not tell.

    Example:
        >>> import torch
        >>> metric = COCOAveragePrecision(num_classes=2)
        >>> found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 7.0]]), "labels": torch.tensor([1])}
        >>> target = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "labels": torch.tensor([1])}
        >>> metric.update([{**found, "scores": torch.tensor([0.9])}], [target])
        >>> {name: round(value, 3) for name, value in metric.compute().items()}
        {'map': 0.5, 'map_50': 1.0, 'map_75': 0.0}
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        # Here, so that nothing is missing only after all pictures have been gone through.
        _load_program()

    def compute(self) -> dict[str, float]:
        """The means over the classes: of all overlaps, ``"map"``, and of one, ``"map_50"`` and ``"map_75"``.

        Raises:
            ValueError: No object counts.
        """
        overlaps, values = self._average_precisions()
        values = values[:, ~np.isnan(values).all(axis=0)]
        if values.size == 0:
            raise ValueError("no object was counted: update comes first, and some objects must not be ignored")
        by_overlap = values.mean(axis=1)
        return {
            "map": float(values.mean()),
            "map_50": float(by_overlap[np.isclose(overlaps, 0.5)].item()),
            "map_75": float(by_overlap[np.isclose(overlaps, 0.75)].item()),
        }

    def per_class(self) -> list[float | None]:
        """The average precision of each class over all overlaps; None for one without an object that counts."""
        means = self._average_precisions()[1].mean(axis=0).tolist()
        return [None, *(None if np.isnan(mean) else mean for mean in means)]

    def _average_precisions(self) -> tuple[np.ndarray, np.ndarray]:
        """The overlaps (T,) and the average precision at each for classes 1 and up (T, num_classes - 1), or NaN."""
        coco, evaluator = _load_program()
        objects, found = [], []
        for i, picture in enumerate(self._pictures):
            objects += _annotations(i, picture.objects, picture.classes, iscrowd=picture.ignored.astype(int))
            found += _annotations(i, picture.boxes, picture.labels, score=picture.scores)
        # Both programs tell what they do, pycocotools on the standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = evaluator(self._indexed(coco, objects), self._indexed(coco, found), "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, _HIGHEST_AREA]], ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
        # (overlaps, recalls, classes), and -1 for a class without an object that counts
        precision = evaluation.eval["precision"][..., 0, 0]
        return evaluation.params.iouThrs, np.where(precision < 0, np.nan, precision).mean(axis=1)

    def _indexed(self, coco: Any, annotations: list[dict[str, Any]]) -> Any:
        """COCO's own view of the annotations."""
        view = coco()
        view.dataset = {
            "images": [{"id": i} for i in range(len(self._pictures))],
            "categories": [{"id": label} for label in range(1, self.num_classes)],
            # From 1: the evaluation takes a match with number 0 for none.
            "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)],
        }
        view.createIndex()
        return view


def _annotations(picture: int, boxes: np.ndarray, labels: np.ndarray, **more: np.ndarray) -> list[dict[str, Any]]:
    """A dictionary for each box, as COCO's files have them."""
    columns = {
        "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        "category_id": labels,
        "iscrowd": np.zeros(len(labels), int),
        **more,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"image_id": picture, **dict(zip(columns, row, strict=True))} for row in rows]


def _load_program() -> tuple[Any, Any]:
    """The classes of data sets and of evaluations.

    Raises:
        ValueError: No program is installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    except ImportError:
        pass
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    except ImportError as error:
        raise ValueError(
            "COCO's average precision needs faster-coco-eval or pycocotools, neither of which is installed: "
            "pip install -e '.[train]'"
        ) from error

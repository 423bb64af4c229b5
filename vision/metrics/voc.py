"""Average precision of a detector as PASCAL VOC measures it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from vision.boxes import iou
from vision.metrics.detections import Detections, Picture

Points = Literal["all", "eleven"]

_LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class PrecisionRecall:
    """What share of the detections of a class is right, and of its objects found, with more and more detections.

    Attributes:
        scores: (n,): the scores of the detections that count, falling.
        precision: (n,): the share of the detections down to this one that are right.
        recall: (n,): the share of the objects that these find.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(self, points: Points = "all") -> float:
        r"""The area below the curve, after every precision was raised to the highest at its recall or above.

        .. math::
            p(r) = \max_{i: r_i \ge r} p_i, \quad
            \mathrm{AP}_\mathrm{all} = \sum_i (r_i - r_{i-1})\, p(r_i), \quad
            \mathrm{AP}_\mathrm{eleven} = \frac1{11} \sum_{k=0}^{10} p(k / 10)

        p is 0 at a recall that is not reached.

        Args:
            points: Whether to take it at ``"all"`` recalls, as VOC does from 2010 on, or at ``"eleven"``, as before.

        Raises:
            ValueError: ``points`` is neither.

        Example:
            >>> curve = PrecisionRecall(np.array([0.9, 0.8]), np.array([1.0, 0.5]), np.array([0.5, 0.5]))
            >>> curve.average_precision(), round(curve.average_precision("eleven"), 4)
            (0.5, 0.5455)
        """
        if points not in ("all", "eleven"):
            raise ValueError(f"points={points!r}: must be 'all' or 'eleven'")
        highest = np.maximum.accumulate(self.precision[::-1])[::-1]
        if points == "all":
            return float(np.sum(np.diff(self.recall, prepend=0.0) * highest))
        # k / 10 is the number nearest to it, as a recall of 3 / 10 is; 3 * 0.1 is above, and would not be reached.
        first = np.searchsorted(self.recall, np.arange(11) / 10)
        return float(np.append(highest, 0.0)[first].mean())


class VOCAveragePrecision(Detections):
    """Mean average precision at an overlap of one half, as PASCAL VOC measures it.

    Each detection is held against the object of its class that it overlaps most in its picture. If their intersection
    over union is 0.5 or more, the best-scored such detection is right and every further one of that object is wrong;
    but if the object is ignored ("difficult"), none of them counts. All other detections are wrong. Ignored objects
    need not be found.

    Boxes reach from edge to edge: a pixel is 1 wide. VOC's own coordinates name the first and the last pixel instead;
    with 1 taken from left and top these are such boxes, and the overlaps are those of the development kit.

    Args:
        num_classes: How many classes there are, at least 2, with the background, class 0.

    Raises:
        ValueError: There are fewer classes.

    Source:
        The development kits of PASCAL VOC 2007 and 2012 (``VOCevaldet``, ``VOCap``).

    Example:
        >>> metric = VOCAveragePrecision(num_classes=3)
        >>> box, label = torch.tensor([[10.0, 10.0, 50.0, 50.0]]), torch.tensor([2])
        >>> found = {"boxes": box, "labels": label, "scores": torch.tensor([0.9])}
        >>> missed = {name: value[:0] for name, value in found.items()}
        >>> metric.update([found, missed], [{"boxes": box, "labels": label}] * 2)
        >>> metric.compute() == {"map": 0.5, "map_07": 6 / 11}
        True
        >>> metric.per_class()
        [None, None, 0.5]
        >>> metric.precision_recall()[2].recall
        array([0.5])
    """

    def precision_recall(self) -> dict[int, PrecisionRecall]:
        """The curve of every class that has an object that counts."""
        if not self._pictures:
            return {}
        judged = [(p.labels, p.scores, *_judge(p)) for p in self._pictures]
        labels, scores, right, counts = (np.concatenate(parts) for parts in zip(*judged, strict=True))
        order = np.argsort(-scores, kind="stable")
        order = order[counts[order]]
        labels, scores, right = labels[order], scores[order], right[order]
        objects = np.concatenate([p.classes[~p.ignored] for p in self._pictures])
        curves = {}
        for label, total in zip(*np.unique(objects, return_counts=True), strict=True):
            own = labels == label
            found = np.cumsum(right[own])
            curves[int(label)] = PrecisionRecall(scores[own], found / np.arange(1, len(found) + 1), found / total)
        return curves

    def per_class(self, points: Points = "all") -> list[float | None]:
        """The average precision of each class, from 0 to 1; None for one without an object that counts.

        Args:
            points: See :meth:`PrecisionRecall.average_precision`.

        Raises:
            ValueError: ``points`` is neither ``"all"`` nor ``"eleven"``.
        """
        curves = self.precision_recall()
        return [curves[c].average_precision(points) if c in curves else None for c in range(self.num_classes)]

    def compute(self) -> dict[str, float]:
        """The mean over the classes that have an object that counts.

        ``"map"`` is taken at all recalls, as VOC does from 2010 on, and ``"map_07"`` at eleven, as papers do that test
        on VOC 2007.

        Raises:
            ValueError: No object counts.
        """
        curves = self.precision_recall().values()
        if not curves:
            raise ValueError("no object was counted: update comes first, and some objects must not be ignored")
        means = {
            "map": [c.average_precision() for c in curves],
            "map_07": [c.average_precision("eleven") for c in curves],
        }
        return {name: sum(values) / len(values) for name, values in means.items()}


def _judge(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Which detections in a picture are right, (n,), and which count, (n,)."""
    right, counts = np.zeros(len(picture.scores), bool), np.ones(len(picture.scores), bool)
    if len(picture.objects) == 0:
        return right, counts
    overlaps = iou(torch.from_numpy(picture.boxes), torch.from_numpy(picture.objects)).numpy()
    overlaps = np.where(picture.labels[:, None] == picture.classes, overlaps, 0.0)
    nearest = overlaps.argmax(axis=1)
    finds = overlaps.max(axis=1) >= _LEAST_OVERLAP
    counts = ~(finds & picture.ignored[nearest])
    ranked = np.argsort(-picture.scores, kind="stable")
    ranked = ranked[(finds & counts)[ranked]]
    _, first = np.unique(nearest[ranked], return_index=True)
    right[ranked[first]] = True
    return right, counts

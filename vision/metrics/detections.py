"""What was found in each picture beside what is there, in arrays: the ground of both measures of a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vision.data.sample import Objects
from vision.metrics.metric import as_classes, check_num_classes


@dataclass(frozen=True)
class Picture:
    """The n detections in a picture and the m objects that are there, all in the same pixels.

    Attributes:
        boxes: (n, 4), float64: left, top, right and bottom of the detections.
        labels: (n,), int64: their classes, from 1.
        scores: (n,), float64.
        objects: (m, 4), float64: the boxes of the objects.
        classes: (m,), int64: the classes of the objects, from 1.
        ignored: (m,), bool: the objects that do not count.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    objects: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray


class Detections:
    """The part of a metric that gathers detections, picture by picture, as arrays in the CPU's memory.

    Detections with the same score rank in the order in which they were gathered.

    Args:
        num_classes: How many classes there are, at least 2, with the background, class 0.

    Raises:
        ValueError: There are fewer classes.
    """

    def __init__(self, num_classes: int) -> None:
        check_num_classes(num_classes, least=2)
        self.num_classes = num_classes
        self._pictures: list[Picture] = []

    def update(
        self, outputs: Sequence[Mapping[str, Any]], targets: Sequence[Objects] | Sequence[Mapping[str, Any]]
    ) -> None:
        """Gather a batch; nothing is gathered of one that is wrong.

        Args:
            outputs: What a `vision.Detector` gives in evaluation: for each picture ``"boxes"`` (n, 4), left, top,
                right and bottom in pixels, ``"labels"`` (n,), integers from 1, and ``"scores"`` (n,).
            targets: For each picture the objects in it, in the same pixels: `Objects`, or a dictionary of ``"boxes"``
                (m, 4), ``"labels"`` (m,) and, if some do not count, ``"ignored"`` (m,), booleans.

        Raises:
            ValueError: The numbers of pictures differ, or an array is missing or wrong; the message names it.
        """
        if len(outputs) != len(targets):
            raise ValueError(f"outputs of {len(outputs)} pictures: expected {len(targets)}, as many as targets")
        self._pictures += [
            self._picture(f"outputs[{i}]", output, f"targets[{i}]", target)
            for i, (output, target) in enumerate(zip(outputs, targets, strict=True))
        ]

    def _picture(
        self, output_name: str, output: Mapping[str, Any], target_name: str, target: Objects | Mapping[str, Any]
    ) -> Picture:
        boxes, labels = self._boxes(output_name, output)
        scores = _array(f'{output_name}["scores"]', output.get("scores"), np.float64, (len(boxes),))
        if not np.isfinite(scores).all():
            wrong = scores[~np.isfinite(scores)][0]
            raise ValueError(f'{output_name}["scores"] has {wrong}: must be finite')
        target = vars(target) if isinstance(target, Objects) else target
        objects, classes = self._boxes(target_name, target)
        ignored = target.get("ignored", np.zeros(len(objects), bool))
        ignored = _array(f'{target_name}["ignored"]', ignored, np.bool_, (len(objects),))
        return Picture(boxes, labels, scores, objects, classes, ignored)

    def _boxes(self, name: str, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        boxes = _array(f'{name}["boxes"]', given.get("boxes"), np.float64, (None, 4))
        # The comparison says what a good box fulfils, so a NaN fails it.
        good = np.isfinite(boxes).all(axis=1) & (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)
        if not good.all():
            raise ValueError(
                f'{name}["boxes"] has {boxes[~good][0].tolist()}: must be left, top, right, bottom, '
                "finite, with left <= right and top <= bottom"
            )
        labels = _array(f'{name}["labels"]', given.get("labels"), None, (len(boxes),))
        return boxes, as_classes(f'{name}["labels"]', torch.from_numpy(labels), self.num_classes, least=1).numpy()

    def state(self) -> list[Picture]:
        """What was gathered so far, a list; those of several processes add up."""
        return list(self._pictures)

    def load_state(self, state: Sequence[Picture]) -> None:
        """Go on from such a list, which may be that of another measure of detections too.

        Raises:
            ValueError: It is that of a measure of more classes.
        """
        highest = max((np.concatenate([p.labels, p.classes]).max(initial=0) for p in state), default=0)
        if highest >= self.num_classes:
            raise ValueError(f"state has label {highest}: must be 1 to {self.num_classes - 1}")
        self._pictures = list(state)


def _array(name: str, given: Any, dtype: type | None, shape: tuple[int | None, ...]) -> np.ndarray:
    """An own copy of what was given, on whatever device and in whatever precision; None stands for any length."""
    if not isinstance(given, torch.Tensor | np.ndarray):
        raise ValueError(f"{name} of type {type(given).__name__}: must be a tensor or an array")
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.double() if given.is_floating_point() else given).numpy()  # numpy knows no bfloat16
    array = np.array(given, dtype)
    expected = tuple(have if want is None else want for want, have in zip(shape, array.shape, strict=False))
    if array.shape != expected or len(array.shape) != len(shape):
        raise ValueError(f"{name} of shape {array.shape}: expected {str(shape).replace('None', 'n')}")
    return array

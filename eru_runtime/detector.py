"""Which objects a picture shows, and where."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eru_runtime.checks import real_number
from eru_runtime.folder import Folder
from eru_runtime.vision_model import VisionModel


@dataclass(frozen=True)
class Detections:
    """The objects in a picture, the surest first.

    Attributes:
        boxes: Left, top, right and bottom of each, in the picture's pixels.
        labels: What each object is.
        scores: How sure that is, 0-1.
    """

    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]


class Detector(VisionModel):
    """A detector of an exported folder; :func:`eru_runtime.load` makes one. Its first label is the background."""

    outputs = ("boxes", "labels", "scores")

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        if not folder.says("nms"):
            raise folder.misfit(
                "the detector was exported without --nms, so that it gives thousands of boxes over each other: export"
                " it again with --nms"
            )
        super().__init__(folder, threads)
        self._session.check("boxes", "float32", (1, "k", 4))
        self._session.check("labels", "int64", (1, "k"))
        self._session.check("scores", "float32", (1, "k"))

    def __call__(self, picture: np.ndarray | str | Path, threshold: float = 0.3) -> Detections:
        """The objects in a picture.

        Args:
            picture: An array (H, W, 3) of uint8, red, green and blue; or the path of a file.
            threshold: Least score of an object.

        Raises:
            TypeError: The picture is neither an array nor a path.
            ValueError: The picture cannot be read, ``threshold`` is outside of [0, 1], or the model found a class that
                has no label.
            ArithmeticError: The model's outputs are not finite.
        """
        least = real_number("threshold", threshold, least=0, most=1)
        outputs, (height, width) = self._ask(picture)
        order = np.argsort(-outputs["scores"], kind="stable")
        order = order[outputs["scores"][order] >= least]  # Where there is no object, the score is -1.
        classes = outputs["labels"][order].tolist()
        if wrong := [index for index in classes if not 0 < index < len(self.labels)]:
            raise ValueError(f"{self._session.file}: found class {wrong[0]}, but there are {len(self.labels)} labels")
        # Boxes are relative to the picture; double precision puts them exactly on its edges.
        boxes = outputs["boxes"][order].astype(float).clip(0, 1) * [width, height, width, height]
        corners = tuple(tuple(box) for box in boxes.tolist())
        return Detections(corners, tuple(self.labels[i] for i in classes), tuple(outputs["scores"][order].tolist()))

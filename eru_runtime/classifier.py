"""What a picture shows as a whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eru_runtime.checks import real_number, whole_number
from eru_runtime.folder import Folder
from eru_runtime.vision_model import VisionModel


@dataclass(frozen=True)
class Classification:
    """The likeliest classes of a picture, the likeliest first.

    Attributes:
        labels: What the classes are called.
        probabilities: How likely each is, 0-1.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


class Classifier(VisionModel):
    """A classifier of an exported folder; :func:`eru_runtime.load` makes one.

    Attributes:
        multi_label: Whether a picture may have several labels, or none; otherwise one of them is right.
    """

    outputs = ("logits",)
    tells_places = False

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        super().__init__(folder, threads)
        self._check_logits()
        self.multi_label = folder.says("multi_label")

    def __call__(
        self, picture: np.ndarray | str | Path, top_k: int = 5, threshold: float | None = None
    ) -> Classification:
        """The labels of a picture.

        Args:
            picture: An array (H, W, 3) of uint8, red, green and blue; or the path of a file.
            top_k: Most labels of a picture, where one of them is right.
            threshold: Least probability of a label; by default 0.5 where there may be several, and 0 where one is
                right.

        Raises:
            TypeError: The picture is neither an array nor a path.
            ValueError: The picture cannot be read, ``top_k`` is below 1, or ``threshold`` outside of [0, 1].
            ArithmeticError: The model's outputs are not finite.
        """
        most = whole_number("top_k", top_k, least=1)
        least = None if threshold is None else real_number("threshold", threshold, least=0, most=1)
        logits = self._ask(picture)[0]["logits"].astype(float)
        if self.multi_label:
            probabilities = sigmoid(logits)
            count = np.count_nonzero(probabilities > (0.5 if least is None else least))
        else:
            weights = np.exp(logits - logits.max())
            probabilities = weights / weights.sum()
            count = min(most, np.count_nonzero(probabilities >= (least or 0)))
        order = np.argsort(-probabilities, kind="stable")[:count]
        return Classification(tuple(self.labels[i] for i in order), tuple(probabilities[order].tolist()))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, each for itself; the exponential never overflows.

    Example:
        >>> sigmoid(np.array([0.0, 1000.0])).tolist()
        [0.5, 1.0]
    """
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)

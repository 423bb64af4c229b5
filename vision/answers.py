"""What a model says about a picture, for people, for programs and as pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.datasets import Dataset
from vision.drawing import draw_boxes, draw_mask, draw_strip, indexed_mask

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Answer", "Classification", "Detections", "Segmentation"]


@dataclass(frozen=True)
class Classification:
    """The likeliest classes of a picture, the likeliest first."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def describe(self) -> str:
        """The answer in one line."""
        pairs = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{label} {probability:.1%}" for label, probability in pairs) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can express it."""
        return {"labels": list(self.labels), "probabilities": list(self.probabilities)}

    def render(self, picture: "Image") -> dict[str, "Image"]:
        """Pictures that show the answer, by the ending of their file's name."""
        return {".png": draw_strip(picture, list(zip(self.labels, self.probabilities, strict=True)))}


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel.

    Attributes:
        mask: Indices of the dataset's categories, (height, width) of the picture.
        shares: Per cent of the pixels of every category that was found, the largest first.
        dataset: Whose categories they are.
    """

    mask: np.ndarray
    shares: dict[str, float]
    dataset: Dataset

    def describe(self) -> str:
        """The answer in one line."""
        return ", ".join(f"{label} {share:.1f}%" for label, share in self.shares.items())

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can express it, without the mask."""
        return {"shares": self.shares}

    def render(self, picture: "Image") -> dict[str, "Image"]:
        """Pictures that show the answer, by the ending of their file's name: an overlay, and the mask itself."""
        colours = self.dataset.colours
        by_name = dict(zip(self.dataset.categories, colours, strict=True))
        legend = [(f"{label}  {share:.1f}%", by_name[label]) for label, share in self.shares.items()]
        overlay = draw_mask(picture, self.mask, colours, legend, self.dataset.background)
        return {".png": overlay, ".mask.png": indexed_mask(self.mask, colours)}


@dataclass(frozen=True)
class Detections:
    """The objects in a picture, the surest first.

    Attributes:
        boxes: Left, top, right and bottom, in the picture's pixels.
        labels: What each object is.
        scores: How sure that is, 0-1.
        dataset: Whose categories they are.
    """

    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    dataset: Dataset

    def describe(self) -> str:
        """The answer in one line."""
        found = [
            f"{label} {score:.1%} at ({', '.join(f'{side:.0f}' for side in box)})"
            for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True)
        ]
        return ", ".join(found) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can express it."""
        boxes = [[round(side, 2) for side in box] for box in self.boxes]
        return {"boxes": boxes, "labels": list(self.labels), "scores": list(self.scores)}

    def render(self, picture: "Image") -> dict[str, "Image"]:
        """Pictures that show the answer, by the ending of their file's name."""
        by_name = dict(zip(self.dataset.categories, self.dataset.colours, strict=True))
        texts = [f"{label}  {score:.0%}" for label, score in zip(self.labels, self.scores, strict=True)]
        return {".png": draw_boxes(picture, self.boxes, texts, [by_name[label] for label in self.labels])}


Answer = Classification | Segmentation | Detections

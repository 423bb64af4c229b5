"""What a model says about a picture: for people, for programs, and drawn into the picture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eru.storage import atomic_write
from vision.datasets import Dataset
from vision.pictures import DRAWN

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Answer(ABC):
    """What a model says about one picture.

    Attributes:
        picture: The picture, in mode RGB.
    """

    picture: "Image" = field(repr=False, compare=False)

    @abstractmethod
    def describe(self) -> str:
        """The answer in one line."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can express it."""

    @abstractmethod
    def render(self) -> dict[str, "Image"]:
        """Pictures that show the answer, by what the names of their files end in; ``".png"`` is always there."""

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write the pictures that show the answer, each file whole or not at all.

        Args:
            path: ``NAME.png``; its folder is made if need be. What else there is, such as ``NAME.mask.png``, comes
                beside it.

        Returns:
            The files that were written.

        Raises:
            ValueError: The path does not end in ``.png``.
            OSError: A file cannot be written.
        """
        from PIL.PngImagePlugin import PngInfo

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"path={str(path)!r}: must end in .png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = PngInfo()
        mark.add_text(*DRAWN)
        rendered = {path if end == ".png" else path.with_suffix(end): drawn for end, drawn in self.render().items()}
        for target, drawn in rendered.items():
            with atomic_write(target, "wb") as file:
                # More compression takes half of the whole time for a large photograph, and saves little.
                drawn.save(file, format="PNG", compress_level=1, pnginfo=mark)
        return tuple(rendered)


@dataclass(frozen=True)
class Classification(Answer):
    """The likeliest classes of a picture, the likeliest first.

    Attributes:
        labels: What the classes are called.
        probabilities: How likely each is, 0-1.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    def describe(self) -> str:
        """Labels with their probabilities."""
        pairs = zip(self.labels, self.probabilities, strict=True)
        return ", ".join(f"{label} {probability:.1%}" for label, probability in pairs) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """Lists of labels and probabilities."""
        return {"labels": list(self.labels), "probabilities": list(self.probabilities)}

    def render(self) -> dict[str, "Image"]:
        """The picture above a list of its labels."""
        from vision.drawing import draw_strip

        return {".png": draw_strip(self.picture, list(zip(self.labels, self.probabilities, strict=True)))}


@dataclass(frozen=True)
class Segmentation(Answer):
    """The class of every pixel.

    Attributes:
        mask: Indices of the dataset's categories, (height, width) of the picture.
        shares: Per cent of the pixels of every category that was found, the largest first.
        dataset: The dataset whose categories they are.
    """

    mask: np.ndarray = field(repr=False)
    shares: dict[str, float]
    dataset: Dataset = field(repr=False)

    def describe(self) -> str:
        """Categories with their shares."""
        return ", ".join(f"{label} {share:.1f}%" for label, share in self.shares.items())

    def as_dict(self) -> dict[str, Any]:
        """The shares, without the mask."""
        return {"shares": self.shares}

    def render(self) -> dict[str, "Image"]:
        """An overlay with a legend, and the mask itself."""
        from vision.drawing import draw_mask, indexed_mask

        colours = self.dataset.colours
        by_name = dict(zip(self.dataset.categories, colours, strict=True))
        legend = [(f"{label}  {share:.1f}%", by_name[label]) for label, share in self.shares.items()]
        overlay = draw_mask(self.picture, self.mask, colours, legend, self.dataset.background)
        return {".png": overlay, ".mask.png": indexed_mask(self.mask, colours)}


@dataclass(frozen=True)
class Detections(Answer):
    """The objects in a picture, the surest first.

    Attributes:
        boxes: Left, top, right and bottom, in the picture's pixels.
        labels: What each object is.
        scores: How sure that is, 0-1.
        dataset: The dataset whose categories they are.
    """

    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    dataset: Dataset = field(repr=False)

    def describe(self) -> str:
        """Objects with their scores and boxes."""
        found = [
            f"{label} {score:.1%} at ({', '.join(f'{side:.0f}' for side in box)})"
            for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True)
        ]
        return ", ".join(found) or "nothing"

    def as_dict(self) -> dict[str, Any]:
        """Lists of boxes, labels and scores."""
        boxes = [[round(side, 2) for side in box] for box in self.boxes]
        return {"boxes": boxes, "labels": list(self.labels), "scores": list(self.scores)}

    def render(self) -> dict[str, "Image"]:
        """The picture with labelled boxes."""
        from vision.drawing import draw_boxes

        by_name = dict(zip(self.dataset.categories, self.dataset.colours, strict=True))
        texts = [f"{label}  {score:.0%}" for label, score in zip(self.labels, self.scores, strict=True)]
        return {".png": draw_boxes(self.picture, self.boxes, texts, [by_name[label] for label in self.labels])}

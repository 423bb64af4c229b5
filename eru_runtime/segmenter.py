"""Which class every pixel of a picture belongs to."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eru_runtime.checks import real_number, whole_number
from eru_runtime.classifier import sigmoid
from eru_runtime.folder import Folder
from eru_runtime.resize import resize_nearest
from eru_runtime.vision_model import VisionModel


@dataclass(frozen=True)
class Segmentation:
    """The class of every pixel.

    Attributes:
        mask: Indices of the segmenter's labels, (height, width) of the picture.
        shares: Per cent of the pixels of every label that was found, the largest first.
    """

    mask: np.ndarray = field(repr=False, compare=False)
    shares: dict[str, float]


class Segmenter(VisionModel):
    """A segmentation model of an exported folder; :func:`eru_runtime.load` makes one.

    A model of one class tells it from the background, which then is the first label.

    Attributes:
        colours: Red, green and blue (0-255) of every label, so that ``segmenter.colours[answer.mask]`` is a picture of
            the mask; an array (labels, 3) of uint8.
        background: Which label stands for whatever is none of the others, or None.
    """

    outputs = ("logits",)

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        super().__init__(folder, threads)
        self._check_logits("H", "W")
        self.colours, self.background = self._read_look(folder)
        if len(self.labels) == 1:
            self.labels, self.background = ("background", *self.labels), 0
            self.colours = np.concatenate([np.zeros_like(self.colours), self.colours])

    def __call__(self, picture: np.ndarray | str | Path, threshold: float = 0.5) -> Segmentation:
        """The class of every pixel of a picture.

        Args:
            picture: An array (H, W, 3) of uint8, red, green and blue; or the path of a file.
            threshold: Of a model of one class, the probability above which a pixel belongs to it. Where there are
                more classes, each pixel gets its likeliest.

        Raises:
            TypeError: The picture is neither an array nor a path.
            ValueError: The picture cannot be read, or ``threshold`` is outside of [0, 1].
            ArithmeticError: The model's outputs are not finite.
        """
        least = real_number("threshold", threshold, least=0, most=1)
        outputs, size = self._ask(picture)
        logits = outputs["logits"]
        decided = sigmoid(logits[0]) > least if len(logits) == 1 else logits.argmax(axis=0)
        # Each pixel's class is decided in the network's size; the mask then grows to the picture's without mixing any.
        mask = resize_nearest(decided.astype(np.uint8 if len(self.labels) <= 256 else np.int32), size)
        # Pixels are counted row by row, since counting turns what it is given into 64-bit integers.
        counts = np.sum([np.bincount(row, minlength=len(self.labels)) for row in mask], axis=0)
        order = np.argsort(-counts, kind="stable")
        shares = {self.labels[i]: 100 * int(counts[i]) / mask.size for i in order if counts[i]}
        return Segmentation(mask, shares)

    def _read_look(self, folder: Folder) -> tuple[np.ndarray, int | None]:
        """The colours of the labels, and which of these is the background."""
        colours, background = folder.field("colours"), folder.field("background")
        try:
            if not isinstance(colours, list) or any(not isinstance(each, list) or len(each) != 3 for each in colours):
                raise ValueError(f"colours={colours!r:.60}: must be a list of [red, green, blue]")
            if len(colours) != len(self.labels):
                raise ValueError(f"colours: are {len(colours)}, but there are {len(self.labels)} labels")
            levels = [[whole_number("colours", level, 0, 255) for level in colour] for colour in colours]
            if background is not None:
                background = whole_number("background", background, 0, len(self.labels) - 1)
        except ValueError as error:
            raise folder.misfit(error) from error
        return np.array(levels, dtype=np.uint8), background

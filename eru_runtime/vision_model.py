"""What classifiers, segmenters and detectors have in common."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from eru_runtime.folder import Folder
from eru_runtime.pictures import read_picture
from eru_runtime.preprocessing import read_preprocessing
from eru_runtime.session import Session


class VisionModel:
    """A model of an exported folder that is asked about pictures.

    Args:
        folder: The exported folder.
        threads: As for :class:`Session`.

    Raises:
        ValueError: The graph is not one of this kind, or does not fit the preprocessing.

    Attributes:
        labels: The names of the classes, in the order of the model's outputs.
        preprocessing: From a picture to the model's input.
    """

    outputs: ClassVar[tuple[str, ...]]
    tells_places: ClassVar[bool] = True  # of the whole picture, none of which may then be cut off

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        self.labels: tuple[str, ...] = folder.labels()
        self.preprocessing = read_preprocessing(folder)
        if self.tells_places and self.preprocessing.crop is not None:
            raise folder.misfit(f"preprocessing: crop={self.preprocessing.crop}: must be null for this kind of model")
        self._session = Session(folder, threads)
        self._session.check_names(["image"], self.outputs)
        self._session.check("image", "float32", (1, 3, *self.preprocessing.size))

    def _ask(self, picture: np.ndarray | str | Path) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
        """The outputs of the graph for one picture, without the axis of the batch, and the picture's size (H, W).

        Raises:
            TypeError: The picture is neither an array nor a path.
            ValueError: The array has another shape or type, or the file cannot be read.
            ArithmeticError: The model's outputs are not finite.
        """
        pixels = read_picture(picture)
        outputs = {
            name: values[0] for name, values in self._session.run({"image": self.preprocessing(pixels)}).items()
        }
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise ArithmeticError("the model's outputs are not finite: are its weights damaged?")
        return outputs, (pixels.shape[0], pixels.shape[1])

    def _check_logits(self, *sides: str) -> None:
        """Check that the graph gives logits (1, C, ...), one for each label, with further axes of any size.

        Raises:
            ValueError: It does not.
        """
        self._session.check("logits", "float32", (1, "C", *sides))
        found = self._session.shapes["logits"][1]
        if found != len(self.labels):
            file = self._session.file
            raise ValueError(f"{file}: tells {found} classes apart, but there are {len(self.labels)} labels")

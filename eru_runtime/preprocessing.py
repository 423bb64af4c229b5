"""From a picture to what a network takes."""

import math
from dataclasses import dataclass

import numpy as np

from eru_runtime.checks import real_number, whole_number
from eru_runtime.folder import Folder
from eru_runtime.resize import Box, resize_bilinear


@dataclass(frozen=True)
class Preprocessing:
    """Resize a picture, scale its values to [0, 1] and normalise them: ``(value - mean) / std``.

    Args:
        size: Height and width of the network's input, in pixels.
        crop: None resizes the whole picture to exactly ``size``, whatever its shape. A number in (0, 1] keeps its
            shape: the picture is resized to cover ``size / crop`` and the centre is cut out.
        mean: What is subtracted from red, green and blue.
        std: By what they are divided.

    Example:
        >>> prepare = Preprocessing((224, 224), 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        >>> prepare(np.zeros((480, 640, 3), dtype=np.uint8)).shape
        (1, 3, 224, 224)
    """

    size: tuple[int, int]
    crop: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The network's input (1, 3, height, width), float32, of a picture (H, W, 3), uint8."""
        box = None if self.crop is None else self._centre(pixels.shape[1], pixels.shape[0], self.crop)
        values = resize_bilinear(pixels, self.size, box).astype(np.float32) / np.float32(255)
        mean, std = np.array([self.mean, self.std], dtype=np.float32)
        return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)[None])

    def _centre(self, width: int, height: int, crop: float) -> Box:
        """The part of the picture that becomes the centre; the whole resized picture is never made."""
        cover_height, cover_width = (round(side / crop) for side in self.size)
        if cover_width * height >= cover_height * width:
            resized_width, resized_height = cover_width, height * cover_width // width
        else:
            resized_width, resized_height = width * cover_height // height, cover_height
        across, down = width / resized_width, height / resized_height
        left = round((resized_width - self.size[1]) / 2)
        top = round((resized_height - self.size[0]) / 2)
        return left * across, top * down, (left + self.size[1]) * across, (top + self.size[0]) * down


def read_preprocessing(folder: Folder) -> Preprocessing:
    """The preprocessing that a folder's ``export.json`` tells.

    Raises:
        ValueError: Something is missing or out of range.
    """
    told = folder.field("preprocessing")
    if not isinstance(told, dict) or not {"size", "crop", "mean", "std"} <= told.keys():
        raise folder.misfit(f"preprocessing={told!r:.60}: must have size, crop, mean and std")
    try:
        for name, count in (("size", 2), ("mean", 3), ("std", 3)):
            if not isinstance(told[name], list) or len(told[name]) != count:
                raise ValueError(f"{name}={told[name]!r:.60}: must be a list of {count} numbers")
        height, width = (whole_number("size", side, least=1) for side in told["size"])
        crop = None if told["crop"] is None else real_number("crop", told["crop"], least=0, most=1, above=True)
        mean = tuple(real_number("mean", value, least=-math.inf) for value in told["mean"])
        std = tuple(real_number("std", value, least=0, above=True) for value in told["std"])
    except ValueError as error:
        raise folder.misfit(f"preprocessing: {error}") from error
    return Preprocessing((height, width), crop, mean, std)

"""From a picture to what a network takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MOST_PIXELS = 2**26  # a mistyped size would otherwise end in the system's refusal of the memory


@dataclass(frozen=True)
class Preprocessing:
    """Resize a picture, scale its values to [0, 1] and normalise them: ``(value - mean) / std``.

    Args:
        size: Height and width of the network's input, in pixels.
        crop: None resizes the whole picture to exactly ``size``, whatever its shape. A number in (0, 1] keeps its
            shape: the picture is resized to cover ``size / crop`` (for a square, the short side becomes
            ``round(size / crop)``), and the centre is cut out.
        mean: What is subtracted from red, green and blue, by default their mean in ImageNet.
        std: By what they are divided, by default their standard deviation there.

    Raises:
        ValueError: A side below 1, too many pixels, or a crop outside of (0, 1].

    Example:
        >>> from PIL import Image
        >>> Preprocessing((224, 224), crop=0.875)(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int]
    crop: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size={self.size}: must be a height and a width of at least 1")
        if self.size[0] * self.size[1] > _MOST_PIXELS:
            raise ValueError(f"size={self.size}: must be at most {_MOST_PIXELS:,} pixels in all")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop}: must be None or in (0, 1]")

    def __call__(self, picture: "Image") -> Tensor:
        """The network's input, (3, height, width), float32, of a picture in mode RGB.

        Raises:
            ValueError: The picture is in another mode.
        """
        from PIL.Image import Resampling

        if picture.mode != "RGB":
            raise ValueError(f"picture has mode {picture.mode!r}: must be 'RGB', as open_picture gives it")
        height, width = self.size
        box = None if self.crop is None else self._centre(picture.width, picture.height, self.crop)
        resized = picture.resize((width, height), Resampling.BILINEAR, box)
        # Pillow's pixels are (height, width, channels), while torch's convolutions want the channels first.
        values = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32) / 255
        mean, std = (torch.tensor(each, dtype=torch.float32) for each in (self.mean, self.std))
        return ((values - mean[:, None, None]) / std[:, None, None]).contiguous()

    def describe(self) -> str:
        """What becomes of a picture, in one line.

        Example:
            >>> Preprocessing((224, 224), crop=0.875).describe().partition(", normalised")[0]
            'resized to cover 256x256, the middle of 224x224 cut out'
        """
        height, width = self.size
        shape = f"resized to {height}x{width}"
        if self.crop is not None:
            cover_height, cover_width = self._cover(self.crop)
            shape = f"resized to cover {cover_height}x{cover_width}, the middle of {height}x{width} cut out"
        return f"{shape}, normalised by the mean {self.mean} and the deviation {self.std}"

    def _cover(self, crop: float) -> tuple[int, int]:
        """Height and width that a picture covers before its middle is cut out."""
        height, width = self.size
        return round(height / crop), round(width / crop)

    def _centre(self, width: int, height: int, crop: float) -> tuple[float, float, float, float]:
        """The part of the picture, in its pixels, that becomes the centre.

        Cutting it out while resizing gives the same values as cutting it out afterwards, and never holds the whole
        resized picture, which for a very long one would be enormous.
        """
        cover_height, cover_width = self._cover(crop)
        if cover_width * height >= cover_height * width:
            resized_width, resized_height = cover_width, height * cover_width // width
        else:
            resized_width, resized_height = width * cover_height // height, cover_height
        across, down = width / resized_width, height / resized_height
        left = round((resized_width - self.size[1]) / 2)
        top = round((resized_height - self.size[0]) / 2)
        return left * across, top * down, (left + self.size[1]) * across, (top + self.size[0]) * down

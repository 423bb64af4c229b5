"""How a sample is cut and resized, and the two sets of crops that may show more than the picture.

SSD's are `Expand` and `SSDCrop`; those of semantic segmentation are `RandomScale` and `RandomCrop`.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from vision.boxes import iou
from vision.data.sample import IGNORED, Objects, Sample
from vision.preprocessing import IMAGENET_MEAN, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Height and width, in pixels."""

Window = tuple[int, int, int, int]
"""Left, top, right and bottom, in a picture's pixels, though not necessarily within it."""

MEAN_COLOUR = tuple(round(255 * value) for value in IMAGENET_MEAN)
"""What is put around a picture: once it is normalised, it is almost 0."""

_LEAST_LEFT = 0.25  # of an object; of less, nobody could tell what it is
_LARGEST_CANVAS = 2**24  # a photograph of a phone would otherwise become a canvas of a gigabyte


def crop(sample: Sample, window: Window, least: float = _LEAST_LEFT) -> Sample:
    """The part of a sample in a window; outside of the picture it is `MEAN_COLOUR`, and its mask `IGNORED`.

    Args:
        sample: The sample.
        window: What is cut out.
        least: The share of an object's area that has to lie in the window; objects of less are dropped.
    """
    from PIL import Image

    left, top, right, bottom = window
    mask, objects = sample.mask, sample.objects
    if mask is not None:
        mask = np.array(_cut(Image.fromarray(mask), window, IGNORED))
    if objects is not None:
        objects = _visible(objects, objects.boxes - (left, top, left, top), (bottom - top, right - left), least)
    return replace(sample, picture=_cut(sample.picture, window, MEAN_COLOUR), mask=mask, objects=objects)


def resize(sample: Sample, size: Size) -> Sample:
    """The whole sample in another size: its picture bilinear, its mask by the nearest pixel."""
    from PIL import Image

    height, width = size
    picture, mask, objects = sample.picture, sample.mask, sample.objects
    if mask is not None:
        mask = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    if objects is not None:
        stretch = width / picture.width, height / picture.height
        objects = _visible(objects, objects.boxes * (*stretch, *stretch), size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return replace(sample, picture=picture, mask=mask, objects=objects)


def random_window(size: Size, part: Size, rng: np.random.Generator) -> Window:
    """A window of the size of a part somewhere in a picture, or around it along a side that is shorter.

    Args:
        size: Height and width of the picture.
        part: Height and width of the window.
        rng: Where chance comes from.
    """
    top, left = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in np.subtract(size, part))
    return left, top, left + part[1], top + part[0]


def check_size(size: Size) -> None:
    """Refuse a size that evaluation refuses.

    Raises:
        ValueError: A side is below 1, or there are too many pixels.
    """
    Preprocessing(size)


def check_within(name: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside of a range.

    Raises:
        ValueError: It is outside, or no number; the message names it and the range.
    """
    if not least <= value <= most:  # true of NaN too
        raise ValueError(f"{name}={value}: must be from {least} to {most}")


def _cut(picture: "Image", window: Window, colour: float | tuple[float, ...]) -> "Image":
    from PIL import Image

    left, top, right, bottom = window
    cut = Image.new(picture.mode, (right - left, bottom - top), colour)
    cut.paste(picture, (-left, -top))
    return cut


def _visible(objects: Objects, boxes: np.ndarray, size: Size, least: float = 0.0) -> Objects:
    """The objects at new places, clipped to a picture of that size, without those that are not to be seen there.

    These have less than the least share of their area left, or are less than a pixel high or wide.
    """
    height, width = size
    clipped = boxes.clip(0, (width, height, width, height))
    sides, before = (corners[:, 2:] - corners[:, :2] for corners in (clipped, boxes))
    stays = (sides >= 1).all(axis=1) & (sides.prod(axis=1) >= least * before.prod(axis=1))
    return Objects(clipped[stays].astype(np.float32), objects.labels[stays], objects.ignored[stays])


@dataclass(frozen=True)
class Expand:
    """Zoom out: put the picture somewhere on a larger canvas of `MEAN_COLOUR`.

    Args:
        most: How many times as long as the picture's sides those of the canvas are at most. The canvas of a picture
            of many megapixels is smaller, so that it fits into memory.
        p: The probability of that.

    Raises:
        ValueError: A factor below 1 or above 100, or a probability outside of [0, 1].

    Source:
        SSD (arXiv 1512.02325), section 3.6.

    Example:
        >>> from PIL import Image
        >>> Expand(p=1)(Sample("red", Image.new("RGB", (40, 30), "red")), np.random.default_rng(0)).picture.size
        (72, 54)
    """

    most: float = 4.0
    p: float = 0.5

    def __post_init__(self) -> None:
        check_within("most", self.most, 1, 100)
        check_within("p", self.p, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample, or the canvas with it."""
        if rng.random() >= self.p:
            return sample
        width, height = sample.picture.size
        affordable = max(1, math.sqrt(_LARGEST_CANVAS / (width * height)))
        times = rng.uniform(1, min(self.most, affordable))
        return crop(sample, random_window((height, width), (int(height * times), int(width * times)), rng))


@dataclass(frozen=True)
class SSDCrop:
    """Cut out a part that shows some object well; objects stay whose centres are in it.

    One of the overlaps is chosen at random, and the first of the trials is taken, parts of 0.3 to 1 of the picture's
    size and of at most twice or half its aspect ratio, of which some object that stays has at least that overlap. If
    there is none, another overlap is chosen. A picture without objects, but for ignored ones, stays whole.

    Args:
        overlaps: Least intersections over union of an object and the part; None is the whole picture.
        trials: How many parts are tried for an overlap.

    Raises:
        ValueError: There is no overlap, one is outside of [0, 1], or there is no trial.

    Source:
        SSD (arXiv 1512.02325), section 2.2, with the sizes of its authors' program.

    Example:
        >>> from PIL import Image
        >>> cat = Objects(np.array([[4, 4, 16, 20]], dtype=np.float32), np.array([8]), np.array([False]))
        >>> sample = Sample("cat", Image.new("RGB", (40, 30)), objects=cat)
        >>> SSDCrop(overlaps=(0.5,))(sample, np.random.default_rng(0)).objects.boxes
        array([[ 0.,  0., 12., 16.]], dtype=float32)
    """

    overlaps: tuple[float | None, ...] = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    trials: int = 50

    def __post_init__(self) -> None:
        if not self.overlaps:
            raise ValueError(f"overlaps={self.overlaps}: must hold at least one")
        for overlap in self.overlaps:
            if overlap is not None:
                check_within("overlaps", overlap, 0, 1)
        if self.trials < 1:
            raise ValueError(f"trials={self.trials}: must be at least 1")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The part of the sample, or all of it."""
        objects = sample.objects
        if objects is None:
            return sample
        for choice in rng.permutation(len(self.overlaps)):
            least = self.overlaps[choice]
            if least is None:
                return sample
            windows = self._windows(*sample.picture.size, rng)
            inside = _centred(objects.boxes, windows)
            overlaps = iou(torch.from_numpy(windows).float(), torch.from_numpy(objects.boxes)).numpy()
            shown = (inside & ~objects.ignored & (overlaps >= least)).any(axis=1)
            if shown.any():
                first = shown.argmax()
                stays = inside[first]
                seen = Objects(objects.boxes[stays], objects.labels[stays], objects.ignored[stays])
                left, top, right, bottom = windows[first].tolist()
                return crop(replace(sample, objects=seen), (left, top, right, bottom), least=0)
        return sample

    def _windows(self, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
        """The parts that are tried, (trials, 4), int64."""
        size = rng.uniform(0.3, 1, (self.trials, 1))
        # Within these limits neither side is longer than the picture's.
        aspect = rng.uniform(np.maximum(0.5, size**2), np.minimum(2, size**-2))
        shares = size * np.concatenate([aspect**0.5, aspect**-0.5], axis=1)
        whole = np.array([width, height])
        sides = np.rint(shares * whole).astype(np.int64).clip(1, whole)
        corners = rng.integers(0, whole - sides + 1)
        return np.concatenate([corners, corners + sides], axis=1)


def _centred(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Which boxes (n, 4) have their centre in which windows (m, 4), as (m, n), bool."""
    centres, windows = (boxes[:, :2] + boxes[:, 2:]) / 2, windows[:, None]
    return np.all((windows[..., :2] <= centres) & (centres < windows[..., 2:]), axis=-1)


@dataclass(frozen=True)
class RandomScale:
    """Make the picture larger or smaller, in its own shape; `RandomCrop` then brings it to a size.

    Args:
        low: The least factor of its sides.
        high: The largest factor.

    Raises:
        ValueError: Not 0 < low <= high <= 100.

    Example:
        >>> from PIL import Image
        >>> RandomScale(2, 2)(Sample("red", Image.new("RGB", (40, 30), "red")), np.random.default_rng(0)).picture.size
        (80, 60)
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 100:
            raise ValueError(f"low={self.low}, high={self.high}: must be 0 < low <= high <= 100")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample, larger or smaller."""
        factor = rng.uniform(self.low, self.high)
        width, height = (max(1, round(side * factor)) for side in sample.picture.size)
        return resize(sample, (height, width))


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a part of a size; along a side where the picture is shorter, put it somewhere in that size.

    Around the picture there is `MEAN_COLOUR`, and around its mask `IGNORED`.

    Args:
        size: Height and width of the result, in pixels.

    Raises:
        ValueError: The size is none that `Preprocessing` takes.

    Example:
        >>> from PIL import Image
        >>> sample = Sample("dot", Image.new("RGB", (1, 1)), mask=np.array([[3]], dtype=np.uint8))
        >>> RandomCrop((1, 3))(sample, np.random.default_rng(1)).mask
        array([[255,   3, 255]], dtype=uint8)
    """

    size: Size

    def __post_init__(self) -> None:
        check_size(self.size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The part of the sample, or the sample with what is around it."""
        width, height = sample.picture.size
        return crop(sample, random_window((height, width), self.size, rng))

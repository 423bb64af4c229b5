"""How training varies a picture, and with it its mask and its objects, and what a model takes of the outcome.

A transform is called with a sample and the generator from which all of its chance comes, and returns a new sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vision.data.crops import Size, check_size, check_within, crop, random_window, resize
from vision.data.sample import Sample
from vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

Colour = tuple[float, float, float]
_ATTEMPTS = 10
_ENHANCERS = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}  # what Pillow calls them


class Transform(Protocol):
    """What makes a new sample of a sample, with all chance from the generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The new sample."""
        ...


@dataclass(frozen=True)
class Compose:
    """One transform after the other.

    Args:
        transforms: The transforms, in their order.

    Example:
        >>> from PIL import Image
        >>> both = Compose((RandomResizedCrop((24, 32)), RandomFlip()))
        >>> both(Sample("red", Image.new("RGB", (40, 30), "red"), label=7), np.random.default_rng(0)).picture.size
        (32, 24)
    """

    transforms: Sequence[Transform]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample after the last of them."""
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


@dataclass(frozen=True)
class Resize:
    """Resize the whole picture, whatever its shape, as `Preprocessing` does without a crop.

    Args:
        size: Height and width of the result, in pixels.

    Raises:
        ValueError: The size is none that `Preprocessing` takes.

    Example:
        >>> from PIL import Image
        >>> Resize((30, 50))(Sample("red", Image.new("RGB", (40, 30), "red")), np.random.default_rng(0)).picture.size
        (50, 30)
    """

    size: Size

    def __post_init__(self) -> None:
        check_size(self.size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample in its new size; nothing is left to chance."""
        return resize(sample, self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a part of random area, shape and place, and resize it.

    If ten draws do not fit into the picture, as happens where it is long and narrow, the whole picture is taken.

    Args:
        size: Height and width of the result, in pixels.
        scale: The least and the largest share of the picture's area. ``(1, 1)`` is the whole picture, of any shape.
        ratio: The least and the largest quotient of the part's width and height.

    Raises:
        ValueError: The size is none that `Preprocessing` takes, or a range is empty or has impossible values.

    Source:
        Going Deeper with Convolutions (arXiv 1409.4842), section 6.

    Example:
        >>> from PIL import Image
        >>> transform = RandomResizedCrop((24, 32), scale=(0.25, 1))
        >>> transform(Sample("red", Image.new("RGB", (40, 30), "red")), np.random.default_rng(0)).picture.size
        (32, 24)
    """

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_size(self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={self.scale}: must be two numbers, 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio={self.ratio}: must be two finite numbers, 0 < low <= high")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The part, resized."""
        size = sample.picture.height, sample.picture.width
        part = size if self.scale[0] == 1 else self._part(size, rng)
        return resize(crop(sample, random_window(size, part, rng)), self.size)

    def _part(self, size: Size, rng: np.random.Generator) -> Size:
        area = size[0] * size[1]
        for _ in range(_ATTEMPTS):
            side = math.sqrt(area * rng.uniform(self.scale[0], self.scale[1]))
            stretch = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])) / 2)
            height, width = round(side / stretch), round(side * stretch)
            if 0 < height <= size[0] and 0 < width <= size[1]:
                return height, width
        return size


@dataclass(frozen=True)
class RandomFlip:
    """Mirror the picture, left to right.

    Args:
        p: The probability of that.

    Raises:
        ValueError: The probability is outside of [0, 1].

    Example:
        >>> from PIL import Image
        >>> sample = Sample("step", Image.new("RGB", (3, 1)), mask=np.array([[0, 1, 2]], dtype=np.uint8))
        >>> RandomFlip(p=1)(sample, np.random.default_rng(0)).mask
        array([[2, 1, 0]], dtype=uint8)
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_within("p", self.p, 0, 1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample or its mirror image."""
        from PIL import ImageOps

        if rng.random() >= self.p:
            return sample
        mask, objects = sample.mask, sample.objects
        if objects is not None:
            left, top, right, bottom = objects.boxes.T
            width = sample.picture.width
            objects = replace(objects, boxes=np.stack([width - right, top, width - left, bottom], axis=1))
        mask = None if mask is None else mask[:, ::-1].copy()
        return replace(sample, picture=ImageOps.mirror(sample.picture), mask=mask, objects=objects)


@dataclass(frozen=True)
class Photometric:
    """Change brightness, contrast, saturation and hue, each with a probability; contrast before or after the last two.

    Args:
        brightness: How much is added to the factor 1, or taken from it, at most; so too for the next two.
        contrast: As for brightness.
        saturation: As for brightness.
        hue: How far hues are turned at most, in turns of the colour wheel.
        p: The probability of each of the four.

    Raises:
        ValueError: A value is outside of [0, 1], or of [0, 0.5] for the hue.

    Source:
        SSD (arXiv 1512.02325), section 2.2, in the order of its authors' program.

    Example:
        >>> from PIL import Image
        >>> sample = Sample("red", Image.new("RGB", (1, 1), (200, 40, 40)))
        >>> Photometric(brightness=0.5, p=1)(sample, np.random.default_rng(0)).picture.getpixel((0, 0))
        (108, 21, 21)
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 0.5

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "p"):
            check_within(name, getattr(self, name), 0, 1)
        check_within("hue", self.hue, 0, 0.5)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with other colours."""
        from PIL import Image, ImageEnhance

        picture, order = sample.picture, ["brightness", "saturation", "hue"]
        order.insert(1 if rng.random() < 0.5 else 3, "contrast")
        for name in order:
            most = getattr(self, name)
            if not most or rng.random() >= self.p:
                continue
            change = rng.uniform(-most, most)
            if name == "hue":
                hue, *others = picture.convert("HSV").split()
                turned = hue.point([(level + round(256 * change)) % 256 for level in range(256)])
                picture = Image.merge("HSV", (turned, *others)).convert("RGB")
            else:
                picture = getattr(ImageEnhance, _ENHANCERS[name])(picture).enhance(1 + change)
        return replace(sample, picture=picture)


def as_tensors(sample: Sample, mean: Colour = IMAGENET_MEAN, std: Colour = IMAGENET_STD) -> tuple[Tensor, Any]:
    """What a model learns from: its input and its target.

    Args:
        sample: A picture with what one task has to find in it.
        mean: What is subtracted from red, green and blue, which are scaled to [0, 1].
        std: By what they are divided.

    Returns:
        The input (3, H, W), float32, as `Preprocessing` gives it; and the class, (), int64, which classes there are,
        (C,), float32, the mask, (H, W), int64, or a dictionary with ``"boxes"`` (n, 4), float32, and ``"labels"``
        (n,), int64, of the objects that are not ignored.

    Raises:
        ValueError: The sample does not have exactly one of label, labels, mask and objects.

    Example:
        >>> from PIL import Image
        >>> image, target = as_tensors(Sample("red", Image.new("RGB", (40, 30), "red"), label=7))
        >>> image.shape, target
        (torch.Size([3, 30, 40]), tensor(7))
    """
    names = ("label", "labels", "mask", "objects")
    told = {name: value for name in names if (value := getattr(sample, name)) is not None}
    if len(told) != 1:
        has = " and ".join(told) or "nothing to find in it"
        raise ValueError(f"sample {sample.name!r} has {has}: must have one of {', '.join(names)}")
    size = sample.picture.height, sample.picture.width
    image = Preprocessing(size, mean=mean, std=std)(sample.picture)
    [(name, target)] = told.items()
    if name == "objects":
        counted = ~target.ignored
        boxes, labels = target.boxes[counted].astype(np.float32), target.labels[counted].astype(np.int64)
        return image, {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
    return image, torch.tensor(target, dtype=torch.float32 if name == "labels" else torch.int64)


def mixup(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    r"""Blend every picture of a batch, and its target, with another one of the batch (MixUp).

    .. math::
        \tilde x_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \quad
        \tilde y_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with a random permutation :math:`\pi`, and one :math:`\lambda` for the batch.

    Args:
        images: (N, ...).
        targets: (N, C), the probability of each class, such as 1 for the one that it is.
        alpha: The smaller it is, the more often one of the two pictures outweighs the other.
        rng: Where chance comes from.

    Raises:
        ValueError: The targets are not floating-point probabilities, one row for each image, or alpha is not positive.

    Source:
        mixup (arXiv 1710.09412), section 2.

    Example:
        >>> images, targets = mixup(torch.zeros(2, 3, 8, 8), torch.eye(2), 0.2, np.random.default_rng(0))
        >>> targets.sum(dim=1)
        tensor([1., 1.])
    """
    if targets.dim() != 2 or len(targets) != len(images) or not targets.is_floating_point():
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} and type {targets.dtype}: "
            f"must be ({len(images)}, classes), probabilities in floating point"
        )
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha}: must be finite and above 0")
    share, other = rng.beta(alpha, alpha), torch.from_numpy(rng.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other]

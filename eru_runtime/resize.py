"""Pictures and masks at another size, as Pillow makes them.

Masks are the same to the pixel. So are pictures, where Pillow goes across first, then down, as it always did before
its version 13. Since then it goes down first where that is less work; a pixel then differs by one level at most, by
what is rounded in between.
"""

import math

import numpy as np

_BITS = 22  # of the fixed-point numbers that Pillow's weights are
Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of a picture, in its pixels."""


def resize_bilinear(pixels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """A picture at another size: first across, then down, each time rounded to bytes.

    Where it shrinks, every new pixel is a mean of all those that it covers, weighed by a triangle.

    Args:
        pixels: The picture (H, W, C), uint8.
        size: Height and width of the result.
        box: Which part of the picture becomes the result; None for all of it.

    Returns:
        The result (height, width, C), uint8.

    Example:
        >>> resize_bilinear(np.uint8([[[0], [100]]]), (1, 4))[0, :, 0].tolist()
        [0, 25, 75, 100]
    """
    height, width = pixels.shape[:2]
    # Pillow takes the box in single precision.
    left, top, right, bottom = np.array(box or (0, 0, width, height), dtype=np.float32)
    across = _resample(pixels, left, right, size[1], axis=1)
    return _resample(across, top, bottom, size[0], axis=0)


def _resample(pixels: np.ndarray, start: np.float32, stop: np.float32, size: int, axis: int) -> np.ndarray:
    """The part from ``start`` to ``stop`` along an axis, at another size."""
    indices, weights = _window(pixels.shape[axis], start, stop, size)
    columns = [1, 1, 1]
    columns[axis] = size
    total: np.ndarray = np.array(1 << (_BITS - 1), dtype=np.int32)  # a half, since the shift rounds down
    for tap in range(weights.shape[1]):
        total = total + pixels.take(indices[:, tap], axis) * weights[:, tap].reshape(columns)
    return (total >> _BITS).astype(np.uint8)


def _window(length: int, start: np.float32, stop: np.float32, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``length`` pixels each of ``size`` new ones is made of, and by which weights: both (size, taps)."""
    scale = float(stop - start) / size
    reach = max(scale, 1.0)  # half of the triangle's base
    centres = start + (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    last = np.minimum((centres + reach + 0.5).astype(int), length)
    indices = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    weights = np.maximum(1 - np.abs((indices - centres[:, None] + 0.5) * (1 / reach)), 0)
    weights[indices >= last[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.minimum(indices, length - 1), (weights * (1 << _BITS) + 0.5).astype(np.int32)


def resize_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at another size (height, width), each pixel as the one that its centre falls into.

    Example:
        >>> resize_nearest(np.array([[1, 2]]), (1, 4)).tolist()
        [[1, 1, 2, 2]]
    """
    rows, columns = (_nearest(length, new) for length, new in zip(mask.shape, size, strict=True))
    return mask[np.ix_(rows, columns)]


def _nearest(length: int, size: int) -> np.ndarray:
    """Which of ``length`` pixels each of ``size`` new ones is."""
    # Pillow adds the steps up. Where a centre falls between two pixels, only that gives the same one.
    steps = np.full(size, length / size)
    steps[0] /= 2
    return np.minimum(steps.cumsum().astype(int), length - 1)

"""Small pictures of coloured shapes on a restless ground, and where each shape is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

_FINE = 4  # pixels to draw with, a side, for each pixel of the picture, so that edges are smooth
_ATTEMPTS = 12  # to find a free place for a shape
_GAP = 3  # pixels between the boxes of two shapes
_COLOURS = 6  # of which a shape takes the one that stands out most
_NOISE = 7.0
_ALONE, _AMONG_OTHERS = (0.2, 0.35), (0.15, 0.3)  # the radius of a shape, as a share of the picture's shorter side

Outline = tuple[np.ndarray, bool]
"""A polygon within the circle of radius 1, (points, 2), and whether it is filled, or cut out of what is."""


def _polygon(*radii: float, corners: int) -> np.ndarray:
    """Corners at equal angles, the first one on top, at radii that take turns."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.resize(radii, corners)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


_ROUND = _polygon(1, corners=48)
_ARM = 0.3
_CROSS = np.array([[_ARM, 1], [_ARM, _ARM], [1, _ARM], [1, -_ARM], [_ARM, -_ARM], [_ARM, -1]])
_OUTLINES: dict[str, list[Outline]] = {
    "circle": [(_ROUND, True)],
    "square": [(_polygon(1, corners=4), True)],
    "triangle": [(_polygon(1, corners=3), True)],
    "star": [(_polygon(1, 0.42, corners=10), True)],
    "cross": [(np.concatenate([_CROSS, -_CROSS]), True)],
    "ring": [(_ROUND, True), (0.55 * _ROUND, False)],
}


@dataclass(frozen=True)
class Shape:
    """A shape in a picture, or a crowd of small ones.

    Attributes:
        label: Its index in `SHAPES`.
        mask: (height, width), bool: its pixels.
        crowd: Whether it is a crowd.
    """

    label: int
    mask: np.ndarray
    crowd: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of its pixels: the smallest box with all of them."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], labels: Sequence[int], crowd: int | None = None
) -> tuple["Image", list[Shape]]:
    """Draw shapes of random size, place, turn and colour, none in the box of another.

    Args:
        rng: Where all chance comes from.
        size: Height and width of the picture.
        labels: What is drawn, as indices of `SHAPES`. The first is drawn always, another only if there is room left.
        crowd: What a crowd is of, which is drawn after them if there is room left; by default there is none.

    Returns:
        The picture, and the shapes in it.
    """
    from PIL import Image

    pixels = _ground(rng, size)
    free, shapes = np.ones(size, dtype=bool), list[Shape]()
    radii = _ALONE if len(labels) == 1 and crowd is None else _AMONG_OTHERS
    wanted = [(label, False) for label in labels] + ([] if crowd is None else [(crowd, True)])
    for label, is_crowd in wanted:
        for _ in range(_ATTEMPTS):
            cover = _crowd(rng, size, label) if is_crowd else _single(rng, size, label, radii)
            shape = Shape(label, cover >= 0.5, is_crowd)
            left, top, right, bottom = shape.box
            if free[top:bottom, left:right].all():
                free[max(0, top - _GAP) : bottom + _GAP, max(0, left - _GAP) : right + _GAP] = False
                colour = _colour(rng, pixels[shape.mask])
                pixels += cover[..., None] * (colour - pixels)
                shapes.append(shape)
                break
    pixels += _NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), shapes


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A gradient between four colours, with lines across it."""
    from PIL import Image, ImageDraw

    height, width = size
    corners = rng.integers(40, 216, (2, 2, 3), dtype=np.uint8)
    ground = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(ground)
    for _ in range(rng.integers(2, 7)):
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        draw.line(ends.ravel().tolist(), tuple(rng.integers(256, size=3).tolist()), int(rng.integers(1, 3)))
    return np.array(ground, dtype=np.float32)


def _colour(rng: np.random.Generator, below: np.ndarray) -> np.ndarray:
    """The one of some random colours that is farthest from nearly all of the pixels (n, 3) below it."""
    colours = rng.uniform(0, 255, (_COLOURS, 3)).astype(np.float32)
    distances = np.linalg.norm(colours[:, None] - below, axis=2)
    return colours[np.quantile(distances, 0.1, axis=1).argmax()]


def _single(rng: np.random.Generator, size: tuple[int, int], label: int, radii: tuple[float, float]) -> np.ndarray:
    """How far one shape covers each pixel, 0-1."""
    radius = rng.uniform(*radii) * min(size)
    # The edge of the picture may cut off a part of it, by which it can still be told.
    inner = np.array(size[::-1]) - 1.4 * radius
    return _cover(size, label, [(0.7 * radius + rng.uniform(0, 1, 2) * inner, radius, rng.uniform(0, 2 * np.pi))])


def _crowd(rng: np.random.Generator, size: tuple[int, int], label: int) -> np.ndarray:
    """How far a crowd of five to nine small shapes covers each pixel, 0-1."""
    step = rng.uniform(0.1, 0.14) * min(size)
    corner = rng.uniform(0, 1, 2) * (np.array(size[::-1]) - 3 * step)
    places = np.stack(np.divmod(rng.permutation(9)[: rng.integers(5, 10)], 3), axis=1)
    centres = corner + step * (places + rng.uniform(0.45, 0.55, places.shape))
    return _cover(size, label, [(centre, 0.42 * step, rng.uniform(0, 2 * np.pi)) for centre in centres])


def _cover(size: tuple[int, int], label: int, placed: Sequence[tuple[np.ndarray, float, float]]) -> np.ndarray:
    """How far shapes of one kind, each with its centre (x, y), its radius and its turn, cover each pixel, 0-1."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_FINE * size[1], _FINE * size[0]))
    draw = ImageDraw.Draw(canvas)
    for centre, radius, turn in placed:
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        for outline, filled in _OUTLINES[SHAPES[label]]:
            corners = _FINE * (centre + radius * outline @ turned)
            draw.polygon(corners.ravel().tolist(), fill=255 if filled else 0)
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255

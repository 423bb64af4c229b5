"""The XML files in which PASCAL VOC tells the objects in its pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from vision.data.checks import read_text
from vision.data.sample import Objects

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_SLACK = 1.0  # by how many pixels a box may be outside of its picture: tools count from 0 or from 1


@dataclass(frozen=True)
class Object:
    """An object as a file tells it.

    Attributes:
        name: What its class is called.
        box: Left, top, right and bottom; in the file the first pixel is 1, and the last one belongs to the object.
        difficult: Whether it is so hard to see that it does not count.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def read_objects(path: Path, names: Sequence[str]) -> list[Object]:
    """The objects that a file tells.

    Args:
        path: The XML file.
        names: What the classes are called.

    Raises:
        ValueError: The file cannot be read, is not XML or has a document type, or an object in it is of an unknown
            class, or lacks a part; the message names the file.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text:  # it could define entities that grow without end, or name other files
        raise ValueError(f"{path}: has a document type (DOCTYPE), which no annotation needs")
    try:
        root = ElementTree.fromstring(text)
    except ParseError as error:
        raise ValueError(f"{path}: is not XML: {error}") from error
    return [_object(element, f"{path}: object {n}", names) for n, element in enumerate(root.findall("object"), 1)]


def as_objects(found: Sequence[Object], names: Sequence[str], size: tuple[int, int], path: Path) -> Objects:
    """The objects in the pixels of their picture.

    Args:
        found: The objects.
        names: What the classes are called, the background left out.
        size: The width and the height of the picture.
        path: The XML file, for messages.

    Raises:
        ValueError: A box is empty, or outside of the picture by more than a pixel.
    """
    limits = np.array([*size, *size], dtype=np.float64)
    boxes = np.array([thing.box for thing in found], dtype=np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    clipped = boxes.clip(0, limits).astype(np.float32)
    outside = (np.abs(boxes - boxes.clip(0, limits)) > _SLACK).any(axis=1)
    empty = (clipped[:, :2] >= clipped[:, 2:]).any(axis=1)
    for wrong, said in ((outside, f"is not within the picture's {size[0]}x{size[1]} pixels"), (empty, "is empty")):
        if wrong.any():
            first = int(wrong.argmax())
            thing = found[first]
            sides = ", ".join(f"{side} {value:g}" for side, value in zip(_SIDES, thing.box, strict=True))
            raise ValueError(f"{path}: object {first + 1}, {thing.name!r}: its box, {sides}, {said}")
    labels = np.array([1 + names.index(thing.name) for thing in found], dtype=np.int64)
    return Objects(clipped, labels, np.array([thing.difficult for thing in found], dtype=bool))


def _object(element: Element, where: str, names: Sequence[str]) -> Object:
    # Only children are asked: a person's head and hands have names and boxes of their own, a level deeper.
    name = (element.findtext("name") or "").strip()
    if name not in names:
        raise ValueError(f"{where}: the class {name!r} is none of {', '.join(names)}")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"{where}: 'difficult' is {difficult!r}: must be 0 or 1")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"{where}: has no 'bndbox'")
    left, top, right, bottom = (_number(box, side, where) for side in _SIDES)
    return Object(name, (left, top, right, bottom), difficult == "1")


def _number(box: Element, side: str, where: str) -> float:
    text = box.findtext(side)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {side!r} is {text!r}: must be a number")
    return value

"""The JSON file in which MS COCO tells the objects in its pictures."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Instances:
    """What such a file tells of pictures and of n objects in them; outlines and the like are left out.

    Attributes:
        categories: What the classes are called, ordered by id.
        files: The pictures' files.
        sizes: (pictures, 2): width and height of each.
        ids: What the file calls each object.
        pictures: (n,): the index of each object's picture.
        labels: (n,): the index of each object's class, from 1.
        boxes: (n, 4): left, top, width and height.
        crowds: (n,), bool: which are not one object but a crowd.
    """

    categories: list[str]
    files: list[str]
    sizes: np.ndarray
    ids: list[Any]
    pictures: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowds: np.ndarray


def read_instances(told: Any, path: Path) -> Instances:
    """Look through what a file holds.

    Args:
        told: What the file holds.
        path: The file, for messages.

    Raises:
        ValueError: A part is missing or none of COCO's, two pictures or two classes have one id, there are no
            pictures, or an object is of an unknown picture or class; the message names the file and the entry.
    """
    categories = sorted(_entries(told, "categories", path), key=lambda entry: entry.number("id"))
    places = _by_id(categories)
    names = [entry.text("name") for entry in categories]
    pictures = _entries(told, "images", path)
    if not pictures:
        raise ValueError(f"{path}: 'images' is empty: it must name at least one picture")
    numbers = _by_id(pictures)
    objects = _entries(told, "annotations", path)
    return Instances(
        names,
        [entry.text("file_name") for entry in pictures],
        np.array([[entry.number("width", 1), entry.number("height", 1)] for entry in pictures], dtype=np.int64),
        [entry.values.get("id") for entry in objects],
        np.array([entry.known("image_id", numbers) for entry in objects], dtype=np.int64),
        np.array([1 + entry.known("category_id", places) for entry in objects], dtype=np.int64),
        np.array([entry.box() for entry in objects], dtype=np.float64).reshape(-1, 4),
        np.array([entry.flag("iscrowd") for entry in objects], dtype=bool),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of one of the file's lists, and where it is."""

    values: dict[str, Any]
    path: Path
    table: str
    index: int

    def refuse(self, key: str, wanted: str) -> ValueError:
        """The error that says that what a key has is not what is wanted."""
        where = f"{self.path}: {self.table}[{self.index}], id {self.values.get('id')!r}"
        has = f"{key!r} is {self.values[key]!r}" if key in self.values else f"has no {key!r}"
        return ValueError(f"{where}: {has}: must be {wanted}")

    def number(self, key: str, least: int | None = None) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or (least is not None and value < least):
            raise self.refuse(key, "a whole number" + ("" if least is None else f", at least {least}"))
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.refuse(key, "a name")
        return value

    def id(self, key: str) -> int | str:
        value = self.values.get(key)
        if not isinstance(value, int | str):
            raise self.refuse(key, "a number or a name")
        return value

    def known(self, key: str, places: dict[int | str, int]) -> int:
        value = self.id(key)
        if value not in places:
            raise self.refuse(key, f"one of the file's {len(places)} ids, such as {next(iter(places), None)!r}")
        return places[value]

    def box(self) -> list[float]:
        box = self.values.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
        if box is None or not numbers or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise self.refuse("bbox", "four numbers: left, top, width and height, the last two not negative")
        return box

    def flag(self, key: str) -> bool:
        value = self.values.get(key, 0)
        if value not in (0, 1):
            raise self.refuse(key, "0 or 1")
        return bool(value)


def _entries(told: Any, table: str, path: Path) -> list[_Entry]:
    entries = told.get(table) if isinstance(told, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: has no list {table!r}: must be a file of COCO's instances")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {table}[{index}] is {entry!r}: must be an object with keys")
    return [_Entry(entry, path, table, index) for index, entry in enumerate(entries)]


def _by_id(entries: list[_Entry]) -> dict[int | str, int]:
    places: dict[int | str, int] = {}
    for index, entry in enumerate(entries):
        if places.setdefault(entry.id("id"), index) != index:
            raise entry.refuse("id", f"an id of its own: another of its {entry.table} has it")
    return places

"""What the classes of a model are called and how they are coloured."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """The names and colours of the classes that a model tells apart, in the order of its outputs; it has no pictures.

    Args:
        name: A short name.
        title: The name in full.
        categories: What each class is called. One called ``background`` stands for whatever is none of the others.
        palette: Red, green and blue (0-255) of each class, where the dataset has a customary colouring.

    Raises:
        ValueError: There is no category, two have one name, or there is not one colour for each.

    Example:
        >>> VOC.categories[15], VOC.colours[15], VOC.background
        ('person', (192, 128, 128), 0)
    """

    name: str
    title: str
    categories: tuple[str, ...]
    palette: tuple[Colour, ...] | None = None

    def __post_init__(self) -> None:
        if not self.categories:
            raise ValueError(f"categories={self.categories!r}: must hold at least one name")
        if len(set(self.categories)) < len(self.categories):
            twice = next(name for name in self.categories if self.categories.count(name) > 1)
            raise ValueError(f"categories name {twice!r} twice: each must have a name of its own")
        if self.palette is not None and len(self.palette) != len(self.categories):
            raise ValueError(f"palette holds {len(self.palette)} colours for {len(self.categories)} categories")

    @property
    def colours(self) -> tuple[Colour, ...]:
        """A colour for every class: the palette, or else that of VOC, continued."""
        return self.palette or voc_palette(len(self.categories))

    @property
    def background(self) -> int | None:
        """The index of the class called ``background``, or None."""
        return self.categories.index("background") if "background" in self.categories else None

    def with_background(self) -> "Dataset":
        """The same classes after a black ``background``: for models whose one output tells a class from it."""
        palette = self.palette and ((0, 0, 0), *self.palette)
        return Dataset(self.name, self.title, ("background", *self.categories), palette)


def voc_palette(size: int) -> tuple[Colour, ...]:
    """The first colours of the PASCAL VOC palette.

    Bit ``7 - j`` of red, green and blue is bit ``3 j``, ``3 j + 1`` and ``3 j + 2`` of the index.

    Example:
        >>> voc_palette(4)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """

    def channel(index: int, first_bit: int) -> int:
        return sum((index >> (3 * j + first_bit) & 1) << (7 - j) for j in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(size))


def numbered(num_classes: int) -> Dataset:
    """A dataset of which only the number of classes is known, at least 1: ``class 0``, ``class 1``, ..."""
    return Dataset("numbered", f"{num_classes} classes", tuple(f"class {i}" for i in range(num_classes)))


def read_labels(path: str | Path) -> tuple[str, ...]:
    """The names of classes in a text file, one a line, in the order of a model's outputs.

    Raises:
        ValueError: The file cannot be read, a line is empty, or two are the same; the message names the file.
    """
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines())
        if "" in names:
            raise ValueError(f"line {names.index('') + 1} is empty: each must hold the name of a class")
        Dataset("labels", "", names)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"labels {str(path)!r}: {reason}") from error
    return names


def _labels(name: str) -> tuple[str, ...]:
    return tuple((files("vision") / "labels" / f"{name}.txt").read_text(encoding="utf-8").splitlines())


IMAGENET = Dataset("imagenet", "ImageNet (ILSVRC 2012)", _labels("imagenet"))
VOC = Dataset("voc", "PASCAL VOC 2012", _labels("voc"), voc_palette(21))
COCO = Dataset("coco", "COCO 2017", _labels("coco"))
_CITYSCAPES_PALETTE = (  # each colour in hexadecimal, two digits each of red, green and blue
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 "
    "4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20 000000"
)
_cityscapes_colours = tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, _CITYSCAPES_PALETTE.split()))
CITYSCAPES = Dataset("cityscapes", "Cityscapes", _labels("cityscapes"), _cityscapes_colours)

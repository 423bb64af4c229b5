"""Small data sets of coloured shapes, in the layout of any that can be read: something to learn on any machine."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from eru.storage import draft_of
from eru.training import counted
from vision.data.layouts import Layout, check_layout
from vision.data.sample import IGNORED
from vision.data.scenes import SHAPES, Shape, draw_scene
from vision.datasets import voc_palette

if TYPE_CHECKING:
    from PIL.Image import Image

_LEAST_SIDE = 32
_MOST, _CROWD_RATE = 3, 0.1  # shapes in a picture of several, and the share of these with a crowd
_QUALITY = 92  # of JPEG files

_COCO_IDS = (1, 2, 4, 7, 8, 11)  # with gaps, as those of COCO itself have
_CITYSCAPES_IDS = (24, 26, 20, 21, 17, 23)  # person, car, traffic sign, vegetation, pole, sky
_ROAD, _EGO_VEHICLE, _DYNAMIC = 7, 1, 5


@dataclass(frozen=True)
class _Scene:
    """A picture, its number among all of its data set, and what is in it."""

    split: str
    number: int
    picture: "Image"
    shapes: list[Shape]

    @property
    def name(self) -> str:
        return f"{self.split}_{self.number:05}"


def write_shapes(
    layout: Layout,
    root: str | Path,
    *,
    train: int = 4000,
    val: int = 200,
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
) -> None:
    """Draw pictures of circles, squares, triangles, stars, crosses and rings, and lay them out as a known data set.

    - ``"imagenet"``: one shape in each picture, all six equally often.
    - ``"voc"`` and ``"coco"``: one to three shapes, and in about one picture of ten a crowd of small ones, which are
      together one object: difficult, or ``iscrowd``. VOC has masks too, with a border of 255 around each shape.
    - ``"cityscapes"``: the shapes stand for person, car, traffic sign, vegetation, pole and sky, the ground for road,
      a dark strip below for the vehicle that the camera is in; that and crowds are not judged.

    Args:
        layout: One of the layouts of `open_data`.
        root: The folder to write, which must not be there yet; it appears when it is complete.
        train: How many pictures for training, at least 6, so that each shape can be among them.
        val: How many pictures for validation, at least 1, none of which is among those for training.
        seed: A number that gives the same pictures again.
        size: Height and width of the pictures, in pixels, at least 32.

    Raises:
        ValueError: The folder is there or cannot be made, there is no such layout, or a number is too small.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()) / "shapes"
        >>> write_shapes("imagenet", root, train=6, val=1)
        >>> sorted(path.name for path in (root / "train").iterdir())
        ['circle', 'cross', 'ring', 'square', 'star', 'triangle']
    """
    root = Path(root)
    check_layout(layout)
    for name, count, least in (("train", train, len(SHAPES)), ("val", val, 1), ("seed", seed, 0)):
        if count < least:
            raise ValueError(f"{name}={count}: must be at least {least}")
    if min(size) < _LEAST_SIDE:
        raise ValueError(f"size={size}: height and width must be at least {_LEAST_SIDE}")
    if root.exists():
        raise ValueError(f"root={str(root)!r}: is there already; name a folder that is not")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"root={str(root)!r}: cannot make its folder: {error.strerror}") from error
    with draft_of(root) as draft, counted(train + val, "drawing", unit="pictures") as count:
        draft.mkdir()
        scenes = _scenes({"train": train, "val": val}, seed, size, layout == "imagenet", count)
        _WRITERS[layout](draft, scenes)


def _scenes(
    sizes: dict[str, int], seed: int, size: tuple[int, int], single: bool, count: Callable[[int], object]
) -> Iterator[_Scene]:
    """The pictures of all splits; each depends on nothing but the seed, its split and its number."""
    for part, (split, pictures) in enumerate(sizes.items()):
        for number in range(pictures):
            rng = np.random.default_rng([seed, part, number])
            if single:
                labels, crowd = [number % len(SHAPES)], None
            else:
                labels = rng.integers(len(SHAPES), size=rng.integers(1, _MOST + 1)).tolist()
                crowd = int(rng.integers(len(SHAPES))) if rng.random() < _CROWD_RATE else None
            yield _Scene(split, number, *draw_scene(rng, size, labels, crowd))
            count(1)


def _write_imagenet(root: Path, scenes: Iterator[_Scene]) -> None:
    for scene in scenes:
        folder = root / scene.split / SHAPES[scene.shapes[0].label]
        folder.mkdir(parents=True, exist_ok=True)
        scene.picture.save(folder / f"{scene.name}.jpg", quality=_QUALITY)


def _write_voc(root: Path, scenes: Iterator[_Scene]) -> None:
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "labels.txt").write_text("\n".join(("background", *SHAPES)) + "\n", encoding="utf-8")
    names: dict[str, list[str]] = {}
    for scene in scenes:
        names.setdefault(scene.split, []).append(scene.name)
        scene.picture.save(root / "JPEGImages" / f"{scene.name}.jpg", quality=_QUALITY)
        _voc_mask(scene).save(root / "SegmentationClass" / f"{scene.name}.png")
        told = ElementTree.ElementTree(_voc_xml(scene))
        told.write(root / "Annotations" / f"{scene.name}.xml", encoding="utf-8")
    for split, its in {**names, "trainval": [*names["train"], *names["val"]]}.items():
        for task in ("Main", "Segmentation"):
            (root / "ImageSets" / task / f"{split}.txt").write_text("\n".join(its) + "\n", encoding="utf-8")


def _voc_mask(scene: _Scene) -> "Image":
    """The classes as palette indices, with a border around each shape that belongs to none."""
    from PIL import Image, ImageFilter

    mask = np.zeros((scene.picture.height, scene.picture.width), dtype=np.uint8)
    for shape in scene.shapes:
        grown = np.asarray(Image.fromarray(255 * shape.mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(3)))
        mask[(grown > 0) & (mask == 0)] = IGNORED
        mask[shape.mask] = 1 + shape.label
    picture = Image.fromarray(mask)
    picture.putpalette([channel for colour in voc_palette(256) for channel in colour])
    return picture


def _voc_xml(scene: _Scene) -> Element:
    """The objects with their boxes, whose first pixel is 1 and whose last one belongs to them."""

    def add(parent: Element, values: dict[str, object]) -> None:
        for key, value in values.items():
            SubElement(parent, key).text = str(value)

    root = Element("annotation")
    add(root, {"filename": f"{scene.name}.jpg"})
    picture = scene.picture
    add(SubElement(root, "size"), {"width": picture.width, "height": picture.height, "depth": 3})
    for shape in scene.shapes:
        left, top, right, bottom = shape.box
        told = SubElement(root, "object")
        add(told, {"name": SHAPES[shape.label], "difficult": int(shape.crowd)})
        add(SubElement(told, "bndbox"), {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom})
    ElementTree.indent(root)
    return root


def _write_coco(root: Path, scenes: Iterator[_Scene]) -> None:
    (root / "annotations").mkdir()
    categories = [{"id": id_, "name": name} for id_, name in zip(_COCO_IDS, SHAPES, strict=True)]
    told: dict[str, dict[str, list[dict[str, object]]]] = {}
    pictures, objects = 0, 0
    for scene in scenes:
        folder, pictures = root / f"{scene.split}2017", pictures + 1
        file = f"{pictures:012}.jpg"
        folder.mkdir(exist_ok=True)
        scene.picture.save(folder / file, quality=_QUALITY)
        its = told.setdefault(scene.split, {"images": [], "annotations": [], "categories": categories})
        its["images"].append(
            {"id": pictures, "file_name": file, "width": scene.picture.width, "height": scene.picture.height}
        )
        for shape in scene.shapes:
            objects += 1
            its["annotations"].append({"id": objects, "image_id": pictures, **_coco_object(shape)})
    for split, its in told.items():
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(its), encoding="utf-8")


def _coco_object(shape: Shape) -> dict[str, object]:
    left, top, right, bottom = shape.box
    # Lengths of runs of pixels down the columns, which are outside of the shape and within it by turns.
    column_wise = shape.mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column_wise, prepend=False)).tolist()
    runs = np.diff([0, *changes, column_wise.size]).tolist()
    return {
        "category_id": _COCO_IDS[shape.label],
        "bbox": [left, top, right - left, bottom - top],
        "area": int(shape.mask.sum()),
        "iscrowd": int(shape.crowd),
        "segmentation": {"size": list(shape.mask.shape), "counts": runs},
    }


def _write_cityscapes(root: Path, scenes: Iterator[_Scene]) -> None:
    from PIL import Image

    for scene in scenes:
        city = f"{scene.split}town"
        name = f"{city}_{scene.number:06}_000019"
        pixels = np.array(scene.picture)
        ids = np.full(pixels.shape[:2], _ROAD, dtype=np.uint8)
        for shape in scene.shapes:
            ids[shape.mask] = _DYNAMIC if shape.crowd else _CITYSCAPES_IDS[shape.label]
        strip = len(ids) // 16
        ids[-strip:], pixels[-strip:] = _EGO_VEHICLE, pixels[-strip:] // 4
        for kind, suffix, content in (("leftImg8bit", "leftImg8bit", pixels), ("gtFine", "gtFine_labelIds", ids)):
            folder = root / kind / scene.split / city
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / f"{name}_{suffix}.png")


_WRITERS = {
    "imagenet": _write_imagenet,
    "voc": _write_voc,
    "coco": _write_coco,
    "cityscapes": _write_cityscapes,
}

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset, numbered, voc_palette

# Of ImageNet (one of each hundred and its ends), VOC, COCO and Cityscapes, from the datasets' own documents.
KNOWN = [
    (IMAGENET, 1000, {0: "tench", 1: "goldfish", 151: "Chihuahua", 207: "golden retriever", 281: "tabby"}),
    (IMAGENET, 1000, {285: "Egyptian cat", 340: "zebra", 388: "giant panda", 404: "airliner", 504: "coffee mug"}),
    (IMAGENET, 1000, {620: "laptop", 701: "parachute", 817: "sports car", 920: "traffic light", 954: "banana"}),
    (IMAGENET, 1000, {134: "crane", 517: "crane (machine)", 638: "maillot", 999: "toilet tissue"}),
    (VOC, 21, {0: "background", 1: "aeroplane", 8: "cat", 11: "diningtable", 15: "person", 20: "tvmonitor"}),
    (COCO, 81, {0: "background", 1: "person", 16: "cat", 17: "dog", 61: "dining table", 80: "toothbrush"}),
    (CITYSCAPES, 20, {0: "road", 10: "sky", 11: "person", 13: "car", 18: "bicycle", 19: "background"}),
]


@pytest.mark.parametrize(("dataset", "count", "names"), KNOWN)
def test_the_classes_are_in_the_datasets_own_order(dataset, count, names):
    assert len(dataset.categories) == count
    assert {index: dataset.categories[index] for index in names} == names


@pytest.mark.parametrize("dataset", [IMAGENET, VOC, COCO, CITYSCAPES], ids=lambda dataset: dataset.name)
def test_every_class_has_a_name_and_a_colour_of_its_own(dataset):
    assert all(re.fullmatch(r"\w[\w'() -]*[\w)]", name) and "_" not in name for name in dataset.categories)
    assert len(set(dataset.categories)) == len(dataset.categories) == len(dataset.colours)
    colours = dataset.colours[:256]
    assert len(set(colours)) == len(colours)
    assert all(0 <= channel <= 255 for colour in dataset.colours for channel in colour)


def test_the_voc_palette_is_the_standard_one():
    """The colours that the PASCAL VOC development kit prints for its classes."""
    assert VOC.palette is not None
    assert VOC.palette[:8] == (
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
    )
    assert (VOC.palette[8], VOC.palette[15], VOC.palette[20]) == ((64, 0, 0), (192, 128, 128), (0, 64, 128))
    assert voc_palette(256)[255] == (224, 224, 192)  # of the border pixels in its annotations


@given(st.integers(0, 255))
def test_the_voc_palette_spreads_the_bits_of_the_index(index):
    bits = np.unpackbits(np.array([index], dtype=np.uint8), bitorder="little")  # the lowest first
    colour = [sum(int(bit) << 7 - j for j, bit in enumerate(bits[channel::3])) for channel in range(3)]
    assert list(voc_palette(index + 1)[index]) == colour


def test_cityscapes_has_the_standard_colours():
    assert CITYSCAPES.palette is not None
    shown = dict(zip(CITYSCAPES.categories, CITYSCAPES.palette, strict=True))
    assert shown["road"] == (128, 64, 128)
    assert shown["vegetation"] == (107, 142, 35)
    assert shown["sky"] == (70, 130, 180)
    assert shown["person"] == (220, 20, 60)
    assert shown["car"] == (0, 0, 142)
    assert shown["bicycle"] == (119, 11, 32)
    assert shown["background"] == (0, 0, 0)


def test_the_background_is_found():
    assert [dataset.background for dataset in (IMAGENET, VOC, COCO, CITYSCAPES)] == [None, 0, 0, 19]


def test_a_single_class_gets_a_background():
    crack = Dataset("cracks", "Cracks in walls", ("crack",), ((255, 0, 0),)).with_background()
    assert (crack.categories, crack.palette) == (("background", "crack"), ((0, 0, 0), (255, 0, 0)))
    assert numbered(1).with_background().colours == ((0, 0, 0), (128, 0, 0))


@pytest.mark.parametrize(
    ("categories", "palette", "said"),
    [
        ((), None, "categories=()"),
        (("a", "b", "a"), None, "'a' twice"),
        (("a", "b"), ((0, 0, 0),), "1 colours for 2 categories"),
    ],
)
def test_a_dataset_that_is_none(categories, palette, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Dataset("none", "None", categories, palette)

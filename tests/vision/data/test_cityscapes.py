import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from vision.data import IGNORED, CityscapesReader, to_label_ids
from vision.datasets import CITYSCAPES

# Every label id of the data set's own table, as a void class or by the name of its class.
VOID = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]
JUDGED = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
PICTURE, MASK = (
    "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png",
    "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png",
)


def street(root, ids, picture=None):
    """A picture with a mask, which may be one of Pillow's or an array of label ids."""
    mask = ids if isinstance(ids, Image.Image) else Image.fromarray(ids)
    for path, content in ((PICTURE, picture or Image.new("RGB", mask.size, "grey")), (MASK, mask)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        content.save(root / path)
    return root


@pytest.fixture
def root(tmp_path):
    return street(tmp_path, np.full((6, 8), 7, np.uint8))


def test_every_label_id_becomes_its_class_or_is_ignored(tmp_path):
    assert sorted([*VOID, *JUDGED]) == [*range(34), 255]
    ids = np.array([[*VOID, *JUDGED]], dtype=np.uint8)
    reader = CityscapesReader(street(tmp_path, ids), "val")
    assert (reader.dataset, reader.names) == (CITYSCAPES, ["ulm_000001_000019"])
    mask = reader[0].mask
    assert (mask.shape, mask.dtype) == ((1, 35), np.uint8)
    assert mask[0, : len(VOID)].tolist() == [IGNORED] * len(VOID)
    assert [CITYSCAPES.categories[index] for index in mask[0, len(VOID) :]] == list(JUDGED.values())
    assert to_label_ids(mask)[0].tolist() == [0] * len(VOID) + list(JUDGED)


def test_what_lies_beside_the_label_ids_is_left_alone(root):
    for kind in ("color.png", "instanceIds.png", "polygons.json"):
        (root / MASK.replace("labelIds.png", kind)).write_text('{"objects": [{"label": "persongroup"}]}')
    (root / "leftImg8bit/val/ulm/notes.txt").write_text("nothing")
    assert len(CityscapesReader(root, "val")) == 1


def test_pictures_are_listed_city_by_city(root):
    for city in ("bonn", "zurich"):
        for path in (PICTURE, MASK):
            (root / path.replace("ulm", city)).parent.mkdir()
            (root / path.replace("ulm", city)).write_bytes((root / path).read_bytes())
    assert CityscapesReader(root, "val").names == [f"{city}_000001_000019" for city in ("bonn", "ulm", "zurich")]


def test_palette_indices_and_pictures_of_16_bits_are_taken(tmp_path):
    indices = Image.fromarray(np.full((6, 8), 26, np.uint8))
    indices.putpalette(list(range(256)) * 3)
    picture = Image.fromarray(np.full((6, 8), 257 * 30, np.uint16))
    sample = CityscapesReader(street(tmp_path, indices, picture), "val")[0]
    assert (sample.mask == 13).all()
    assert sample.picture.getpixel((0, 0)) == (30, 30, 30)


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=2), elements=st.sampled_from([*range(19), IGNORED])))
def test_classes_become_label_ids_and_classes_again(tmp_path_factory, mask):
    ids = to_label_ids(mask)
    assert (ids.shape, ids.dtype) == (mask.shape, np.uint8)
    root = street(tmp_path_factory.getbasetemp() / "again", np.atleast_2d(ids))
    np.testing.assert_array_equal(CityscapesReader(root, "val")[0].mask, np.atleast_2d(mask))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_the_background_that_a_model_may_answer_is_unlabelled(dtype):
    assert to_label_ids(np.array([[19, IGNORED, 0]], dtype=dtype)).tolist() == [[0, 0, 7]]


@pytest.mark.parametrize("value", [-1, 20, 254, 256, 1000])
def test_what_is_no_class_has_no_label_id(value):
    with pytest.raises(ValueError, match=re.escape(f"mask has the value {value}: must be a class, 0..19, or 255")):
        to_label_ids(np.array([3, value]))


NO_DATA_SET = [
    (lambda root: (root / "leftImg8bit").rename(root / "left"), "val", "{root}/leftImg8bit: no such folder"),
    (lambda root: None, "train", "split='train': {root}/leftImg8bit has val"),
    (
        lambda root: (root / PICTURE).unlink(),
        "val",
        "{root}/leftImg8bit/val: no pictures; they must be CITY/NAME_left",
    ),
    (lambda root: (root / MASK).unlink(), "val", "{root}/" + MASK + ": no such file, but there is its picture {root}"),
]


@pytest.mark.parametrize(("damage", "split", "said"), NO_DATA_SET, ids=[said for *_, said in NO_DATA_SET])
def test_what_is_no_such_data_set_is_refused(root, damage, split, said):
    damage(root)
    with pytest.raises(ValueError, match="^" + re.escape(said.format(root=root))):
        CityscapesReader(root, split)


def odd(value, dtype=np.uint8):
    return np.array([[7, value]], dtype=dtype)


BROKEN = [
    (odd(34), None, "{root}/" + MASK + ": has the value 34, which is none of 0, 1, 2"),
    (odd(7), Image.new("RGB", (4, 3)), "{root}/" + MASK + ": has 2x1 pixels, but its picture {root}/" + PICTURE),
    (odd(7, np.uint16), None, "{root}/" + MASK + ": is of Pillow's mode I;16: a mask must have palette indices or"),
    (Image.new("RGB", (2, 1)), None, "{root}/" + MASK + ": is of Pillow's mode RGB: a mask must have palette"),
]


@pytest.mark.parametrize(("ids", "picture", "said"), BROKEN, ids=[said for *_, said in BROKEN])
def test_a_broken_mask_is_named_when_it_is_read(tmp_path, ids, picture, said):
    reader = CityscapesReader(street(tmp_path, ids, picture), "val")
    with pytest.raises(ValueError, match="^" + re.escape(said.format(root=tmp_path))):
        reader[0]


@pytest.mark.parametrize("name", [PICTURE, MASK])
@pytest.mark.parametrize("kept", [0, 20, 45])
def test_a_broken_file_is_named_when_it_is_read(root, name, kept):
    reader = CityscapesReader(root, "val")
    (root / name).write_bytes((root / name).read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(root / name))}: .+\Z"):
        reader[0]

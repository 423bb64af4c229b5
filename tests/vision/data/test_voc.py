import re

import numpy as np
import pytest
from PIL import Image

from vision.data import IGNORED, VOCReader
from vision.datasets import VOC

WIDTH, HEIGHT = 40, 30
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <size><width>0</width><height>0</height><depth>3</depth></size>
  <segmented>1</segmented>
  <object>
    <name>person</name>
    <pose>Unspecified</pose>
    <difficult>0</difficult>
    <bndbox><xmax>20</xmax><xmin>1</xmin><ymax>30</ymax><ymin>11.5</ymin></bndbox>
    <part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  </object>
  <object>
    <name>dog</name>
    <difficult>1</difficult>
    <bndbox><xmin>5</xmin><ymin>6</ymin><xmax>40</xmax><ymax>7</ymax></bndbox>
  </object>
  <object>
    <name>person</name>
    <bndbox><xmin>3</xmin><ymin>3</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>
  </object>
</annotation>
"""
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[5:9, 5:9], MASK[6:8, 6:8], MASK[0, 0] = IGNORED, 15, 20


def devkit(root, names=("2007_000032", "2011_003276"), split="val", xml=XML, mask=MASK):
    """A year's folder in which each picture has the same mask and the same objects."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(xml, encoding="utf-8")
        save_mask(mask, root / f"SegmentationClass/{name}.png")
    for kind in ("Main", "Segmentation"):
        (root / f"ImageSets/{kind}/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def save_mask(values, path):
    path.parent.mkdir(exist_ok=True)
    mask = values if isinstance(values, Image.Image) else Image.fromarray(values)
    if mask.mode == "L":
        mask.putpalette(list(range(256)) * 3)
    mask.save(path)


@pytest.fixture
def root(tmp_path):
    return devkit(tmp_path / "VOC2012")


def test_boxes_count_pixels_from_1_and_hold_the_last_one(root):
    reader = VOCReader(root, "val", "detect")
    assert (reader.dataset, reader.names) == (VOC, ["2007_000032", "2011_003276"])
    objects = reader[0].objects
    assert objects.boxes.tolist() == [[0, 10.5, 20, 30], [4, 5, 40, 7], [2, 2, 3, 3]]
    assert [VOC.categories[label] for label in objects.labels] == ["person", "dog", "person"]
    assert objects.ignored.tolist() == [False, True, False]


def test_a_class_of_difficult_objects_only_is_no_label(root):
    reader = VOCReader(root, "val", "multilabel")
    assert (reader.dataset.name, reader.dataset.categories) == ("voc", VOC.categories[1:])
    assert reader.dataset.palette == VOC.palette[1:]
    assert [reader.dataset.categories[index] for index in np.flatnonzero(reader[0].labels)] == ["person"]


def test_masks_have_a_border_that_is_ignored(root):
    sample = VOCReader(root, "val", "segment")[1]
    np.testing.assert_array_equal(sample.mask, MASK)
    assert sample.mask.dtype == np.uint8


@pytest.mark.parametrize(("left", "right"), [("0", "41"), ("1", "40.9"), ("0.2", "40")])
def test_boxes_may_be_outside_by_a_pixel(tmp_path, left, right):
    xml = XML.replace("<xmin>1<", f"<xmin>{left}<").replace("<xmax>20<", f"<xmax>{right}<")
    assert VOCReader(devkit(tmp_path, xml=xml), "val", "detect")[0].objects.boxes[0].tolist() == [0, 10.5, 40, 30]


def test_a_picture_without_objects(tmp_path):
    root = devkit(tmp_path, xml="\ufeff<annotation><owner><name>Jürgen</name></owner></annotation>")
    objects = VOCReader(root, "val", "detect")[0].objects
    assert (objects.boxes.shape, objects.labels.shape, objects.ignored.shape) == ((0, 4), (0,), (0,))
    assert (objects.boxes.dtype, objects.labels.dtype, objects.ignored.dtype) == (np.float32, np.int64, bool)
    assert not VOCReader(root, "val", "multilabel")[0].labels.any()


@pytest.mark.parametrize("place", ["VOC2012", "VOCdevkit/VOC2007", "VOCdevkit/VOC2012"])
def test_where_the_years_folder_may_lie(tmp_path, place):
    devkit(tmp_path / place)
    assert len(VOCReader(tmp_path, "val")) == 2


def test_years_are_joined(tmp_path):
    old = devkit(tmp_path / "VOCdevkit/VOC2007", ["000005", "000007"])
    new = devkit(tmp_path / "VOCdevkit/VOC2012")
    reader = VOCReader([old, str(new)], "val", "detect")
    assert reader.names == ["000005", "000007", "2007_000032", "2011_003276"]
    assert [sample.name for sample in reader] == reader.names
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: has {old}, {new}; name one of them, or several")):
        VOCReader(tmp_path, "val")
    with pytest.raises(ValueError, match="must be at least one folder, and none of them twice"):
        VOCReader([old, tmp_path / "VOCdevkit/../VOCdevkit/VOC2007"], "val")
    with pytest.raises(ValueError, match=re.escape("roots=[]: must be at least one folder")):
        VOCReader([], "val")
    (new / "labels.txt").write_text("background\ncrack\n")
    with pytest.raises(ValueError, match=re.escape(f"{new}: has other classes than {old}; labels.txt of both")):
        VOCReader([old, new], "val")


@pytest.mark.parametrize("split", ["train_aug", "trainaug"])
def test_masks_of_the_sbd(root, split):
    """Those that are there are taken for its lists, and for no other."""
    lines = "2007_000032\n\n2011_003276 \n"
    (root / f"ImageSets/Segmentation/{split}.txt").write_text(lines)
    save_mask(np.full_like(MASK, 3), root / "SegmentationClassAug/2011_003276.png")
    first, second = VOCReader(root, split)
    np.testing.assert_array_equal(first.mask, MASK)
    assert (second.mask == 3).all()
    np.testing.assert_array_equal(VOCReader(root, "val")[1].mask, MASK)


def test_a_list_may_name_both_files(root):
    line = "/JPEGImages/2011_003276.jpg /SegmentationClassAug/2011_003276.png\n"
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(line)
    assert VOCReader(root, "train_aug").names == ["2011_003276"]


def test_classes_of_ones_own(root):
    (root / "labels.txt").write_text("background\r\nperson\r\ndog\r\ncat\r\n")
    detect, multilabel = VOCReader(root, "val", "detect"), VOCReader(root, "val", "multilabel")
    assert (detect.dataset.name, detect.dataset.categories) == ("VOC2012", ("background", "person", "dog", "cat"))
    assert detect[0].objects.labels.tolist() == [1, 2, 1]
    assert (multilabel.dataset.categories, multilabel[0].labels.tolist()) == (
        ("person", "dog", "cat"),
        [True, False, False],
    )
    with pytest.raises(ValueError, match="has the value 20, which is none of 0, 1, 2, 3, 255"):
        VOCReader(root, "val")[0]


def test_grey_and_cmyk_pictures_become_rgb(root):
    Image.new("L", (WIDTH, HEIGHT), 90).save(root / "JPEGImages/2007_000032.jpg")
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(root / "JPEGImages/2011_003276.jpg")
    grey, red = VOCReader(root, "val")
    assert grey.picture.getpixel((5, 5)) == (90, 90, 90)
    np.testing.assert_allclose(red.picture.getpixel((5, 5)), (255, 0, 0), atol=3)


def listed(text, split="val"):
    return lambda root: (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)


def labelled(text):
    return lambda root: (root / "labels.txt").write_text(text)


def gone(name):
    return lambda root: (root / name).rename(root / "gone")


def renamed(root):
    for split in ("test", "train"):
        listed("2007_000032", split)(root)
    (root / "ImageSets/Segmentation/val.txt").unlink()


LIST, NAMES = "{root}/ImageSets/Segmentation/val.txt", "{root}/labels.txt: "
REFUSED = [
    (gone("JPEGImages"), "{root}: no folder of VOC: JPEGImages is neither in it nor in VOC... or VOCdevkit/VOC..."),
    (gone("ImageSets"), "split='val': no " + LIST + "; the lists in its folder are none"),
    (renamed, "split='val': no " + LIST + "; the lists in its folder are test, train"),
    (listed("\n \n"), LIST + ": names no picture"),
    (listed("a\na\n"), LIST + ": names the picture 'a' twice"),
    (listed("2007_000032  1\n"), LIST + ", line 1: '2007_000032  1' is not the name of a picture"),
    (listed("2008_000001\n"), "{root}/JPEGImages: lacks 1 of the files that " + LIST + " names: 2008_000001.jpg"),
    (gone("SegmentationClass/2007_000032.png"), "{root}/SegmentationClass: lacks 1 of the files that " + LIST),
    (gone("SegmentationClass"), "{root}/SegmentationClass: no such folder, though " + LIST + " names files in it"),
    (labelled("person\ndog\n"), NAMES + "must have 'background' in its first line and a class in each of the next"),
    (labelled("background\n"), NAMES + "must have 'background' in its first line"),
    (labelled("background\n\ndog\n"), NAMES + "must have 'background' in its first line"),
    (labelled("background\ndog\ndog\n"), NAMES + "categories name 'dog' twice"),
    (labelled("background\n" + "".join(f"{n}\n" for n in range(255))), NAMES + "has 256 lines: a mask can tell 255"),
    (lambda root: (root / "labels.txt").write_bytes(b"\xff\xfe"), NAMES + "is no text in UTF-8"),
]


@pytest.mark.parametrize(("damage", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_no_such_data_set_is_refused(root, damage, said):
    damage(root)
    with pytest.raises(ValueError, match="^" + re.escape(said.format(root=root))):
        VOCReader(root, "val")


BOX = "<xmax>20</xmax><xmin>1</xmin><ymax>30</ymax><ymin>11.5</ymin>"
FIRST, THIRD = "object 1, 'person': its box, ", "object 3, 'person': its box, "
BROKEN = [
    ("", "is not XML: no element found"),
    (XML[:300], "is not XML: "),
    ('<!DOCTYPE a [<!ENTITY b "c">]>' + XML.partition("\n")[2], "has a document type (DOCTYPE)"),
    (XML.replace("dog", "wolf"), "object 2: the class 'wolf' is none of aeroplane, bicycle, bird"),
    (XML.replace("<name>dog</name>", ""), "object 2: the class '' is none of aeroplane"),
    (XML.replace("dog", "background"), "object 2: the class 'background' is none of aeroplane"),
    (XML.replace("<difficult>1", "<difficult>yes"), "object 2: 'difficult' is 'yes': must be 0 or 1"),
    (XML.replace(f"<bndbox>{BOX}</bndbox>", ""), "object 1: has no 'bndbox'"),
    (XML.replace("<xmin>1</xmin>", ""), "object 1: 'xmin' is None: must be a number"),
    (XML.replace("<xmin>1<", "<xmin>one<"), "object 1: 'xmin' is 'one': must be a number"),
    (XML.replace("<xmin>1<", "<xmin>nan<"), "object 1: 'xmin' is 'nan': must be a number"),
    (
        XML.replace("<xmin>1<", "<xmin>-1<"),
        FIRST + "xmin -1, ymin 11.5, xmax 20, ymax 30, is not within the picture's",
    ),
    (XML.replace("<ymax>30<", "<ymax>31.5<"), FIRST + "xmin 1, ymin 11.5, xmax 20, ymax 31.5, is not within the pic"),
    (XML.replace("<xmin>1<", "<xmin>21<"), FIRST + "xmin 21, ymin 11.5, xmax 20, ymax 30, is empty"),
    (XML.replace("<xmax>3<", "<xmax>1<"), THIRD + "xmin 3, ymin 3, xmax 1, ymax 3, is empty"),
]


@pytest.mark.parametrize(("xml", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_broken_xml_file_is_named_when_it_is_read(tmp_path, xml, said):
    reader = VOCReader(devkit(tmp_path, xml=xml), "val", "detect")
    with pytest.raises(ValueError, match="^" + re.escape(f"{tmp_path}/Annotations/2007_000032.xml: {said}")):
        reader[0]


def test_broken_files_are_named_when_they_are_read(root):
    masks, boxes = VOCReader(root, "val"), VOCReader(root, "val", "detect")
    mask, xml, picture = (root / f"{name}" for name in ("SegmentationClass", "Annotations", "JPEGImages"))
    save_mask(MASK[:20], mask / "2007_000032.png")
    save_mask(Image.new("RGB", (WIDTH, HEIGHT)), mask / "2011_003276.png")
    (xml / "2007_000032.xml").unlink()
    (xml / "2011_003276.xml").write_bytes(b"\xff\xfe")
    for reader, index, said in (
        (masks, 0, f"{mask}/2007_000032.png: has 40x20 pixels, but its picture {picture}/2007_000032.jpg has 40x30"),
        (masks, 1, f"{mask}/2011_003276.png: is of Pillow's mode RGB: a mask must have palette indices or 8-bit"),
        (boxes, 0, f"{xml}/2007_000032.xml: cannot be read: No such file or directory"),
        (boxes, 1, f"{xml}/2011_003276.xml: is no text in UTF-8: "),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(said)):
            reader[index]
    (picture / "2007_000032.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=re.escape(f"{picture}/2007_000032.jpg: not a picture")):
        boxes[0]


def test_no_such_task(root):
    with pytest.raises(ValueError, match="task='classify': the layout voc has segment, detect, multilabel"):
        VOCReader(root, "val", "classify")

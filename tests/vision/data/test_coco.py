import copy
import json
import re

import numpy as np
import pytest
from PIL import Image

from vision.data import CocoReader
from vision.datasets import COCO

# The ids of COCO's 80 classes: 1 to 90 without those of classes that were given up.
OFFICIAL_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
POLYGON = [[2.0, 3.0, 6.0, 3.0, 6.0, 8.0]]
RUNS = {"size": [30, 40], "counts": [20, 10, 1170]}
TOLD = {
    "info": {},
    "categories": [
        {"id": 44, "name": "cup"},
        {"id": 3, "name": "hat", "supercategory": "x"},
        {"id": 7, "name": "owl"},
    ],
    "images": [
        {"id": 9, "file_name": "nine.jpg", "width": 40, "height": 30},
        {"id": 397133, "file_name": "far.jpg", "width": 40, "height": 30, "license": 2},
        {"id": 4, "file_name": "four.jpg", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 7, "bbox": [2, 3, 4.5, 5], "iscrowd": 0, "segmentation": POLYGON},
        {"id": 2, "image_id": 9, "category_id": 44, "bbox": [10.25, 0, 12, 30], "iscrowd": 1, "segmentation": RUNS},
        {"id": 3, "image_id": 4, "category_id": 3, "bbox": [0, 0, 20, 10], "area": 7.5},
    ],
}


@pytest.fixture
def root(tmp_path):
    for image in TOLD["images"]:
        (tmp_path / "val2017").mkdir(exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "val2017" / image["file_name"])
    write(tmp_path, TOLD)
    return tmp_path


def write(root, told, name="instances_val2017.json"):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / name).write_text(told if isinstance(told, str) else json.dumps(told))


def changed(table, index, **values):
    """What is told, with some keys of one entry changed, or without those whose value is ``None``."""
    told = copy.deepcopy(TOLD)
    entry = {**told[table][index], **values}
    told[table][index] = {key: value for key, value in entry.items() if value is not None}
    return told


def test_objects_are_corners_and_follow_the_order_of_the_classes_ids(root):
    reader = CocoReader(root, "val")
    assert (reader.dataset.name, reader.dataset.categories) == (root.name, ("background", "hat", "owl", "cup"))
    assert (reader.names, reader.dropped) == (["nine", "far", "four"], 0)
    nine, far, four = (sample.objects for sample in reader)
    assert nine.boxes.tolist() == [[10.25, 0, 22.25, 30]]
    assert (nine.labels.tolist(), nine.ignored.tolist()) == ([3], [True])
    assert (far.boxes.shape, far.labels.shape, far.ignored.shape) == ((0, 4), (0,), (0,))
    assert (far.boxes.dtype, far.labels.dtype, far.ignored.dtype) == (np.float32, np.int64, bool)
    assert four.boxes.tolist() == [[2, 3, 6.5, 8], [0, 0, 20, 10]]
    assert (four.labels.tolist(), four.ignored.tolist()) == ([2, 1], [False, False])


def test_labels_have_no_background_and_count_crowds(root):
    reader = CocoReader(root, "val", "multilabel")
    assert reader.dataset.categories == ("hat", "owl", "cup")
    assert [sample.labels.tolist() for sample in reader] == [[False, False, True], [False] * 3, [True, True, False]]


def test_what_is_done_to_a_sample_is_not_done_to_the_next(root):
    reader = CocoReader(root, "val")
    reader[0].objects.boxes[:] = 0
    assert reader[0].objects.boxes.tolist() == [[10.25, 0, 22.25, 30]]


def test_the_80_classes_of_coco_are_known(root):
    names = dict(zip(OFFICIAL_IDS, COCO.categories[1:], strict=True))
    assert (names[1], names[17], names[44], names[62], names[90]) == ("person", "cat", "bottle", "chair", "toothbrush")
    told = copy.deepcopy(TOLD)
    told["categories"] = [{"id": id_, "name": name} for id_, name in reversed(names.items())]
    write(root, told)
    detect, multilabel = CocoReader(root, "val"), CocoReader(root, "val", "multilabel")
    assert detect.dataset == COCO
    assert COCO.categories[detect[0].objects.labels[0]] == "bottle"
    assert (multilabel.dataset.name, multilabel.dataset.categories) == ("coco", COCO.categories[1:])
    assert np.flatnonzero(multilabel[0].labels).tolist() == [COCO.categories.index("bottle") - 1]
    told["categories"].pop()
    told["annotations"] = []
    write(root, told)
    assert CocoReader(root, "val").dataset.name == root.name


def test_boxes_are_cut_off_at_the_edge(root):
    write(root, changed("annotations", 0, bbox=[-3, 4.5, 10, 100]))
    assert CocoReader(root, "val")[2].objects.boxes.tolist() == [[0, 4.5, 7, 10], [0, 0, 20, 10]]


@pytest.mark.parametrize("box", [[2, 3, 0, 5], [2, 3, 4, 0.0], [20, 0, 5, 5], [-9, 0, 9, 5], [16, 3, 1e-9, 5]])
def test_boxes_without_area_are_dropped_and_counted_or_refused(root, box):
    write(root, changed("annotations", 0, bbox=box))
    reader = CocoReader(root, "val")
    assert reader.dropped == 1
    assert reader[2].objects.labels.tolist() == [1]
    assert CocoReader(root, "val", "multilabel")[2].labels.tolist() == [True, False, False]
    said = "instances_val2017.json: annotation 1: its box "
    with pytest.raises(ValueError, match=f"{said}.+ has no area within its picture four.jpg"):
        CocoReader(root, "val", empty_boxes="refuse")


def test_no_objects_at_all(root):
    write(root, {**TOLD, "annotations": []})
    assert [len(sample.objects.labels) for sample in CocoReader(root, "val")] == [0, 0, 0]
    assert not any(sample.labels.any() for sample in CocoReader(root, "val", "multilabel"))


@pytest.mark.parametrize(
    ("file", "folder", "split"),
    [
        ("instances_val2017.json", "val2017", "val2017"),
        ("instances_val2014.json", "val2014", "val"),
        ("instances_val2014.json", "val", "val"),
        ("instances_val2014.json", "images/val2014", "val2014"),
        ("instances_val.json", "val", "val"),
        ("instances_val.json", "images/val", "val"),
        ("instances_minival.json", "minival", "minival"),
    ],
)
def test_where_the_files_may_lie(root, file, folder, split):
    (root / "annotations/instances_val2017.json").rename(root / "annotations" / file)
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "val2017").rename(root / folder)
    assert CocoReader(root, split)[0].picture.size == (40, 30)


def test_pictures_may_lie_in_folders_of_their_own(root):
    (root / "val2017/inner").mkdir()
    (root / "val2017/four.jpg").rename(root / "val2017/inner/four.jpg")
    write(root, changed("images", 2, file_name="inner/four.jpg"))
    assert CocoReader(root, "val")[2].name == "four"


def test_grey_and_cmyk_pictures_become_rgb(root):
    Image.new("L", (40, 30), 90).save(root / "val2017/nine.jpg")
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(root / "val2017/four.jpg")
    reader = CocoReader(root, "val")
    assert reader[0].picture.getpixel((5, 5)) == (90, 90, 90)
    np.testing.assert_allclose(reader[2].picture.getpixel((5, 5)), (255, 0, 0), atol=3)


JSON = "{root}/annotations/instances_val2017.json: "
REFUSED = [
    (
        changed("annotations", 0, category_id=8),
        "annotations[0], id 1: 'category_id' is 8: must be one of the file's 3",
    ),
    (changed("annotations", 1, image_id=5), "annotations[1], id 2: 'image_id' is 5: must be one of the file's 3 ids"),
    (changed("annotations", 0, image_id=None), "annotations[0], id 1: has no 'image_id': must be a number or a name"),
    (changed("annotations", 0, category_id=None), "annotations[0], id 1: has no 'category_id'"),
    (changed("annotations", 0, bbox=None), "annotations[0], id 1: has no 'bbox': must be four numbers"),
    (changed("annotations", 0, bbox=[1, 2, 3]), "annotations[0], id 1: 'bbox' is [1, 2, 3]: must be four numbers"),
    (changed("annotations", 0, bbox=[1, 2, -3, 4]), "annotations[0], id 1: 'bbox' is [1, 2, -3, 4]: must be four"),
    (changed("annotations", 0, bbox=[1, 2, "3", 4]), "annotations[0], id 1: 'bbox' is [1, 2, '3', 4]: must be"),
    (changed("annotations", 0, bbox=[float("nan"), 2, 3, 4]), "annotations[0], id 1: 'bbox' is [nan, 2, 3, 4]"),
    (changed("annotations", 0, iscrowd=2), "annotations[0], id 1: 'iscrowd' is 2: must be 0 or 1"),
    (changed("images", 0, id=4), "images[2], id 4: 'id' is 4: must be an id of its own: another of its images"),
    (changed("images", 0, file_name=None), "images[0], id 9: has no 'file_name': must be a name"),
    (changed("images", 0, width=None), "images[0], id 9: has no 'width': must be a whole number, at least 1"),
    (changed("images", 0, height=0), "images[0], id 9: 'height' is 0: must be a whole number, at least 1"),
    (changed("categories", 0, id=3), "categories[1], id 3: 'id' is 3: must be an id of its own"),
    (changed("categories", 0, id="cup"), "categories[0], id 'cup': 'id' is 'cup': must be a whole number"),
    (changed("categories", 0, name=None), "categories[0], id 44: has no 'name': must be a name"),
    (changed("categories", 0, name="hat"), "categories name 'hat' twice"),
    (changed("categories", 0, name="background"), "categories name 'background' twice"),
    ({**TOLD, "images": []}, "'images' is empty: it must name at least one picture"),
    ({**TOLD, "images": [3]}, "images[0] is 3: must be an object with keys"),
    ({key: TOLD[key] for key in ("images", "annotations")}, "has no list 'categories': must be a file of COCO's"),
    ({key: TOLD[key] for key in ("images", "categories")}, "has no list 'annotations': must be a file of COCO's"),
    ([], "has no list 'categories': must be a file of COCO's instances"),
]


@pytest.mark.parametrize(("told", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_file_that_is_none_of_cocos_is_refused(root, told, said):
    write(root, told)
    with pytest.raises(ValueError, match="^" + re.escape(JSON.format(root=root) + said)):
        CocoReader(root, "val")


def both_years(root):
    write(root, TOLD, "instances_val2014.json")


MISSING = [
    (lambda root: (root / "annotations").rename(root / "labels"), "val", "{root}/annotations: no such folder"),
    (lambda root: None, "train", "split='train': {root}/annotations has instances_val2017.json, and needs instances_"),
    (both_years, "val", "split='val': {root}/annotations has several that it could be: name val2017 or val2014"),
    (lambda root: write(root, "{"), "val", "{root}/annotations/instances_val2017.json is not valid JSON"),
    (lambda root: (root / "val2017").rename(root / "pictures"), "val", "{root}: no folder with pictures: must be"),
    (lambda root: (root / "val2017/far.jpg").unlink(), "val", "{root}/val2017: lacks 1 of the files that {root}/ann"),
]


@pytest.mark.parametrize(("damage", "split", "said"), MISSING, ids=[said for *_, said in MISSING])
def test_what_is_missing_is_named(root, damage, split, said):
    damage(root)
    with pytest.raises(ValueError, match="^" + re.escape(said.format(root=root))):
        CocoReader(root, split)


def test_no_such_task_or_option(root):
    with pytest.raises(ValueError, match="task='segment': the layout coco has detect, multilabel"):
        CocoReader(root, "val", "segment")
    with pytest.raises(ValueError, match="empty_boxes='keep': must be 'drop' or 'refuse'"):
        CocoReader(root, "val", empty_boxes="keep")


def test_a_broken_picture_is_named_when_it_is_read(root):
    path = root / "val2017/nine.jpg"
    reader = CocoReader(root, "val")
    Image.new("RGB", (30, 40)).save(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: has 30x40 pixels, but {root}/annotations/instances_val")):
        reader[0]
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a picture")):
        reader[0]

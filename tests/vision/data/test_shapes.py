import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from vision.data import IGNORED, TASKS, open_data, to_label_ids, write_shapes
from vision.data import shapes as module
from vision.data.scenes import SHAPES
from vision.datasets import CITYSCAPES

EVERY = [(layout, task) for layout, tasks in TASKS.items() for task in tasks]


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def samples(root, layout, task):
    return [sample for split in ("train", "val") for sample in open_data(layout, task, root / layout, split)]


def tight_box(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(("layout", "task"), EVERY)
def test_every_layout_is_read_for_every_task_of_it(shapes, layout, task):
    train, val = (open_data(layout, task, shapes / layout, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (18, 7)
    assert train.dataset == val.dataset
    assert not set(train.names) & set(val.names)
    classes = len(val.dataset.categories)
    for name, sample in zip(val.names, val, strict=True):
        assert (sample.name, sample.picture.size, sample.picture.mode) == (name, (96, 64), "RGB")
        told = [sample.label, sample.labels, sample.mask, sample.objects]
        assert sum(value is not None for value in told) == 1
        if task == "classify":
            assert 0 <= sample.label < classes
        elif task == "multilabel":
            assert (sample.labels.shape, sample.labels.dtype) == ((classes,), bool)
        elif task == "segment":
            assert (sample.mask.shape, sample.mask.dtype) == ((64, 96), np.uint8)
            assert set(np.unique(sample.mask)) <= {*range(classes), IGNORED}
        else:
            boxes, labels, ignored = sample.objects.boxes, sample.objects.labels, sample.objects.ignored
            assert (boxes.shape, boxes.dtype) == ((len(labels), 4), np.float32)
            assert (labels.dtype, ignored.dtype, len(ignored)) == (np.int64, bool, len(labels))
            assert labels.min() >= 1
            assert labels.max() < classes


@pytest.mark.parametrize(("layout", "task"), EVERY)
def test_a_reader_can_be_sent_to_another_process(shapes, layout, task):
    reader = open_data(layout, task, shapes / layout, "val")
    sent = pickle.loads(pickle.dumps(reader))
    assert (sent.names, sent.dataset) == (reader.names, reader.dataset)
    for one, other in zip(reader, sent, strict=True):
        assert one.picture == other.picture
        assert one.label == other.label
        np.testing.assert_equal(one.labels, other.labels)
        np.testing.assert_equal(one.mask, other.mask)
        assert pickle.dumps(one.objects) == pickle.dumps(other.objects)


@pytest.mark.parametrize(("layout", "task"), EVERY)
def test_a_reader_counts_as_a_list_does(shapes, layout, task):
    reader = open_data(layout, task, shapes / layout, "val")
    assert reader[-1].name == reader[6].name == reader.names[6]
    assert reader[-1].picture == reader[6].picture
    with pytest.raises(IndexError):
        reader[7]


def test_boxes_are_the_tight_boxes_of_the_regions_in_the_masks(shapes):
    masks = samples(shapes, "voc", "segment")
    for sample, told in zip(samples(shapes, "voc", "detect"), masks, strict=True):
        rest = told.mask.copy()
        for (left, top, right, bottom), label in zip(
            sample.objects.boxes.astype(int), sample.objects.labels, strict=True
        ):
            region = told.mask[top:bottom, left:right] == label
            assert tight_box(region) == [0, 0, right - left, bottom - top]
            rest[top:bottom, left:right][region] = 0
        assert set(np.unique(rest)) <= {0, IGNORED}


def test_the_border_is_one_pixel_around_each_region(shapes):
    for sample in samples(shapes, "voc", "segment"):
        padded = np.pad(sample.mask, 1, constant_values=IGNORED)
        near = [padded[1 + y : 65 + y, 1 + x : 97 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
        beside_objects = np.any([(shifted > 0) & (shifted < IGNORED) for shifted in near], axis=0)
        np.testing.assert_array_equal(sample.mask != 0, beside_objects)


def test_the_mask_files_of_voc_have_its_palette(shapes):
    with Image.open(shapes / "voc/SegmentationClass/val_00000.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert mask.getpalette()[-3:] == [224, 224, 192]


def test_voc_and_coco_tell_the_same_of_the_same_pictures(shapes):
    crowds = 0
    for voc, coco in zip(samples(shapes, "voc", "detect"), samples(shapes, "coco", "detect"), strict=True):
        assert voc.picture == coco.picture
        for name in ("boxes", "labels", "ignored"):
            np.testing.assert_array_equal(getattr(voc.objects, name), getattr(coco.objects, name))
        crowds += voc.objects.ignored.sum()
    assert 0 < crowds < 10


def test_labels_are_the_classes_of_the_objects(shapes):
    for layout, crowds_count in (("voc", False), ("coco", True)):
        pairs = zip(samples(shapes, layout, "detect"), samples(shapes, layout, "multilabel"), strict=True)
        for detect, multilabel in pairs:
            counted = np.ones(len(detect.objects.labels), bool) if crowds_count else ~detect.objects.ignored
            assert set(1 + np.flatnonzero(multilabel.labels)) == set(detect.objects.labels[counted])


def test_the_regions_of_coco_are_the_masks_of_voc(shapes):
    masks = samples(shapes, "voc", "segment")[18:]
    told = json.loads((shapes / "coco/annotations/instances_val2017.json").read_text())
    numbers = {category["id"]: 1 + SHAPES.index(category["name"]) for category in told["categories"]}
    found = {image["id"]: np.zeros((64, 96), np.uint8) for image in told["images"]}
    for annotation in told["annotations"]:
        runs = annotation["segmentation"]["counts"]
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((64, 96), order="F")
        assert annotation["area"] == inside.sum()
        left, top, right, bottom = tight_box(inside)
        assert annotation["bbox"] == [left, top, right - left, bottom - top]
        found[annotation["image_id"]][inside] = numbers[annotation["category_id"]]
    for sample, mask in zip(masks, found.values(), strict=True):
        np.testing.assert_array_equal(np.where(sample.mask == IGNORED, 0, sample.mask), mask)


def test_streets_have_the_classes_for_which_the_shapes_stand(shapes):
    street = dict(zip(SHAPES, ("person", "car", "traffic sign", "vegetation", "pole", "sky"), strict=True))
    numbers = [CITYSCAPES.categories.index(name) for name in ("road", *street.values())]
    for sample, voc in zip(samples(shapes, "cityscapes", "segment"), samples(shapes, "voc", "segment"), strict=True):
        assert (sample.mask[-4:] == IGNORED).all()  # the vehicle that the camera is in
        seen = np.s_[:-4]
        judged = (sample.mask[seen] != IGNORED) & (voc.mask[seen] != IGNORED)
        np.testing.assert_array_equal(sample.mask[seen][judged], np.array(numbers)[voc.mask[seen][judged]])
        assert set(np.unique(to_label_ids(sample.mask))) <= {0, 7, 17, 20, 21, 23, 24, 26}


def test_each_shape_is_equally_often_in_pictures_of_one(shapes):
    reader = open_data("imagenet", "classify", shapes / "imagenet", "train")
    assert reader.dataset.categories == tuple(sorted(SHAPES))
    assert np.bincount([sample.label for sample in reader]).tolist() == [3] * 6


@pytest.mark.parametrize("layout", TASKS)
def test_a_seed_gives_the_same_files_and_another_one_others(tmp_path, layout):
    for name, seed, train in (("one", 1, 6), ("same", 1, 6), ("more", 1, 7), ("other", 2, 6)):
        write_shapes(layout, tmp_path / name, train=train, val=1, seed=seed, size=(32, 40))
    one, same, more, other = (content(tmp_path / name) for name in ("one", "same", "more", "other"))
    assert one == same
    pictures = [
        {data for path, data in files.items() if path.suffix in (".jpg", ".png")} for files in (one, more, other)
    ]
    assert pictures[0] < pictures[1]
    assert not {d for p, d in one.items() if p.suffix == ".jpg"} & {d for p, d in other.items() if p.suffix == ".jpg"}
    trained, validated = (
        {sample.picture.tobytes() for sample in open_data(layout, TASKS[layout][0], tmp_path / "one", split)}
        for split in ("train", "val")
    )
    assert (len(trained), len(validated), len(trained & validated)) == (6, 1, 0)


@pytest.mark.parametrize("layout", TASKS)
def test_nothing_is_left_of_what_is_not_complete(tmp_path, monkeypatch, layout):
    draw = module.draw_scene

    def draw_some(rng, size, *others):
        monkeypatch.setattr(module, "draw_scene", lambda *_: 1 / 0)
        return draw(rng, size, *others)

    monkeypatch.setattr(module, "draw_scene", draw_some)
    with pytest.raises(ZeroDivisionError):
        write_shapes(layout, tmp_path / "inner/shapes", train=6, val=1)
    assert list((tmp_path / "inner").iterdir()) == []


ARGUMENTS = {"layout": "voc", "train": 6, "val": 1, "seed": 0, "size": (32, 32)}
REFUSED = [
    ({"layout": "kitti"}, "layout='kitti': must be one of imagenet, coco, voc, cityscapes"),
    ({"train": 5}, "train=5: must be at least 6"),
    ({"val": 0}, "val=0: must be at least 1"),
    ({"seed": -1}, "seed=-1: must be at least 0"),
    ({"size": (128, 31)}, "size=(128, 31): height and width must be at least 32"),
    ({"root": "."}, "is there already"),
    ({"root": "file/shapes"}, "cannot make its folder: File exists"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_written_is_refused(tmp_path, change, said):
    (tmp_path / "file").write_text("")
    arguments = {**ARGUMENTS, "root": "new", **change}
    with pytest.raises(ValueError, match=re.escape(said)):
        write_shapes(root=tmp_path / arguments.pop("root"), **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("layout", "task"), [("imagenet", "detect"), ("coco", "segment"), ("cityscapes", "classify")])
def test_a_task_that_a_layout_does_not_have_is_refused(shapes, layout, task):
    said = f"task={task!r}: the layout {layout} has {', '.join(TASKS[layout])}"
    with pytest.raises(ValueError, match=re.escape(said)):
        open_data(layout, task, shapes / layout, "val")


@pytest.mark.parametrize(
    ("layout", "root", "said"),
    [
        ("kitti", ".", "layout='kitti': must be one of imagenet, coco, voc, cityscapes"),
        ("coco", ["a", "b"], "root=['a', 'b']: must be one folder; several are joined in the layout voc only"),
    ],
)
def test_what_cannot_be_opened_is_refused(layout, root, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        open_data(layout, "detect", root, "val")

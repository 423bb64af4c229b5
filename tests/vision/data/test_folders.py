import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from vision.data import ImageNetReader
from vision.datasets import IMAGENET


@pytest.fixture
def root(tmp_path):
    """Two classes of dogs, in two splits."""
    for split, classes in {"train": ("poodle", "beagle"), "val": ("poodle", "beagle")}.items():
        for place, name in enumerate(classes):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 6), (place * 200, 0, 0)).save(tmp_path / split / name / f"{name}_1.png")
    return tmp_path


def test_classes_are_the_sorted_folders_of_train(root):
    reader = ImageNetReader(root, "val")
    assert (reader.dataset.name, reader.dataset.categories) == (root.name, ("beagle", "poodle"))
    assert reader.names == ["beagle_1", "poodle_1"]
    assert [(sample.label, sample.picture.getpixel((0, 0))) for sample in reader] == [(0, (200, 0, 0)), (1, (0, 0, 0))]


def test_a_class_may_be_missing_or_empty_in_another_split_than_train(root):
    (root / "train/akita").mkdir()
    Image.new("L", (8, 6)).save(root / "train/akita/a.jpg")
    (root / "val/beagle/beagle_1.png").unlink()
    reader = ImageNetReader(root, "val")
    assert reader.dataset.categories == ("akita", "beagle", "poodle")
    assert [sample.label for sample in reader] == [2]


def test_without_train_the_classes_are_those_of_the_split(root):
    (root / "train").rename(root / "test")
    (root / "val/akita").mkdir()
    Image.new("L", (8, 6)).save(root / "val/akita/a.jpg")
    assert ImageNetReader(root, "val").dataset.categories == ("akita", "beagle", "poodle")
    assert ImageNetReader(root, "test").dataset.categories == ("beagle", "poodle")


def test_a_thousand_wordnet_ids_are_those_of_imagenet(tmp_path):
    ids = (files("vision") / "data/imagenet_ids.txt").read_text().split()
    assert len(ids) == len(set(ids)) == 1000
    assert ids == sorted(ids)
    # Of ImageNet's own list: the ids of classes whose place in it is known.
    known = {"n01440764": "tench", "n02085620": "Chihuahua", "n02099601": "golden retriever", "n02391049": "zebra"}
    assert {id_: IMAGENET.categories[ids.index(id_)] for id_ in known} == known
    for name in ids:
        (tmp_path / "val" / name).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "val/n02391049/ILSVRC2012_val_00000001.JPEG")
    Image.new("RGB", (8, 6)).save(tmp_path / "val/n15075141/ILSVRC2012_val_00000002.JPEG")
    for name in ids:  # pictures of no size, which nobody reads
        (tmp_path / "val" / name / "x.jpg").touch()
    reader = ImageNetReader(tmp_path, "val")
    assert reader.dataset is IMAGENET
    index = reader.names.index("ILSVRC2012_val_00000001")
    assert IMAGENET.categories[reader[index].label] == "zebra"
    assert reader[len(reader) - 2].label == 999
    (tmp_path / "val/n15075141").rename(tmp_path / "val/n15075142")
    assert ImageNetReader(tmp_path, "val").dataset.categories[999] == "n15075142"


def test_grey_cmyk_and_16_bit_pictures_become_rgb(root):
    folder = root / "val/beagle"
    Image.new("L", (8, 6), 90).save(folder / "b_grey.jpg")
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(folder / "c_cmyk.jpg")
    Image.fromarray(np.full((6, 8), 257 * 30, np.uint16)).save(folder / "d_16.png")
    found = {sample.name: np.asarray(sample.picture)[3, 4].tolist() for sample in ImageNetReader(root, "val")}
    assert found["b_grey"] == [90, 90, 90]
    np.testing.assert_allclose(found["c_cmyk"], [255, 0, 0], atol=3)
    assert found["d_16"] == [30, 30, 30]


def test_what_is_no_picture_is_left_out(root):
    for name in ("notes.txt", "._beagle_1.png", "Thumbs.db"):
        (root / "val/beagle" / name).write_text("nothing")
    (root / "val/beagle/more.png").mkdir()
    (root / "val/.cache").mkdir()
    (root / "val/README.md").write_text("nothing")
    assert ImageNetReader(root, "val").names == ["beagle_1", "poodle_1"]


def new_class(root):
    (root / "val/wolf").mkdir()


def emptied(root, split):
    for path in (root / split).rglob("*.png"):
        path.unlink()


def flat(root):
    shutil.rmtree(root / "train")
    for name in ("beagle", "poodle"):
        shutil.rmtree(root / "val" / name)
    Image.new("RGB", (8, 6)).save(root / "val/ILSVRC2012_val_00000001.JPEG")


REFUSED = [
    (lambda root: None, "test", "split='test': {root} has train, val"),
    (lambda root: new_class(root), "val", "{root}/val/wolf: is a class that {root}/train lacks"),
    (lambda root: emptied(root, "val"), "val", "{root}/val: no pictures; they must lie in a folder for each class"),
    (lambda root: emptied(root, "train/beagle"), "train", "{root}/train/beagle: no pictures in this folder"),
    (flat, "val", "{root}/val: no folders in it; the pictures must lie in a folder for each class"),
]


@pytest.mark.parametrize(("damage", "split", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_is_no_such_data_set_is_refused(root, damage, split, said):
    damage(root)
    with pytest.raises(ValueError, match="^" + re.escape(said.format(root=root))):
        ImageNetReader(root, split)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'none'}: no such folder")):
        ImageNetReader(tmp_path / "none", "train")
    with pytest.raises(ValueError, match=re.escape(f"split='train': {tmp_path} has no folder at all")):
        ImageNetReader(tmp_path, "train")


def test_a_broken_picture_is_named_when_it_is_read(root):
    path = root / "val/poodle/poodle_1.png"
    path.write_bytes(path.read_bytes()[:40])
    reader = ImageNetReader(root, "val")
    assert reader[0].label == 0
    with pytest.raises(ValueError, match=re.escape(str(path))):
        reader[1]

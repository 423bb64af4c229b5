import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import eru_runtime
from vision.datasets import VOC, Dataset
from vision.pictures import open_picture
from vision.predictor import Predictor
from vision.preprocessing import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
DRAWN = np.random.default_rng(0)
WEIGHT, BIAS = DRAWN.normal(size=(7, 3)), DRAWN.normal(size=7)
LABELS = ["one", "two", "three", "four", "five", "six", "seven"]


def scene(height=40, width=60, seed=0):
    """Blocks of colours, so that a segmentation has areas."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


class Seeing(torch.nn.Module):
    """The same network as the fixture of that name makes, in torch."""

    def __init__(self, kind, weight, bias, *, multi_label=False):
        super().__init__()
        self.kind, self.multi_label = kind, multi_label
        self.weight = torch.nn.Parameter(torch.tensor(np.float32(weight)))
        self.bias = torch.nn.Parameter(torch.tensor(np.float32(bias)))

    def forward(self, x):
        if self.kind == "classification":
            return x.mean(dim=(2, 3)) @ self.weight.t() + self.bias
        return {"out": torch.nn.functional.conv2d(x, self.weight[:, :, None, None], self.bias)}


def of_eru(model, labels, size, crop=None, **options):
    return Predictor(model, Preprocessing(size, crop, MEAN, STD), Dataset("toy", "toy", tuple(labels)), **options)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize(("size", "crop"), [((24, 24), 0.875), ((20, 32), None)])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"threshold": 0.2}, {"top_k": 9, "threshold": 0.01}])
def test_a_picture_is_classified_as_by_eru(seeing, write_vision_folder, batch, size, crop, options):
    folder = write_vision_folder(
        "classification", seeing("classification", WEIGHT, BIAS, size, batch), LABELS, size, crop
    )
    classify, reference = eru_runtime.load(folder), Seeing("classification", WEIGHT, BIAS)
    for seed in range(5):
        picture = scene(seed=seed)
        expected = of_eru(reference, LABELS, size, crop, **options)(Image.fromarray(picture))
        answer = classify(picture, **options)
        assert answer.labels == expected.labels
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.2}, {"threshold": 1.0}])
def test_several_labels_are_told_as_by_eru(seeing, write_vision_folder, options):
    model = seeing("classification", WEIGHT, BIAS, (24, 24))
    classify = eru_runtime.load(write_vision_folder("classification", model, LABELS, (24, 24), multi_label=True))
    reference = Seeing("classification", WEIGHT, BIAS, multi_label=True)
    expected = of_eru(reference, LABELS, (24, 24), **options)(Image.fromarray(scene()))
    answer = classify(scene(), **options)
    assert classify.multi_label
    assert answer.labels == expected.labels
    np.testing.assert_allclose(answer.probabilities, expected.probabilities, rtol=1e-3)


def test_probabilities_of_the_largest_logits_are_numbers(seeing, write_vision_folder):
    for multi_label in (False, True):
        model = seeing("classification", [[0] * 3] * 2, [3e38, -3e38], (8, 8))
        folder = write_vision_folder("classification", model, ["yes", "no"], (8, 8), multi_label=multi_label)
        answer = eru_runtime.load(folder)(scene(), threshold=0.5)
        assert (answer.labels, answer.probabilities) == (("yes",), (1.0,))


@pytest.fixture(scope="module")
def of_seven(seeing):
    return seeing("segmentation", WEIGHT, BIAS, (16, 24))


@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pixel_is_told_as_by_eru(of_seven, write_vision_folder, height, width, seed):
    segment = eru_runtime.load(write_vision_folder("segmentation", of_seven, LABELS, (16, 24)))
    picture = scene(height, width, seed)
    expected = of_eru(Seeing("segmentation", WEIGHT, BIAS), LABELS, (16, 24))(Image.fromarray(picture))
    answer = segment(picture)
    assert (answer.mask.dtype, answer.mask.shape) == (np.uint8, (height, width))
    # Where a pixel of the resized picture differs by its one level, another class may be the likeliest.
    assert (answer.mask != expected.mask).mean() <= 0.05
    assert sum(answer.shares.values()) == pytest.approx(100)
    assert list(answer.shares.values()) == sorted(answer.shares.values(), reverse=True)
    assert answer.shares == pytest.approx(
        {name: 100 * (answer.mask == i).mean() for i, name in enumerate(LABELS) if i in answer.mask}
    )


def test_a_picture_of_the_networks_size_is_told_exactly(of_seven, write_vision_folder):
    segment = eru_runtime.load(write_vision_folder("segmentation", of_seven, LABELS, (16, 24)))
    expected = of_eru(Seeing("segmentation", WEIGHT, BIAS), LABELS, (16, 24))(Image.fromarray(scene(16, 24)))
    answer = segment(scene(16, 24))
    np.testing.assert_array_equal(answer.mask, expected.mask)
    assert answer.shares == expected.shares
    assert segment.colours[answer.mask].shape == (16, 24, 3)
    assert segment.colours[2].tolist() == [2, 4, 253]


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_one_class_is_told_from_the_background_as_by_eru(seeing, write_vision_folder, threshold):
    weight, bias = [[1.0, -2.0, 0.5]], [0.3]
    folder = write_vision_folder("segmentation", seeing("segmentation", weight, bias, (16, 24)), ["crack"], (16, 24))
    segment = eru_runtime.load(folder)
    predictor = of_eru(Seeing("segmentation", weight, bias), ["crack"], (16, 24), threshold=threshold)
    expected = predictor(Image.fromarray(scene(16, 24)))
    answer = segment(scene(16, 24), threshold)
    np.testing.assert_array_equal(answer.mask, expected.mask)
    assert answer.shares == expected.shares
    assert (segment.labels, segment.background) == (("background", "crack"), 0)
    assert segment.colours.tolist() == [[0, 0, 0], [0, 0, 255]]


def test_more_classes_than_a_byte_can_tell_apart(seeing, write_vision_folder):
    weight, bias = np.zeros((300, 3)), np.zeros(300)
    bias[299] = 1
    labels = [f"class {i}" for i in range(300)]
    model = seeing("segmentation", weight, bias, (4, 4))
    segment = eru_runtime.load(write_vision_folder("segmentation", model, labels, (4, 4), colours=[[0, 0, 0]] * 300))
    assert segment(scene()).shares == {"class 299": 100}


FOUND = {
    "boxes": [[0.0, 0.25, 0.5, 1.0], [-0.2, 0.5, 1.1, 1.0], [0.2, 0.2, 0.4, 0.4], [0.0, 0.0, 0.0, 0.0]],
    "labels": [15, 8, 12, 0],
    "scores": [0.299, 0.9, 0.301, -1.0],
}


@pytest.mark.parametrize(("threshold", "count"), [(None, 2), (0.0, 3), (0.5, 1), (1.0, 0)])
def test_objects_are_told_as_by_eru(finding, write_vision_folder, threshold, count):
    size = (16, 24)
    folder = write_vision_folder("detection", finding(**FOUND, size=size), VOC.categories, size, nms=True)
    options = {} if threshold is None else {"threshold": threshold}
    answer = eru_runtime.load(folder)(scene(40, 60), **options)
    assert answer.labels == ("cat", "dog", "person")[:count]
    boxes = [(0, 20, 60, 40), (12, 8, 24, 16), (0, 10, 30, 40)]
    np.testing.assert_allclose(answer.boxes, boxes[:count] or np.empty(0), rtol=1e-6)
    assert answer.scores == pytest.approx([0.9, 0.301, 0.299][:count])
    order = [1, 2, 0]
    found = {
        "boxes": torch.tensor(FOUND["boxes"])[order] * torch.tensor([24, 16, 24, 16]),
        "labels": torch.tensor(FOUND["labels"])[order],
        "scores": torch.tensor(FOUND["scores"])[order],
    }
    model = torch.nn.Module()
    model.forward = lambda x: [found]
    expected = Predictor(model, Preprocessing(size), VOC, threshold=threshold)(Image.fromarray(scene(40, 60)))
    assert (answer.labels, answer.scores) == (expected.labels, pytest.approx(expected.scores))
    np.testing.assert_allclose(answer.boxes, expected.boxes, rtol=1e-5)


def test_a_detector_without_suppression_is_refused(finding, write_vision_folder):
    for fields in ({}, {"nms": False}):
        folder = write_vision_folder("detection", finding(**FOUND, size=(8, 8)), VOC.categories, (8, 8), **fields)
        with pytest.raises(ValueError, match="exported without --nms"):
            eru_runtime.load(folder)


def test_an_object_without_label_is_refused(finding, write_vision_folder):
    for labels in (VOC.categories[:9], VOC.categories):
        model = finding(FOUND["boxes"], [15, 0, 9, 0], FOUND["scores"], (8, 8))
        detect = eru_runtime.load(write_vision_folder("detection", model, labels, (8, 8), nms=True))
        with pytest.raises(ValueError, match=f"found class 0, but there are {len(labels)} labels"):
            detect(scene())


@pytest.fixture
def classify(seeing, write_vision_folder):
    model = seeing("classification", WEIGHT, BIAS, (24, 24))
    return eru_runtime.load(write_vision_folder("classification", model, LABELS, (24, 24)), threads=1)


def variants(folder):
    """Files of pictures in several forms."""
    picture = Image.fromarray(scene())
    turned, transparent = Image.Exif(), picture.convert("RGBA")
    turned[0x0112] = 6
    transparent.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    picture.save(folder / "plain.png")
    picture.save(folder / "turned.jpg", exif=turned, quality=95)
    transparent.save(folder / "transparent.png")
    deep.save(folder / "deep.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("P").save(folder / "palette.gif")
    picture.convert("CMYK").save(folder / "print.tif")
    return sorted(folder.iterdir())


def test_a_file_is_read_as_by_eru(classify, tmp_path):
    files = variants(tmp_path)
    assert len(files) == 7
    for file in files:
        expected = classify(np.asarray(open_picture(file)))
        assert classify(file) == classify(str(file)) == expected
    assert classify(tmp_path / "plain.png") == classify(scene())


def test_files_that_are_no_pictures_are_named(classify, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    for name, said in {
        "nowhere.png": "no such file",
        ".": "is a folder",
        "text.png": "cannot be read as a picture",
        "float.tif": "floating-point",
    }.items():
        with pytest.raises(ValueError, match=said) as caught:
            classify(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 4, 3)), "picture: is float64 (4, 4, 3): must be uint8 (H, W, 3)"),
        (np.zeros((4, 4), dtype=np.uint8), "picture: is uint8 (4, 4)"),
        (np.zeros((4, 4, 4), dtype=np.uint8), "picture: is uint8 (4, 4, 4)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "picture: is uint8 (0, 4, 3)"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(classify, picture, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        classify(picture)


@pytest.mark.parametrize("picture", [None, 7, [[1, 2, 3]], b"bytes"])
def test_what_is_no_picture_at_all_is_refused(classify, picture):
    with pytest.raises(TypeError, match=re.escape(f"picture={picture!r}: must be an array")):
        classify(picture)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "top_k=0: must be a whole number, at least 1"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"threshold": 1.1}, "threshold=1.1: must be a finite number, at least 0 and at most 1"),
        ({"threshold": "high"}, "threshold='high'"),
    ],
)
def test_bad_options_are_named(classify, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        classify(scene(), **options)


def test_a_threshold_of_masks_and_boxes_is_checked(of_seven, finding, write_vision_folder):
    detector = finding(**FOUND, size=(8, 8))
    for folder in (
        write_vision_folder("segmentation", of_seven, LABELS, (16, 24)),
        write_vision_folder("detection", detector, VOC.categories, (8, 8), nms=True),
    ):
        with pytest.raises(ValueError, match=re.escape("threshold=-0.1")):
            eru_runtime.load(folder)(scene(), threshold=-0.1)


def test_outputs_that_are_not_finite_are_told(seeing, write_vision_folder):
    for kind in ("classification", "segmentation"):
        folder = write_vision_folder(kind, seeing(kind, [[0] * 3] * 2, [0, np.nan], (8, 8)), ["a", "b"], (8, 8))
        with pytest.raises(ArithmeticError, match="not finite"):
            eru_runtime.load(folder)(scene())


PLAIN = {"size": [16, 24], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preprocessing": None}, "preprocessing=None: must have size, crop, mean and std"),
        ({"preprocessing": {"size": [16, 24]}}, "must have size, crop, mean and std"),
        ({"preprocessing": PLAIN | {"size": [16]}}, "preprocessing: size=[16]: must be a list of 2 numbers"),
        ({"preprocessing": PLAIN | {"size": [16, 0]}}, "preprocessing: size=0: must be a whole number, at least 1"),
        ({"preprocessing": PLAIN | {"crop": 1.5}}, "crop=1.5: must be a finite number, above 0 and at most 1"),
        ({"preprocessing": PLAIN | {"crop": 0.875}}, "crop=0.875: must be null for this kind of model"),
        ({"preprocessing": PLAIN | {"mean": 0.5}}, "mean=0.5: must be a list of 3 numbers"),
        ({"preprocessing": PLAIN | {"std": [1, 1, 0]}}, "std=0: must be a finite number, above 0"),
        (
            {"preprocessing": PLAIN | {"size": [24, 16]}},
            "image is tensor(float) (1, 3, 16, 24): must be tensor(float) (1, 3, 24, 16)",
        ),
        ({"colours": None}, "colours=None: must be a list of [red, green, blue]"),
        ({"colours": [[0, 0]] * 7}, "must be a list of [red, green, blue]"),
        ({"colours": [[0, 0, 0]] * 6}, "colours: are 6, but there are 7 labels"),
        ({"colours": [[0, 0, 256]] * 7}, "colours=256: must be a whole number, from 0 to 255"),
        ({"background": 7}, "background=7: must be a whole number, from 0 to 6"),
        ({"kind": "detection", "nms": True}, "its outputs are logits: must be boxes, labels, scores"),
    ],
)
def test_fields_that_do_not_fit_are_named(of_seven, write_vision_folder, fields, said):
    kind = fields.pop("kind", "segmentation")
    with pytest.raises(ValueError, match=re.escape(said)):
        eru_runtime.load(write_vision_folder(kind, of_seven, LABELS, (16, 24), **fields))


def test_outputs_of_another_kind_are_refused(seeing, finding, write_vision_folder):
    wrong = {
        "classification": (seeing("segmentation", WEIGHT, BIAS, (8, 8)), "logits is tensor(float) (1, 7, 8, 8)"),
        "segmentation": (seeing("classification", WEIGHT, BIAS, (8, 8)), "logits is tensor(float) (1, 7)"),
        "detection": (finding([[0.0] * 5], [1], [0.5], (8, 8)), "boxes is tensor(float) (1, 1, 5)"),
    }
    for kind, (model, said) in wrong.items():
        with pytest.raises(ValueError, match=re.escape(f"{said}: must be tensor(float) (1, ")):
            eru_runtime.load(write_vision_folder(kind, model, LABELS, (8, 8), nms=True))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:6], "tells 7 classes apart, but there are 6 labels"),
        ([*LABELS, "eight"], "tells 7 classes apart, but there are 8 labels"),
        (["one", "", *LABELS[2:]], "labels.txt: must hold in every line the name of one class"),
        (["one", "one", *LABELS[2:]], "labels.txt: must hold in every line the name of one class"),
    ],
)
def test_labels_that_do_not_fit_are_refused(of_seven, write_vision_folder, labels, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        eru_runtime.load(write_vision_folder("segmentation", of_seven, labels, (16, 24)))

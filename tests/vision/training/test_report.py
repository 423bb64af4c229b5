"""Measuring runs and published models: against what is computed another way."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vision import create_model, load_predictor
from vision.data import open_data, to_label_ids
from vision.data.cityscapes import CityscapesReader
from vision.data.voc import VOCReader
from vision.datasets import VOC, Dataset, voc_palette
from vision.preprocessing import Preprocessing
from vision.training.evaluation import measure
from vision.training.loop import train
from vision.training.recipes import make_recipe
from vision.training.report import evaluate
from vision.training.run import open_run
from vision.training.sheet import told

CASES = {
    "classify": ("imagenet", "espnetv2_050"),
    "multilabel": ("voc", "espnetv2_050"),
    "segment": ("cityscapes", "espnetv2_050_seg_city"),
    "detect": ("voc", "espnetv2_050_ssd_voc"),
}


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """A run of every task, of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    for task, (layout, model) in CASES.items():
        recipe = make_recipe("shapes", task, epochs=1, batch_size=6, sizes=((48, 64),))
        train(recipe, model, layout, shapes / layout, folder / task, quiet=True)
    return folder


@pytest.mark.parametrize("task", CASES)
def test_a_run_is_measured_where_and_as_it_was_validated(runs, task):
    (record,) = open_run(runs / task).folder.epochs()
    report = evaluate(runs / task)
    assert {name: record[name] for name in report.numbers} == report.numbers
    assert (report.task, report.split, report.pictures, report.size) == (task, "val", 6, (48, 64))
    assert set(report.numbers) <= set(report.as_dict())
    assert str(report).startswith(f"{runs / task} on 6 pictures")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_size_of_a_batch_changes_nothing(runs, batch_size):
    expected = evaluate(runs / "segment").numbers
    assert evaluate(runs / "segment", batch_size=batch_size).numbers == pytest.approx(expected, abs=1e-3)


def test_masks_are_judged_at_the_pictures_size_as_the_predictor_gives_them(runs, shapes):
    predictor = open_run(runs / "segment").predictor(size=(40, 40))
    reader = open_data("cityscapes", "segment", shapes / "cityscapes", "val")
    intersections, unions = np.zeros(20), np.zeros(20)
    for index in range(len(reader)):
        sample = reader[index]
        mask = predictor(sample.picture).mask
        counted = sample.mask != 255
        for c in range(20):
            said, true = (mask == c) & counted, (sample.mask == c) & counted
            intersections[c] += (said & true).sum()
            unions[c] += (said | true).sum()
    judged = unions[:19] > 0
    expected = (intersections[:19][judged] / unions[:19][judged]).mean()
    assert evaluate(runs / "segment", size=(40, 40)).numbers["mean_iou"] == pytest.approx(expected)


def test_the_published_network_measured_on_a_voc_folder_is_as_good_as_it_is(reference, tmp_path):
    """The true masks of this VOC folder are shifted predictions, so that it errs in both ways."""
    weights = reference / "weights" / "espnetv2_s_0.5_pascal_256x256.pth"
    predictor = load_predictor("espnetv2_050_seg_voc", weights)
    picture = Image.open("docs/astronaut.jpg").convert("RGB")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    truths, names = [], []
    for number, box in enumerate([(0, 0, 300, 300), (100, 50, 500, 400), (50, 0, 250, 500)]):
        name = f"2007_{number:06d}"
        cut = picture.crop(box)
        cut.save(tmp_path / "JPEGImages" / f"{name}.jpg", quality=95)
        seen = Image.open(tmp_path / "JPEGImages" / f"{name}.jpg").convert("RGB")
        mask = np.roll(predictor(seen).mask, 9, axis=1)
        mask[:5] = 255
        stored = Image.fromarray(mask.astype(np.uint8))
        stored.putpalette([channel for colour in voc_palette(256) for channel in colour])
        stored.save(tmp_path / "SegmentationClass" / f"{name}.png")
        truths.append((predictor(seen).mask, mask))
        names.append(name)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
    said = np.concatenate([a[b != 255] for a, b in truths])
    true = np.concatenate([b[b != 255] for _, b in truths])
    present = [c for c in range(21) if (said == c).any() or (true == c).any()]
    ious = [((said == c) & (true == c)).sum() / ((said == c) | (true == c)).sum() for c in present]
    report = evaluate("espnetv2_050_seg_voc", weights=weights, data=tmp_path, layout="voc")
    assert len(present) > 1
    assert 0.3 < np.mean(ious) < 1
    assert report.numbers["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert {name for name, value in report.per_class.items() if value is not None} == {
        VOC.categories[c] for c in present
    }


@pytest.mark.parametrize("task", CASES)
def test_pictures_are_drawn_where_they_are_wanted(runs, tmp_path, task):
    report = evaluate(runs / task, pictures=tmp_path / "new")
    second = {"classify": "confusion.png", "segment": "confusion.png", "detect": "curves.png"}
    names = {"sheet.png", *([second[task]] if task in second else [])}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    assert set(report.written) == {str(tmp_path / "new" / name) for name in names}


def test_a_chart_that_is_not_drawn_is_told(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    report = evaluate(runs / "segment", pictures=tmp_path / "new")
    assert report.written == (str(tmp_path / "new" / "sheet.png"),)
    assert capsys.readouterr().err == (
        "no confusion.png: matplotlib draws it, which comes with pip install -e '.[plots]'\n"
    )


def test_submissions_hold_what_the_servers_want(runs, shapes, tmp_path):
    evaluate(runs / "segment", submission=tmp_path / "city")
    reader = CityscapesReader(shapes / "cityscapes", "val")
    predictor = open_run(runs / "segment").predictor()
    for index, name in enumerate(reader.names):
        with Image.open(tmp_path / "city" / f"{name}.png") as file:
            ids = np.array(file)
        assert np.array_equal(ids, to_label_ids(predictor(reader[index].picture).mask.astype(np.uint8)))
    evaluate(runs / "detect", submission=tmp_path / "voc")
    files = {path.name for path in (tmp_path / "voc").iterdir()}
    dataset = open_run(runs / "detect").dataset
    assert files == {f"comp4_det_{name}.txt" for name in dataset.categories[1:]}
    lines = [line.split() for path in (tmp_path / "voc").iterdir() for line in path.read_text().splitlines()]
    assert lines
    assert {line[0] for line in lines} <= set(VOCReader(shapes / "voc", "val", task="detect").names)
    assert all(len(line) == 6 and 0 <= float(line[1]) <= 1 and float(line[2]) >= 1 for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"weights": "x.pth"}, "a run has its own"),
        ({"submission": "out"}, "no test server's format for classify in imagenet"),
        ({"split": "test"}, "test"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(runs, options, said):
    with pytest.raises(ValueError, match=said):
        evaluate(runs / "classify", **options)


def test_other_classes_than_the_model_s_are_refused(runs, shapes):
    with pytest.raises(ValueError, match=r"its 7 classes \(background, .*\) are not the 20 of"):
        evaluate(runs / "segment", data=shapes / "voc", layout="voc")
    with pytest.raises(ValueError, match="data=None, layout=None: both must be given"):
        evaluate("espnetv2_050_seg_voc", weights=None)


def test_outputs_that_are_no_numbers_are_refused(shapes):
    model = create_model("espnetv2_050_seg_city")
    torch.nn.init.constant_(model.get_classifier().bias, float("nan"))
    reader = open_data("cityscapes", "segment", shapes / "cityscapes", "val")
    with pytest.raises(ValueError, match="not finite"):
        measure(model, reader, "segment", Preprocessing((48, 64)), batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_broken_picture_is_left_out_and_none_counts_twice(runs, shapes, batch_size):
    class Broken:
        """The validation pictures, of which the second and the third cannot be read."""

        def __init__(self):
            self.inner = open_data("imagenet", "classify", shapes / "imagenet", "val")
            self.dataset, self.names = self.inner.dataset, self.inner.names

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, index):
            if index in (1, 2):
                raise ValueError("broken")
            return self.inner[index]

    run = open_run(runs / "classify")
    options = {"batch_size": batch_size, "broken": "skip"}
    done = []
    measured = measure(run.load_model(), Broken(), "classify", run.preprocessing, **options, count=done.append)
    assert (measured.pictures, measured.passed_over, sum(done)) == (4, 2, 6)
    assert measured.metric.confusion.sum() == 4
    with pytest.raises(ValueError, match="broken"):
        measure(run.load_model(), Broken(), "classify", run.preprocessing, batch_size=batch_size)


@pytest.mark.parametrize("task", CASES)
def test_the_truth_is_shown_as_an_answer(shapes, task):
    layout, _ = CASES[task]
    reader = open_data(layout, task, shapes / layout, "val")
    sample = reader[0]
    assert told(sample, reader.dataset).render()[".png"].size[0] >= sample.picture.width


def test_a_sample_without_truth_cannot_be_shown():
    from vision.data import Sample

    with pytest.raises(ValueError, match="nothing to find"):
        told(Sample("x", Image.new("RGB", (2, 2))), Dataset("one", "One", ("a",)))

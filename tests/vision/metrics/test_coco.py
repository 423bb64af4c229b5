import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from metrics.detection_scenes import CLASSES, approximately, boxes, gathered, scene
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision.data.sample import Objects
from vision.metrics import COCOAveragePrecision


def original(outputs, targets):
    """What pycocotools gives when it is used as its own demonstration does."""
    annotations = [
        {
            "image_id": i,
            "bbox": [x, y, r - x, b - y],
            "area": (r - x) * (b - y),
            "category_id": int(c),
            "iscrowd": int(g),
        }
        for i, t in enumerate(targets)
        for (x, y, r, b), c, g in zip(t.boxes.tolist(), t.labels, t.ignored, strict=True)
    ]
    results = [
        [i, x, y, r - x, b - y, score, c]
        for i, output in enumerate(outputs)
        for (x, y, r, b), c, score in zip(*(output[k].tolist() for k in ("boxes", "labels", "scores")), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(targets))],
            "categories": [{"id": c} for c in range(1, CLASSES)],
            "annotations": [{**annotation, "id": 1 + n} for n, annotation in enumerate(annotations)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.array(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("map", "map_50", "map_75"), evaluation.stats.tolist(), strict=False))


@pytest.fixture
def only_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)


@pytest.mark.parametrize("seed", range(15))
def test_coco_equals_the_original(seed, request, capsys):
    outputs, targets = scene(seed, 6)
    faster = gathered(COCOAveragePrecision, outputs, targets)
    expected, by_class = faster.compute(), faster.per_class()
    assert expected == pytest.approx(original(outputs, targets))
    assert sum(filter(None, by_class)) / len([v for v in by_class if v is not None]) == pytest.approx(expected["map"])
    request.getfixturevalue("only_pycocotools")
    slower = gathered(COCOAveragePrecision, outputs, targets)
    assert slower.compute() == pytest.approx(expected)
    assert slower.per_class() == approximately(by_class)
    assert capsys.readouterr().out == ""


def test_coco_by_hand():
    square = np.float32([[0, 0, 10, 10]])
    targets = [Objects(square, np.array([1]), np.array([crowd])) for crowd in (False, True)]
    outputs = [
        # An overlap of 0.85: right at 0.5, 0.55, ..., 0.85 (8 of 10 overlaps).
        {"boxes": boxes((0, 0, 10, 8.5)), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])},
        # Both lie in the crowd, whatever their size, and do not count though their scores are higher.
        {
            "boxes": boxes((0, 0, 3, 3), (4, 4, 9, 9)),
            "labels": torch.tensor([1, 1]),
            "scores": torch.tensor([0.9, 0.8]),
        },
    ]
    metric = gathered(COCOAveragePrecision, outputs, targets)
    assert metric.compute() == pytest.approx({"map": 0.8, "map_50": 1.0, "map_75": 1.0})
    assert metric.per_class() == approximately([None, 0.8, None, None])


def test_coco_without_its_programs(only_pycocotools, monkeypatch):
    COCOAveragePrecision(CLASSES)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ValueError, match=r"faster-coco-eval or pycocotools.*pip install -e '\.\[train\]'"):
        COCOAveragePrecision(CLASSES)


def test_classes_without_detections_are_0_in_coco():
    _, targets = scene(3)
    nothing = [{"boxes": boxes(), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}] * len(targets)
    assert gathered(COCOAveragePrecision, nothing, targets).compute() == {"map": 0.0, "map_50": 0.0, "map_75": 0.0}

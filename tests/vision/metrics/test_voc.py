import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from metrics.detection_scenes import CLASSES, approximately, boxes, counts, gathered, perfect, scene

from vision.data.sample import Objects
from vision.metrics import VOCAveragePrecision

seeds = st.integers(0, 100_000)


def devkit_overlap(one, other):
    """Of boxes that name their first and their last pixel."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return -math.inf
    one, other = ((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other))
    return width * height / (one + other - width * height)


def devkit(outputs, targets, label):
    """Both average precisions of a class as VOCevaldet and VOCap define them, or None without objects."""

    def pixels(box):
        return box[0] + 1, box[1] + 1, box[2], box[3]

    objects = [
        [(pixels(b), i) for b, c, i in zip(t.boxes.tolist(), t.labels, t.ignored, strict=True) if c == label]
        for t in targets
    ]
    positives = sum(not difficult for picture in objects for _, difficult in picture)
    if positives == 0:
        return None
    detections = [
        (score, picture, pixels(box))
        for picture, output in enumerate(outputs)
        for box, c, score in zip(*(output[name].tolist() for name in ("boxes", "labels", "scores")), strict=True)
        if c == label
    ]
    taken, right, wrong, curve = set(), 0, 0, []
    for _, picture, box in sorted(detections, key=lambda detection: -detection[0]):
        best, largest = None, -math.inf
        for j, (other, _) in enumerate(objects[picture]):
            if devkit_overlap(box, other) > largest:
                best, largest = j, devkit_overlap(box, other)
        if largest >= 0.5:
            if objects[picture][best][1]:
                continue
            right += (picture, best) not in taken
            wrong += (picture, best) in taken
            taken.add((picture, best))
        else:
            wrong += 1
        curve.append((Fraction(right, positives), Fraction(right, right + wrong)))
    eleven = sum(max([p for r, p in curve if r >= Fraction(k, 10)], default=0) for k in range(11)) / Fraction(11)
    area, before = Fraction(0), Fraction(0)
    for recall, _ in curve:
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return float(area), float(eleven)


@given(seeds, st.booleans())
@settings(max_examples=150)
def test_voc_equals_the_development_kit(seed, ties):
    outputs, targets = scene(seed, ties=ties)
    assume(counts(targets))
    metric = gathered(VOCAveragePrecision, outputs, targets)
    expected = [devkit(outputs, targets, label) for label in range(CLASSES)]
    for points, i in (("all", 0), ("eleven", 1)):
        assert metric.per_class(points) == approximately([both and both[i] for both in expected])
    means = np.mean([both for both in expected if both], axis=0)
    assert metric.compute() == pytest.approx({"map": means[0], "map_07": means[1]})


def test_voc_by_hand():
    targets = [
        Objects(np.float32([[0, 0, 10, 10], [20, 0, 30, 10]]), np.array([1, 1]), np.array([False, True])),
        Objects(np.float32([[0, 0, 10, 10]]), np.array([1]), np.array([False])),
        Objects(np.float32([[50, 0, 60, 10]]), np.array([2]), np.array([True])),
    ]
    outputs = [
        {
            # Right (overlap 0.8), nothing (0.9 with the ignored object), wrong (the first again), wrong (class 2).
            "boxes": boxes((0, 0, 10, 8), (20, 0, 30, 9), (0, 0, 10, 10), (0, 0, 10, 10)),
            "labels": torch.tensor([1, 1, 1, 2]),
            "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        },
        # Right, at an overlap of exactly 0.5.
        {"boxes": boxes((0, 0, 10, 5)), "labels": torch.tensor([1]), "scores": torch.tensor([0.3])},
        {"boxes": boxes(), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)},
    ]
    metric = gathered(VOCAveragePrecision, outputs, targets)
    curves = metric.precision_recall()
    assert list(curves) == [1]  # class 2 has only an ignored object
    assert curves[1].scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert curves[1].precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert curves[1].recall.tolist() == pytest.approx([1 / 2, 1 / 2, 1])
    # 1/2 * 1 + 1/2 * 2/3; and precision 1 at recalls 0 to 0.5, 2/3 at 0.6 to 1
    assert metric.compute() == pytest.approx({"map": 5 / 6, "map_07": (6 + 5 * 2 / 3) / 11})
    assert metric.per_class() == approximately([None, 5 / 6, None, None])
    assert json.loads(json.dumps([metric.compute(), metric.per_class()])) == [metric.compute(), metric.per_class()]


def test_a_recall_of_exactly_three_tenths_is_reached():
    box = np.float32([[0, 0, 9, 9]])
    targets = [Objects(box, np.array([1]), np.array([False]))] * 10
    outputs = [{name: value[: i < 3] for name, value in output.items()} for i, output in enumerate(perfect(targets))]
    assert gathered(VOCAveragePrecision, outputs, targets).compute() == pytest.approx({"map": 0.3, "map_07": 4 / 11})


def test_there_are_two_kinds_of_points():
    outputs, targets = scene(1)
    with pytest.raises(ValueError, match="points='11': must be 'all' or 'eleven'"):
        gathered(VOCAveragePrecision, outputs, targets).per_class("11")

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from metrics.detection_scenes import CLASSES, approximately, boxes, counts, gathered, perfect, scene

from vision import Detector
from vision.data.sample import Objects
from vision.metrics import COCOAveragePrecision, VOCAveragePrecision

BOTH = pytest.mark.parametrize("measure", [VOCAveragePrecision, COCOAveragePrecision])
seeds = st.integers(0, 100_000)


@BOTH
@pytest.mark.parametrize("seed", range(10))
def test_neither_order_nor_parts_matter(measure, seed):
    outputs, targets = scene(seed, 6)
    whole = gathered(measure, outputs, targets)
    backwards = measure(CLASSES)
    for output, target in zip(outputs[::-1], targets[::-1], strict=True):
        backwards.update([output], [target])
    merged = gathered(measure, outputs[:seed], targets[:seed])
    other = gathered(measure, outputs[seed:], targets[seed:])
    merged.load_state(merged.state() + pickle.loads(pickle.dumps(other.state())))
    for metric in (backwards, merged):
        assert metric.compute() == pytest.approx(whole.compute())
        assert metric.per_class() == approximately(whole.per_class())


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_perfect_answers_give_1(measure, seed):
    targets = [Objects(t.boxes, t.labels, t.ignored) for t in scene(seed, 6, ignored=0)[1]]
    assert gathered(measure, perfect(targets), targets).compute() == pytest.approx(
        dict.fromkeys(gathered(measure, *scene(0)).compute(), 1.0)
    )


@given(seeds, st.floats(-1, 1), st.integers(1, CLASSES - 1), st.integers(0, 3))
@settings(max_examples=40)
def test_a_wrong_detection_never_helps(seed, score, label, picture):
    outputs, targets = scene(seed)
    assume(counts(targets))
    before = gathered(VOCAveragePrecision, outputs, targets)
    wrong = {"boxes": boxes((100, 100, 110, 110)), "labels": torch.tensor([label]), "scores": torch.tensor([score])}
    outputs[picture] = {name: torch.cat([wrong[name].to(value), value]) for name, value in outputs[picture].items()}
    after = gathered(VOCAveragePrecision, outputs, targets)
    for name, value in after.compute().items():
        # Below all others it cannot matter either.
        assert value <= before.compute()[name] + 1e-12
        assert score >= 0 or value == pytest.approx(before.compute()[name])


@BOTH
def test_no_object_that_counts(measure):
    _, targets = scene(1)
    all_ignored = [Objects(t.boxes, t.labels, np.ones_like(t.ignored)) for t in targets]
    for metric in (measure(CLASSES), gathered(measure, perfect(targets), all_ignored)):
        assert metric.per_class() == [None] * CLASSES
        with pytest.raises(ValueError, match="no object was counted"):
            metric.compute()


def test_takes_what_a_detector_gives():
    detector = Detector(0.5, num_classes=CLASSES, score_threshold=0.0).eval()
    with torch.inference_mode():
        outputs = detector(torch.rand(2, 3, 64, 64))
    assert len(outputs[0]["boxes"])
    assert 0 <= gathered(VOCAveragePrecision, outputs, scene(2, 2)[1]).compute()["map"] <= 1


def test_dictionaries_and_other_precisions_are_the_same():
    outputs, targets = scene(5)
    halves = [{**output, "boxes": output["boxes"].bfloat16(), "labels": output["labels"].int()} for output in outputs]
    as_dictionaries = [{name: torch.from_numpy(value) for name, value in vars(target).items()} for target in targets]
    expected = gathered(VOCAveragePrecision, outputs, targets)
    assert gathered(VOCAveragePrecision, halves, as_dictionaries).compute() == expected.compute()
    without = [{name: value for name, value in target.items() if name != "ignored"} for target in as_dictionaries]
    nothing_ignored = [Objects(t.boxes, t.labels, np.zeros_like(t.ignored)) for t in targets]
    assert gathered(VOCAveragePrecision, outputs, without).compute() == (
        gathered(VOCAveragePrecision, outputs, nothing_ignored).compute()
    )


def test_one_measure_goes_on_from_what_the_other_gathered():
    outputs, targets = scene(4)
    coco = COCOAveragePrecision(CLASSES)
    coco.load_state(gathered(VOCAveragePrecision, outputs, targets).state())
    assert coco.compute() == gathered(COCOAveragePrecision, outputs, targets).compute()
    with pytest.raises(ValueError, match="state has label 3: must be 1 to 1"):
        COCOAveragePrecision(2).load_state(coco.state())


GOOD = {"boxes": boxes((0, 0, 5, 5)), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": None}, r'outputs\[1\]\["boxes"\] of type NoneType: must be a tensor or an array'),
        ({"boxes": torch.zeros(4)}, r'outputs\[1\]\["boxes"\] of shape \(4,\): expected \(n, 4\)'),
        ({"boxes": torch.zeros(1, 5)}, r'outputs\[1\]\["boxes"\] of shape \(1, 5\): expected \(n, 4\)'),
        ({"boxes": boxes((9, 0, 5, 5))}, r'outputs\[1\]\["boxes"\] has \[9\.0, 0\.0, 5\.0, 5\.0\]: must be left, top'),
        ({"boxes": boxes((0, 0, 5, math.nan))}, r'outputs\[1\]\["boxes"\] has .*nan\]: must be .*finite'),
        ({"labels": torch.tensor([1, 1])}, r'outputs\[1\]\["labels"\] of shape \(2,\): expected \(1,\)'),
        ({"labels": torch.tensor([1.0])}, r'outputs\[1\]\["labels"\] of type torch.float64: must be integers'),
        ({"labels": torch.tensor([0])}, r'outputs\[1\]\["labels"\] has 0: must be 1 to 3'),
        ({"labels": torch.tensor([4])}, r'outputs\[1\]\["labels"\] has 4: must be 1 to 3'),
        ({"scores": torch.zeros(2)}, r'outputs\[1\]\["scores"\] of shape \(2,\): expected \(1,\)'),
        ({"scores": torch.tensor([math.nan])}, r'outputs\[1\]\["scores"\] has nan: must be finite'),
    ],
)
def test_bad_detections(change, message):
    metric = VOCAveragePrecision(CLASSES)
    with pytest.raises(ValueError, match=message):
        metric.update([GOOD, {**GOOD, **change}], [GOOD, GOOD])
    assert metric.state() == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": GOOD["boxes"]}, r'targets\[0\]\["labels"\] of type NoneType'),
        ({**GOOD, "ignored": np.zeros(2, bool)}, r'targets\[0\]\["ignored"\] of shape \(2,\): expected \(1,\)'),
        (
            Objects(np.zeros((1, 4)), np.array([7]), np.array([False])),
            r'targets\[0\]\["labels"\] has 7: must be 1 to 3',
        ),
    ],
)
def test_bad_objects(target, message):
    with pytest.raises(ValueError, match=message):
        VOCAveragePrecision(CLASSES).update([GOOD], [target])


@BOTH
def test_other_mistakes(measure):
    with pytest.raises(ValueError, match="num_classes=1: must be at least 2"):
        measure(1)
    with pytest.raises(ValueError, match="outputs of 1 pictures: expected 2, as many as targets"):
        measure(CLASSES).update([GOOD], [GOOD, GOOD])

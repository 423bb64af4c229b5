import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from vision import Segmenter
from vision.data.sample import IGNORED
from vision.metrics import MeanIoU

quick = settings(max_examples=40)
seeds = st.integers(0, 10_000)


def answers(seed, classes=5, pictures=3):
    """Scores and masks, of which a few pixels are ignored and class 0 and 1 are rare in both."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pictures, classes, 4, 3, generator=generator)
    scores[:, :2] -= 2
    masks = torch.randint(1, classes, (pictures, 4, 3), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORED
    masks[0, 0, 0] = 2
    return scores, masks.to(torch.uint8)


def counted(classes, *batches, **options):
    metric = MeanIoU(classes, **options)
    for scores, masks in batches:
        metric.update(scores, masks)
    return metric


@given(seeds)
@quick
def test_equals_scikit_learn(seed):
    scores, masks = answers(seed)
    metric = counted(5, (scores, masks))
    truth, predicted = masks[masks != IGNORED].numpy(), scores.argmax(1)[masks != IGNORED].numpy()
    occurs = sorted({*truth.tolist(), *predicted.tolist()})
    ious = dict(zip(occurs, jaccard_score(truth, predicted, labels=occurs, average=None), strict=True))
    assert metric.confusion.tolist() == confusion_matrix(truth, predicted, labels=range(5)).tolist()
    assert metric.per_class() == pytest.approx([ious.get(c) for c in range(5)])
    assert metric.compute() == pytest.approx(
        {"mean_iou": sum(ious.values()) / len(ious), "pixel_accuracy": accuracy_score(truth, predicted)}
    )


TRUTH = torch.tensor([[[0, 0, 1], [1, 2, IGNORED]]])
PREDICTED = torch.tensor([[[0, 1, 1], [3, 2, 3]]])


def test_by_hand():
    metric = counted(5, (PREDICTED, TRUTH))
    # Class 0: 1 pixel of 2. Class 1: 1 of 3, two that are true and one more that was answered. Class 2: its only one.
    # Class 3: only answered, once where it counts. Class 4 is nowhere.
    assert metric.per_class() == pytest.approx([1 / 2, 1 / 3, 1.0, 0.0, None])
    # (1/2 + 1/3 + 1 + 0) / 4 and 3 of 5 pixels
    assert metric.compute() == pytest.approx({"mean_iou": 11 / 24, "pixel_accuracy": 0.6})
    assert json.loads(json.dumps([metric.compute(), metric.per_class()])) == [metric.compute(), metric.per_class()]


def test_classes_left_out_still_are_errors():
    whole, metric = counted(5, (PREDICTED, TRUTH)), counted(5, (PREDICTED, TRUTH), left_out=[3])
    assert metric.per_class() == whole.per_class()
    # (1/2 + 1/3 + 1) / 3: class 1 still has the pixel that was taken for class 3 against it.
    assert metric.compute() == pytest.approx({"mean_iou": 11 / 18, "pixel_accuracy": 0.6})


@given(seeds, seeds)
@quick
def test_ignored_pixels_do_not_matter(seed, other):
    (scores, masks), (different, _) = answers(seed), answers(other)
    changed = torch.where((masks == IGNORED).unsqueeze(1), different, scores)
    assert torch.equal(counted(5, (changed, masks)).state(), counted(5, (scores, masks)).state())


@given(seeds, st.integers(0, 3))
@quick
def test_parts_add_up(seed, cut):
    scores, masks = answers(seed)
    whole = counted(5, (scores, masks))
    first, second = (scores[:cut], masks[:cut]), (scores[cut:], masks[cut:])
    backwards = counted(5, second, first)
    merged = counted(5, first)
    merged.load_state(merged.state() + counted(5, second).state())
    for other in (backwards, merged):
        assert torch.equal(other.state(), whole.state())
        assert other.compute() == whole.compute()


@given(seeds)
@quick
def test_perfect_answers_give_1(seed):
    scores, masks = answers(seed)
    right = torch.where(masks == IGNORED, masks, scores.argmax(1))
    assert counted(5, (scores, right)).compute() == {"mean_iou": 1.0, "pixel_accuracy": 1.0}


def test_takes_what_a_segmenter_gives():
    with torch.inference_mode():
        answered = Segmenter(0.5, num_classes=5).eval()(torch.zeros(1, 3, 32, 48))
    masks = torch.zeros(1, 32, 48, dtype=torch.uint8)
    from_scores, from_classes = counted(5, (answered, masks)), counted(5, (answered["out"].argmax(1), masks))
    assert torch.equal(from_scores.state(), from_classes.state())
    assert from_scores.state().sum() == 32 * 48


@pytest.mark.parametrize(
    ("scores", "masks", "message"),
    [
        (torch.zeros(1, 4, 2, 2), torch.zeros(2, 2).long(), r"targets of shape \(2, 2\): expected \(N, H, W\)"),
        (
            torch.zeros(1, 3, 2, 2),
            torch.zeros(1, 2, 2).long(),
            r"outputs of shape \(1, 3, 2, 2\): .* = \(1, 4, 2, 2\)",
        ),
        (
            torch.zeros(1, 4, 2, 3),
            torch.zeros(1, 2, 2).long(),
            r"outputs of shape \(1, 4, 2, 3\): .* = \(1, 4, 2, 2\)",
        ),
        (torch.full((1, 4, 2, 2), float("nan")), torch.zeros(1, 2, 2).long(), "outputs hold NaN"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), "outputs of type torch.float32: must be integers"),
        (torch.full((1, 2, 2), 4), torch.zeros(1, 2, 2).long(), "outputs has 4: must be 0 to 3"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2), "targets of type torch.float32: must be integers"),
        (torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), 254), "targets has 254: must be 0 to 3"),
        (torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), -1), "targets has -1: must be 0 to 3"),
    ],
)
def test_bad_batches(scores, masks, message):
    metric = MeanIoU(4)
    with pytest.raises(ValueError, match=message):
        metric.update(scores, masks)
    assert not metric.state().any()


@pytest.mark.parametrize("left_out", [(4,), (-1,), (0, 1, 2, 3)])
def test_classes_that_cannot_be_left_out(left_out):
    with pytest.raises(ValueError, match=r"left_out=.*: must be some, not all, of the classes 0 to 3"):
        MeanIoU(4, left_out=left_out)


def test_other_mistakes():
    for classes in (1, 256):
        with pytest.raises(ValueError, match=f"num_classes={classes}: must be 2 to 255"):
            MeanIoU(classes)
    with pytest.raises(ValueError, match="no pixel was counted"):
        MeanIoU(3).compute()
    with pytest.raises(ValueError, match="no pixel was counted"):
        counted(3, (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), IGNORED))).compute()
    with pytest.raises(ValueError, match="no pixel was counted"):
        counted(3, (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long()), left_out=(0,)).compute()

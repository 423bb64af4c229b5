import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from vision.metrics import MultiLabelF1

quick = settings(max_examples=40)
seeds = st.integers(0, 10_000)


def answers(seed, classes=6, pictures=12, share=0.2):
    """Logits and labels; with few labels some classes are never there."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, classes, generator=generator) - 1
    return logits, torch.rand(pictures, classes, generator=generator) < share


def counted(classes, *batches, **options):
    metric = MultiLabelF1(classes, **options)
    for logits, truth in batches:
        metric.update(logits, truth)
    return metric


@given(seeds, st.sampled_from([0.05, 0.2, 0.8]), st.sampled_from([0.1, 0.5, 0.7]))
@quick
def test_equals_scikit_learn(seed, share, threshold):
    logits, truth = answers(seed, share=share)
    answered = logits.sigmoid() > threshold
    occurs = (truth | answered).any(0).nonzero().flatten().tolist()
    if not occurs:
        return
    expected = {}
    for ending, average in (("", "micro"), ("_class", "macro")):
        values = precision_recall_fscore_support(truth, answered, labels=occurs, average=average, zero_division=0)
        expected |= {
            f"{name}{ending}": value for name, value in zip(("precision", "recall", "f1"), values, strict=False)
        }
    precision, recall = expected["precision_class"], expected["recall_class"]
    expected["f1_class_means"] = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert counted(6, (logits, truth), threshold=threshold).compute() == pytest.approx(expected)


def test_by_hand():
    truth = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    answered = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    # Class 0: 2 right of 2 given and 3 true; class 1: 0 of 0 and 1; class 2: 0 of 1 and 0; class 3 is nowhere.
    found = counted(4, (answered - 0.5, truth)).compute()
    assert found == pytest.approx(
        {
            "precision": 2 / 3,  # of 3 given
            "recall": 2 / 4,  # of 4 true
            "f1": 4 / 7,
            "precision_class": (1 + 0 + 0) / 3,
            "recall_class": (2 / 3 + 0 + 0) / 3,
            "f1_class": (4 / 5 + 0 + 0) / 3,
            "f1_class_means": 4 / 15,  # 2 (1/3) (2/9) / (1/3 + 2/9)
        }
    )
    assert json.loads(json.dumps(found)) == found


def test_a_probability_at_the_threshold_is_not_enough():
    metric = counted(2, (torch.tensor([[0.0, 1e-6]]), torch.tensor([[True, True]])))
    assert metric.state().tolist() == [[0, 1], [0, 1], [1, 1]]


@given(seeds, st.integers(0, 12))
@quick
def test_parts_add_up(seed, cut):
    logits, truth = answers(seed, share=0.4)
    whole = counted(6, (logits, truth))
    first, second = (logits[:cut], truth[:cut]), (logits[cut:], truth[cut:])
    backwards = counted(6, second, first)
    merged = counted(6, first)
    merged.load_state(merged.state() + counted(6, second).state())
    for other in (backwards, merged):
        assert torch.equal(other.state(), whole.state())
        assert other.compute() == whole.compute()


@given(seeds)
@quick
def test_perfect_answers_give_1_and_only_wrong_ones_0(seed):
    logits, _ = answers(seed)
    logits[0, 0] = 1.0
    assert set(counted(6, (logits, logits > 0)).compute().values()) == {1.0}
    assert set(counted(6, (logits, logits <= 0)).compute().values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_labels_of_other_types(dtype):
    logits, truth = answers(3)
    assert counted(6, (logits.bfloat16(), truth.to(dtype))).compute() == counted(6, (logits, truth)).compute()


@pytest.mark.parametrize(
    ("logits", "truth", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), r"outputs of shape \(2, 3\): expected .* = \(2, 4\)"),
        (torch.zeros(2, 4), torch.zeros(2), r"targets of shape \(2,\): expected \(2, 4\), as outputs"),
        (torch.full((1, 4), float("nan")), torch.zeros(1, 4), "outputs hold NaN"),
        (torch.zeros(1, 4), torch.tensor([[0, 1, 2, 0]]), "targets has 2: must be 0 or 1"),
        (torch.zeros(1, 4), torch.full((1, 4), float("nan")), "targets has nan: must be 0 or 1"),
    ],
)
def test_bad_batches(logits, truth, message):
    metric = MultiLabelF1(4)
    with pytest.raises(ValueError, match=message):
        metric.update(logits, truth)
    assert not metric.state().any()


def test_other_mistakes():
    with pytest.raises(ValueError, match="num_classes=0: must be at least 1"):
        MultiLabelF1(0)
    for threshold in (0, 1, float("nan")):
        with pytest.raises(ValueError, match=f"threshold={threshold}: must be between 0 and 1"):
            MultiLabelF1(3, threshold=threshold)
    with pytest.raises(ValueError, match="no label was counted"):
        MultiLabelF1(3).compute()

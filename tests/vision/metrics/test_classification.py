import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from vision.metrics import Accuracy

quick = settings(max_examples=40)
seeds = st.integers(0, 10_000)


def answers(seed, classes, pictures=20, *, ties=False):
    """Scores and right classes; with ties there are only three different scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pictures, classes, generator=generator)
    return scores.round().clamp(-1, 1) if ties else scores, torch.randint(classes, (pictures,), generator=generator)


def counted(classes, *batches):
    metric = Accuracy(classes)
    for scores, truth in batches:
        metric.update(scores, truth)
    return metric


@given(seeds, st.integers(6, 12))
@quick
def test_equals_scikit_learn(seed, classes):
    scores, truth = answers(seed, classes)
    metric, names = counted(classes, (scores, truth)), range(classes)
    expected = {f"top{k}": top_k_accuracy_score(truth, scores, k=k, labels=names) for k in (1, 5)}
    assert metric.compute() == pytest.approx(expected)
    assert metric.confusion.tolist() == confusion_matrix(truth, scores.argmax(1), labels=names).tolist()


@given(seeds, st.integers(2, 8))
@quick
def test_ties_go_to_the_lower_index(seed, classes):
    scores, truth = answers(seed, classes, ties=True)
    ranks = [
        sorted(range(classes), key=lambda c: -row[c]).index(right)  # a stable sort
        for row, right in zip(scores.tolist(), truth.tolist(), strict=True)
    ]
    found = counted(classes, (scores, truth)).compute()
    assert found["top1"] == pytest.approx(sum(rank < 1 for rank in ranks) / len(ranks))
    if classes > 5:
        assert found["top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / len(ranks))


def test_by_hand():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1, 0]]).repeat(4, 1)
    # The right classes are 1st, 2nd, 5th and 6th: one of four is first, three of four are among five.
    metric = counted(7, (scores, torch.tensor([0, 1, 4, 5])))
    assert metric.compute() == {"top1": 0.25, "top5": 0.75}
    assert metric.confusion[:, 0].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert json.loads(json.dumps(metric.compute())) == metric.compute()


@pytest.mark.parametrize(("classes", "keys"), [(2, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
def test_top5_is_only_of_more_than_five_classes(classes, keys):
    assert list(counted(classes, answers(0, classes)).compute()) == keys


@given(seeds, st.integers(0, 20))
@quick
def test_parts_add_up(seed, cut):
    scores, truth = answers(seed, 7)
    whole = counted(7, (scores, truth))
    first, second = (scores[:cut], truth[:cut]), (scores[cut:], truth[cut:])
    backwards = counted(7, second, first)
    merged = counted(7, first)
    merged.load_state(merged.state() + counted(7, second).state())
    for other in (backwards, merged):
        assert torch.equal(other.state(), whole.state())
        assert other.compute() == whole.compute()


@given(seeds, st.integers(2, 9))
@quick
def test_perfect_answers_give_1(seed, classes):
    scores, _ = answers(seed, classes)
    assert set(counted(classes, (scores, scores.argmax(1))).compute().values()) == {1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("labels", [torch.uint8, torch.int32])
def test_any_precision(dtype, labels):
    scores, truth = answers(1, 6, ties=True)
    found = counted(6, (scores.to(dtype).requires_grad_(), truth.to(labels)))
    assert found.compute() == counted(6, (scores, truth)).compute()


def test_what_is_handed_over_is_a_copy():
    metric = counted(3, answers(0, 3))
    before, state = metric.compute(), metric.state()
    metric.load_state(state)
    for table in (state, metric.state(), metric.confusion):
        table.zero_()
    assert metric.compute() == before


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2).long(), r"outputs of shape \(2, 3\): expected .* = \(2, 4\)"),
        (torch.zeros(3, 4), torch.zeros(2).long(), r"outputs of shape \(3, 4\): expected .* = \(2, 4\)"),
        (torch.zeros(2, 4).long(), torch.zeros(2).long(), "outputs of type torch.int64: must be floating-point"),
        (torch.tensor([[0, 0, float("nan"), 0]]), torch.tensor([2]), "outputs hold NaN"),
        (torch.zeros(2, 4), torch.zeros(2, 1).long(), r"targets of shape \(2, 1\): expected \(N,\)"),
        (torch.zeros(2, 4), torch.zeros(2), "targets of type torch.float32: must be integers"),
        (torch.zeros(2, 4), torch.tensor([0, 4]), "targets has 4: must be 0 to 3"),
        (torch.zeros(2, 4), torch.tensor([-1, 0]), "targets has -1: must be 0 to 3"),
    ],
)
def test_bad_batches(scores, truth, message):
    metric = Accuracy(4)
    with pytest.raises(ValueError, match=message):
        metric.update(scores, truth)
    assert not metric.state().any()


def test_other_mistakes():
    with pytest.raises(ValueError, match="num_classes=1: must be at least 2"):
        Accuracy(1)
    with pytest.raises(ValueError, match="no picture was counted"):
        Accuracy(3).compute()
    with pytest.raises(ValueError, match=r"state of shape \(3, 4\) and type torch.int64: must be .* \(4, 5\)"):
        Accuracy(4).load_state(Accuracy(3).state())
    with pytest.raises(ValueError, match=r"type torch\.float32"):
        Accuracy(3).load_state(Accuracy(3).state().float())

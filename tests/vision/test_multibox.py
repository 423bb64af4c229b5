import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.multibox import multibox_loss


def make(pictures=2, priors=9, classes=4, *, positives=None, seed=0, dtype=torch.float64):
    """Random predictions and targets; ``positives`` of each picture."""
    generator = torch.Generator().manual_seed(seed)
    confidences = 2 * torch.randn(pictures, priors, classes, generator=generator, dtype=torch.float64)
    locations, offsets = 2 * torch.randn(2, pictures, priors, 4, generator=generator, dtype=torch.float64)
    labels = torch.zeros(pictures, priors, dtype=torch.int64)
    for i, count in enumerate(positives or [2] * pictures):
        where = torch.randperm(priors, generator=generator)[:count]
        labels[i, where] = torch.randint(1, classes, (count,), generator=generator)
    return confidences.to(dtype), locations.to(dtype), labels, offsets.to(dtype)


def naive(confidences, locations, labels, offsets, negatives):
    box = category = 0.0
    total = 0
    for logits, moved, answers, wanted in zip(
        *(x.tolist() for x in (confidences, locations, labels, offsets)), strict=True
    ):
        background, positives = [], 0
        for p, answer in enumerate(answers):
            loss = math.log(sum(math.exp(z) for z in logits[p])) - logits[p][answer]
            if answer == 0:
                background.append(loss)
                continue
            positives += 1
            category += loss
            for have, want in zip(moved[p], wanted[p], strict=True):
                error = abs(have - want)
                box += error**2 / 2 if error < 1 else error - 0.5
        total += positives
        category += sum(sorted(background, reverse=True)[: negatives * max(1, positives)])
    return box / max(1, total), category / max(1, total)


@given(
    positives=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    negatives=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_loss_equals_the_loop(positives, negatives, seed):
    inputs = make(len(positives), positives=positives, seed=seed)
    found = multibox_loss(*inputs, negatives=negatives)
    assert [x.item() for x in found] == pytest.approx(naive(*inputs, negatives))


@pytest.mark.parametrize("positives", [(2, 0), (3, 9)], ids=["one picture empty", "too few negatives"])
def test_gradients(positives):
    confidences, locations, labels, offsets = make(positives=positives)
    confidences.requires_grad_()
    locations.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, x: multibox_loss(c, x, labels, offsets), (confidences, locations))


def test_a_batch_without_objects_learns_from_its_three_hardest_priors():
    confidences, locations, labels, offsets = make(1, positives=[0])
    confidences.requires_grad_()
    locations.requires_grad_()
    box, category = multibox_loss(confidences, locations, labels, offsets)
    (box + category).backward()
    assert box.item() == 0
    assert category.item() > 0
    assert not locations.grad.any()
    learnt = confidences.grad[0].abs().sum(dim=1) > 0
    certainty = confidences[0].softmax(dim=1)[:, 0]
    assert set(learnt.nonzero().flatten().tolist()) == set(certainty.argsort()[:3].tolist())


def test_half_precision_is_computed_in_single():
    inputs = make(dtype=torch.float64)
    halves = [x.bfloat16() if x.is_floating_point() else x for x in inputs]
    found = multibox_loss(*halves)
    expected = multibox_loss(*(x.double() if x.is_floating_point() else x for x in halves))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)

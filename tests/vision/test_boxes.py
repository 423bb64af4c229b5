import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.boxes import decode, encode, iou, make_priors, match, nms_mask, to_centres, to_corners

GOLDEN = Path(__file__).parent / "golden"
MAPS = {300: (38, 19, 10, 5, 3, 1), 512: (64, 32, 16, 8, 4, 1)}
quick = settings(max_examples=60)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "boxes_ssd300.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def golden_priors():
    with np.load(GOLDEN / "priors_300.npz", allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["priors"])


def map_sizes(height, width):
    """Sizes of the maps of five halvings after the first two, each rounded up, and of one cell."""
    sizes, here = [], (height, width)
    for level in range(1, 8):
        here = tuple(math.ceil(side / 2) for side in here)
        if level >= 3:
            sizes.append(here)
    return [*sizes, (1, 1)]


def corner_boxes(draw, count, side=20):
    """Random boxes on a grid, so that overlaps are quotients of small integers."""
    corner, extent = st.integers(0, side - 1), st.integers(1, side)
    boxes = []
    for _ in range(count):
        x, y = draw(corner), draw(corner)
        boxes.append((x, y, min(side, x + draw(extent)), min(side, y + draw(extent))))
    return boxes


def cells(box):
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def overlap(one, other):
    one, other = cells(one), cells(other)
    return len(one & other) / len(one | other)


# --- forms and overlap


@given(st.data())
@quick
def test_iou_counts_common_cells(data):
    boxes = corner_boxes(data.draw, data.draw(st.integers(1, 4)), side=8)
    others = corner_boxes(data.draw, data.draw(st.integers(1, 4)), side=8)
    expected = [[overlap(one, other) for other in others] for one in boxes]
    torch.testing.assert_close(iou(torch.tensor(boxes).float(), torch.tensor(others).float()), torch.tensor(expected))


def test_iou_broadcasts_over_leading_dimensions():
    boxes = torch.rand(3, 2, 5, 4).sort(dim=-1).values
    others = torch.rand(2, 6, 4).sort(dim=-1).values
    found = iou(boxes, others)
    assert found.shape == (3, 2, 5, 6)
    torch.testing.assert_close(found[2, 1], iou(boxes[2, 1], others[1]))


def test_iou_of_empty_boxes_is_0():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert iou(point, point).item() == 0
    assert iou(point, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).item() == 0


@given(st.data())
@quick
def test_centre_form_and_back(data):
    boxes = torch.tensor(corner_boxes(data.draw, 5)).float()
    centres = to_centres(boxes)
    assert torch.equal(centres[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2)
    assert torch.equal(centres[:, 2:], boxes[:, 2:] - boxes[:, :2])
    assert torch.equal(to_corners(centres), boxes)


# --- priors


def naive_priors(height, width):
    short = min(height, width)
    low, high = math.ceil(round(0.1 * short, 9)), math.ceil(round(1.05 * short, 9))
    sizes = [int(round(low + i * (high - low) / 6, 9)) for i in range(7)]
    priors = []
    for level, (rows, columns) in enumerate(map_sizes(height, width)):
        small, large = sizes[level], sizes[level + 1]
        stride_y = min(2 ** (level + 3), height) if level < 4 else height / rows
        stride_x = min(2 ** (level + 3), width) if level < 4 else width / columns
        for i in range(rows):
            for j in range(columns):
                shapes = [(small, small), (math.sqrt(small * large), math.sqrt(small * large))]
                for ratio in (2, 3):
                    shapes.append((small * math.sqrt(ratio), small / math.sqrt(ratio)))
                    shapes.append((small / math.sqrt(ratio), small * math.sqrt(ratio)))
                for w, h in shapes:
                    prior = ((j + 0.5) * stride_x / width, (i + 0.5) * stride_y / height, w / width, h / height)
                    priors.append([min(1.0, max(0.0, value)) for value in prior])
    return torch.tensor(priors)


def test_priors_of_the_published_detector(golden_priors):
    priors = make_priors((300, 300), [(side, side) for side in MAPS[300]])
    assert priors.dtype == torch.float32
    torch.testing.assert_close(priors, golden_priors, rtol=0, atol=2e-7)


def test_number_of_priors_at_512():
    assert make_priors((512, 512), [(side, side) for side in MAPS[512]]).shape == (32742, 4)


@pytest.mark.parametrize("size", [(512, 512), (300, 480), (65, 97), (32, 32), (320, 40)], ids=str)
def test_priors_of_every_size_follow_the_definition(size):
    torch.testing.assert_close(make_priors(size, map_sizes(*size)), naive_priors(*size), rtol=0, atol=1e-6)


def test_priors_are_square_in_pixels():
    priors = make_priors((200, 400), map_sizes(200, 400))[0]
    assert (priors[2:] * torch.tensor([400.0, 200.0])).tolist() == pytest.approx([20, 20])


def test_priors_need_six_maps():
    with pytest.raises(ValueError, match=r"maps=\[\(38, 38\)\]: expected .* 6 maps"):
        make_priors((300, 300), [(38, 38)])


# --- offsets


def test_decoding_of_the_published_detector(golden):
    boxes = decode(golden["decode_loc"], golden["decode_priors"])
    torch.testing.assert_close(boxes, golden["decode_center_boxes"], rtol=0, atol=1e-6)


@given(st.data())
@quick
def test_decode_inverts_encode(data):
    boxes = to_centres(torch.tensor(corner_boxes(data.draw, 6)).double() / 20)
    priors = to_centres(torch.tensor(corner_boxes(data.draw, 6)).double() / 20)
    torch.testing.assert_close(decode(encode(boxes, priors), priors), boxes)


# --- matching


def test_matching_of_the_published_detector(golden, golden_priors):
    threshold = golden["iou_threshold"].item()
    labels, offsets = match(golden["gt_corner"], golden["gt_labels"], golden_priors, threshold)
    positive = labels.nonzero().squeeze(1)
    assert torch.equal(positive, golden["positive_prior_index"])
    assert torch.equal(labels[positive], golden["positive_labels"])
    torch.testing.assert_close(offsets[positive], golden["positive_locations"], rtol=1e-5, atol=1e-5)


def naive_match(boxes, priors, threshold):
    """Index of the object of each prior, or None."""
    best = [max(range(len(priors)), key=lambda p: overlap(box, priors[p])) for box in boxes]
    owners = []
    for p, prior in enumerate(priors):
        wanted_by = [i for i in range(len(boxes)) if best[i] == p]
        among = wanted_by or range(len(boxes))
        owner = max(among, key=lambda i: overlap(boxes[i], prior))
        owners.append(owner if wanted_by or overlap(boxes[owner], prior) >= threshold else None)
    return owners


@given(st.data())
@quick
def test_match_equals_the_loop(data):
    boxes = corner_boxes(data.draw, data.draw(st.integers(1, 4)), side=8)
    priors = corner_boxes(data.draw, data.draw(st.integers(1, 9)), side=8)
    threshold = data.draw(st.sampled_from([0.2, 0.45, 0.5]))
    prior_centres = to_centres(torch.tensor(priors).float() / 8)
    labels, offsets = match(torch.tensor(boxes).float() / 8, torch.arange(1, 1 + len(boxes)), prior_centres, threshold)
    for p, owner in enumerate(naive_match(boxes, priors, threshold)):
        if owner is None:
            assert labels[p] == 0
            assert not offsets[p].any()
            continue
        # Where several objects overlap a prior equally, either may have it.
        chosen = int(labels[p]) - 1
        assert overlap(boxes[chosen], priors[p]) == overlap(boxes[owner], priors[p])
        expected = encode(to_centres(torch.tensor(boxes[chosen]).float() / 8), prior_centres[p])
        torch.testing.assert_close(offsets[p], expected)


def test_every_object_keeps_its_best_prior_however_small(golden_priors):
    boxes = torch.tensor([[0.1, 0.1, 0.101, 0.102], [0.7, 0.3, 0.703, 0.301]])
    labels, _ = match(boxes, torch.tensor([3, 5]), golden_priors)
    assert labels[labels > 0].tolist() == [3, 5]


def test_without_objects_all_is_background(golden_priors):
    labels, offsets = match(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), golden_priors)
    assert labels.shape == golden_priors.shape[:1]
    assert labels.dtype == torch.int64
    assert not labels.any()
    assert offsets.shape == golden_priors.shape
    assert not offsets.any()


# --- suppression


def naive_nms(boxes, valid, threshold):
    kept = []
    for i in range(len(boxes)):
        if valid[i] and all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@given(st.data())
@quick
def test_nms_equals_the_greedy_loop(data):
    classes, ranks = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 7))
    boxes = [corner_boxes(data.draw, ranks, side=6) for _ in range(classes)]
    valid = data.draw(
        st.lists(st.lists(st.booleans(), min_size=ranks, max_size=ranks), min_size=classes, max_size=classes)
    )
    threshold = data.draw(st.sampled_from([0.0, 0.25, 1 / 3, 0.45, 1.0]))
    expected = [naive_nms(one, ok, threshold) for one, ok in zip(boxes, valid, strict=True)]
    assert nms_mask(torch.tensor(boxes).float(), torch.tensor(valid), threshold).tolist() == expected


@pytest.mark.parametrize("count", [2, 3, 50, 51])
def test_a_chain_of_boxes_is_suppressed_alternately(count):
    start = torch.arange(count).float()
    boxes = torch.stack([start, torch.zeros(count), start + 2, torch.ones(count)], dim=1)
    assert nms_mask(boxes, torch.ones(count, dtype=torch.bool), 0.3).tolist() == [i % 2 == 0 for i in range(count)]


def test_classes_and_pictures_do_not_suppress_each_other():
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 30, 3, 4)
    valid = torch.ones(2, 30, 3, dtype=torch.bool)
    valid[1, 4:] = False
    kept = nms_mask(boxes, valid)
    assert torch.equal(kept[..., 0], valid[..., 0])
    assert not kept[..., 1:].any()


def test_what_stays_of_many_classes_equals_each_class_alone():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 30, 2, generator=generator)
    boxes = torch.cat([boxes, boxes + 0.1 + 0.3 * torch.rand(40, 30, 2, generator=generator)], dim=-1)
    valid = torch.rand(40, 30, generator=generator) > 0.3
    kept = nms_mask(boxes, valid)
    assert torch.equal(kept, torch.stack([nms_mask(b, v) for b, v in zip(boxes, valid, strict=True)]))
    overlaps = iou(boxes, boxes) > 0.45
    below = torch.ones(30, 30, dtype=torch.bool).triu(1)
    suppressed = (overlaps & kept.unsqueeze(-1) & below).any(dim=1)
    assert torch.equal(kept, valid & ~suppressed)


@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 5)], ids=str)
def test_nms_of_nothing(shape):
    assert nms_mask(torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool)).shape == shape


def test_nms_is_an_operator_of_torch():
    boxes = torch.rand(3, 5, 4).sort(dim=-1).values
    torch.library.opcheck(torch.ops.eru.nms_mask.default, (boxes, torch.ones(3, 5, dtype=torch.bool), 0.45))

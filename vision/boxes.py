"""Boxes: their two forms, overlap, the priors of a single-shot detector, and greedy suppression.

Everything is relative to the picture: x and y run from 0 to 1. Corner form is (x1, y1, x2, y2), centre form
(cx, cy, width, height). Priors and matching are those of SSD (arXiv 1512.02325), section 2.2, with the sizes of the
published ESPNetv2 detectors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BOXES_PER_CELL = 6
_VARIANCES = (0.1, 0.2)


def to_corners(boxes: Tensor) -> Tensor:
    """Corner form of boxes (..., 4) in centre form."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(boxes: Tensor) -> Tensor:
    """Centre form of boxes (..., 4) in corner form."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (..., n, m) of boxes (..., n, 4) with others (..., m, 4), all in corner form.

    That of two empty boxes is 0.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.6, 0.6, 1.0, 1.0]]))
        tensor([[0.5000, 0.0000]])
    """
    left, top, right, bottom = boxes.unsqueeze(-2).unbind(-1)
    left_, top_, right_, bottom_ = others.unsqueeze(-3).unbind(-1)
    width = (torch.minimum(right, right_) - torch.maximum(left, left_)).clamp(min=0)
    height = (torch.minimum(bottom, bottom_) - torch.maximum(top, top_)).clamp(min=0)
    shared = width * height
    union = (right - left) * (bottom - top) + (right_ - left_) * (bottom_ - top_) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def make_priors(
    size: tuple[int, int], maps: Sequence[tuple[int, int]], *, device: torch.device | str | None = None
) -> Tensor:
    r"""Prior boxes (P, 4) of six maps, cell by cell in rows, six a cell, in centre form and clamped to the picture.

    Seven sizes in pixels go evenly from a tenth of the picture's shorter side S to 1.05 S; map l has, between sizes a
    and b of its own and the next, squares of sides :math:`a` and :math:`\sqrt{a b}`, and for r = 2, 3 boxes of
    :math:`a\sqrt r \times a/\sqrt r` and :math:`a/\sqrt r \times a\sqrt r` pixels. The cells of the first four maps
    are 8, 16, 32 and 64 pixels wide (at most the picture); those of the last two divide the picture evenly.

    Args:
        size: Height and width of the picture in pixels.
        maps: Height and width of each map; ``ValueError`` where there are not six.
        device: Device of the priors.

    Example:
        >>> make_priors((300, 300), [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]).shape
        torch.Size([11640, 4])
    """
    strides = (8, 16, 32, 64, None, None)
    if len(maps) != len(strides):
        raise ValueError(f"maps={list(maps)}: expected height and width of each of {len(strides)} maps")
    height, width = size
    # In integers, so that rounding up a product such as 0.1 * 30 cannot go wrong by one.
    low, high = -(-min(size) // 10), -(-21 * min(size) // 20)
    sides = [low + (high - low) * i // 6 for i in range(7)]
    priors = []
    for (rows, columns), stride, side, following in zip(maps, strides, sides[:-1], sides[1:], strict=True):
        step_y = min(stride / height, 1) if stride else 1 / rows
        step_x = min(stride / width, 1) if stride else 1 / columns
        y, x = torch.meshgrid(
            (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * step_y,
            (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * step_x,
            indexing="ij",
        )
        boxes = [(side, side), (math.sqrt(side * following),) * 2]
        for root in (math.sqrt(2), math.sqrt(3)):
            boxes += [(side * root, side / root), (side / root, side * root)]
        shapes = torch.tensor(boxes, dtype=torch.float32, device=device) / torch.tensor((width, height), device=device)
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, BOXES_PER_CELL, -1)
        priors.append(torch.cat([centres, shapes.expand_as(centres)], dim=-1).flatten(0, 1))
    return torch.cat(priors).clamp(0, 1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    r"""Offsets that turn priors into boxes: :math:`(c - c_p) / (0.1\, s_p)` and :math:`\ln(s / s_p) / 0.2`.

    Both are (..., 4) in centre form, with centres c and sizes s, which are positive.
    """
    centre, size = boxes.split(2, dim=-1)
    prior_centre, prior_size = priors.split(2, dim=-1)
    shift, growth = _VARIANCES
    return torch.cat([(centre - prior_centre) / prior_size / shift, (size / prior_size).log() / growth], dim=-1)


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """The boxes, in centre form, into which offsets turn priors: the inverse of :func:`encode`."""
    move, stretch = offsets.split(2, dim=-1)
    prior_centre, prior_size = priors.split(2, dim=-1)
    shift, growth = _VARIANCES
    return torch.cat([prior_centre + move * shift * prior_size, prior_size * (stretch * growth).exp()], dim=-1)


def match(boxes: Tensor, labels: Tensor, priors: Tensor, threshold: float = 0.45) -> tuple[Tensor, Tensor]:
    """What every prior shall answer for one picture: a label, and offsets to the object it overlaps most.

    A prior belongs to an object if they overlap by ``threshold`` or if no other prior overlaps that object more; where
    it is the best of several objects, it goes to the one it overlaps most.

    Args:
        boxes: (n, 4) in corner form, of positive size; n may be 0.
        labels: (n,), 1 or more.
        priors: (P, 4) in centre form.
        threshold: The least intersection over union.

    Returns:
        Labels (P,), 0 for the background, and offsets (P, 4), 0 there.

    Example:
        >>> priors = torch.tensor([[0.25, 0.5, 0.4, 0.9], [0.75, 0.5, 0.4, 0.9]])
        >>> match(torch.tensor([[0.5, 0.1, 1.0, 0.9]]), torch.tensor([7]), priors)[0]
        tensor([0, 7])
    """
    if len(boxes) == 0:
        return labels.new_zeros(len(priors)), torch.zeros_like(priors)
    overlaps = iou(boxes, to_corners(priors))
    best = overlaps.argmax(dim=1, keepdim=True)
    # Above every overlap, yet still in the order of the overlaps.
    overlaps = overlaps.scatter(1, best, overlaps.gather(1, best) + 2)
    overlap, owner = overlaps.max(dim=0)
    positive = overlap >= threshold
    offsets = encode(to_centres(boxes)[owner], priors)
    return labels[owner] * positive, torch.where(positive.unsqueeze(-1), offsets, 0)


@torch.library.custom_op("eru::nms_mask", mutates_args=())
def _nms_mask(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Suppress within the classes and ranks that are valid anywhere, which are few as a rule."""
    at_once = 8 if boxes.device.type == "cpu" else 256  # classes; a CPU's cache holds the overlaps of 8
    keep = torch.zeros_like(valid)
    ranks = valid.any(dim=0).nonzero().squeeze(-1)
    for rows in valid.any(dim=1).nonzero().squeeze(-1).split(at_once):
        where = (rows.unsqueeze(-1), ranks)
        candidates, eligible = boxes[where], valid[where].float()
        suppresses = (iou(candidates, candidates) > threshold).triu(1).float()
        # A box stays unless a better one that stays suppresses it: after i rounds the first i answers are final.
        kept, before = eligible, torch.zeros_like(eligible)
        while not torch.equal(kept, before):
            before = kept
            hit = torch.matmul(before.unsqueeze(-2), suppresses).squeeze(-2)
            kept = eligible * (hit == 0)
        keep[where] = kept.bool()
    return keep


@_nms_mask.register_fake
def _(boxes, valid, threshold):  # noqa: ANN001, ANN202
    return torch.empty_like(valid)


def nms_mask(boxes: Tensor, valid: Tensor, threshold: float = 0.45) -> Tensor:
    """Greedy non-maximum suppression of many classes at once: which boxes stay, (..., k), bool.

    Going down the ranks, a box is dropped if a box that stays, of its class and better, overlaps it by more than
    ``threshold``. One operator of torch's library, ``eru::nms_mask``, for ``torch.compile`` and ``torch.export``.

    Args:
        boxes: (..., k, 4) in corner form, the best of each class first.
        valid: (..., k), bool: boxes that are not are dropped and suppress none.
        threshold: The largest intersection over union at which both boxes stay.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9], [0.5, 0.5, 1.0, 1.0]])
        >>> nms_mask(boxes, torch.ones(3, dtype=torch.bool))
        tensor([ True, False,  True])
    """
    *classes, ranks = valid.shape
    rows = math.prod(classes)
    kept = _nms_mask(boxes.detach().reshape(rows, ranks, 4), valid.reshape(rows, ranks), threshold)
    return kept.view(valid.shape)

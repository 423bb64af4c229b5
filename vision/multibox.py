"""The training of a single-shot detector: its targets, checked, and its loss with hard negative mining."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SLACK = 0.01  # pixels by which float32 arithmetic may have moved a box out of its picture


def check_targets(
    targets: Sequence[Mapping[str, Tensor]] | None, sizes: list[tuple[int, int]], num_classes: int
) -> None:
    """Check the objects of a batch of images: a wrong box would otherwise only show as a loss that is not finite.

    Args:
        targets: For each image ``"boxes"`` (n, 4), corners in pixels, and ``"labels"`` (n,), integers from 1.
        sizes: Height and width of each image.
        num_classes: How many classes there are, the background included.

    Raises:
        ValueError: There is not one target for each image, or one is wrong; the message names it and what is wrong.
        TypeError: A target is no dictionary of tensors.
    """
    if isinstance(targets, Mapping):
        raise TypeError("targets of type dict: must be a list with a dictionary for each image")
    if targets is None or len(targets) != len(sizes):
        given = None if targets is None else f"{len(targets)} of them"
        raise ValueError(f"targets={given}: in training there must be one for each of the {len(sizes)} images")
    for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        _check_target(f"targets[{i}]", target, size, num_classes)


def _check_target(name: str, target: Mapping[str, Tensor], size: tuple[int, int], num_classes: int) -> None:
    if not isinstance(target, Mapping):
        raise TypeError(
            f"{name} of type {type(target).__name__}: must be a dictionary with the tensors boxes and labels"
        )
    if missing := [key for key in ("boxes", "labels") if key not in target]:
        raise ValueError(f"{name} holds no tensor {' and no tensor '.join(missing)}, only {sorted(target)}")
    for key, shape in (("boxes", "(n, 4)"), ("labels", "(n,)")):
        if not isinstance(target[key], Tensor):
            kind = type(target[key]).__name__
            raise TypeError(f'{name}["{key}"] of type {kind}: must be a tensor {shape}; torch.as_tensor makes one')
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f'{name}["boxes"] of shape {tuple(boxes.shape)}: expected (n, 4)')
    if labels.shape != boxes.shape[:1]:
        raise ValueError(
            f'{name}["labels"] of shape {tuple(labels.shape)}: expected ({len(boxes)},), as many as boxes'
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f'{name}["labels"] of type {labels.dtype}: must be integers')
    height, width = size
    low, high = boxes.float().split(2, dim=1)
    limit = high.new_tensor([width, height])
    # The comparisons say what a good box fulfils, so a NaN fails them.
    good = ((low >= -_SLACK) & (low < high) & (high <= limit + _SLACK)).all(dim=1)
    if not good.all():
        raise ValueError(
            f'{name}["boxes"] has {boxes[~good][0].tolist()}: '
            f"must be x1, y1, x2, y2 with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
        )
    good = (labels > 0) & (labels < num_classes)
    if not good.all():
        raise ValueError(f'{name}["labels"] has {labels[~good][0].item()}: must be 1 to {num_classes - 1}')


def multibox_loss(
    confidences: Tensor, locations: Tensor, labels: Tensor, offsets: Tensor, *, negatives: float = 3.0
) -> tuple[Tensor, Tensor]:
    r"""Losses of where the objects are and of what they are.

    .. math::
        L_\mathrm{box} = \frac1M \sum_{i \in \mathrm{pos}} \mathrm{smooth}_{L1}(l_i - \hat l_i), \quad
        L_\mathrm{class} = -\frac1M \Bigl(\sum_{i \in \mathrm{pos}} \ln p_i(y_i) + \sum_{i \in \mathrm{hard}}
        \ln p_i(0)\Bigr)

    M is the number of positive priors in the batch, at least 1. Hard are, in each picture, the background priors of
    the largest loss: ``negatives`` for every positive one. A picture without a positive prior counts as having one
    here, so that pictures without objects still teach what is background. Computed in float32 at least.

    Args:
        confidences: (N, P, C), logits; class 0 is the background.
        locations: (N, P, 4), predicted offsets.
        labels: (N, P), int64, of :func:`vision.boxes.match`.
        offsets: (N, P, 4), those of :func:`vision.boxes.match`.
        negatives: Hard negatives for every positive prior.

    Returns:
        The losses of boxes and classes, scalars.

    Source:
        SSD (arXiv 1512.02325), section 2.2.

    Example:
        >>> labels = torch.tensor([[1, 0, 0]])
        >>> box, category = multibox_loss(torch.zeros(1, 3, 2), torch.ones(1, 3, 4), labels, torch.zeros(1, 3, 4))
        >>> round(box.item(), 3), round(category.item(), 3)
        (2.0, 2.079)
    """
    precision = torch.promote_types(confidences.dtype, torch.float32)
    confidences, locations, offsets = (x.to(precision) for x in (confidences, locations, offsets))
    positive = labels > 0
    positives = positive.sum(dim=1, keepdim=True)  # (N, 1)
    total = positives.sum().clamp(min=1)

    box = F.smooth_l1_loss(locations, offsets, reduction="none").sum(dim=-1)
    category = F.cross_entropy(confidences.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    # No loss is below 0, so the zeros of positive priors rank last and add nothing where all negatives are taken.
    hardest = category.masked_fill(positive, 0).sort(dim=1, descending=True).values
    mined = torch.arange(labels.shape[1], device=labels.device) < negatives * positives.clamp(min=1)
    return (box * positive).sum() / total, ((category * positive).sum() + (hardest * mined).sum()) / total

"""The loss of a single-shot detector, with hard negative mining."""

import torch
import torch.nn.functional as F
from torch import Tensor


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

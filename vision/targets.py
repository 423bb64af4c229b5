"""What a detector is trained on, checked: a wrong box would else only show as a loss that is not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_SLACK = 0.01  # pixels by which float32 arithmetic may have moved a box out of its picture


def check_targets(
    targets: Sequence[Mapping[str, Tensor]] | None, sizes: list[tuple[int, int]], num_classes: int
) -> None:
    """Check the objects of a batch of images.

    Args:
        targets: For each image ``"boxes"`` (n, 4), corners in pixels, and ``"labels"`` (n,), integers from 1.
        sizes: Height and width of each image.
        num_classes: How many classes there are, the background included.

    Raises:
        ValueError: There is not one target for each image, or one is wrong; the message names it and what is wrong.

    Example:
        >>> check_targets([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}], [(64, 64)], 3)
    """
    if targets is None or len(targets) != len(sizes):
        given = None if targets is None else f"{len(targets)} of them"
        raise ValueError(f"targets={given}: in training there must be one for each of the {len(sizes)} images")
    for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        _check_target(f"targets[{i}]", target, size, num_classes)


def _check_target(name: str, target: Mapping[str, Tensor], size: tuple[int, int], num_classes: int) -> None:
    missing = [key for key in ("boxes", "labels") if not isinstance(target.get(key), Tensor)]
    if missing:
        raise ValueError(f"{name} holds no tensor {' and no tensor '.join(missing)}, only {sorted(target)}")
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
    # Comparisons that hold, so that a NaN fails them.
    good = ((low >= -_SLACK) & (low < high) & (high <= limit + _SLACK)).all(dim=1)
    if not good.all():
        raise ValueError(
            f'{name}["boxes"] has {boxes[~good][0].tolist()}: '
            f"must be x1, y1, x2, y2 with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
        )
    good = (labels > 0) & (labels < num_classes)
    if not good.all():
        raise ValueError(f'{name}["labels"] has {labels[~good][0].item()}: must be 1 to {num_classes - 1}')

"""What one step hands to the next besides the weights: tensors in lists and tuples, cut up and put together.

The second dimension of every tensor is the batch, or this process's part of it, as of the states of an LSTM.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def joined(parts: Sequence[Any]) -> Any:
    """The whole of which these are the parts.

    Example:
        >>> joined([(torch.zeros(1, 2), None), (torch.ones(1, 1), None)])
        (tensor([[0., 0., 1.]]), None)
    """
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts), dim=1)
    if isinstance(parts[0], list | tuple):
        return type(parts[0])(map(joined, zip(*parts, strict=True)))
    return parts[0]


def part_of(carried: Any, number: int, count: int) -> Any:
    """One of so many equal parts.

    Example:
        >>> part_of([torch.arange(4).view(1, 4)], number=1, count=2)
        [tensor([[2, 3]])]
    """
    if isinstance(carried, Tensor):
        return carried.chunk(count, dim=1)[number].contiguous()
    if isinstance(carried, list | tuple):
        return type(carried)(part_of(inner, number, count) for inner in carried)
    return carried


def moved(carried: Any, device: torch.device | str) -> Any:
    """The same with its tensors on a device."""
    if isinstance(carried, list | tuple):
        return type(carried)(moved(inner, device) for inner in carried)
    return carried.to(device) if isinstance(carried, Tensor) else carried

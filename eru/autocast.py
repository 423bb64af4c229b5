"""Autocast, asked what it does to a tensor and switched off around code that chooses its own types."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which products of ``x`` are computed here: autocast's where it is on, else its own.

    Autocast leaves float64 alone, and the meta device knows none.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     product_dtype(torch.zeros(1)), product_dtype(torch.zeros(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    kind = x.device.type
    if kind != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the ``with`` block on the device of ``x``.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(x):
        ...     (x @ x).dtype
        torch.float32
    """
    kind = x.device.type
    # Where nothing is on there is nothing to switch: the switch itself takes as long as an operator, and a file of
    # torch.export cannot hold it.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)

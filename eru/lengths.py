"""Padded sequences (T, B, features), each of which ends where its own length says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eru.tracing import is_transformed


def check_lengths(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    """The lengths (B,) as a tensor on the device of x (T, B, features).

    Example:
        >>> check_lengths([2, 4], torch.zeros(3, 2, 1))
        Traceback (most recent call last):
        ...
        ValueError: lengths=[2, 4]: each must be from 1 to the number of steps, 3
    """
    steps, batch, _ = x.shape
    given = torch.as_tensor(lengths)
    if given.is_floating_point() or given.dtype == torch.bool:
        raise ValueError(f"lengths of type {given.dtype}: must be whole numbers")
    lengths = given.to(x.device, torch.int64)
    if lengths.shape != (batch,):
        raise ValueError(f"lengths of shape {tuple(lengths.shape)}: expected ({batch},), one a sequence")
    # Neither a compiler nor vmap lets anyone look at values.
    if torch.compiler.is_compiling() or is_transformed() or lengths.is_meta:
        return lengths
    if bool(((lengths < 1) | (lengths > steps)).any()):
        raise ValueError(f"lengths={lengths.tolist()}: each must be from 1 to the number of steps, {steps}")
    return lengths


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """X with zeros behind each end: padding may hold anything, NaN too, and must reach no output and no gradient.

    Example:
        >>> without_padding(torch.ones(3, 2, 1), torch.tensor([1, 3])).squeeze(2).T
        tensor([[1., 0., 0.],
                [1., 1., 1.]])
    """
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x.masked_fill((steps >= lengths).unsqueeze(2), 0)


def flip(x: Tensor, lengths: Tensor | None) -> Tensor:
    """X reversed in time, each sequence within its own length.

    Example:
        >>> flip(torch.arange(1.0, 7).view(3, 2, 1), torch.tensor([2, 3])).squeeze(2).T
        tensor([[3., 1., 5.],
                [6., 4., 2.]])
    """
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, index.unsqueeze(-1).expand_as(x))

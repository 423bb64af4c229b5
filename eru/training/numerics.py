"""The precision of the arithmetic, and the check that stops a run before it saves broken weights over good ones."""

import math
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from torch import nn

Precision = Literal["float32", "bfloat16"]


class NonFiniteLossError(ValueError):
    """The loss of a training, or its gradient, became NaN or infinite."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Compute the ``with`` block in ``"float32"``, or in ``"bfloat16"``: products in that, everything else in float32.

    Raises:
        ValueError: There is no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: must be one of {', '.join(get_args(Precision))}")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def check_finite(loss: float, step: int, place: str = "") -> None:
    """Stop the run if its loss at a step is NaN or infinite, before a checkpoint is overwritten.

    Args:
        loss: The loss.
        step: The number of the step in the whole training.
        place: What else is known of where it happened.

    Raises:
        NonFiniteLossError: The loss is not finite.

    Example:
        >>> check_finite(5.1, step=50)
        >>> check_finite(float("nan"), step=100)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        eru.training.numerics.NonFiniteLossError: the loss is nan at step 100: lower the learning rate ...
    """
    if not math.isfinite(loss):
        advice = "lower the learning rate or train in float32"
        raise NonFiniteLossError(f"the loss is {loss} at step {step}{place and f' ({place})'}: {advice}")


def first_broken(model: nn.Module) -> str | None:
    """The name of the first parameter whose gradient is not finite.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> model.bias.grad = torch.tensor([math.nan])
        >>> first_broken(model)
        'bias'
    """
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return next((name for name, grad in gradients if grad is not None and not grad.isfinite().all()), None)

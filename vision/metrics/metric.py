"""What all metrics have in common: how they are used, how they add up over processes, what they refuse."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """What is gathered batch by batch and becomes a few numbers at the end.

    The states of several processes, or of several parts of a data set, add up with ``+`` to that of all: they are
    tensors of whole numbers or lists.
    """

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch: what the model answered and what is right."""
        ...

    def compute(self) -> dict[str, float]:
        """The numbers, all from 0 to 1."""
        ...

    def state(self) -> Any:
        """A copy of what was gathered so far."""
        ...

    def load_state(self, state: Any) -> None:
        """Go on from a state, or from the sum of several."""
        ...


class Counts:
    """The part of a metric that counts: a table of whole numbers, on the CPU wherever the batches are.

    Args:
        rows, columns: The shape of the table.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._counts = torch.zeros(rows, columns, dtype=torch.int64)

    def state(self) -> Tensor:
        """A copy of the counts so far, int64; those of several processes add up."""
        return self._counts.clone()

    def load_state(self, state: Tensor) -> None:
        """Go on from these counts.

        Raises:
            ValueError: They are those of another metric or of another number of classes.
        """
        if state.shape != self._counts.shape or state.dtype != torch.int64:
            raise ValueError(
                f"state of shape {tuple(state.shape)} and type {state.dtype}: must be what state() gives, "
                f"{tuple(self._counts.shape)} and torch.int64"
            )
        self._counts = state.detach().cpu().clone()


def check_num_classes(num_classes: int, least: int, most: int | None = None) -> None:
    """Refuse a number of classes that is too small or too large.

    Raises:
        ValueError: It is.
    """
    if num_classes < least or (most is not None and num_classes > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"num_classes={num_classes}: must be {limits}")


def check_scores(scores: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse outputs that are no scores of that shape: a NaN would be ranked somewhere without a word.

    Raises:
        ValueError: They are of another shape, no floating-point numbers, or hold a NaN.
    """
    if tuple(scores.shape) != shape:
        raise ValueError(f"outputs of shape {tuple(scores.shape)}: expected {meaning} = {shape}")
    if not scores.is_floating_point():
        raise ValueError(f"outputs of type {scores.dtype}: must be floating-point scores")
    if scores.isnan().any():
        raise ValueError("outputs hold NaN: must be numbers, so the model has diverged or its input is broken")


def as_classes(name: str, labels: Tensor, num_classes: int, least: int = 0) -> Tensor:
    """Labels as int64, if they are classes.

    Raises:
        ValueError: They are no integers, or one is below ``least`` or not below ``num_classes``.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name} of type {labels.dtype}: must be integers")
    labels = labels.long()
    wrong = (labels < least) | (labels >= num_classes)
    if wrong.any():
        raise ValueError(f"{name} has {labels[wrong][0].item()}: must be {least} to {num_classes - 1}")
    return labels


def quotient(part: Tensor, whole: Tensor) -> Tensor:
    """Quotients in float64, 0 where the whole is 0, as the part is then too.

    Example:
        >>> quotient(torch.tensor([1, 0]), torch.tensor([4, 0]))
        tensor([0.2500, 0.0000], dtype=torch.float64)
    """
    return part.double() / whole.double().where(whole != 0, 1)

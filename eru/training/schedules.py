"""Learning-rate schedules: pure functions from the global step to a factor on the base learning rate.

Steps count from 0, the first update. A schedule keeps no state, so a resumed run is on it again by its step
alone.
"""

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "make_schedule", "warmup_cosine", "warmup_linear"]

Schedule = Callable[[int], float]
"""Global step (from 0) -> factor on the base learning rate, from 0 to 1."""


def constant(warmup: int = 0) -> Schedule:
    """Rise linearly over `warmup` steps, then stay at the base learning rate.

        factor(step) = min(1, (step + 1) / (warmup + 1))

    Args:
        warmup: Number of steps below the base learning rate, >= 0.

    Raises:
        ValueError: If `warmup` is negative.

    Example:
        >>> [constant()(step) for step in (0, 1000)]
        [1.0, 1.0]
    """
    _check_warmup(warmup)
    return lambda step: _warmup_factor(step, warmup)


def warmup_cosine(warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """Rise linearly over `warmup` steps, then fall along half a cosine to `floor` at step `total`.

        factor(step) = (step + 1) / (warmup + 1)                        for step <= warmup
                     = floor + (1 - floor) (1 + cos(pi p)) / 2          for warmup <= step <= total
                     = floor                                            for step >= total
        p = (step - warmup) / (total - warmup)

    Args:
        warmup: Number of steps below the base learning rate, from 0 to `total` - 1.
        total: Number of steps of the whole run, >= 1. The last update, step `total` - 1, is still above
            `floor`.
        floor: Last factor, from 0 to 1.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = warmup_cosine(warmup=1, total=5)
        >>> [round(schedule(step), 3) for step in range(6)]
        [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return _warmup_then(lambda progress: (1.0 + math.cos(math.pi * progress)) / 2.0, warmup, total, floor)


def warmup_linear(warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """Rise linearly over `warmup` steps, then fall linearly to `floor` at step `total`.

        factor(step) = (step + 1) / (warmup + 1)                        for step <= warmup
                     = floor + (1 - floor) (1 - p)                      for warmup <= step <= total
                     = floor                                            for step >= total
        p = (step - warmup) / (total - warmup)

    Args:
        warmup: Number of steps below the base learning rate, from 0 to `total` - 1.
        total: Number of steps of the whole run, >= 1. The last update, step `total` - 1, is still above
            `floor`.
        floor: Last factor, from 0 to 1.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> schedule = warmup_linear(warmup=1, total=5, floor=0.2)
        >>> [round(schedule(step), 3) for step in range(6)]
        [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """
    return _warmup_then(lambda progress: 1.0 - progress, warmup, total, floor)


def make_schedule(name: str, *, warmup: int, total: int, floor: float = 0.0) -> Schedule:
    """Make the schedule that a configuration names.

    Args:
        name: `"constant"` (which has no end, so `total` and `floor` do not matter), `"cosine"` or `"linear"`.
        warmup: As `warmup_cosine` takes it.
        total: As `warmup_cosine` takes it.
        floor: As `warmup_cosine` takes it.

    Raises:
        ValueError: If there is no such schedule or an argument is out of its range.

    Example:
        >>> make_schedule("cosine", warmup=10, total=100)(10)
        1.0
    """
    match name:
        case "constant":
            return constant(warmup)
        case "cosine":
            return warmup_cosine(warmup, total, floor)
        case "linear":
            return warmup_linear(warmup, total, floor)
        case _:
            raise ValueError(f"schedule must be 'constant', 'cosine' or 'linear', got {name!r}")


def _warmup_then(decay: Callable[[float], float], warmup: int, total: int, floor: float) -> Schedule:
    """The warm-up, then `decay` from 1 to 0 over the rest, scaled to end at `floor`."""
    _check_warmup(warmup)
    if total < 1:
        raise ValueError(f"total must be at least 1 step, got {total!r}")
    if warmup >= total:
        raise ValueError(f"warmup must be below total = {total}, got {warmup!r}")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor must be from 0 to 1, got {floor!r}")

    def factor(step: int) -> float:
        if step <= warmup:
            return _warmup_factor(step, warmup)
        progress = min(1.0, (step - warmup) / (total - warmup))
        return floor + (1.0 - floor) * decay(progress)

    return factor


def _check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warmup must be at least 0 steps, got {warmup!r}")


def _warmup_factor(step: int, warmup: int) -> float:
    """Above 0 already at step 0, so that the first batch is not wasted; 1 from step `warmup` on."""
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step!r}")
    return min(1.0, (step + 1) / (warmup + 1))

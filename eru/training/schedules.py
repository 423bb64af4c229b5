"""The learning-rate schedule, as a factor on the base learning rate."""

import math
from typing import Literal, get_args

Schedule = Literal["constant", "cosine", "linear", "drop"]


def schedule_factor(
    name: Schedule, step: int, total: int, *, warmup_steps: int = 0, hold: float = 0.0, floor: float = 0.0
) -> float:
    r"""The factor of a step on a schedule that rises linearly, then stays, or falls to ``floor`` after a while.

    With w steps of warm-up, n steps in all and :math:`v = w + h (n - w)`, the factor of step t is

    .. math::
        \min\Big(1, \frac{t + 1}{w + 1}\Big) \quad\text{while } t \le v, \qquad
        f + (1 - f)\, d\Big(\frac{t - v}{n - v}\Big) \quad\text{afterwards},

    where d(p) is 1 (constant), (1 + cos(pi p)) / 2 (cosine), 1 - p (linear) or 0 (drop). It is above 0 already at
    step 0, so that the first batch is not wasted, and it keeps no state, so a resumed run is on its schedule by its
    step alone.

    Args:
        name: ``"constant"``, ``"cosine"``, ``"linear"`` or ``"drop"``, which falls at once. A constant schedule has no
            end, so ``total``, ``hold`` and ``floor`` change nothing.
        step: The number of updates before this one.
        total: The number of updates in all, at least 1. A warm-up that is as long or longer is cut to end one step
            before the end.
        warmup_steps: The number of updates below the base learning rate.
        hold: h, the share of what follows the warm-up over which the base learning rate stays, from 0 to below 1.
        floor: The last factor f, from 0 to 1.

    Raises:
        ValueError: There is no such schedule, or a number is out of its range.

    Example:
        >>> [round(schedule_factor("cosine", step, 5, warmup_steps=1), 3) for step in range(6)]
        [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if name not in get_args(Schedule):
        raise ValueError(f"schedule={name!r}: must be one of {', '.join(get_args(Schedule))}")
    for field, value, least in (("step", step, 0), ("total", total, 1), ("warmup_steps", warmup_steps, 0)):
        if value < least:
            raise ValueError(f"{field}={value}: must be at least {least}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor}: must be from 0 to 1")
    if not 0 <= hold < 1:
        raise ValueError(f"hold={hold}: must be from 0 to below 1")
    warmup = warmup_steps if name == "constant" else min(warmup_steps, total - 1)
    held = warmup + hold * (total - warmup)
    if step <= held or name == "constant":
        return min(1.0, (step + 1) / (warmup + 1))
    progress = min(1.0, (step - held) / (total - held))
    decays = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "drop": 0.0}
    return floor + (1 - floor) * decays[name]

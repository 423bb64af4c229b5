"""The learning rates of the paper's tasks: cycles that fall and start again, halved from time to time."""

from collections.abc import Sequence
from typing import Literal, get_args

from eru.training import schedule_factor

Schedule = Literal["cycles", "cosine", "constant"]


def rate_factor(
    name: Schedule,
    epoch: int,
    batch: int,
    *,
    epochs: int,
    batches: int,
    cycle: int = 1,
    cycles_end: int | None = None,
    milestones: Sequence[int] = (),
    gamma: float = 0.5,
    warmup_epochs: int = 0,
) -> float:
    r"""The learning rate of a batch as a share of the highest one.

    With cycles of T epochs, and m of the milestones passed, epoch t has the factor

    .. math::
        \gamma^m \Bigl(1 - \frac{t \bmod T}{T}\Bigr)

    This is Eq. 1 of the paper, :math:`\eta_t = \eta_{max} - (t \bmod T)\,\eta_{min}`, whose :math:`\eta_{min}` is
    :math:`\eta_{max} / T` in all of its trainings. From epoch ``cycles_end`` on there is one cycle that ends with the
    training. A cosine falls batch by batch from the end of a linear warm-up; the others stay within an epoch.

    Args:
        name: ``"cycles"``, ``"cosine"`` or ``"constant"``.
        epoch: The number of complete epochs.
        batch: The number of complete batches of this epoch.
        epochs: The epochs of the training, or of this stage of it.
        batches: The batches of an epoch.
        cycle: T; 1 is no fall at all, so that only milestones change the rate.
        cycles_end: The epoch from which on one cycle reaches to the end; ``None`` for never.
        milestones: The epochs from which on the rate is multiplied by ``gamma`` once more.
        gamma: That factor.
        warmup_epochs: The epochs of the cosine's warm-up.

    Raises:
        ValueError: There is no such schedule, or a number is out of its range.

    Source:
        ESPNetv2, section 4.1, Eq. 1 (arXiv 1811.11431); section 4.2 for the long last cycle.

    Example:
        >>> [round(0.5 * rate_factor("cycles", t, 0, epochs=300, batches=1, cycle=5), 2) for t in range(6)]
        [0.5, 0.4, 0.3, 0.2, 0.1, 0.5]
    """
    if name not in get_args(Schedule):
        raise ValueError(f"schedule={name!r}: must be one of {', '.join(get_args(Schedule))}")
    if cycle < 1:
        raise ValueError(f"cycle={cycle}: must be at least 1")
    if name == "cosine":
        warmup = warmup_epochs * batches
        return schedule_factor("cosine", epoch * batches + batch, epochs * batches, warmup_steps=warmup)
    factor = gamma ** sum(epoch >= milestone for milestone in milestones)
    if name == "constant":
        return factor
    if cycles_end is not None and epoch >= cycles_end:
        return factor * (1 - (epoch - cycles_end) / max(epochs - cycles_end, 1))
    return factor * (1 - epoch % cycle / cycle)

"""The check that stops a run before it saves broken weights over good ones."""

import math

__all__ = ["NonFiniteLossError", "check_finite"]


class NonFiniteLossError(ValueError):
    """The training loss became NaN or infinite."""


def check_finite(loss: float, step: int) -> None:
    """Stop the run if its loss is NaN or infinite. To be called before a checkpoint is overwritten.

    Args:
        loss: The training loss.
        step: The global step it belongs to.

    Raises:
        NonFiniteLossError: If `loss` is not finite.

    Example:
        >>> check_finite(5.1, step=50)
        >>> try:
        ...     check_finite(float("nan"), step=100)
        ... except NonFiniteLossError as error:
        ...     print(error)
        the loss is nan at step 100: lower the learning rate or train in float32
    """
    if not math.isfinite(loss):
        advice = "lower the learning rate or train in float32"
        raise NonFiniteLossError(f"the loss is {loss} at step {step}: {advice}")

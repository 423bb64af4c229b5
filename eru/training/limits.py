"""Where one call of a training ends, whatever the training still has to do."""

import math
import time
from collections.abc import Callable


class Limits:
    """The steps, the time and the question after which a call of a training ends.

    A call that ends here has not finished its training: another one goes on from its checkpoint.

    Args:
        max_steps: The steps of the whole training, those of earlier calls included, after which to end.
        minutes: The time after which to end, from the making of this object on.
        stop: A question that is asked before the first step and after each. The call ends where it answers true.
        clock: The time in seconds.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> seconds = iter([100.0, 129.0, 130.0])
        >>> limits = Limits(minutes=0.5, clock=lambda: next(seconds))
        >>> limits.reached(1), limits.reached(2)
        (False, True)
    """

    def __init__(
        self,
        *,
        max_steps: int | None = None,
        minutes: float | None = None,
        stop: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: must be at least 1")
        if minutes is not None and not 0 < minutes < math.inf:  # A comparison with NaN is false.
            raise ValueError(f"minutes={minutes}: must be finite and above 0")
        self.max_steps, self._stop, self._clock = max_steps, stop, clock
        self._end = None if minutes is None else clock() + 60 * minutes

    def reached(self, step: int) -> bool:
        """Whether the call is to end after so many steps of the whole training."""
        return (
            (self.max_steps is not None and step >= self.max_steps)
            or (self._end is not None and self._clock() >= self._end)
            or (self._stop is not None and self._stop())
        )

"""Arguments that are numbers, checked."""

import math
import operator
from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A number that counts something, as Python's own integer; NumPy's integers are taken too.

    Raises:
        ValueError: It is no whole number, below the least one, or above the largest one where there is one.

    Example:
        >>> whole_number("tokens", 5, least=0)
        5
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: must be a whole number, {limit}")
    return number


def real_number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> float:
    """A finite number from ``least`` to ``most``; with ``above``, the least one itself is none of them.

    Raises:
        ValueError: It is no number, not finite, or out of range.

    Example:
        >>> real_number("threshold", 0.5, least=0, most=1)
        0.5
    """
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not least <= number <= most or (above and number == least):
        limit = f"{'above' if above else 'at least'} {least}" + ("" if most == math.inf else f" and at most {most}")
        raise ValueError(f"{name}={value!r}: must be a finite number, {limit}")
    return number

"""Options that several models share, checked."""

import operator
from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An option that counts something, as Python's own integer: NumPy's are taken too.

    Raises:
        ValueError: It is no whole number, below the least one, or above the largest one where there is one.

    Example:
        >>> import numpy as np
        >>> whole_number("num_classes", np.int64(5), least=1)
        5
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        limit = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{name}={value!r}: must be a whole number, {limit}")
    return number

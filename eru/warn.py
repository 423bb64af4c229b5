"""A warning that is said once."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_said: set[str] = set()  # what users were warned of already


def warn_once(message: str, stacklevel: int = 2) -> None:
    """Warn of something the first time, never while a compiler traces; ``stacklevel`` is counted from the caller."""
    if message not in _said and not torch.compiler.is_compiling():
        _said.add(message)
        warnings.warn(message, stacklevel=stacklevel + 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what other packages say of themselves in the ``with`` block: their warnings, and notes below errors.

    Example:
        >>> with quiet():
        ...     logging.getLogger("somebody").warning("not shown")
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

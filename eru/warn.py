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
def quiet(logger: str) -> Iterator[None]:
    """Keep back what another package says of itself in the ``with`` block: of its own old parts, for the most part.

    Args:
        logger: Whose notes below errors are kept back; an empty name means everybody's.

    Example:
        >>> with quiet("somebody"):
        ...     logging.getLogger("somebody").warning("not shown")
    """
    log = logging.getLogger(logger)
    level, disabled = log.level, logging.root.manager.disable
    log.setLevel(logging.ERROR)
    if not logger:
        logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        logging.disable(disabled)

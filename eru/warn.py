"""A warning that is said once."""

import warnings

import torch

_said: set[str] = set()  # what users were warned of already


def warn_once(message: str, stacklevel: int = 2) -> None:
    """Warn of something the first time, never while a compiler traces; ``stacklevel`` is counted from the caller."""
    if message not in _said and not torch.compiler.is_compiling():
        _said.add(message)
        warnings.warn(message, stacklevel=stacklevel + 1)

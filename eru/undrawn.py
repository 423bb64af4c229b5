"""Models that are built for their shapes alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """While it is entered, tensors are made on the meta device, and normal distributions draw nothing.

    The meta device holds shapes without numbers. To draw normal numbers there, torch would load its compiler, which
    takes longer than all the rest.

    Example:
        >>> with Undrawn():
        ...     print(torch.nn.Embedding(10**9, 10**3).weight.device)
        meta
    """

    def __enter__(self) -> "Undrawn":
        """Begin with tensors without numbers."""
        self._meta = torch.device("meta")
        self._meta.__enter__()
        return super().__enter__()

    def __exit__(self, *caught: Any) -> None:
        """End, in the opposite order."""
        super().__exit__(*caught)
        self._meta.__exit__(*caught)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass on every call but the draws."""
        if getattr(func, "__name__", None) == "normal_":  # torch.nn.init's function, or a tensor's method
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))

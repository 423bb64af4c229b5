"""What the fast paths share: why one cannot run, said once."""

import warnings
from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["triton_refusal", "warn_once"]

_said: set[str] = set()  # what users were warned of already


def triton_refusal(device: torch.device, oldest: tuple[int, int] = (3, 3)) -> str | None:
    """Why Triton's kernels cannot run on ``device``, or ``None`` where they can: an NVIDIA GPU from Ampere on.

    In Triton's interpreter (``TRITON_INTERPRET=1``) they run on the CPU.

    Args:
        device: where the tensors are.
        oldest: version of Triton that takes them.

    Example:
        >>> triton_refusal(torch.device("meta")) is None
        False
    """
    return _triton_refusal(device, oldest)


# Tracing does not see through imports and a device's properties, which do not change either. That is what
# torch.compiler.assume_constant_result says; but it imports the compiler, for seconds.
triton_refusal._dynamo_marked_constant = True


@cache
def _triton_refusal(device: torch.device, oldest: tuple[int, int]) -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    import triton
    import triton.language as tl

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < oldest:
        return f"Triton {triton.__version__} is older than {oldest[0]}.{oldest[1]}"
    interpreted = not isinstance(tl.cdiv, triton.JITFunction)
    if device.type == "cpu" and interpreted:
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return f"{device} is no NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= (8, 0) else f"compute capability {capability[0]}.{capability[1]} is below 8.0"


def warn_once(message: str, stacklevel: int = 2) -> None:
    """Warn of something the first time; never while a compiler traces.

    Args:
        message: the warning, which is also what is remembered.
        stacklevel: as of :func:`warnings.warn`, counted from the caller.
    """
    if message not in _said and not torch.compiler.is_compiling():
        _said.add(message)
        warnings.warn(message, stacklevel=stacklevel + 1)

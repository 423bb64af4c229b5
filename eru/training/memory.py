"""The memory that a training needs, compared with what the machine has."""

import os
from pathlib import Path

import torch

_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # Of a Linux container; it says "max" where there is no limit.


def check_memory(needed: int, device: str | torch.device, what: str) -> None:
    """Refuse what cannot fit, before an allocator fails in the middle of it.

    Args:
        needed: The bytes that are needed at the least.
        device: Where they are needed.
        what: What needs them, as the message names it.

    Raises:
        ValueError: The device has less memory than that in all.

    Example:
        >>> check_memory(10**15, "cpu", "hidden_size=10000000")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: hidden_size=10000000: needs at least 1,000,000.0 GB of memory, and this machine has ...
    """
    device = torch.device(device)
    if device.type == "cuda":
        place, there = "the GPU", torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):  # Windows has no such call, so nothing is refused there.
        place, there = "this machine", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if _CONTAINER.exists() and (limit := _CONTAINER.read_text().strip()).isdecimal():
            there = min(there, int(limit))
    else:
        return
    if needed > there:
        sizes = f"{needed / 1e9:,.1f} GB of memory, and {place} has {there / 1e9:,.1f} GB"
        raise ValueError(f"{what}: needs at least {sizes}")

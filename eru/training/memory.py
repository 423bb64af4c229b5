"""The memory that a training needs: what the machine has of it, and how it gets it."""

import ctypes
import os
import sys
from pathlib import Path

import torch

# Names and largest values of two numbers of glibc's malloc (malloc.h, man 3 mallopt).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST_TRIM, _MOST_MMAP = -1, -3, (1 << 31) - 1, 1 << 25
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


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next large tensor, where its C library is glibc (most of Linux).

    glibc gives large blocks back to the system at once, and asks for them again a moment later. Their pages then come
    back empty, one fault of the processor each, in every training step. The process stays as large as it was at its
    largest. This holds for all of it, so a program may call it, and a library should not.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_TRIM)

"""Where a process computes, for the record of a training or a measurement."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

# These change the speed from outside of a program: how threads wait, where they may run, huge pages, the backend.
_SPEED = ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "THP_MEM_ALLOC_ENABLE", "ERU_BACKEND", "ERU_NATIVE")


def machine(device: str | torch.device) -> dict[str, Any]:
    """The name of the device (its type where it has none), threads, variables that change the speed, and torch.

    Args:
        device: Where the process computes.

    Example:
        >>> sorted(machine("cpu"))
        ['device', 'threads', 'torch', 'variables']
    """
    return {
        "device": _name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _SPEED if name in os.environ},
        "torch": torch.__version__,
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)", info.read_text(), re.MULTILINE) if info.exists() else None
    return model[1].strip() if model else platform.processor() or platform.machine()

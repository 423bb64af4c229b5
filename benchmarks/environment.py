"""What a result file says about where it was made."""

import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from eru.training import atomic_write

RESULTS = Path(__file__).parent / "results"
# What changes the speed from outside of a program: threads that wait awake or not, where they may run, huge pages.
_SPEED = ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "THP_MEM_ALLOC_ENABLE", "ERU_BACKEND", "ERU_NATIVE")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def environment(device: str) -> dict[str, Any]:
    """Device, versions, threads, variables and command of this process."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _SPEED if name in os.environ},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": shlex.join(["python", *sys.argv]),
    }


def write_result(name: str, result: dict[str, Any], device: str = "cpu") -> Path:
    """Write benchmarks/results/<name>.json."""
    path = RESULTS / f"{name}.json"
    with atomic_write(path) as file:
        file.write(json.dumps({"environment": environment(device), **result}, indent=2) + "\n")
    return path

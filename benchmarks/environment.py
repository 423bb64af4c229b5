"""What a result file says about where it was made."""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from eru.training import atomic_write, machine

RESULTS = Path(__file__).parent / "results"


def environment(device: str) -> dict[str, Any]:
    """The machine, versions and command of this process."""
    return {**machine(device), "python": platform.python_version(), "command": shlex.join(["python", *sys.argv])}


def write_result(name: str, result: dict[str, Any], device: str = "cpu") -> Path:
    """Write benchmarks/results/<name>.json."""
    path = RESULTS / f"{name}.json"
    with atomic_write(path) as file:
        file.write(json.dumps({"environment": environment(device), **result}, indent=2) + "\n")
    return path

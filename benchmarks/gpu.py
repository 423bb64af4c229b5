"""What the GPU's benchmarks share: parts that are processes of their own, and a clock.

A part yields rows. Each runs in a process of its own with a time limit: what crashes or hangs leaves a line that says
so, and the rest goes on. The result file is written anew, whole, after each part.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from environment import write_result
from torch import Tensor

LIMIT = 240  # seconds of a part

Row = dict[str, Any]
Parts = Mapping[str, Callable[[], Iterator[Row]]]


def errors(got: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Largest deviation of each, relative to its largest value."""
    pairs = zip(got, exact, strict=True)
    return [float(f"{(a.double() - b).abs().max().item() / (b.abs().max().item() + 1e-30):.2g}") for a, b in pairs]


def microseconds(work: Callable[[], Any], rounds: int, ahead: bool) -> float:
    """Median of one call; ``ahead`` lets the host queue all of it before it starts."""
    times = []
    for turn in range(rounds + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        if ahead:
            torch.cuda._sleep(40_000_000)  # cycles, about 20 ms
        start.record()
        work()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(1000 * start.elapsed_time(end))
    return statistics.median(times)


def _parse(output: str) -> Iterator[Row]:
    """Its rows, of which the last may have been cut."""
    for line in output.splitlines():
        with suppress(json.JSONDecodeError):
            if line.startswith("{"):
                yield json.loads(line)


def _collect(script: str, name: str) -> dict[str, Any]:
    """The rows of a part, and how it ended if it did not end well."""
    command = [sys.executable, script, "--part", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        return {"rows": list(_parse(output)), "error": f"stopped after {LIMIT} s"}
    end = {} if done.returncode == 0 else {"error": done.stderr[-1500:]}
    return {"rows": list(_parse(done.stdout))} | end


def _show(name: str, part: dict[str, Any]) -> None:
    print(name)
    for row in part["rows"]:
        print("   ", ", ".join(f"{key}: {value}" for key, value in row.items()))
    if "error" in part:
        print("    FAILED:", part["error"])
    sys.stdout.flush()


def run_parts(script: str, description: str | None, checks: Parts, timings: Parts, settings: dict[str, Any]) -> None:
    """The command line of a benchmark: all parts into benchmarks/results/<name>.json, or with ``--part`` one of them.

    Args:
        script: its file, which names the result.
        description: of the command.
        checks: parts that mostly compile, and may run side by side.
        timings: parts that must be alone.
        settings: what the result says of itself.
    """
    parts = {**checks, **timings}
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=parts, metavar="NAME", help="run one part, and print its rows as JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a GPU, and torch finds none")
    if args.part:
        torch.manual_seed(0)
        for row in parts[args.part]():
            print(json.dumps(row), flush=True)
        return
    import triton

    result: dict[str, Any] = {"settings": settings | {"triton": triton.__version__}}
    path = None
    with ThreadPoolExecutor() as pool:
        collected = chain(
            pool.map(lambda name: _collect(script, name), checks), (_collect(script, name) for name in timings)
        )
        for name, part in zip(parts, collected, strict=True):
            result[name] = part
            _show(name, part)
            path = write_result(Path(script).stem, result, "cuda")
    print(path)

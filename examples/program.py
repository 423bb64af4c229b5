"""What the examples share: the arguments of the command line, and the line of JSON in which a program ends."""

import argparse
import json
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torch import nn


def parse_arguments(description: str | None, argv: list[str] | None, *, steps: int) -> Namespace:
    """Read ``--cell``, ``--steps`` and ``--seed``, and note when the program started."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cell", choices=["eru", "lstm"], default="eru")
    parser.add_argument("--steps", type=int, default=steps, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"argument --steps: must be at least 1, got {args.steps}")
    return Namespace(**vars(args), start=time.perf_counter())


def report(
    example: str,
    args: Namespace,
    model: nn.Module,
    *,
    score: float,
    baselines: Mapping[str, float],
    goal: float,
    reached: bool,
) -> int:
    """Print the result as one line of JSON; the exit code, 0 if the goal is reached."""
    options: dict[str, Any] = dict(vars(args))
    seconds = round(time.perf_counter() - options.pop("start"), 1)
    parameters = sum(p.numel() for p in model.parameters())
    result = {"example": example, **options, "parameters": parameters, "score": round(score, 4)}
    print(json.dumps(result | {"baselines": baselines, "goal": goal, "reached": reached, "seconds": seconds}))
    return 0 if reached else 1

"""What the examples share: the options, the training loop, the style of the pictures, and the line of JSON at the end.

Every example takes `--picture FILE.png` and ends in that picture. Without the option nothing is drawn or written.
"""

import argparse
import importlib.util
import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from eru.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"eru": "tab:blue", "lstm": "tab:orange"}
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "legend.columnspacing": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "lines.linewidth": 2.5,
}


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def picture_file(text: str) -> Path:
    """Read the name of a picture, and refuse one that could not be written after a training of minutes."""
    path = Path(text)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ArgumentTypeError(f"must end in .png and lie in a folder that is there, got {text!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ArgumentTypeError("needs matplotlib, which comes with pip install -e '.[plots]'")
    return path


def make_parser(description: str | None, *, cell: bool = True, **counts: int) -> ArgumentParser:
    """Make a parser with `--picture`, `--seed`, the named counts with their defaults, and `--cell` if there are cells.

    The arguments that it reads also hold when the program started.
    """
    parser = ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    if cell:
        parser.add_argument("--cell", choices=["eru", "lstm"], default="eru")
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=count, default=default, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=picture_file, metavar="FILE.png", help="draw what came out")
    parser.set_defaults(start=time.perf_counter())
    return parser


def train(model: nn.Module, losses: Iterator[Tensor], *, steps: int, learning_rate: float) -> None:
    """Minimise the loss of one batch after the other with Adam, the norm of the gradient limited to 1."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step, loss in zip(range(1, steps + 1), losses, strict=False):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)


@contextmanager
def drawing(path: Path, title: str, *, height: float = 4.0) -> Iterator["Figure"]:
    """Give a figure to draw on, in the style of all examples, and write it when all is drawn."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, height), dpi=150, layout="constrained", facecolor="white")
        figure.suptitle(title)
        yield figure
        with atomic_write(path, "wb") as file:
            figure.savefig(file, format="png")


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
    options = dict(vars(args))
    seconds = round(time.perf_counter() - options.pop("start"), 1)
    result = {
        "example": example,
        **options,
        "parameters": sum(p.numel() for p in model.parameters()),
        "score": round(score, 4),
        "baselines": {name: round(value, 4) for name, value in baselines.items()},
        "goal": round(goal, 4),
        "reached": reached,
        "seconds": seconds,
    }
    print(json.dumps(result, default=str))
    return 0 if reached else 1

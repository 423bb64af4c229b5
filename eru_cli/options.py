"""Options that several commands share, and how answers are printed."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

import click
import torch

from eru.training import Interrupted

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but a tab and the end of a line

data_dir = click.option("--data-dir", metavar="FOLDER", help="Where the Penn Treebank's files are.")
device = click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


deterministic = click.option(
    "--deterministic",
    is_flag=True,
    help="Take only algorithms that give the same bits each time, on a GPU too, where some are slower. A CPU needs no "
    "such option.",
)


def resolve_device(name: str) -> str:
    """The device that is meant; ``ValueError`` where it is unknown, or this machine lacks it."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if not known:
        raise ValueError(f"--device {name!r}: must be auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if name != "cpu" and int(known[1] or 0) >= count:
        raise ValueError(f"--device {name!r}: torch {torch.__version__} finds {count} GPUs here")
    return name


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width of a picture, given as ``HxW``; ``ValueError``, which names the option, for anything else."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ValueError(f"{option} {text!r}: must be HEIGHTxWIDTH in pixels, such as 512x1024")
    return int(found[1]), int(found[2])


def program() -> str:
    """How this command line was started, as one types it."""
    return "python cli.py" if Path(sys.argv[0]).name == "cli.py" else "eru"


def speaks() -> bool:
    """Whether this process tells the user anything: of those that torchrun starts, the first one does."""
    return int(os.environ.get("WORLD_SIZE", "1")) <= 1 or os.environ.get("RANK") == "0"


def printable(text: str) -> str:
    r"""A text whose control characters are written out, so that none of a corpus can command the user's terminal.

    Example:
        >>> print(printable("red: \x1b[31m, and a new\nline"))
        red: \x1b[31m, and a new
        line
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def speed(seconds: float) -> str:
    """The time of one picture, in words.

    Example:
        >>> speed(0.04)
        '40.0 ms a picture (25.0 pictures/s)'
    """
    return f"{1000 * seconds:,.1f} ms a picture ({1 / seconds:,.1f} pictures/s)"


def next_steps(steps: Mapping[str, str]) -> str:
    """What to type next: commands of this command line, each with what it does."""
    commands = {f"{program()} {command}": what for command, what in steps.items()}
    width = max(map(len, commands))
    return "\n".join(["next:", *(f"  {command:{width}}  # {what}" for command, what in commands.items())])


def say(text: str) -> None:
    """Tell the user something that is not the answer."""
    if speaks():
        click.echo(printable(text), err=True)


@contextmanager
def only_deterministic(wanted: bool) -> Iterator[None]:
    """Let torch take only algorithms that give the same bits each time, if that is wanted."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's products ask for it; it is read later
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def resumable(folder: str, going_on: str) -> Iterator[None]:
    """Say what is kept of a training that a signal ends, and how to go on; then exit as shells expect.

    Args:
        folder: The run folder.
        going_on: The command that goes on.
    """
    advice = f"go on with {program()} {going_on}"
    try:
        yield
    except Interrupted as interrupted:
        say(f"{interrupted}: {advice}")
        raise click.exceptions.Exit(128 + interrupted.signum) from interrupted
    except KeyboardInterrupt as interrupted:
        begun = (Path(folder) / "config.json").exists()
        kept = f"what followed the last checkpoint is lost: {advice}" if begun else "no training had begun"
        say(f"stopped at once, {kept}")
        raise click.exceptions.Exit(128 + SIGINT) from interrupted


def answer(fields: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print the answer on stdout: as text, or as one line of JSON in which what is not finite is null."""
    if as_json:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        text = json.dumps(finite)
    click.echo(printable(text))

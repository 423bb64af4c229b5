"""Options that several commands share, and how answers are printed."""

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but a tab and the end of a line

data_dir = click.option("--data-dir", metavar="FOLDER", help="Where the Penn Treebank's files are.")
device = click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


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


def say(text: str) -> None:
    """Tell the user something that is not the answer."""
    if speaks():
        click.echo(printable(text), err=True)


def answer(fields: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print the answer on stdout: as text, or as one line of JSON in which what is not finite is null."""
    if as_json:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        text = json.dumps(finite)
    click.echo(printable(text))

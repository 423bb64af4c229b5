"""Result files, and tables of their rows in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from environment import RESULTS

from eru.storage import read_json

Row = dict[str, Any]


def result(name: str) -> Row:
    """One result file."""
    return read_json(RESULTS / f"{name}.json")


def shown(cell: object) -> str:
    """An entry of a table: fractions have two digits, long counts commas, and what is missing is a dash."""
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return "-" if cell is None else f"{cell:,}" if isinstance(cell, int) and cell >= 10_000 else str(cell)


def markdown(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = [str(column).replace("_", " ") for column in columns]
    return "\n".join(f"| {' | '.join(map(shown, line))} |" for line in [head, ["---"] * len(head), *rows])


def listed(file: str, *columns: str, table: str = "rows") -> str:
    """The rows of a result file, or another table in it, of which some columns are shown."""
    return markdown(columns, ([row.get(column) for column in columns] for row in result(file)[table]))


def pivoted(file: str, sides: Sequence[str], across: str, wanted: Sequence[object], value: str) -> str:
    """A line for every combination of ``sides``, and a column for each wanted entry of the column ``across``."""
    lines: dict[tuple[object, ...], Row] = {}
    for row in result(file)["rows"]:
        lines.setdefault(tuple(row[side] for side in sides), {})[row[across]] = row[value]
    return markdown([*sides, *wanted], ([*line, *map(found.get, wanted)] for line, found in lines.items()))

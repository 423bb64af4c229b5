"""paper: the paper's numbers that need no training, ours beside the printed ones."""

from dataclasses import asdict
from itertools import groupby

import click

from eru_cli.options import answer, as_json
from vision.paper import Row, paper_rows


@click.command("paper")
@as_json
def paper(as_json: bool) -> None:
    """ESPNetv2's numbers that need no training, ours beside the printed ones."""
    rows = paper_rows()
    verdicts = [row.verdict for row in rows]
    counts = {verdict: verdicts.count(verdict) for verdict in ("equal", "differs", "unread")}
    summary = f"{len(rows)} numbers: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    fields = {"counts": counts, "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    tables = [as_text(title, list(group)) for title, group in groupby(rows, key=lambda row: row.table)]
    answer(fields, as_json, "\n\n".join([*tables, summary]))


def as_text(title: str, rows: list[Row]) -> str:
    """One table, aligned, its notes numbered below it."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    head = ("", "paper", "ours", "")
    cells = [
        (
            row.quantity,
            "-" if row.printed is None else f"{row.printed} {row.unit}".rstrip(),
            f"{row.ours:,}" if isinstance(row.ours, int) else f"{row.ours:.2f} {row.unit}",
            row.verdict + (f" [{notes.index(row.note) + 1}]" if row.note else ""),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(3)]
    lines = [
        f"  {name:{widths[0]}}  {printed:>{widths[1]}}  {ours:>{widths[2]}}  {verdict}".rstrip()
        for name, printed, ours, verdict in (head, *cells)
    ]
    return "\n".join([title, *lines, *(f"  [{i}] {note}" for i, note in enumerate(notes, start=1))])

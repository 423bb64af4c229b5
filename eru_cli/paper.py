"""paper: the paper's numbers that need no training, ours beside the printed ones."""

from dataclasses import asdict
from itertools import groupby

import click

from eru.lm.build import build_model
from eru.lm.recipes import make_recipe
from eru.undrawn import Undrawn
from eru_cli.options import answer, as_json
from vision.paper import Row, models, parameters, section_3, table_1


@click.command("paper")
@as_json
def paper(as_json: bool) -> None:
    r"""Show the paper's numbers and ours.

    They are those that need no training: parameters, multiply-adds and receptive fields.

    \b
    python cli.py paper
    """
    rows = paper_rows()
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("equal", "differs")}
    summary = f"{len(rows)} numbers: {counts['equal']} equal, {counts['differs']} differ"
    fields = {"counts": counts, "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    tables = [as_text(title, list(group)) for title, group in groupby(rows, key=lambda row: row.table)]
    answer(fields, as_json, "\n\n".join([*tables, summary]))


def paper_rows() -> list[Row]:
    """Every row of every table, in the paper's order; the authors' model tables come last."""
    found = models()
    before = [row.table.startswith("Table 5") for row in found].index(True)
    return [*table_1(), *section_3(), *found[:before], *table_4(), *found[before:]]


def table_4() -> list[Row]:
    """The language models."""
    title = "Table 4: language models on the Penn Treebank (10,000 words)"
    rows = []
    for printed in ("7", "15"):
        recipe = make_recipe(f"paper-{printed}m")
        with Undrawn():
            model = build_model(recipe, 10_000)
        e, h = recipe.embedding_size, recipe.hidden_size
        note = f"embedding {e}, tied to the softmax; layers {e} -> {h} -> {h} -> {e}, with one reduce for all gates "
        note += f"and {recipe.recurrent_groups} recurrent groups"
        rows.append(Row(title, f"ERU, recipe {recipe.name}, parameters", printed, parameters(model), "M", note))
    return rows


def as_text(title: str, rows: list[Row]) -> str:
    """One table, aligned, its notes numbered below it."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    cells = [("", "paper", "ours", "")]
    for row in rows:
        ours = f"{row.ours:,}" if isinstance(row.ours, int) else f"{row.ours:.2f} {row.unit}"
        mark = f" [{notes.index(row.note) + 1}]" if row.note else ""
        cells.append((row.quantity, f"{row.printed} {row.unit}".rstrip(), ours, row.verdict + mark))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"  {name:{widths[0]}}  {printed:>{widths[1]}}  {ours:>{widths[2]}}  {verdict}".rstrip()
        for name, printed, ours, verdict in cells
    ]
    return "\n".join([title, *lines, *(f"  [{i}] {note}" for i, note in enumerate(notes, start=1))])

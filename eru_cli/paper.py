"""paper: the paper's numbers that need no training, ours beside the printed ones."""

from dataclasses import asdict
from itertools import groupby

import click
import torch

from eru.lm.build import build_model
from eru.lm.recipes import make_recipe
from eru_cli.options import answer, as_json
from vision import paper as vision_paper
from vision.paper import Row, parameters


@click.command("paper")
@as_json
def paper(as_json: bool) -> None:
    """ESPNetv2's numbers that need no training, ours beside the printed ones."""
    rows = paper_rows()
    verdicts = [row.verdict for row in rows]
    counts = {verdict: verdicts.count(verdict) for verdict in ("equal", "differs")}
    summary = f"{len(rows)} numbers: {counts['equal']} equal, {counts['differs']} differ"
    fields = {"counts": counts, "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    tables = [as_text(title, list(group)) for title, group in groupby(rows, key=lambda row: row.table)]
    answer(fields, as_json, "\n\n".join([*tables, summary]))


def paper_rows() -> list[Row]:
    """Every row of every table, in the paper's order; the authors' model tables come last."""
    tables = (
        vision_paper.table_1,
        vision_paper.section_3,
        vision_paper.table_2,
        vision_paper.figure_7,
        vision_paper.table_3,
        table_4,
        vision_paper.table_5,
        vision_paper.table_6,
        vision_paper.model_tables,
    )
    return [row for table in tables for row in table()]


def table_4() -> list[Row]:
    """The language models."""
    title = "Table 4: language models on the Penn Treebank (10,000 words)"
    rows = []
    for printed in ("7", "15"):
        recipe = make_recipe(f"paper-{printed}m")
        with torch.device("meta"):
            model = build_model(recipe, 10_000)
        e, h = recipe.embedding_size, recipe.hidden_size
        note = f"embedding {e}, tied to the softmax; layers {e} -> {h} -> {h} -> {e}, with one reduce for all gates "
        note += f"and {recipe.recurrent_groups} recurrent groups"
        rows.append(Row(title, f"ERU, recipe {recipe.name}, parameters", printed, parameters(model), "M", note))
    return rows


def as_text(title: str, rows: list[Row]) -> str:
    """One table, aligned, its notes numbered below it."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    head = ("", "paper", "ours", "")
    cells = [
        (
            row.quantity,
            f"{row.printed} {row.unit}".rstrip(),
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

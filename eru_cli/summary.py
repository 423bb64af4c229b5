"""summary: parameters and multiply-adds of a model, by stage."""

from dataclasses import asdict, replace
from pathlib import Path

import click

from eru.complexity import Stage, stages
from eru.lm.recipes import RECIPES, build_model, make_recipe
from eru.lm.run import open_run
from eru_cli.options import answer, as_json


@click.command("summary")
@click.argument("name", metavar="RUN_OR_RECIPE")
@click.option("--vocab-size", type=int, default=10_000, help="Of a recipe; the Penn Treebank's by default.")
@as_json
def summary(name: str, vocab_size: int, as_json: bool) -> None:
    """Parameters and multiply-adds per token of a run's or a recipe's model, by stage."""
    if name in RECIPES:
        model = build_model(make_recipe(name), vocab_size)
    elif Path(name).is_dir():
        model = open_run(name).build_model()
    else:
        raise ValueError(f"{name!r} is neither a recipe ({', '.join(RECIPES)}) nor a run folder")
    found = stages(model, [(1, 1)], integer=True)
    # Outside of its submodules the language model holds and computes the tied softmax.
    named = [replace(stage, name=stage.name or "softmax") for stage in found]
    total = Stage("total", sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found))
    lines = [f"{'stage':12s}{'parameters':>14s}{'multiply-adds':>16s}"]
    lines += [f"{row.name:12s}{row.parameters:>14,d}{row.multiply_adds:>16,d}" for row in (*named, total)]
    fields = asdict(total) | {"name": name, "stages": [asdict(stage) for stage in named]}
    answer(fields, as_json, "\n".join(lines))

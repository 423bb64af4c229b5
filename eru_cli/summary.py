"""summary: parameters and multiply-adds of a model, by stage."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from eru.complexity import Stage, stages
from eru.lm.recipes import RECIPES, build_model, make_recipe
from eru.lm.run_folder import open_run
from eru_cli.options import answer, as_json, parse_size
from vision import create_model, list_models


@click.command("summary")
@click.argument("name", metavar="NAME")
@click.option("--vocab-size", type=int, default=10_000, help="Of a recipe; the Penn Treebank's by default.")
@click.option("--input", "size", default="224x224", metavar="HxW", help="Of the picture that a vision model sees.")
@as_json
def summary(name: str, vocab_size: int, size: str, as_json: bool) -> None:
    """Parameters and multiply-adds by stage of the model NAME.

    NAME is a recipe or a run folder, counted per token, or a vision model, counted per picture.
    """
    if name in list_models():
        found = _vision_stages(name, size)
    elif name in RECIPES or Path(name).is_dir():
        found = _language_stages(name, vocab_size)
    else:
        raise ValueError(
            f"{name!r} is neither a recipe ({', '.join(RECIPES)}), nor a run folder, "
            f"nor a vision model ({', '.join(list_models('*_100*'))}, ...)"
        )
    total = Stage("total", sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found))
    width = max(len(row.name) for row in found) + 2
    lines = [f"{'stage':{width}s}{'parameters':>14s}{'multiply-adds':>18s}"]
    lines += [f"{row.name:{width}s}{row.parameters:>14,d}{row.multiply_adds:>18,d}" for row in (*found, total)]
    fields = asdict(total) | {"name": name, "stages": [asdict(stage) for stage in found]}
    answer(fields, as_json, "\n".join(lines))


def _language_stages(name: str, vocab_size: int) -> Sequence[Stage]:
    model = build_model(make_recipe(name), vocab_size) if name in RECIPES else open_run(name).build_model()
    # Outside of its submodules the language model holds and computes the tied softmax.
    return [replace(stage, name=stage.name or "softmax") for stage in stages(model, [(1, 1)], integer=True)]


def _vision_stages(name: str, size: str) -> Sequence[Stage]:
    height, width = parse_size("--input", size)
    model = create_model(name, device="meta")
    # What a detector selects from its maps is no product.
    return stages(model, [(1, 3, height, width)], method="raw" if hasattr(model, "raw") else "forward")

"""summary: parameters and multiply-adds of a model, by stage."""

from dataclasses import asdict, replace

import click
import torch

from eru.complexity import Stage, stages
from eru.lm.build import build_model, count_parameters
from eru.lm.recipes import RECIPES, make_recipe
from eru.lm.run import open_run
from eru_cli.options import answer, as_json, parse_size
from vision import create_model, list_models


@click.command("summary")
@click.argument("name", metavar="NAME")
@click.option(
    "--vocab-size", type=int, default=10_000, help="The vocabulary of a recipe; the Penn Treebank's by default."
)
@click.option(
    "--input", "size", default="224x224", metavar="HxW", help="The size of the picture that a vision model sees."
)
@as_json
def summary(name: str, vocab_size: int, size: str, as_json: bool) -> None:
    """Parameters and multiply-adds by stage of the model NAME.

    NAME is a recipe, a run folder or a trained model of the package (ptb-awd-7m), counted per token, or a vision
    model, counted per picture.
    """
    if name in list_models():
        model = create_model(name, device="meta")
        # What a detector selects from its maps is no product.
        method = "raw" if hasattr(model, "raw") else "forward"
        found = stages(model, [(1, 3, *parse_size("--input", size))], method=method)
    else:
        found = _language_stages(name, vocab_size)
    total = Stage("total", sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found))
    width = max(len(row.name) for row in found) + 2
    lines = [f"{'stage':{width}s}{'parameters':>14s}{'multiply-adds':>18s}"]
    lines += [f"{row.name:{width}s}{row.parameters:>14,d}{row.multiply_adds:>18,d}" for row in (*found, total)]
    fields = asdict(total) | {"name": name, "stages": [asdict(stage) for stage in found]}
    answer(fields, as_json, "\n".join(lines))


def _language_stages(name: str, vocab_size: int) -> list[Stage]:
    if name in RECIPES:
        recipe = make_recipe(name)
    else:
        try:
            run = open_run(name)
        except ValueError as error:
            names = ", ".join([*RECIPES, *list_models("*_100*")])
            raise ValueError(f"{error} (NAME is a recipe, a run or a model: {names}, ...)") from error
        recipe, vocab_size = run.recipe, run.tokenizer.vocab_size
    count_parameters(recipe, vocab_size)  # This refuses sizes that are larger than any memory.
    with torch.device("meta"):  # Nothing is computed, so nothing needs to be stored.
        model = build_model(recipe, vocab_size)
    # Outside of its submodules the language model holds and computes the tied softmax.
    return [replace(stage, name=stage.name or "softmax") for stage in stages(model, [(1, 1)], integer=True)]

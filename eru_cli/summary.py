"""summary: parameters and multiply-adds of a model, by stage; of a vision model its speed here as well."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from eru.complexity import Stage, stages
from eru.guess import did_you_mean
from eru.lm.build import build_model, count_parameters
from eru.lm.recipes import RECIPES, make_recipe
from eru.lm.run import open_run, trained_names
from eru_cli.options import answer, as_json, parse_size, speed
from vision import create_model, list_models, optimize
from vision.predictor import resized

_SECONDS = 0.5  # for which a model is timed


@click.command("summary")
@click.argument("name", metavar="NAME")
@click.option(
    "--vocab-size", type=int, default=10_000, help="The vocabulary of a recipe; the Penn Treebank's by default."
)
@click.option(
    "--input", "size", metavar="HxW", help="The picture that a vision model sees; by default as in its training."
)
@as_json
def summary(name: str, vocab_size: int, size: str | None, as_json: bool) -> None:
    r"""Count a model's parameters and operations.

    They are told for each stage; an operation is a multiplication with an addition.

    NAME is a recipe, a run folder or a trained model of the package (ptb-awd-7m), counted per token, or a vision
    model, counted per picture. Of a vision model its speed on this machine's CPU is told as well.

    \b
    python cli.py summary paper-15m
    python cli.py summary espnetv2_200 --input 224x224
    """
    if name in list_models():
        found, fields, told = _of_vision(name, None if size is None else parse_size("--input", size))
    else:
        found, fields, told = _language_stages(name, vocab_size), {}, []
    total = Stage("total", sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found))
    width = max(len(row.name) for row in found) + 2
    lines = [f"{'stage':{width}s}{'parameters':>14s}{'multiply-adds':>18s}"]
    lines += [f"{row.name:{width}s}{row.parameters:>14,d}{row.multiply_adds:>18,d}" for row in (*found, total)]
    fields = asdict(total) | {"name": name, "stages": [asdict(stage) for stage in found]} | fields
    answer(fields, as_json, "\n".join([*lines, *told]))


def _of_vision(name: str, size: tuple[int, int] | None) -> tuple[list[Stage], dict[str, Any], list[str]]:
    """The stages of a vision model, what else there is to know, and that in words."""
    model = create_model(name).eval()
    preprocessing = resized(model.preprocessing, size)
    # What a detector selects from its maps is no product.
    method = "raw" if hasattr(model, "raw") else "forward"
    picture = torch.zeros(1, 3, *preprocessing.size)
    found = stages(model, [picture.shape], method=method)
    run = getattr(optimize(model), method)
    with torch.inference_mode():
        seconds = _time_of(lambda: run(picture))
    threads = torch.get_num_threads()
    told = [
        f"speed: {speed(seconds)} with {threads} CPU thread(s), in the form of vision.optimize",
        f"each picture is {preprocessing.describe()}",
    ]
    fields = {"milliseconds": 1000 * seconds, "threads": threads, "preprocessing": asdict(preprocessing)}
    return found, fields, told


def _time_of(run: Callable[[], object]) -> float:
    """The median of the seconds that a call takes, after a first one that warms up."""
    run()
    taken: list[float] = []
    while not taken or sum(taken) < _SECONDS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _language_stages(name: str, vocab_size: int) -> list[Stage]:
    if name in RECIPES:
        recipe = make_recipe(name)
    elif Path(name).exists() or name in trained_names():
        run = open_run(name)
        recipe, vocab_size = run.recipe, run.tokenizer.vocab_size
    else:
        names = [*RECIPES, *trained_names(), *list_models()]
        meant, known = did_you_mean(name, names), ", ".join(names)
        raise ValueError(f"NAME {name!r}: is no recipe, no run folder and no model; {meant}there are {known}")
    count_parameters(recipe, vocab_size)  # This refuses sizes that are larger than any memory.
    with torch.device("meta"):  # Nothing is computed, so nothing needs to be stored.
        model = build_model(recipe, vocab_size)
    # Outside of its submodules the language model holds and computes the tied softmax.
    return [replace(stage, name=stage.name or "softmax") for stage in stages(model, [(1, 1)], integer=True)]

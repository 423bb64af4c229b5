"""vision-train, vision-eval and vision-shapes."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import click

from eru_cli.options import (
    answer,
    as_json,
    deterministic,
    device,
    next_steps,
    only_deterministic,
    parse_size,
    resolve_device,
    resumable,
    say,
    speaks,
)
from vision.data import Layout, write_shapes
from vision.data.sample import Task
from vision.training.loop import Result, train
from vision.training.recipes import RECIPES, make_recipe, parse_field
from vision.training.report import evaluate
from vision.training.run import open_run

_LAYOUTS, _TASKS = click.Choice(get_args(Layout)), click.Choice(get_args(Task))
_PRECISION = click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="The type of the products."
)
_WORKERS = click.option("--workers", type=int, default=0, help="Processes that read pictures ahead of time.")
_BROKEN = click.option(
    "--broken",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    help="Whether a picture that cannot be read is an error, or passed over and counted.",
)


@click.command("vision-train")
@click.option("--task", type=_TASKS, help="What the model is to learn.")
@click.option("--data", metavar="FOLDER", help="The data set.")
@click.option("--layout", type=_LAYOUTS, help="How it lies on the disk.")
@click.option("--model", metavar="NAME", help="The model, such as espnetv2_050_seg_voc.")
@click.option("--weights", metavar="FILE_OR_NAME", help="Weights to start from; DEFAULT: the published ones.")
@click.option("--weights-backbone", metavar="FILE_OR_NAME", help="Weights of which only the backbone is taken.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="By default modern.")
@click.option("--splits", default="train,val", help="The parts to train on and to validate on, by name.")
@click.option("--out", metavar="FOLDER", help="The run folder; by default runs/<data>-<model>.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, with the run's own options.")
@click.option("--epochs", type=int, help="Passes over the pictures in each stage: --set epochs=N.")
@click.option("--max-steps", type=int, help="Stop when the whole run has so many steps; --resume goes on.")
@click.option("--minutes", type=float, help="Stop this call after that time; --resume goes on.")
@_WORKERS
@_BROKEN
@device
@_PRECISION
@deterministic
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Change any field of the recipe.")
@as_json
def vision_train(
    task: Any,
    data: str | None,
    layout: Any,
    model: str | None,
    recipe: str | None,
    splits: str,
    out: str | None,
    resume: bool,
    epochs: int | None,
    device: str,
    deterministic: bool,
    as_json: bool,
    fields: tuple[str, ...],
    **others: Any,
) -> None:
    r"""Train a vision model into a run folder.

    \b
    python cli.py vision-train --task segment --layout voc --data shapes --model espnetv2_050_seg_voc --recipe shapes
    python cli.py vision-train --resume --out runs/shapes-espnetv2_050_seg_voc
    """
    changes = dict(parse_field(text) for text in fields)
    if epochs is not None and changes.setdefault("epochs", epochs) != epochs:
        raise ValueError(f"--epochs {epochs} and --set epochs={changes['epochs']} differ: give one of them")
    if resume and out is not None and (Path(out) / "config.json").exists():
        # The options of a run are in its folder; those that are given besides are compared with them.
        run = open_run(out)
        its = run.folder.config["data"]
        described = {**run.folder.config["model"]}
        name, _ = described.pop("name"), described.pop("num_classes")
        plan = run.recipe if recipe is None else make_recipe(recipe, task or run.task)
        layout, data, model = layout or its["layout"], data or its["root"], model or name
        splits = ",".join(its["splits"])
        others |= described if model == name else {}
    else:
        given = {"--task": task, "--data": data, "--layout": layout, "--model": model}
        if missing := [option for option, value in given.items() if value is None]:
            needed = f"{', '.join(missing)}: must be given"
            raise ValueError(f"--resume: no run in {out}; to start one there, {needed}" if resume and out else needed)
        plan = make_recipe(recipe or "modern", task)
    parts = splits.split(",")
    if len(parts) != 2:
        raise ValueError(f"--splits {splits}: must be two names, such as train,val")
    folder = out or f"runs/{Path(str(data)).resolve().name}-{model}"
    plan, place = replace(plan, **changes), resolve_device(device)
    going_on = f"vision-train --resume --out {shlex.quote(folder)}{' --deterministic' if deterministic else ''}"
    with only_deterministic(deterministic), resumable(folder, going_on):
        result = train(
            plan,
            str(model),
            layout,
            str(data),
            folder,
            splits=(parts[0], parts[1]),
            resume=resume,
            device=place,
            **others,
        )
    if not speaks():
        return
    run = shlex.quote(folder)
    steps = {} if result.finished else {going_on: "goes on with the training"}
    steps[f"vision-eval {run}"] = "all numbers, and those of each class; --pictures FOLDER draws them"
    steps[f"predict PICTURE --model {run} --out answer.png"] = "what it says about a picture"
    text = f"{_learned(result, plan.all_epochs)}\n{next_steps(steps)}"
    if as_json:
        say(text)
    answer(asdict(result), as_json, text)


def _learned(result: Result, epochs: int) -> str:
    """What a training came to, for a person who has never seen one."""
    state = "finished" if result.finished else "stopped"
    files = {
        "model.safetensors": "the weights",
        "sheet.png": "the truth beside the prediction",
        "curve.png": "the learning curve",
    }
    there = [f"{name} ({what})" for name, what in files.items() if (Path(result.run) / name).exists()]
    return (
        f"{result.run}: {state} after step {result.steps}, {result.epochs} of {epochs} epochs complete; "
        f"{result.parameters:,} parameters, {result.pictures_per_second:,.1f} pictures/s\n"
        f"best {result.quality} on {result.valid_pictures:,} validation pictures: {result.best:.4f}, of at most 1\n"
        f"the run folder has {', '.join(there)}"
    )


@click.command("vision-eval")
@click.argument("model", metavar="RUN_OR_MODEL")
@click.option("--weights", metavar="FILE_OR_NAME", help="A model's weights; by default its published ones.")
@click.option("--data", metavar="FOLDER", help="The data set; by default that of the run's training.")
@click.option("--layout", type=_LAYOUTS, help="How it lies on the disk; by default as that of the run's training.")
@click.option("--split", help="The part to measure on, by name; by default that of the run's validation, or val.")
@click.option("--size", metavar="HxW", help="The size of the model's input; by default that of its training.")
@click.option("--batch-size", type=int, default=8, help="The pictures that are computed together.")
@click.option("--pictures", metavar="FOLDER", help="Draw a sheet, and a confusion matrix or curves, into a folder.")
@click.option("--submission", metavar="FOLDER", help="Write the predictions as the test servers want them.")
@_WORKERS
@_BROKEN
@device
@_PRECISION
@as_json
def vision_eval(model: str, size: str | None, device: str, as_json: bool, **options: Any) -> None:
    r"""Measure a run or a model on a data set.

    The numbers are top1 and top5, f1 and its parts, mean_iou, or map and map_07, each from 0 to 1.

    \b
    python cli.py vision-eval runs/shapes --pictures runs/shapes
    python cli.py vision-eval espnetv2_200_seg_voc --data VOC2012 --layout voc
    """
    shape = None if size is None else parse_size("--size", size)
    report = evaluate(model, size=shape, device=resolve_device(device), **options)
    answer(report.as_dict(), as_json, str(report))


@click.command("vision-shapes")
@click.option("--layout", type=_LAYOUTS, required=True, help="How the pictures are to lie on the disk.")
@click.option("--out", required=True, metavar="FOLDER", help="The folder to write, which must not be there yet.")
@click.option("--train", "train_pictures", type=int, default=4000, help="How many training pictures.")
@click.option("--val", "valid_pictures", type=int, default=200, help="How many validation pictures.")
@click.option("--seed", type=int, default=0, help="A number that gives the same pictures again.")
@as_json
def vision_shapes(layout: Any, out: str, train_pictures: int, valid_pictures: int, seed: int, as_json: bool) -> None:
    r"""Draw a small data set of six shapes.

    It lies on the disk as a known one does, and any machine can learn it.

    \b
    python cli.py vision-shapes --layout voc --out shapes
    """
    write_shapes(layout, out, train=train_pictures, val=valid_pictures, seed=seed)
    fields = {"layout": layout, "out": out, "train": train_pictures, "val": valid_pictures}
    answer(fields, as_json, f"{out}: {train_pictures} training and {valid_pictures} validation pictures")

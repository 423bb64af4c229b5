"""predict: what a vision model says about pictures."""

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click

from eru_cli.options import answer, as_json, device, parse_size, resolve_device, say, speed
from vision.batch import Failure, answer_files
from vision.datasets import read_labels
from vision.pictures import as_address, passed_over
from vision.predictor import Predictor, load_predictor
from vision.training.run import open_run


@click.command("predict")
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option("--model", required=True, metavar="NAME_OR_RUN", help="Such as espnetv2_200_seg_voc; or a run folder.")
@click.option("--weights", default="DEFAULT", metavar="FILE_OR_NAME", help="DEFAULT: the model's published ones.")
@click.option("--num-classes", type=int, help="How many classes the model has; by default as many as its weights.")
@click.option("--size", metavar="HxW", help="The size of the model's input; by default that of its training.")
@click.option("--top-k", type=int, default=5, help="How many labels are given of a picture at most.")
@click.option("--threshold", type=float, help="Least score reported; 0.3 for boxes, 0.5 for independent labels.")
@click.option("--labels", metavar="FILE", help="What the classes are called, one name a line.")
@click.option("--multi-label", is_flag=True, help="The classifier's labels are independent; a .pth does not say so.")
@click.option("--out", metavar="PNG_OR_FOLDER", help="Where to draw the answer; a folder for several pictures.")
@device
@as_json
def predict(
    pictures: tuple[str, ...],
    model: str,
    weights: str,
    size: str | None,
    labels: str | None,
    multi_label: bool,
    out: str | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Classify, segment or detect in pictures.

    A PICTURE is a file, or a folder of them.

    Exit code 2 says that some picture failed, and 130 that Ctrl-C came; the answers about the others are given all
    the same.

    \b
    python cli.py predict photo.jpg --model espnetv2_200_seg_voc --out answer.png
    python cli.py predict photo.jpg --model runs/shapes
    """
    shape = None if size is None else parse_size("--size", size)
    options |= {"size": shape, "device": resolve_device(device)}
    predictor = open_predictor(model, weights, labels, multi_label=multi_label, **options)
    results, failures, lines, seconds = [], [], [], []
    interrupted = False
    try:
        for outcome in answer_files(predictor, pictures, out):  # of each only words are kept, not its picture
            if isinstance(outcome, Failure):
                failures.append({"picture": as_address(outcome.path) or str(outcome.path), "reason": outcome.reason})
                continue
            lines.append(f"{outcome.path}: {outcome.answer.describe()}")
            seconds.append(outcome.seconds)
            if outcome.first_of_many:
                say(f"note: {outcome.path} holds several pictures; the first one is used")
            written = [str(path) for path in outcome.written]
            told = {**outcome.answer.as_dict(), "milliseconds": 1000 * outcome.seconds, "written": written}
            results.append({"picture": str(outcome.path), **told})
    except KeyboardInterrupt:  # what is there is worth having
        interrupted = True
    for line in passed_over(pictures):
        say(f"note: {line}")
    preprocessing = predictor.preprocessing
    fields = {"model": model, "weights": weights, "preprocessing": asdict(preprocessing), "results": results}
    fields |= {"failures": failures}
    if results or as_json:
        answer(fields, as_json, "\n".join(lines))
    if seconds and not as_json:
        warming = ", warming up included" if len(seconds) == 1 else ""
        say(f"each picture {preprocessing.describe()}; {speed(median(seconds))} from picture to answer{warming}")
    if failures:
        if len(results) + len(failures) > 1:
            say(f"{len(failures)} of {len(results) + len(failures)} pictures failed:")
        for failure in failures:
            say(f"Error: {failure['reason']}")
    if interrupted:
        say(f"Stopped after {len(results) + len(failures)} pictures.")
        raise SystemExit(130)
    if failures:
        raise SystemExit(2)


def open_predictor(model: str, weights: str, labels: str | None, *, multi_label: bool, **options: Any) -> Predictor:
    """The predictor of a run folder, or of a model by its name with weights that are published or lie in a file."""
    if not (Path(model) / "config.json").exists():
        names = None if labels is None else read_labels(labels)
        return load_predictor(model, weights, labels=names, multi_label=multi_label, **options)
    if weights != "DEFAULT" or options.pop("num_classes") is not None or labels is not None or multi_label:
        raise ValueError(f"{model}: a run folder has its own weights and classes: leave the options out")
    return open_run(model).predictor(**options)

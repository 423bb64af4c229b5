"""export: a model for another runtime."""

import shutil
from pathlib import Path
from typing import Any

import click

from eru.edge.page import check_page, write_page
from eru.lm.edge import export as export_language_model
from eru.lm.run import trained_names
from eru.storage import read_json
from eru_cli.options import answer, as_json, parse_size, say
from eru_cli.predict import open_predictor
from vision.detection import Detector
from vision.edge import export as export_vision_model
from vision.registry import list_models

_LANGUAGE, _VISION = "language model", "vision model"
_OF_LANGUAGE, _OF_VISION = ("graph",), ("weights", "num_classes", "labels", "multi_label", "size", "nms", "calibrate")


@click.command("export")
@click.argument("model", metavar="RUN_OR_MODEL")
@click.option("--out", required=True, metavar="FOLDER", help="The folder to write, which must not be there yet.")
@click.option("--format", type=click.Choice(["onnx", "pt2", "executorch"]), default="onnx", help="For which runtime.")
@click.option("--batch", default="1", metavar="N|dynamic", help="How many texts or pictures one call takes.")
@click.option(
    "--quantize",
    type=click.Choice(["none", "int8", "int8-weights"]),
    default="none",
    help="int8 computes in eight bits; int8-weights (vision) only keeps the weights so.",
)
@click.option("--graph", type=click.Choice(["step", "sequence"]), help="Of a language model; by default step.")
@click.option("--weights", metavar="FILE_OR_NAME", help="Of a vision model; by default its published ones.")
@click.option("--num-classes", type=int, help="Of a vision model; by default as many as its weights.")
@click.option("--labels", metavar="FILE", help="What a vision model's classes are called, one name a line.")
@click.option("--multi-label", is_flag=True, help="A classifier's labels are independent; a .pth does not say so.")
@click.option("--size", metavar="HxW|dynamic", help="A vision model's input; by default that of its training.")
@click.option("--nms", is_flag=True, help="Choose a detector's boxes inside of the graph.")
@click.option("--calibrate", metavar="FOLDER", help="Pictures for vision's --quantize int8.")
@click.option("--web", is_flag=True, help="FOLDER is a page for a browser, which gets a tab for this model.")
@as_json
def export(model: str, out: str, batch: str, web: bool, as_json: bool, **options: Any) -> None:
    r"""Write a trained model for another runtime.

    ONNX Runtime, ExecuTorch, libtorch or a browser; it is verified there before the folder appears.

    \b
    python cli.py export ptb-awd-7m --quantize int8 --out ptb-onnx
    python cli.py export espnetv2_200_seg_voc --out voc-onnx
    """
    is_vision = (not (Path(model) / "config.json").exists() and model in list_models()) or _is_vision_run(model)
    kind, others = (_VISION, _OF_LANGUAGE) if is_vision else (_LANGUAGE, _OF_VISION)
    for name in others:
        if (value := options.pop(name)) is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')}: {model} is a {kind}, which has no such option")
    options["batch"] = "dynamic" if batch == "dynamic" else _number("--batch", batch)
    target = Path(out)
    if web:
        _check_for_page(options)
        check_page(out)
        target /= "pictures" if is_vision else "text"
    record = _export_vision(model, target, web, options) if is_vision else _export_language(model, target, options)
    if web:
        try:
            write_page(out)
        except BaseException:
            shutil.rmtree(target)  # so that the same command can be given again
            raise
    text = f"{target / record['file']}: {record['bytes'] / 1e6:.1f} MB, {_told(record['verified'])}"
    if web:
        say(f"next: `npm install` and `python -m http.server --bind 127.0.0.1` in {out}, then open what it names")
    answer(record, as_json, text)


def _is_vision_run(model: str) -> bool:
    """Whether a run folder is one of vision's; what is wrong with the folder is told by what opens it."""
    config = Path(model) / "config.json"
    fields = read_json(config) if config.exists() else None
    return isinstance(fields, dict) and fields.get("kind") == "vision-model"


def _export_language(model: str, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    if not Path(model).exists() and model not in trained_names():
        names = ", ".join([*trained_names(), *list_models("*_100*")])
        raise ValueError(f"RUN_OR_MODEL {model!r}: is no run folder, and no model; there are {names}, ...")
    return export_language_model(model, out, **{**options, "graph": options["graph"] or "step"})


def _export_vision(model: str, out: Path, web: bool, options: dict[str, Any]) -> dict[str, Any]:
    size = options.pop("size")
    size = size if size in (None, "dynamic") else parse_size("--size", size)
    weights, labels = options.pop("weights") or "DEFAULT", options.pop("labels")
    described = {name: options.pop(name) for name in ("num_classes", "multi_label")}
    predictor = open_predictor(model, weights, labels, **described)
    if web and isinstance(predictor.model, Detector) and not options["nms"]:
        raise ValueError(f"--web: {model} finds boxes, so it needs --nms")
    return export_vision_model(predictor, out, size=size, **options)


def _check_for_page(options: dict[str, Any]) -> None:
    """Refuse what the page cannot run."""
    wanted = {"format": ("onnx",), "batch": (1,), "graph": (None, "step")}
    for name, values in wanted.items():
        if options.get(name) not in values:
            raise ValueError(f"--{name} {options[name]}: --web needs {values[-1]}")
    if options.get("size") == "dynamic":
        raise ValueError("--size dynamic: --web needs one size")


def _number(option: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{option} {text!r}: must be a whole number, or dynamic")
    return int(text)


def _told(verified: dict[str, Any]) -> str:
    """What was verified, in words."""
    if "perplexity" in verified:
        ours, theirs = verified["perplexity"], verified["perplexity_of_pytorch"]
        return f"perplexity {ours:.2f} on a text where PyTorch has {theirs:.2f}"
    what, value = list(verified.items())[-1]
    return f"compared with PyTorch: {what.replace('_', ' ')} {value:.2g}"

"""Exporting vision models: the network, with the names of its classes and what it wants done to a picture."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from eru.edge.folder import (
    TOLERANCE,
    Format,
    check_answers,
    check_batch,
    check_format,
    largest_difference,
    new_export,
    require,
    write_model,
    write_record,
)
from eru.edge.graph import Graph, Run
from eru.storage import atomic_write
from vision.backbone import SMALLEST_SIDE
from vision.classification import Classifier
from vision.data.scenes import SHAPES, draw_scene
from vision.detection import Detector
from vision.export_form import Best, Logits, Raw, export_form
from vision.network import Network
from vision.pictures import list_pictures, open_picture
from vision.predictor import Predictor
from vision.segmentation import Segmenter

if TYPE_CHECKING:
    from onnx import ModelProto

Quantize = Literal["none", "int8-weights", "int8"]
_KINDS: dict[type[Network], str] = {Classifier: "classification", Segmenter: "segmentation", Detector: "detection"}
_TRACED = (128, 160)  # of a graph for any size; small, since PyTorch computes it once
_CHECKED = (97, 130)
_PICTURES, _SEEN = 4, 16  # drawn for each size; of the pictures that calibrate, at most
_SHARE = 0.99  # of the pixels of a segmenter in int8, and of the boxes that are chosen inside of a graph
_CHANGE = 0.05  # of a probability by int8
_CALIBRATED = 100  # pictures, at most
# Levels whose convolutions static int8 takes: those before them and the decoder lose too much by it.
_IN_INT8 = ("backbone.level3.", "backbone.level4.", "backbone.level5.")
_NEAR = 1e-3  # between two corners, relative to the picture, and between two scores


def export(
    predictor: Predictor,
    out: str | Path,
    *,
    format: Format = "onnx",
    size: tuple[int, int] | Literal["dynamic"] | None = None,
    batch: int | Literal["dynamic"] = 1,
    quantize: Quantize = "none",
    calibrate: str | Path | None = None,
    nms: bool = False,
) -> dict[str, Any]:
    """Write a vision model for another runtime, and verify it there, on drawn pictures or those of ``calibrate``.

    The input ``image`` (N, channels, H, W) is a picture prepared as ``export.json`` says. What comes out:

    - a classifier's ``logits`` (N, classes), a segmenter's ``logits`` (N, classes, H, W);
    - a detector's ``confidences`` (N, P, classes), ``offsets`` (N, P, 4) and the ``priors`` (P, 4) that these move;
    - with ``nms`` a detector's best ``boxes`` (N, k, 4) as x1, y1, x2, y2 relative to the picture, their ``labels``
      (N, k) and ``scores`` (N, k), of which -1 says that there is no box.

    Args:
        predictor: The model, with its preprocessing and its classes: :func:`vision.load_predictor`, or
            ``VisionRun.predictor``.
        out: The folder, which must not be there yet; it appears once everything in it is verified.
        format: ``onnx``, ``pt2`` or ``executorch``.
        size: Height and width of the input, by default those of the preprocessing; or ``"dynamic"`` for any (the
            priors of a detector belong to one size).
        batch: How many pictures a call takes, or ``"dynamic"`` for any number.
        quantize: ``int8-weights`` keeps the weights of convolutions in eight bits, for a smaller file; ``int8``
            computes in them, too, which needs ``calibrate``.
        calibrate: A folder of pictures, from which the range of every activation is taken.
        nms: Whether a detector's boxes are chosen inside of the graph.

    Returns:
        What ``export.json`` holds.

    Raises:
        ValueError: An unknown option, a package that is missing, a model that the format cannot take, something in the
            place of ``out``, or an export that does not do what the model does.

    Example:
        >>> import tempfile
        >>> from vision import load_predictor
        >>> predictor = load_predictor("espnetv2_050", None, num_classes=2)
        >>> record = export(predictor, Path(tempfile.mkdtemp()) / "net", format="pt2", size=(64, 64))
        >>> record["inputs"]
        [{'name': 'image', 'type': 'float32', 'shape': [1, 3, 64, 64]}]
    """
    model = predictor.model
    kind = next((kind for network, kind in _KINDS.items() if isinstance(model, network)), None)
    if kind is None or not isinstance(model, Network):
        raise ValueError(f"predictor: its model is a {type(model).__name__}, and must be of vision's own kinds")
    check_format(format, quantize, ("none", "int8-weights", "int8"))
    _check_options(kind, format, size, batch, quantize, calibrate, nms)
    _check_predictor(predictor)
    if isinstance(size, tuple):
        replace(predictor.preprocessing, size=size)  # which refuses sizes beyond all pictures
    pictures = [] if calibrate is None else list_pictures([calibrate])[:_CALIBRATED]
    with new_export(out, format) as folder:
        graph = _graph(predictor, size, batch, nms)
        translations: dict[Callable[..., Any], Callable[..., Any]] = {}
        if nms:
            from vision.onnx_nms import nms_mask as in_onnx

            translations[torch.ops.eru.nms_mask.default] = in_onnx
        quantizer = _quantizer(predictor, graph, quantize, pictures)
        written = write_model(folder, graph, format, quantize=quantizer, translations=translations)
        verified = _verify(predictor, graph, written.run, nms, quantize, pictures)
        with atomic_write(folder / "labels.txt") as file:
            file.writelines(f"{name}\n" for name in predictor.dataset.categories)
        fields = {"format": format, "kind": kind, "name": model.name, "quantize": quantize, "labels": "labels.txt"}
        fields |= _described(predictor, graph, nms)
        return write_record(folder, written, graph, {**fields, "verified": verified})


def _check_options(
    kind: str,
    format: Format,
    size: tuple[int, int] | Literal["dynamic"] | None,
    batch: int | Literal["dynamic"],
    quantize: Quantize,
    calibrate: str | Path | None,
    nms: bool,
) -> None:
    sides = size if isinstance(size, tuple) else ()
    if size not in (None, "dynamic") and not (
        len(sides) == 2 and all(type(side) is int and side >= SMALLEST_SIDE for side in sides)
    ):
        raise ValueError(f"size={size!r}: must be a height and a width of at least {SMALLEST_SIDE}, or 'dynamic'")
    if size == "dynamic" and kind == "detection":
        raise ValueError("size='dynamic': the priors of a detector belong to one size, so name it")
    if size == "dynamic" and format == "executorch":
        raise ValueError("size='dynamic': format='executorch' plans its memory for one size, so name it")
    check_batch(batch, format)
    if nms and kind != "detection":
        raise ValueError(f"nms=True: only a detector has boxes to choose from, and this model does {kind}")
    if nms and format != "onnx":
        raise ValueError(f"nms=True: format={format!r} has no such operator; leave it out")
    if quantize == "int8" and calibrate is None:
        raise ValueError("quantize='int8': needs calibrate, a folder of pictures that the ranges are taken from")
    if calibrate is not None and quantize != "int8":
        raise ValueError(f"calibrate={str(calibrate)!r}: only quantize='int8' takes ranges from pictures")


def _check_predictor(predictor: Predictor) -> None:
    """Refuse a model that no program could feed, or whose names would not stand in a list as they are."""
    channels = cast(Any, predictor.model).backbone.in_channels
    if channels != 3:
        raise ValueError(f"predictor: its model has in_channels={channels}, and pictures have 3")
    for name in predictor.dataset.categories:
        if name.strip() != name or name.splitlines() != [name]:
            raise ValueError(f"predictor: the class {name!r} must be one line without spaces around it")


def _graph(
    predictor: Predictor, size: tuple[int, int] | Literal["dynamic"] | None, batch: int | Literal["dynamic"], nms: bool
) -> Graph:
    model: Any = predictor.model
    height, width = _TRACED if size == "dynamic" else size or predictor.preprocessing.size
    outputs = ("logits",)
    if isinstance(model, Detector):
        outputs = ("boxes", "labels", "scores") if nms else ("confidences", "offsets", "priors")
    # An example of one picture would be taken for a fixed number.
    image = torch.zeros(2 if batch == "dynamic" else batch, model.backbone.in_channels, height, width)
    axes = {**({0: "batch"} if batch == "dynamic" else {}), **({2: "height", 3: "width"} if size == "dynamic" else {})}
    dynamic = {"image": axes}
    for name in outputs:
        has_size = isinstance(model, Segmenter)
        dynamic[name] = {} if name == "priors" else {a: d for a, d in axes.items() if a == 0 or has_size}
    least = {"height": SMALLEST_SIDE + 1, "width": SMALLEST_SIDE + 1}
    form = _answers(export_form(model), (height, width), nms)
    return Graph(form.eval(), {"image": image}, outputs, dynamic, least)


def _answers(model: Any, size: tuple[int, int], nms: bool) -> nn.Module:
    """A model, whose answers are tensors in a row."""
    if not hasattr(model, "raw"):
        return Logits(model)
    return (Best if nms else Raw)(model, size)


def _quantizer(
    predictor: Predictor, graph: Graph, quantize: Quantize, pictures: list[Path]
) -> "Callable[[ModelProto], ModelProto] | None":
    """What turns the ONNX model into int8."""
    if quantize == "none":
        return None
    from eru.edge.quantize import quantize_convolutions, quantize_weights

    if not pictures:
        return quantize_weights
    batch, *_, height, width = graph.inputs["image"].shape
    size = predictor.preprocessing.size if "height" in graph.dimensions else (height, width)
    prepare = replace(predictor.preprocessing, size=size, crop=None)
    images = (prepare(open_picture(path)).expand(batch, -1, -1, -1) for path in pictures)
    return partial(quantize_convolutions, inputs=[{"image": image.numpy()} for image in images], layers=_IN_INT8)


def _described(predictor: Predictor, graph: Graph, nms: bool) -> dict[str, Any]:
    """What a program must know to feed the network and to read its answer."""
    model: Any = predictor.model
    preprocessing = predictor.preprocessing
    if "height" not in graph.dimensions:
        height, width = graph.inputs["image"].shape[2:]
        preprocessing = replace(preprocessing, size=(height, width))
    fields: dict[str, Any] = {"preprocessing": asdict(preprocessing)}
    if isinstance(model, Classifier):
        fields["multi_label"] = model.multi_label
    else:
        one = isinstance(model, Segmenter) and model.num_classes == 1  # told from a background that has no name
        dataset = predictor.dataset
        fields["colours"] = dataset.with_background().colours[1:] if one else dataset.colours
        fields["background"] = dataset.background
    if isinstance(model, Detector):
        fields["nms"] = nms
    if (record := model.weights_record) is not None:
        fields |= {"licence": record.licence, "attribution": record.attribution}
    return fields


def example_images(
    predictor: Predictor, size: tuple[int, int], count: int, seed: int, pictures: Sequence[Path] = ()
) -> Tensor:
    """So many pictures (N, C, H, W) as the network takes them: drawn ones, unless there are others."""
    rng = np.random.default_rng(seed)
    prepare = replace(predictor.preprocessing, size=size, crop=None)
    if pictures:
        shown = [open_picture(path) for path, _ in zip(cycle(pictures), range(count), strict=False)]
    else:
        shown = [draw_scene(rng, size, rng.permutation(len(SHAPES))[:3].tolist())[0] for _ in range(count)]
    return torch.stack([prepare(picture) for picture in shown])


def _verify(
    predictor: Predictor, graph: Graph, run: Run, nms: bool, quantize: Quantize, pictures: list[Path]
) -> dict[str, Any]:
    """Compare the runtime with the model itself, at sizes that the graph was not made with where it takes others."""
    example = graph.inputs["image"].shape
    batches = (1, 3) if "batch" in graph.dimensions else (example[0],)
    sizes = [(example[2], example[3])]
    if "height" in graph.dimensions:
        usual = predictor.preprocessing.size
        sizes = [usual if usual != _TRACED else _TRACED[::-1], _CHECKED]
    count = min(len(pictures), _SEEN) or _PICTURES
    model: Any = predictor.model
    probabilities = model.probabilities if isinstance(model, Classifier) else partial(torch.softmax, dim=-1)
    change = partial(_change, probabilities)
    int8 = _agreement if isinstance(model, Segmenter) else change
    measure = share_found if nms else largest_difference if quantize == "none" else int8
    found, seen = [], 0
    for size in sizes:
        reference = Graph(_answers(predictor.model, size, nms), graph.inputs, graph.outputs)
        for batch in batches:
            images = example_images(predictor, size, max(batch, count // batch * batch), batch, pictures)
            for part in images.split(batch):
                made, wanted = run([part]), reference.run([part])
                check_answers(made, wanted)
                if nms:  # Where no score is a number nothing is found, which is finite.
                    assert isinstance(model, Detector)
                    with torch.no_grad():
                        raw = model.raw(part)
                    check_answers(raw, raw)
                found.append(measure(made, wanted))
            seen += len(images)
    checked = {"sizes": [list(size) for size in sizes], "batches": list(batches), "pictures": seen}
    if measure is largest_difference:
        require(max(found) <= TOLERANCE, f"it differs from PyTorch by {max(found):.2g}, above {TOLERANCE}")
        return {**checked, "largest_difference": max(found)}
    if measure is change:
        require(max(found) <= _CHANGE, f"a probability differs from PyTorch's by {max(found):.3f}, above {_CHANGE}")
        return {**checked, "largest_change_of_a_probability": max(found)}
    what = "boxes" if nms else "pixels"
    require(min(found) >= _SHARE, f"it agrees with PyTorch on {min(found):.2%} of the {what}, below {_SHARE:.0%}")
    return {**checked, f"{what}_that_agree": min(found)}


def _agreement(made: list[Tensor], wanted: list[Tensor]) -> float:
    """The share of the pixels that get the same class; of a single one, whose logit has its sign."""
    found, exact = made[0], wanted[0]
    same = found.argmax(dim=1) == exact.argmax(dim=1) if exact.shape[1] > 1 else (found > 0) == (exact > 0)
    return same.double().mean().item()


def _change(probabilities: Callable[[Tensor], Tensor], made: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest change of a probability, of a picture's classes or of a prior's."""
    return (probabilities(made[0]) - probabilities(wanted[0])).abs().max().item()


def share_found(made: list[Tensor], wanted: list[Tensor]) -> float:
    """The share of boxes that both give, of PyTorch's or of the export's, whichever is smaller.

    Two boxes are one if they have the same label and nearly the same corners and score. Boxes of nearly one score may
    come in another order, so each is looked for among all of its picture.

    Example:
        >>> boxes, labels, scores = torch.rand(1, 3, 4), torch.tensor([[1, 2, 2]]), torch.tensor([[0.9, 0.8, -1.0]])
        >>> share_found([boxes.flip(1), labels.flip(1), scores.flip(1)], [boxes, labels, scores])
        1.0
    """
    boxes, labels, scores = (tensor.unsqueeze(2) for tensor in wanted)
    found_boxes, found_labels, found_scores = (tensor.unsqueeze(1) for tensor in made)
    near = ((boxes - found_boxes).abs().amax(dim=-1) < _NEAR) & ((scores - found_scores).abs() < _NEAR)
    equal = near & (labels == found_labels)  # (N, PyTorch's boxes, the export's)
    sides = equal.any(dim=2)[wanted[2] >= 0], equal.any(dim=1)[made[2] >= 0]
    return min(side.double().mean().item() if side.numel() else 1.0 for side in sides)

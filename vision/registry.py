"""Models by name."""

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from vision.backbone import WIDTHS, ESPNetv2, Network, resolve_indices
from vision.classification import Classifier
from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset
from vision.detection import Detector
from vision.pretrained import WeightsFile, load_weights
from vision.segmentation import Segmenter
from vision.weights import WEIGHTS, Weights, list_weights, model_name

_Made = TypeVar("_Made", bound=nn.Module)


@dataclass(frozen=True)
class _Entry:
    """A named model: its class, width, dataset, and how its backbone differs from a classifier's."""

    build: Callable[..., Network]
    width: float
    dataset: Dataset
    depth: int = 5
    image_levels: Sequence[int] = (2, 3, 4)


_MODELS = {
    model_name(width, suffix): entry
    for width in WIDTHS
    for suffix, entry in (
        ("", _Entry(Classifier, width, IMAGENET)),
        ("_seg_voc", _Entry(Segmenter, width, VOC, depth=4)),
        ("_seg_city", _Entry(Segmenter, width, CITYSCAPES, depth=4)),
        ("_ssd_voc", _Entry(Detector, width, VOC, image_levels=(2, 3, 4, 5))),
        ("_ssd_coco", _Entry(Detector, width, COCO, image_levels=(2, 3, 4, 5))),
    )
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models, those that a shell pattern fits.

    Example:
        >>> list_models("*_050_s??_voc")
        ['espnetv2_050_seg_voc', 'espnetv2_050_ssd_voc']
    """
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: Weights | str | Path | None = None,
    weights_backbone: Weights | str | Path | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Any:
    """Build a model, with weights if any are named.

    Args:
        name: see :func:`list_models`.
        num_classes: the dataset's by default. With this model's published weights and another number, the last layer
            is drawn anew.
        in_channels: of the image; 3 by default.
        weights: ``"DEFAULT"`` (the model's published file), a record or its name, or the path of a file; see
            :func:`vision.pretrained.load_weights`.
        weights_backbone: weights of which only the backbone is taken, such as a classifier's for a detector;
            ``"DEFAULT"`` is the published classifier of the same width.
        features_only: the backbone alone, which gives a list of maps.
        out_indices: with ``features_only``, which maps; levels below the last one named are not built.
        device: where the parameters live.
        dtype: type of the parameters.
        options: of the model's class: ``multi_label``, ``fusion``, ``shortcut``, ... A file that
            :func:`vision.save_weights` wrote knows those of its model, and the number of its classes.

    Returns:
        The model, in training mode as every new module. ``model.weights_record`` is the record of its published
        weights and ``model.dataset`` describes its classes; ``None`` where there is none.

    Raises:
        ValueError: an unknown name, weights that do not fit, or options that do not.

    Example:
        >>> model = create_model("espnetv2_050_seg_voc", num_classes=3)
        >>> model(torch.zeros(1, 3, 40, 56))["out"].shape
        torch.Size([1, 3, 40, 56])
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(str(name), _MODELS, n=3, cutoff=0.3)
        raise ValueError(f"name={name!r}: no such model; did you mean {', '.join(close) or 'espnetv2_100'}?")
    if weights is not None and weights_backbone is not None:
        raise ValueError("weights and weights_backbone: name one of them")
    entry = _MODELS[name]
    file, file_backbone = _find(name, weights), _find(model_name(entry.width), weights_backbone)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    if in_channels is not None:
        options["in_channels"] = in_channels
    if features_only:
        if num_classes is not None:
            raise ValueError(f"num_classes={num_classes}: with features_only=True there are no classes")
        return _backbone(entry, out_indices, file or file_backbone, **{"width": entry.width, **options}, **place)
    if out_indices is not None:
        raise ValueError(f"out_indices={tuple(out_indices)}: needs features_only=True")
    own = len(entry.dataset.categories)
    known = {} if file is None else _known(name, entry, file)
    classes = known.pop("num_classes", own) if num_classes is None else num_classes
    # Only this model's own published file may lack the wanted number of classes.
    published = own if file is not None and file.record is not None else classes
    model = _build(entry.build, **{"width": entry.width, **known, **options, "num_classes": published}, **place)
    model.name = name
    if file is not None:
        model.weights_record = load_weights(model, file)
    if file_backbone is not None:
        load_weights(model.backbone, file_backbone)
    if classes != published:
        model.reset_classifier(classes)
    model.dataset = entry.dataset if classes == own else None
    return model


def _known(name: str, entry: _Entry, file: WeightsFile) -> dict[str, Any]:
    """The options that a file knows its model was made with.

    Raises:
        ValueError: it is another model's file.
    """
    known: dict[str, Any] = file.architecture()
    if file.record is not None:
        known = {"name": file.record.model}
        if entry.build is Detector:
            known["size"] = file.record.preprocessing.size  # of the images that it was trained on
    if (other := known.pop("name", name)) != name:
        raise ValueError(f"{file.path} holds weights of {other}, not of {name}")
    return known


def _find(name: str, weights: Weights | str | Path | None) -> WeightsFile | None:
    """The file that is meant by a model's ``weights=``."""
    if weights is None:
        return None
    if weights == "DEFAULT":
        if not (own := list_weights(name)):
            raise ValueError(f"weights='DEFAULT': there are no published weights of {name}")
        weights = WEIGHTS[own[0]]
    return WeightsFile.find(weights)


def _build(build: Callable[..., _Made], **options: Any) -> _Made:
    try:
        return build(**options)
    except TypeError as error:
        # A constructor names itself in full; users asked for a model by another name.
        raise ValueError(f"an option does not fit this model: {str(error).partition('() ')[2] or error}") from error


def _backbone(entry: _Entry, out_indices: Sequence[int] | None, file: WeightsFile | None, **options: Any) -> ESPNetv2:
    indices = resolve_indices(range(entry.depth) if out_indices is None else out_indices, entry.depth)
    backbone = _build(
        ESPNetv2, depth=1 + max(indices), out_indices=indices, image_levels=entry.image_levels, **options
    )
    if file is not None:
        backbone.weights_record = load_weights(backbone, file)
    return backbone

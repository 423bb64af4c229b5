"""Models by name."""

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vision.backbone import WIDTHS, ESPNetv2
from vision.classification import Classifier
from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset
from vision.detection import Detector
from vision.pretrained import WEIGHTS, Weights, find_weights, list_weights, load_weights, model_name
from vision.segmentation import Segmenter


@dataclass(frozen=True)
class _Entry:
    """A named model: its class, width, dataset, and how its backbone differs from a classifier's."""

    build: Callable[..., nn.Module]
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
    in_channels: int = 3,
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
        in_channels: of the image.
        weights: ``"DEFAULT"`` (the model's published file), a record or its name, or the path of a file; see
            :func:`vision.pretrained.load_weights`.
        weights_backbone: weights of which only the backbone is taken, such as a classifier's for a detector;
            ``"DEFAULT"`` is the published classifier of the same width.
        features_only: the backbone alone, which gives a list of maps.
        out_indices: with ``features_only``, which maps; levels below the last one named are not built.
        device: where the parameters live.
        dtype: type of the parameters.
        options: of the model's class: ``multi_label``, ``fusion``, ``shortcut``, ...

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
    file, file_backbone = _default(name, weights), _default(model_name(entry.width), weights_backbone)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    if features_only:
        return _backbone(entry, in_channels, out_indices, file or file_backbone, options | place)
    if out_indices is not None:
        raise ValueError(f"out_indices={tuple(out_indices)}: needs features_only=True")
    classes = len(entry.dataset.categories) if num_classes is None else num_classes
    known = None if file is None else find_weights(file)[1]
    published = len(known.dataset.categories) if known and known.model == name else classes
    model = entry.build(options.pop("width", entry.width), published, in_channels, **options, **place)
    model.weights_record = None if file is None else load_weights(model, file)
    if file_backbone is not None:
        load_weights(model.backbone, file_backbone)
    if classes != published:
        model.reset_classifier(classes)
    model.dataset = next((d for d in (entry.dataset,) if classes == len(d.categories)), None)
    return model


def _default(name: str, weights: Weights | str | Path | None) -> Weights | str | Path | None:
    """What ``"DEFAULT"`` stands for."""
    if weights != "DEFAULT":
        return weights
    if not (own := list_weights(name)):
        raise ValueError(f"weights='DEFAULT': there are no published weights of {name}")
    return WEIGHTS[own[0]]


def _backbone(
    entry: _Entry,
    in_channels: int,
    out_indices: Sequence[int] | None,
    weights: Weights | str | Path | None,
    options: dict[str, Any],
) -> ESPNetv2:
    indices = tuple(range(entry.depth) if out_indices is None else out_indices)
    wrong = [i for i in indices if not -entry.depth <= i < entry.depth]
    if wrong or not indices:
        raise ValueError(f"out_indices={indices}: must name maps 0 to {entry.depth - 1}")
    indices = tuple(i % entry.depth for i in indices)
    backbone = ESPNetv2(
        options.pop("width", entry.width),
        in_channels,
        depth=1 + max(indices),
        out_indices=indices,
        image_levels=entry.image_levels,
        **options,
    )
    backbone.weights_record = None if weights is None else load_weights(backbone, weights)
    return backbone

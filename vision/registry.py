"""Models by name: five kinds of models in seven widths."""

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eru.guess import did_you_mean
from vision.backbone import WIDTHS, ESPNetv2, resolve_indices
from vision.classification import Classifier
from vision.detection import Detector
from vision.network import Network, option_names
from vision.pretrained import WeightsFile, load_weights
from vision.segmentation import Segmenter
from vision.weights import KINDS, WEIGHTS, Weights, list_weights, model_name

_NETWORKS: dict[str, type[Network]] = {"classification": Classifier, "segmentation": Segmenter, "detection": Detector}
_MODELS = {model_name(width, suffix): (width, kind) for width in WIDTHS for suffix, kind in KINDS.items()}
# What timm calls options that are here too, where they have other names.
_TIMM = {
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "pretrained": "weights='DEFAULT'",
    "pretrained_backbone": "weights_backbone='DEFAULT'",
    "checkpoint_path": "weights='FILE'",
    "img_size": "size",
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models, those that a shell pattern fits.

    Example:
        >>> list_models("*_050_s??_voc")
        ['espnetv2_050_seg_voc', 'espnetv2_050_ssd_voc']
    """
    return sorted(fnmatch.filter(_MODELS, pattern))


def network_of(name: str) -> type[Network]:
    """The class of the models of that name.

    Raises:
        ValueError: There is no such model.

    Example:
        >>> network_of("espnetv2_050_seg_voc").__name__
        'Segmenter'
    """
    if name not in _MODELS:
        meant = did_you_mean(name, _MODELS, cutoff=0.3)
        widths, kinds = (", ".join(names) for names in (map(model_name, WIDTHS), filter(None, KINDS)))
        # Commands take the folder of a run in the same place, and only a path has several parts.
        what = "no such model" if Path(str(name)).name == str(name) else "no such model, and no run in such a folder"
        raise ValueError(f"name={name!r}: {what}; {meant}there are {widths}, and each of them with {kinds}")
    return _NETWORKS[_MODELS[name][1].task]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
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
        name: The model's name, see :func:`list_models`.
        num_classes: How many classes it tells apart; by default as many as the file of weights has, or else the
            model's dataset. With this model's published weights and another number, the last layer is drawn anew.
        weights: ``"DEFAULT"`` (the model's published file), a record or its name, or the path of a file; see
            :func:`vision.load_weights`.
        weights_backbone: Weights of which only the backbone is taken, such as a classifier's for a detector;
            ``"DEFAULT"`` is the published classifier of the same width.
        features_only: Whether to build the backbone alone, which gives a list of maps.
        out_indices: Which maps, with ``features_only``; levels below the last one named are not built.
        device: Where the parameters live.
        dtype: Type of the parameters.
        options: Options of the model's class: ``in_channels``, ``multi_label``, ``fusion``, ``shortcut``, ... A file
            that :func:`vision.save_weights` wrote knows those of its model, and any file those that its shapes tell:
            the number of classes, ``in_channels`` and ``pyramid_width``.

    Returns:
        The model, in training mode as every new module. ``model.preprocessing`` turns a picture into its input,
        ``model.dataset`` names its classes if they are known, and ``model.weights_record`` is the record of its
        published weights, if it has them.

    Raises:
        ValueError: An unknown name, weights that do not fit, or options that do not.

    Example:
        >>> model = create_model("espnetv2_050_seg_voc", num_classes=3)
        >>> model(torch.zeros(1, 3, 40, 56))["out"].shape
        torch.Size([1, 3, 40, 56])
    """
    network = network_of(name)
    if weights is not None and weights_backbone is not None:
        raise ValueError("weights and weights_backbone: name one of them")
    if features_only and num_classes is not None:
        raise ValueError(f"num_classes={num_classes}: with features_only=True there are no classes")
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices={tuple(out_indices)}: needs features_only=True")
    width, kind = _MODELS[name]
    place = {"device": device, "dtype": dtype}
    file, backbone_file = _find(name, weights), _find(model_name(width), weights_backbone)
    if features_only:
        depth = network.depth
        indices = resolve_indices(range(depth) if out_indices is None else out_indices, depth)
        # No deeper than its maps need.
        levels = {"depth": 1 + max(indices), "out_indices": indices, "image_levels": network.image_levels}
        backbone = _build(name, ESPNetv2, {"width": width, **options}, **levels, **place)
        if file := file or backbone_file:
            backbone.weights_record = load_weights(backbone, file)
        return backbone

    record, saved = (None, {}) if file is None else (file.record, file.architecture())
    if file is not None and (other := saved.pop("name", name)) != name:
        raise ValueError(f"{file.path} holds weights of {other}, not of {name}")
    if file is not None and record is None:
        saved = {**network.read_options(file.state()), **saved}  # a state dict alone says at least what shapes say
    own = len(kind.dataset.categories)
    held = saved.pop("num_classes", own)
    classes = held if num_classes is None else num_classes
    # A published file has its dataset's classes: where others are wanted, the last layer is replaced after loading.
    built = classes if record is None else own
    preprocessing = kind.preprocessing if record is None else record.preprocessing
    if network is Detector:
        saved.setdefault("size", preprocessing.size)  # a detector resizes the images of a list itself
    options = {"width": width, **saved, **options}
    model = _build(name, network, options, num_classes=built, **place)
    model.name = name
    if file is not None:
        model.weights_record = load_weights(model, file)
    if backbone_file is not None:
        load_weights(model.backbone, backbone_file)
    if classes != model.num_classes:
        model.reset_classifier(classes)
    model.dataset = kind.dataset if classes == own else None
    model.preprocessing = replace(preprocessing, size=getattr(model, "size", preprocessing.size))
    return model


def _build(name: str, build: Callable[..., Any], options: Mapping[str, Any], **decided: Any) -> Any:
    """Call a constructor whose options are known to be its own, so that what it raises is not about their names."""
    known = option_names(build)
    for option, value in options.items():
        if option not in known:
            meant = _TIMM.get(option) or next(iter(difflib.get_close_matches(option, known, n=1)), "")
            hint = f"{meant} is meant; " if meant.partition("=")[0] in (*known, "weights", "weights_backbone") else ""
            raise ValueError(f"{option}={value!r}: {name} has no such option here; {hint}it has {', '.join(known)}")
    return build(**options, **decided)


def _find(name: str, weights: Weights | str | Path | None) -> WeightsFile | None:
    """The file that is meant by a model's ``weights=``."""
    if weights is None:
        return None
    if weights == "DEFAULT":
        if not (own := list_weights(name)):
            raise ValueError(f"weights='DEFAULT': there are no published weights of {name}")
        weights = WEIGHTS[own[0]]
    return WeightsFile.find(weights)

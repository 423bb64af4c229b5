"""From a picture to the model's answer about it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vision.answers import Answer, Classification, Detections, Segmentation
from vision.backbone import SMALLEST_SIDE
from vision.datasets import Dataset, numbered
from vision.pictures import open_picture
from vision.preprocessing import Preprocessing
from vision.registry import create_model
from vision.weights import Weights

if TYPE_CHECKING:
    from PIL.Image import Image


class Predictor:
    """A model with all that stands between it and pictures.

    What the model gives decides what its answer is: logits (N, classes), a dictionary with the logits ``"out"``
    (N, classes, H, W), or a list of dictionaries with ``"boxes"``, ``"labels"`` and ``"scores"``.

    Args:
        model: Put into evaluation mode. A classifier with ``multi_label`` set gives independent probabilities; a
            segmentation model of one class tells it from the background.
        preprocessing: From a picture to the model's input. Only a classifier's may crop.
        dataset: The model's classes, as many as it has outputs.
        top_k: Most labels of a picture, where one of them is right.
        threshold: Least score of what is reported: by default 0.3 for detections, 0.5 for the labels of a multi-label
            classifier and for the pixels of one class, and 0 where one label is right.

    Raises:
        ValueError: ``top_k`` is below 1, or ``threshold`` outside of [0, 1].

    Example:
        >>> from PIL import Image
        >>> from vision.datasets import VOC
        >>> predictor = Predictor(create_model("espnetv2_050_seg_voc"), Preprocessing((64, 64)), VOC)
        >>> predictor(Image.new("RGB", (90, 60))).mask.shape
        (60, 90)
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        dataset: Dataset,
        *,
        top_k: int = 5,
        threshold: float | None = None,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: must be at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1")
        self.model, self.preprocessing, self.dataset = model.eval(), preprocessing, dataset
        self.top_k, self.threshold = top_k, threshold

    @torch.inference_mode()
    def __call__(self, picture: "Image | str | Path") -> Answer:
        """The model's answer about a picture.

        Args:
            picture: In mode RGB, or the path of its file (see :func:`vision.pictures.open_picture`).

        Raises:
            ValueError: The file cannot be read, or the model's outputs do not fit the dataset or the preprocessing.
            ArithmeticError: The model's outputs are not finite.
        """
        if isinstance(picture, str | Path):
            picture = open_picture(picture)
        like = next(self.model.parameters(), torch.empty(0))
        output = self.model(self.preprocessing(picture).to(like.device, like.dtype).unsqueeze(0))
        if isinstance(output, Tensor):
            return self._classify(output[0], picture)
        if self.preprocessing.crop is not None:
            raise ValueError(f"preprocessing crops ({self.preprocessing.crop}): only a classifier's may")
        if isinstance(output, dict):
            return self._segment(output["out"][0], picture)
        return self._detect(output[0], picture)

    def _classify(self, logits: Tensor, picture: "Image") -> Classification:
        self._check(logits)
        if getattr(self.model, "multi_label", False):
            probabilities, order = logits.float().sigmoid().sort(descending=True)
            count = int((probabilities > self._threshold(0.5)).sum())
        else:
            probabilities, order = logits.float().softmax(dim=0).sort(descending=True)
            count = min(self.top_k, int((probabilities >= self._threshold(0)).sum()))
        labels = tuple(self.dataset.categories[i] for i in order[:count].tolist())
        return Classification(picture, labels, tuple(probabilities[:count].tolist()))

    def _segment(self, logits: Tensor, picture: "Image") -> Segmentation:
        from PIL import Image

        self._check(logits)
        if len(logits) == 1:
            dataset = self.dataset.with_background()
            decided = (logits[0].float().sigmoid() > self._threshold(0.5)).int()
        else:
            dataset, decided = self.dataset, logits.argmax(dim=0)
        # Each pixel's class is decided in the network's size; the mask then grows to the picture's without mixing any.
        small = decided.cpu().numpy().astype(np.uint8 if len(dataset.categories) <= 256 else np.int32)
        mask = np.array(Image.fromarray(small).resize(picture.size, Image.Resampling.NEAREST))
        # Pixels are counted row by row, since counting turns what it is given into 64-bit integers.
        counts = np.sum([np.bincount(row, minlength=len(dataset.categories)) for row in mask], axis=0)
        order = np.argsort(-counts, kind="stable")
        shares = {dataset.categories[i]: 100 * int(counts[i]) / mask.size for i in order if counts[i]}
        return Segmentation(picture, mask, shares, dataset)

    def _detect(self, detections: dict[str, Tensor], picture: "Image") -> Detections:
        keep = detections["scores"] >= self._threshold(0.3)
        boxes, labels, scores = (detections[name][keep].cpu() for name in ("boxes", "labels", "scores"))
        if len(labels) and labels.max() >= len(self.dataset.categories):
            raise self._misfit(f"found {labels.max()}")
        # Boxes are in pixels of the network's input; double precision puts them exactly on the picture's edges.
        limit = torch.tensor(picture.size * 2, dtype=torch.float64)  # width, height, width, height
        boxes = boxes.double() * (limit / torch.tensor(self.preprocessing.size[::-1] * 2))
        corners = tuple(map(tuple, boxes.clamp(min=0).minimum(limit).tolist()))
        names = tuple(self.dataset.categories[i] for i in labels.tolist())
        return Detections(picture, corners, names, tuple(scores.tolist()), self.dataset)

    def _check(self, logits: Tensor) -> None:
        if len(logits) != len(self.dataset.categories):
            raise self._misfit(f"{len(logits)} outputs")
        if not logits.isfinite().all():
            raise ArithmeticError("the model's outputs are not finite: are its weights damaged?")

    def _misfit(self, found: str) -> ValueError:
        wanted = len(self.dataset.categories)
        return ValueError(f"dataset {self.dataset.title} has {wanted} categories, the model {found}")

    def _threshold(self, usual: float) -> float:
        return usual if self.threshold is None else self.threshold


def load_predictor(
    name: str,
    weights: Weights | str | Path | None = "DEFAULT",
    *,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    top_k: int = 5,
    threshold: float | None = None,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Predictor:
    """A predictor for a model of the registry, by default with its published weights.

    Args:
        name: The model's name, see :func:`vision.list_models`.
        weights: As for :func:`vision.create_model`; by default the model's published ones.
        num_classes: How many classes the model tells apart; by default as many as the weights.
        size: Height and width of the model's input; by default as the published weights, or else models of its kind,
            were trained.
        device: Where to compute.
        top_k: As for :class:`Predictor`.
        threshold: As for :class:`Predictor`.
        labels: What the classes are called, in the order of the model's outputs; a detector's first one is the
            background. By default as in the model's dataset, if it has as many.
        multi_label: Whether a classifier's picture may have several labels, or none; what
            :func:`vision.save_weights` wrote knows by itself.

    Raises:
        ValueError: An unknown name, weights that do not fit, or options that do not.

    Example:
        >>> predictor = load_predictor("espnetv2_050", None, num_classes=2)
        >>> predictor.dataset.categories, predictor.preprocessing.size
        (('class 0', 'class 1'), (224, 224))
    """
    options: dict[str, Any] = {"multi_label": True} if multi_label else {}
    model = create_model(name, num_classes=num_classes, weights=weights, **options).to(device)
    if (record := model.weights_record) and model.num_classes != (own := len(record.dataset.categories)):
        # The model's last layer was then drawn anew, to be trained, and knows nothing yet.
        raise ValueError(f"num_classes={num_classes}: the weights {record.name} tell {own} classes apart")
    preprocessing = resized(model.preprocessing, size)
    dataset = model.dataset or numbered(model.num_classes)
    if labels is not None:
        if len(labels) != model.num_classes:
            raise ValueError(f"labels: {len(labels)} names, but the model has {model.num_classes} classes")
        dataset = Dataset("labels", "the labels given", tuple(labels))
    return Predictor(model, preprocessing, dataset, top_k=top_k, threshold=threshold)


def resized(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """The same for a model's input of another height and width, if one is given.

    Raises:
        ValueError: The size is smaller than any of the networks takes, or too large.
    """
    if size is None:
        return preprocessing
    changed = replace(preprocessing, size=size)
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"size={size}: must be a height and a width of at least {SMALLEST_SIDE}")
    return changed

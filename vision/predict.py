"""A picture in, an answer and a picture out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from eru.training import Progress, atomic_write
from vision.answers import Answer, Classification, Detections, Segmentation
from vision.backbone import SMALLEST_SIDE
from vision.datasets import Dataset, numbered
from vision.pictures import list_pictures, open_picture, picture_suffixes
from vision.preprocessing import Preprocessing
from vision.registry import create_model
from vision.weights import Weights

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Failure", "Prediction", "Predictor", "load_predictor", "predict_files"]


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
    def __call__(self, picture: "Image") -> Answer:
        """The model's answer about a picture in mode RGB.

        Raises:
            ValueError: The model's outputs do not fit the dataset or the preprocessing.
            ArithmeticError: The model's outputs are not finite.
        """
        like = next(self.model.parameters(), torch.empty(0))
        output = self.model(self.preprocessing(picture).to(like.device, like.dtype).unsqueeze(0))
        if isinstance(output, Tensor):
            return self._classify(output[0])
        if self.preprocessing.crop is not None:
            raise ValueError(f"preprocessing crops ({self.preprocessing.crop}): only a classifier's may")
        if isinstance(output, dict):
            return self._segment(output["out"][0], picture)
        return self._detect(output[0], picture)

    def _classify(self, logits: Tensor) -> Classification:
        self._check(logits)
        if getattr(self.model, "multi_label", False):
            probabilities, order = logits.float().sigmoid().sort(descending=True)
            count = int((probabilities > self._threshold(0.5)).sum())
        else:
            probabilities, order = logits.float().softmax(dim=0).sort(descending=True)
            count = min(self.top_k, int((probabilities >= self._threshold(0)).sum()))
        labels = tuple(self.dataset.categories[i] for i in order[:count].tolist())
        return Classification(labels, tuple(probabilities[:count].tolist()))

    def _segment(self, logits: Tensor, picture: "Image") -> Segmentation:
        from PIL import Image

        self._check(logits)
        if len(logits) == 1:
            dataset = self.dataset.with_background()
            classes = (logits[0].float().sigmoid() > self._threshold(0.5)).int()
        else:
            dataset, classes = self.dataset, logits.argmax(dim=0)
        kind = np.uint8 if len(dataset.categories) <= 256 else np.int32
        mask = Image.fromarray(classes.cpu().numpy().astype(kind))
        found = np.array(mask.resize(picture.size, Image.Resampling.NEAREST))
        # Row by row: counting turns what it is given into 64-bit integers.
        counts = np.sum([np.bincount(row, minlength=len(dataset.categories)) for row in found], axis=0)
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        shares = {dataset.categories[i]: 100 * int(counts[i]) / found.size for i in order}
        return Segmentation(found, shares, dataset)

    def _detect(self, found: dict[str, Tensor], picture: "Image") -> Detections:
        keep = found["scores"] >= self._threshold(0.3)
        boxes, labels, scores = (found[name][keep].cpu() for name in ("boxes", "labels", "scores"))
        if len(labels) and int(labels.max()) >= len(self.dataset.categories):
            wanted = len(self.dataset.categories)
            raise ValueError(f"dataset {self.dataset.title} has {wanted} categories, the model found {labels.max()}")
        height, width = self.preprocessing.size
        across, down = picture.width / width, picture.height / height
        boxes = boxes.double() * torch.tensor([across, down, across, down], dtype=torch.float64)
        limit = torch.tensor([picture.width, picture.height] * 2)
        return Detections(
            tuple(map(tuple, boxes.clamp(min=0).minimum(limit).tolist())),
            tuple(self.dataset.categories[i] for i in labels.tolist()),
            tuple(scores.tolist()),
            self.dataset,
        )

    def _check(self, logits: Tensor) -> None:
        if len(logits) != len(self.dataset.categories):
            wanted = len(self.dataset.categories)
            raise ValueError(f"dataset {self.dataset.title} has {wanted} categories, the model {len(logits)} outputs")
        if not logits.isfinite().all():
            raise ArithmeticError("the model's outputs are not finite: are its weights damaged?")

    def _threshold(self, usual: float) -> float:
        return usual if self.threshold is None else self.threshold


def load_predictor(
    name: str,
    weights: Weights | str | Path | None = "DEFAULT",
    *,
    classes: int | None = None,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    top_k: int = 5,
    threshold: float | None = None,
) -> Predictor:
    """A predictor for a model of the registry.

    Args:
        name: The model's, see `vision.registry.list_models`.
        weights: As for `vision.registry.create_model`; by default the model's published ones.
        classes: How many classes the model tells apart; those of its dataset by default.
        size: Height and width of the model's input; by default as the published weights, or else models of its kind,
            were trained.
        device: Where to compute.
        top_k: See `Predictor`.
        threshold: See `Predictor`.

    Raises:
        ValueError: An unknown name, weights that do not fit, or options that do not.

    Example:
        >>> load_predictor("espnetv2_050", None, classes=2).dataset.categories
        ('class 0', 'class 1')
    """
    model = create_model(name, num_classes=classes, weights=weights).to(device)
    record = model.weights_record
    preprocessing = record.preprocessing if record else _usual_preprocessing(name)
    if size is not None:
        preprocessing = replace(preprocessing, size=size)
    dataset = model.dataset or numbered(model.num_classes)
    return Predictor(model, preprocessing, dataset, top_k=top_k, threshold=threshold)


def _usual_preprocessing(name: str) -> Preprocessing:
    if "_seg_" in name:
        return Preprocessing((512, 1024) if name.endswith("_city") else (384, 384))
    return Preprocessing((300, 300)) if "_ssd_" in name else Preprocessing((224, 224), crop=0.875)


@dataclass(frozen=True)
class Prediction:
    """What was said about one file.

    Attributes:
        picture: The file.
        answer: What the model says.
        first_of_many: Whether the file holds more pictures, of which only the first was looked at.
        written: The files that show the answer.
    """

    picture: Path
    answer: Answer
    first_of_many: bool
    written: tuple[Path, ...]


@dataclass(frozen=True)
class Failure:
    """A file about which nothing can be said, and why, in one line that names it."""

    picture: Path
    reason: str


def predict_files(
    predictor: Predictor, paths: Sequence[str | Path], out: str | Path | None = None, *, quiet: bool = False
) -> Iterator[Prediction | Failure]:
    """Predict files and folders of pictures, one at a time; one that fails does not stop the others.

    What shows an answer is ``NAME.png`` (labels, overlay or boxes); for segmentation there is ``NAME.mask.png``,
    too, whose values are the classes. No input is ever overwritten.

    Args:
        predictor: What answers.
        paths: Files and folders, see `vision.pictures.list_pictures`.
        out: For one file ``NAME.png``; or a folder, made if need be, in which each picture gives its name to what
            shows its answer. A name that is taken by another gets a number: ``cat.png``, ``cat-2.png``. None writes
            nothing.
        quiet: Show no progress bar. There is none for a single file, nor where stderr is not a terminal.

    Yields:
        A `Prediction` or a `Failure` for every file, in order.

    Raises:
        ValueError: ``out`` does not fit ``paths``, a folder has no pictures, the model does not fit its dataset, or
            Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise ValueError("pictures need Pillow, which is not installed: it comes with eru's extra 'vision'")
    files = list_pictures(paths)
    targets = [None] * len(files) if out is None else _targets(paths, files, Path(out))
    with Progress(len(files), unit="pictures", quiet=quiet or len(files) == 1) as progress:
        for file, target in zip(files, targets, strict=True):
            yield _predict_file(predictor, file, target)
            progress.advance()


def _predict_file(predictor: Predictor, file: Path, target: Path | None) -> Prediction | Failure:
    try:
        picture = open_picture(file)
    except ValueError as error:
        return Failure(file, str(error))
    if min(picture.size) < SMALLEST_SIDE:
        return Failure(
            file, f"{file}: too small, {picture.width}x{picture.height}: a side must have {SMALLEST_SIDE} pixels"
        )
    try:
        answer = predictor(picture)
    except ArithmeticError as error:
        return Failure(file, f"{file}: {error}")
    try:
        written = () if target is None else _write(answer.render(picture), target)
    except OSError as error:
        return Failure(file, f"{file}: its answer cannot be written to {target}: {error.strerror or error}")
    return Prediction(file, answer, "first_of_many" in picture.info, written)


def _write(rendered: dict[str, "Image"], target: Path) -> tuple[Path, ...]:
    target.parent.mkdir(parents=True, exist_ok=True)
    paths = [target if ending == ".png" else target.with_suffix(ending) for ending in rendered]
    for path, picture in zip(paths, rendered.values(), strict=True):
        with atomic_write(path, "wb") as stream:
            picture.save(stream, format="PNG")
    return tuple(paths)


def _targets(paths: Sequence[str | Path], files: Sequence[Path], out: Path) -> list[Path]:
    """The file ``NAME.png`` of every picture."""
    taken = {_key(file) for file in files}
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(files) > 1 or Path(paths[0]).is_dir():
            raise ValueError(f"out={str(out)!r}: for several pictures or a folder it must be a folder")
        if taken & _keys(out):
            raise ValueError(f"out={str(out)!r}: would overwrite the picture itself")
        return [out]
    if out.suffix.lower() in picture_suffixes() and not out.is_dir():
        raise ValueError(f"out={str(out)!r}: must end in .png, or be a folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r}: is a file, and neither a .png nor a folder")
    targets = []
    for file in files:
        target, number = out / f"{file.stem}.png", 1
        while taken & _keys(target):
            number += 1
            target = out / f"{file.stem}-{number}.png"
        taken |= _keys(target)
        targets.append(target)
    return targets


def _keys(target: Path) -> set[str]:
    """All that may be written for a picture."""
    return {_key(target), _key(target.with_suffix(".mask.png"))}


def _key(path: Path) -> str:
    """What tells files apart on every system, those that take A and a for one letter included."""
    return str(path.resolve()).casefold()

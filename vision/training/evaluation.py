"""How good a model is at its task, over a whole data set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eru.training import Precision, autocast
from vision.data.sample import Objects, Reader, Sample, Task
from vision.datasets import CITYSCAPES, Dataset
from vision.metrics import Accuracy, MeanIoU, Metric, MultiLabelF1, VOCAveragePrecision
from vision.network import Network
from vision.preprocessing import Preprocessing
from vision.training.loading import Broken, Prepared, load

QUALITY: dict[Task, str] = {"classify": "top1", "multilabel": "f1", "segment": "mean_iou", "detect": "map"}
"""The number by which each task says which of two models is better, from 0 to 1."""


@dataclass(frozen=True)
class Measured:
    """What a model achieved.

    Attributes:
        metric: What was gathered, with the numbers of the classes.
        numbers: What it comes to, by name.
        pictures: How many pictures were measured.
        passed_over: How many others were broken and left out.
    """

    metric: Metric
    numbers: dict[str, float]
    pictures: int
    passed_over: int


def make_metric(task: Task, dataset: Dataset) -> Metric:
    """An empty metric of that task for those classes."""
    num_classes = len(dataset.categories)
    if task == "classify":
        return Accuracy(num_classes)
    if task == "multilabel":
        return MultiLabelF1(num_classes)
    if task == "detect":
        return VOCAveragePrecision(num_classes)
    # The last class of Cityscapes' networks stands for what the benchmark ignores, so it has no part in the mean.
    return MeanIoU(num_classes, left_out=(num_classes - 1,) if dataset == CITYSCAPES else ())


@torch.inference_mode()
def measure(
    model: Network,
    reader: Reader,
    task: Task,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    broken: Broken = "refuse",
    count: Callable[[int], object] | None = None,
) -> Measured:
    """Measure a model on every picture of a data set, each at its own size.

    The model sees pictures as ``preprocessing`` makes them. Its masks grow back to the pictures' size without mixing
    classes, and its boxes are brought back to their pixels, as :class:`vision.Predictor` does.

    Args:
        model: A model for the task, on ``device``; it is left in evaluation mode.
        reader: The pictures and what is in them.
        task: What the model does.
        preprocessing: From a picture to the model's input.
        batch_size: The pictures that are computed together.
        device: Where to compute.
        precision: The precision of the products.
        workers: The processes that read ahead.
        broken: Whether a broken picture is an error or left out.
        count: What is called with how many more pictures are measured or left out, as they are.

    Raises:
        ValueError: The data set has no pictures, a picture is broken, or the outputs are no numbers.
    """
    model.eval()
    place = torch.device(device)
    metric = make_metric(task, reader.dataset)
    prepared = Prepared(reader, AsSeen(preprocessing), seed=0, epoch=0, broken=broken, replaced=False)
    numbers = np.arange(len(reader))
    batches = np.split(numbers, range(batch_size, len(numbers), batch_size))
    passed_over = 0
    for images, truths, skipped in load(prepared, batches, workers):
        passed_over += skipped
        if truths:
            with autocast(place, precision):
                outputs = model(images.to(place))
            _JUDGES[task](metric, outputs, truths, preprocessing)
        if count is not None:
            count(len(truths) + skipped)
    if passed_over == len(reader):
        raise ValueError("not one picture of the data set can be read")
    return Measured(metric, metric.compute(), len(reader) - passed_over, passed_over)


@dataclass(frozen=True)
class AsSeen:
    """A sample as the model sees it, and what is true of the whole picture; it can be sent to another process."""

    preprocessing: Preprocessing

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        """The input, and the sample without its picture."""
        told = {name: getattr(sample, name) for name in ("label", "labels", "mask", "objects")}
        truth = {name: value for name, value in told.items() if value is not None}
        return self.preprocessing(sample.picture), {**truth, "size": (sample.picture.height, sample.picture.width)}


def to_picture_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask of classes below 256 enlarged or reduced to a height and a width, without mixing any."""
    from PIL import Image

    height, width = size
    return np.array(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))


def _judge_class(metric: Any, outputs: Tensor, truths: list[dict[str, Any]], preprocessing: Preprocessing) -> None:
    metric.update(outputs.float(), torch.tensor([truth["label"] for truth in truths], device=outputs.device))


def _judge_labels(metric: Any, outputs: Tensor, truths: list[dict[str, Any]], preprocessing: Preprocessing) -> None:
    metric.update(outputs.float(), torch.from_numpy(np.stack([truth["labels"] for truth in truths])))


def _judge_mask(
    metric: Any, outputs: dict[str, Tensor], truths: list[dict[str, Any]], preprocessing: Preprocessing
) -> None:
    logits = outputs["out"]
    if not logits.isfinite().all():
        raise ValueError("the model's outputs are not finite: has its training diverged?")
    for decided, truth in zip(logits.argmax(dim=1).cpu().numpy(), truths, strict=True):
        predicted = torch.from_numpy(to_picture_size(decided, truth["size"]))
        metric.update(predicted.long().unsqueeze(0), torch.from_numpy(truth["mask"]).long().unsqueeze(0))


def _judge_objects(
    metric: Any, outputs: list[dict[str, Tensor]], truths: list[dict[str, Any]], preprocessing: Preprocessing
) -> None:
    for output, truth in zip(outputs, truths, strict=True):
        height, width = truth["size"]
        scale = torch.tensor([width / preprocessing.size[1], height / preprocessing.size[0]] * 2)
        found = {name: value.float().cpu() for name, value in output.items()}
        boxes, labels = found["boxes"] * scale, output["labels"].cpu()
        objects: Objects = truth["objects"]
        metric.update([{"boxes": boxes, "labels": labels, "scores": found["scores"]}], [objects])


_JUDGES: dict[str, Any] = {
    "classify": _judge_class,
    "multilabel": _judge_labels,
    "segment": _judge_mask,
    "detect": _judge_objects,
}

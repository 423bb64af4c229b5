"""What a run, or a model by its name, achieves on a data set: numbers, pictures to look at, files to hand in."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eru.storage import atomic_write
from eru.training import Precision, counted, why_not_drawn
from vision.classification import Classifier
from vision.data import Layout, open_data
from vision.data.sample import Reader, Split, Task
from vision.datasets import Dataset
from vision.detection import Detector
from vision.metrics import COCOAveragePrecision, MultiLabelF1, VOCAveragePrecision
from vision.network import Network
from vision.predictor import Predictor, resized
from vision.preprocessing import Preprocessing
from vision.registry import create_model, network_of
from vision.training.charts import draw_confusion, draw_curves
from vision.training.evaluation import Measured, measure
from vision.training.loading import Broken
from vision.training.run import open_run
from vision.training.sheet import draw_sheet
from vision.training.submission import write_submission


@dataclass(frozen=True)
class Report:
    """What a model achieves on a data set.

    Attributes:
        model: The run folder or the model's name.
        task: What it does.
        layout: How the data set lies on the disk.
        split: The part of it that was measured.
        pictures: How many pictures were measured.
        passed_over: How many others were broken and left out.
        size: Height and width of the model's input.
        numbers: The numbers of the task, from 0 to 1.
        per_class: The number of each class, by name, where the task has one; None where it has no meaning.
        written: The files that were written.
    """

    model: str
    task: Task
    layout: str
    split: str
    pictures: int
    passed_over: int
    size: tuple[int, int]
    numbers: dict[str, float]
    per_class: dict[str, float | None]
    written: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can express it, its numbers beside the other fields."""
        fields = {name: value for name, value in vars(self).items() if name != "numbers"}
        return {**fields, **self.numbers}

    def __str__(self) -> str:
        """A few lines for a person."""
        height, width = self.size
        lines = [f"{self.model} on {self.pictures:,} pictures ({self.layout}, {self.split}) at {height}x{width}:"]
        lines += [f"  {name} {value:.4f}" for name, value in self.numbers.items()]
        if self.per_class:
            shown = (f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in self.per_class.items())
            lines.append(f"  by class: {', '.join(shown)}")
        if self.passed_over:
            lines.append(f"  {self.passed_over} broken pictures were left out")
        return "\n".join([*lines, *(f"  written: {path}" for path in self.written)])


def evaluate(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    layout: Layout | None = None,
    split: Split | str | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    broken: Broken = "refuse",
    pictures: str | Path | None = None,
    submission: str | Path | None = None,
    quiet: bool = False,
) -> Report:
    """Measure a run, or a model of the registry, on a data set.

    Args:
        model: A run folder, or a model's name.
        weights: The weights of a model named by its name; by default its published ones. A run has its own.
        data: The data set's folder; by default that of the run's training.
        layout: How it lies on the disk; by default as that of the run's training.
        split: The part to measure on; by default that of the run's validation, or ``"val"``.
        size: Height and width of the model's input; by default that of its training.
        batch_size: The pictures that are computed together.
        device: Where to compute.
        precision: The precision of the products.
        workers: The processes that read ahead.
        broken: Whether a broken picture is an error, or left out and counted.
        pictures: A folder for pictures to look at: ``sheet.png``, and ``confusion.png`` or ``curves.png`` where
            matplotlib is installed.
        submission: A folder for the predictions in the test server's format, of VOC and Cityscapes.
        quiet: Show no progress.

    Raises:
        ValueError: There is no such run or model, the data set is missing, or its classes are not the model's.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    is_run = (Path(model) / "config.json").exists()
    if not is_run and network_of(str(model)) and (data is None or layout is None):
        raise ValueError(
            f"data={data!r}, layout={layout!r}: both must be given, since {str(model)!r} is no run folder"
        )
    network, task, preprocessing, dataset, trained = (
        _open_run(model, weights, device) if is_run else _open_model(str(model), weights, device)
    )
    root: str | Path = data or trained["root"]
    its_layout: Layout = layout or trained["layout"]
    its_split: str = split or trained.get("split", "val")
    preprocessing = resized(preprocessing, size)
    reader = open_data(its_layout, task, root, its_split)
    if reader.dataset.categories != dataset.categories:
        raise ValueError(
            f"data={str(root)!r}: its {len(reader.dataset.categories)} classes ({_some(reader.dataset)}) are not the "
            f"{len(dataset.categories)} of {model} ({_some(dataset)})"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision}
    options |= {"workers": workers, "broken": broken}
    with counted(len(reader), f"measuring {its_split}", unit="pictures", quiet=quiet) as count:
        measured = measure(network, reader, task, preprocessing, **options, count=count)
    predictor = Predictor(network, preprocessing, dataset)
    written: list[Path] = []
    if pictures is not None:
        written += _draw(Path(pictures), predictor, reader, measured, quiet)
    if submission is not None:
        written += write_submission(predictor, reader, its_layout, task, submission, quiet=quiet)
    numbers, per_class = measured.numbers, _by_class(measured, dataset)
    if its_layout == "coco" and isinstance(measured.metric, VOCAveragePrecision):
        strict = COCOAveragePrecision(network.num_classes)
        strict.load_state(measured.metric.state())
        numbers = {**numbers, **strict.compute()}
    return Report(
        model=str(model),
        task=task,
        layout=its_layout,
        split=its_split,
        pictures=measured.pictures,
        passed_over=measured.passed_over,
        size=preprocessing.size,
        numbers=numbers,
        per_class=per_class,
        written=tuple(map(str, written)),
    )


# The model, what it does and sees, its classes, and where the data of its training is, if it is a run's.
_Opened = tuple[Network, Task, Preprocessing, Dataset, dict[str, Any]]


def _open_run(path: str | Path, weights: str | Path | None, device: str | torch.device) -> _Opened:
    if weights is not None:
        raise ValueError(f"weights={str(weights)!r}: a run has its own; name the model in place of the run")
    run = open_run(path)
    its = run.folder.config["data"]
    trained = {"root": its["root"], "layout": its["layout"], "split": its["splits"][1]}
    return run.load_model(device), run.task, run.preprocessing, run.dataset, trained


def _open_model(name: str, weights: str | Path | None, device: str | torch.device) -> _Opened:
    network: Any = create_model(name, weights="DEFAULT" if weights is None else weights, device=device)
    if network.dataset is None:
        raise ValueError(f"weights={str(weights)!r}: their {network.num_classes} classes have no names: name a run")
    preprocessing: Preprocessing = network.preprocessing
    if isinstance(network, Classifier):
        task: Task = "multilabel" if network.multi_label else "classify"
    else:
        task = "detect" if isinstance(network, Detector) else "segment"
    return network, task, preprocessing, network.dataset, {}


def _by_class(measured: Measured, dataset: Dataset) -> dict[str, float | None]:
    metric: Any = measured.metric
    if not hasattr(metric, "per_class"):
        return {}
    values = metric.per_class()
    named = zip(dataset.categories, values, strict=True)
    # The background is no object, so it has no average precision.
    skipped = dataset.background if isinstance(metric, VOCAveragePrecision) else None
    return {name: value for index, (name, value) in enumerate(named) if index != skipped}


def _draw(folder: Path, predictor: Predictor, reader: Reader, measured: Measured, quiet: bool) -> list[Path]:
    """The sheet, and what shows the classes' errors."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "sheet.png"]
    with atomic_write(written[0], "wb") as file:
        draw_sheet(predictor, reader).save(file, format="PNG")
    metric: Any = measured.metric
    if isinstance(metric, VOCAveragePrecision):
        path = folder / "curves.png"
        drawn = draw_curves(metric.precision_recall(), predictor.dataset, path)
    elif isinstance(metric, MultiLabelF1):
        return written
    else:
        path = folder / "confusion.png"
        drawn = draw_confusion(metric.confusion, predictor.dataset, path)
    if not (drawn or quiet):
        print(why_not_drawn(path.name), file=sys.stderr)
    return [*written, path] if drawn else written


def _some(dataset: Dataset) -> str:
    names = dataset.categories
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

"""What shows where a model errs: a confusion matrix, and curves of precision against recall."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from eru.storage import atomic_write
from vision.datasets import Dataset
from vision.metrics import PrecisionRecall

_MOST_NAMES = 40  # more names than this cannot be read beside a matrix


def draw_confusion(confusion: Tensor, dataset: Dataset, path: str | Path) -> bool:
    """Draw which class was taken for which, as shares of the true one.

    Args:
        confusion: (C, C), how often class i was taken for class j.
        dataset: What the classes are called.
        path: The PNG file to write.

    Returns:
        Whether it was drawn: False, and no file, if matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> import torch
        >>> draw_confusion(torch.eye(2), Dataset("two", "Two", ("cat", "dog")), Path(tempfile.mkdtemp()) / "c.png")
        True
    """
    made = _figure(8, 7)
    if made is None:
        return False
    figure, axes = made
    counts = confusion.double().numpy()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, label="share of the true class")
    if len(dataset.categories) <= _MOST_NAMES:
        places = range(len(dataset.categories))
        axes.set_xticks(places, dataset.categories, rotation=90)
        axes.set_yticks(places, dataset.categories)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _save(figure, path)


def draw_curves(curves: Mapping[int, PrecisionRecall], dataset: Dataset, path: str | Path) -> bool:
    """Draw the precision of each class of objects against its recall.

    Args:
        curves: The curve of each class that has objects.
        dataset: What the classes are called.
        path: The PNG file to write.

    Returns:
        Whether it was drawn: False, and no file, if matplotlib is not installed.
    """
    made = _figure(8, 6)
    if made is None:
        return False
    figure, axes = made
    for label, curve in curves.items():
        name = f"{dataset.categories[label]} {curve.average_precision():.2f}"
        axes.plot(curve.recall, curve.precision, label=name, drawstyle="steps-post")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    axes.grid(True, color="0.9")
    if curves:
        figure.legend(loc="outside right upper", title="average precision", frameon=False)
    return _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any] | None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Any, path: str | Path) -> bool:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
    return True

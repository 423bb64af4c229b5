"""The learning curve of a run as a picture."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eru.storage import atomic_write

Points = dict[int, float]  # From a step to a value.


def plot_curve(
    metrics: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    quantity: str = "loss",
    of_loss: Callable[[float], float] = float,
) -> bool:
    """Draw the training and validation losses, or what follows from them, and the learning rate against the step.

    Where a resumed run logged a step a second time, the later record counts. Values that are missing or not finite are
    left out.

    Args:
        metrics: Records as `RunFolder.metrics` returns them. Of ``"event": "step"`` the fields ``step``, ``loss`` and
            ``learning_rate`` are drawn, of ``"event": "epoch"`` ``step``, ``train_loss``, ``valid_loss`` and
            ``learning_rate``, of ``"event": "resume"`` ``step``. Others are ignored.
        path: The PNG file to write.
        quantity: What is drawn, as its axis says.
        of_loss: That quantity of a loss; it grows with the loss and is above 0, since its axis is logarithmic.

    Returns:
        Whether there is a picture: there is none if matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "curve.png"
        >>> plot_curve([{"event": "step", "step": 50, "loss": 5.1, "learning_rate": 0.002}], path)
        True
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8.0, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_losses(upper, metrics, of_loss)
    upper.set_ylabel(quantity)
    _draw_learning_rate(lower, metrics)
    resumed = [record["step"] for record in metrics if record.get("event") == "resume"]
    for axes in (upper, lower):
        for number, step in enumerate(resumed):
            label = "resumed" if number == 0 and axes is upper else None
            axes.axvline(step, color="0.45", linestyle=":", linewidth=1.2, label=label)
        axes.grid(True, color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    if upper.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
    return True


def why_not_drawn(name: str) -> str:
    """What is told people where a picture of that name is not drawn, since matplotlib is not installed."""
    return f"no {name}: matplotlib draws it, which comes with pip install -e '.[plots]'"


def _draw_losses(axes: Any, metrics: Sequence[Mapping[str, Any]], of_loss: Callable[[float], float]) -> None:
    steps = _points(metrics, "step", "loss", of_loss)
    train, valid = (_points(metrics, "epoch", field, of_loss) for field in ("train_loss", "valid_loss"))
    if steps:
        axes.plot(*_columns(steps), color="tab:blue", alpha=0.4, linewidth=1.0, label="training")
    if train:
        label = "training, mean of the epoch"
        axes.plot(*_columns(train), color="tab:blue", marker="o", markersize=4, label=label)
    if valid:
        best = min(valid, key=valid.__getitem__)
        label = f"validation (best {valid[best]:.4g} at step {best:,})"
        axes.plot(*_columns(valid), color="tab:orange", marker="s", markersize=4, label=label)
    axes.set_yscale("log")
    _set_log_ticks(axes, [*steps.values(), *train.values(), *valid.values()])


def _draw_learning_rate(axes: Any, metrics: Sequence[Mapping[str, Any]]) -> None:
    rates = _points(metrics, "step", "learning_rate") | _points(metrics, "epoch", "learning_rate")
    axes.plot(*_columns(rates), color="tab:green")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("learning rate")
    axes.set_xlabel("step (weight updates)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _set_log_ticks(axes: Any, values: list[float]) -> None:
    """Put ticks at plain round numbers; within less than a decade a logarithmic locator would find too few of them."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    narrow = bool(values) and max(values) < 8.0 * min(values)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8) if narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,.6g}")


def _points(
    metrics: Sequence[Mapping[str, Any]], event: str, field: str, of_value: Callable[[float], float] = float
) -> Points:
    """What follows from a field, where finite, over the steps; a later record of a step replaces an earlier one."""
    chosen = {record["step"]: record.get(field) for record in metrics if record.get("event") == event}
    found = {step: of_value(value) for step, value in chosen.items() if value is not None and math.isfinite(value)}
    return {step: value for step, value in found.items() if math.isfinite(value)}


def _columns(points: Points) -> tuple[list[int], list[float]]:
    steps = sorted(points)
    return steps, [points[step] for step in steps]

import math
import sys

import pytest

from eru.training import plot_curve
from eru.training.curves import _points

METRICS = [
    {"event": "step", "step": 50, "epoch": 0.1, "loss": 6.0, "learning_rate": 0.001},
    {"event": "step", "step": 100, "epoch": 0.2, "loss": 5.5, "learning_rate": 0.002},
    {"event": "step", "step": 150, "epoch": 0.3, "loss": 9.0, "learning_rate": 0.002},
    {"event": "resume", "step": 100},
    {"event": "step", "step": 150, "epoch": 0.3, "loss": 5.0, "learning_rate": 0.0015},
    {"event": "step", "step": 200, "epoch": 0.4, "loss": None, "learning_rate": 0.001},
    {"event": "epoch", "step": 500, "epoch": 1, "train_loss": 4.9, "valid_loss": 5.0, "learning_rate": 0.001},
    {"event": "sample", "text": "no figures"},
]


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look at what was drawn."""
    figure_module = pytest.importorskip("matplotlib.figure")
    saved = []
    original = figure_module.Figure.savefig
    monkeypatch.setattr(
        figure_module.Figure,
        "savefig",
        lambda self, *a, **k: (saved.append(self), original(self, *a, **k))[1],
    )
    return saved


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_drawn_values(tmp_path, figures):
    assert plot_curve(METRICS, tmp_path / "curve.png", quantity="perplexity", of_loss=math.exp) is True
    upper, lower = figures[0].axes
    assert upper.get_ylabel() == "perplexity"
    lines = lines_of(upper)
    training = lines["training"]
    assert list(training.get_xdata()) == [50, 100, 150]
    assert list(training.get_ydata()) == pytest.approx([math.exp(6.0), math.exp(5.5), math.exp(5.0)])
    valid = next(line for label, line in lines.items() if label.startswith("validation"))
    assert list(valid.get_xdata()) == [500]
    assert list(valid.get_ydata()) == pytest.approx([math.exp(5.0)])
    assert valid.get_label() == "validation (best 148.4 at step 500)"
    assert list(lines["training, mean of the epoch"].get_ydata()) == pytest.approx([math.exp(4.9)])
    assert list(lines["resumed"].get_xdata()) == [100, 100]
    rates = lower.lines[0]
    assert list(rates.get_xdata()) == [50, 100, 150, 200, 500]
    assert list(rates.get_ydata()) == [0.001, 0.002, 0.0015, 0.001, 0.001]


def test_axes_are_labelled_and_logarithmic(tmp_path, figures):
    plot_curve(METRICS, tmp_path / "curve.png")
    upper, lower = figures[0].axes
    assert (upper.get_yscale(), upper.get_ylabel()) == ("log", "loss")
    assert [list(line.get_ydata()) for line in upper.lines if line.get_label() == "training"] == [[6.0, 5.5, 5.0]]
    assert (lower.get_ylabel(), lower.get_xlabel()) == ("learning rate", "step (weight updates)")
    assert {text.get_text() for text in figures[0].legends[0].texts} == set(lines_of(upper))


@pytest.mark.parametrize(("low", "high"), [(95, 110), (80, 300), (80, 900), (60, 10_000), (1, 1_000_000)])
def test_perplexity_axis_has_a_readable_number_of_ticks(tmp_path, figures, low, high):
    metrics = [{"event": "step", "step": i, "loss": value} for i, value in enumerate((high, low))]
    plot_curve(metrics, tmp_path / "curve.png")
    axes = figures[0].axes[0]
    bottom, top = axes.get_ylim()
    assert 3 <= sum(bottom <= tick <= top for tick in axes.get_yticks()) <= 20


@pytest.mark.parametrize(
    "metrics", [[], [{"event": "resume", "step": 0}], [{"event": "step", "step": 1, "loss": 1e9}]]
)
def test_odd_metrics_still_draw(tmp_path, metrics):
    pytest.importorskip("matplotlib")
    assert plot_curve(metrics, tmp_path / "curve.png") is True
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_is_not_touched(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert plot_curve(METRICS, tmp_path / "curve.png") is True


def test_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot_curve(METRICS, tmp_path / "curve.png") is False
    assert list(tmp_path.iterdir()) == []


def test_the_later_record_counts_even_when_it_has_no_value():
    metrics = [{"event": "step", "step": 1, "loss": 2.0}, {"event": "step", "step": 1, "loss": None}]
    assert _points(metrics, "step", "loss") == {}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_values_that_are_not_finite_are_left_out(loss):
    assert _points([{"event": "step", "step": 1, "loss": loss}], "step", "loss") == {}


def test_what_follows_from_a_loss_and_is_not_finite_is_left_out(tmp_path, figures):
    metrics = [{"event": "step", "step": step, "loss": loss} for step, loss in enumerate((1.0, 800.0))]
    plot_curve(metrics, tmp_path / "curve.png", of_loss=lambda loss: math.exp(loss) if loss < 700 else math.inf)
    assert list(lines_of(figures[0].axes[0])["training"].get_xdata()) == [0]

"""Forecast a chaotic series with a cell that is fed its own predictions.

The task is to forecast the next 16 values of the Mackey-Glass series, a delay equation once written for blood-cell
counts, from 32 noisy observations. The cell reads one number a step. Beyond the last observation it reads what it
predicted the step before.

The score is the root-mean-square error of all 16 steps, over windows that lie after the training part, in units of the
series' standard deviation. Lower is better, and the noise alone is 0.05. There are two baselines: to repeat the last
observation, and the best linear forecast from the same 32 observations (by least squares).

The goal is a score of at most 0.20, which is less than half the error of the linear forecast.

    python examples/forecast.py --cell eru --picture forecast.png

For the picture both cells are trained, on the same batches. It shows one window with what they forecast, and the error
of each step over all windows. They have states of equal size; as they read one number, the ERU has more weights.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from program import COLOURS, drawing, make_parser, report, train
from torch import Tensor, nn

from eru import ERUCell

CONTEXT, HORIZON = 32, 16
TRAIN_SAMPLES, TEST_SAMPLES, NOISE = 5000, 1000, 0.05
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE = 64, 64, 5e-3
GOAL = 0.20


def mackey_glass(samples: int, every: float = 3.0, delay: float = 17.0, dt: float = 0.1) -> Tensor:
    """Solve dx/dt = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x(t) by Euler's method, and sample the solution."""
    lag, stride, warm_up = round(delay / dt), round(every / dt), 5000
    x = [1.2] * (lag + 1)
    for _ in range(warm_up + samples * stride):
        x.append(x[-1] + dt * (0.2 * x[-1 - lag] / (1 + x[-1 - lag] ** 10) - 0.1 * x[-1]))
    return torch.tensor(x[-samples * stride :: stride])


class Forecaster(nn.Module):
    """A cell that reads a series step by step and predicts how the next value differs from the one read."""

    def __init__(self, cell: type[nn.Module]):
        super().__init__()
        self.cell = cell(1, HIDDEN_SIZE)
        self.head = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, context: Tensor, horizon: int) -> Tensor:
        """Predict every value after the first of `context` (B, T), and `horizon` more: (B, T - 1 + horizon)."""
        predictions, state = [], None
        for t in range(context.shape[1] + horizon - 1):
            x = context[:, t : t + 1] if t < context.shape[1] else predictions[-1]
            state = self.cell(x, state)
            predictions.append(x + self.head(state[0]))
        return torch.cat(predictions, dim=1)


def losses(model: Forecaster, windows: Tensor) -> Iterator[Tensor]:
    """Give the squared error of one-step predictions in the context and of the rolled-out forecast, batch by batch."""
    while True:
        batch = windows[torch.randint(len(windows), (BATCH_SIZE,))]
        yield nn.functional.mse_loss(model(batch[:, :CONTEXT], HORIZON), batch[:, 1:])


def baselines(train_windows: Tensor, test_windows: Tensor) -> dict[str, Tensor]:
    """Return the forecast that repeats the last observation, and the linear one."""
    coefficients = torch.linalg.lstsq(train_windows[:, :CONTEXT], train_windows[:, CONTEXT:]).solution
    context = test_windows[:, :CONTEXT]
    return {"persistence": context[:, -1:].expand(-1, HORIZON), "linear": context @ coefficients}


def rms_error(forecast: Tensor, windows: Tensor) -> float:
    """Return the root-mean-square error of `forecast` (N, HORIZON) against the last steps of `windows`."""
    return (forecast - windows[:, CONTEXT:]).square().mean().sqrt().item()


def draw(path: Path, forecasts: dict[str, Tensor], windows: Tensor) -> None:
    """Draw one window with the forecasts of the cells, and the error of each step over all windows."""
    steps, shown = range(1, HORIZON + 1), len(windows) // 2
    with drawing(path, f"A chaotic series, forecast from {CONTEXT} noisy observations") as figure:
        window, error = figure.subplots(1, 2, width_ratios=(3, 2))
        window.plot(range(1 - CONTEXT, HORIZON + 1), windows[shown], ".", color="0.2")
        window.axvline(0.5, color="0.8", linewidth=1)
        window.set(xlabel="step", title="observed (dots) and forecast")
        for name, forecast in forecasts.items():
            squares = (forecast - windows[:, CONTEXT:]).square()
            label = f"{name.upper() if name in COLOURS else name} {rms_error(forecast, windows):.2f}"
            error.plot(steps, squares.mean(dim=0).sqrt(), color=COLOURS.get(name, "0.6"), label=label)
            if name in COLOURS:
                window.plot(steps, forecast[shown], color=COLOURS[name])
        error.axhline(NOISE, color="0.4", linestyle=":", label=f"noise {NOISE:.2f}")
        error.set(xlabel="step", title="error of each step", ylim=0)
        figure.legend(*error.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def main(argv: list[str] | None = None) -> int:
    """Train the model, print its score beside the baselines as one JSON line, and return 0 if the goal is reached."""
    args = make_parser(__doc__, steps=150).parse_args(argv)
    torch.manual_seed(args.seed)
    series = mackey_glass(TRAIN_SAMPLES + TEST_SAMPLES)
    series = (series - series[:TRAIN_SAMPLES].mean()) / series[:TRAIN_SAMPLES].std()
    series = series + NOISE * torch.randn(len(series))
    train_windows = series[:TRAIN_SAMPLES].unfold(0, CONTEXT + HORIZON, 1)
    test_windows = series[TRAIN_SAMPLES:].unfold(0, CONTEXT + HORIZON, 1)

    cells = {"eru": ERUCell, "lstm": nn.LSTMCell}
    models, forecasts = {}, {}
    for name in [args.cell] if args.picture is None else cells:
        with torch.random.fork_rng(devices=[]):  # Both cells start from the same random numbers.
            models[name] = Forecaster(cells[name])
            train(models[name], losses(models[name], train_windows), steps=args.steps, learning_rate=LEARNING_RATE)
        with torch.no_grad():
            forecasts[name] = models[name](test_windows[:, :CONTEXT], HORIZON)[:, -HORIZON:]
    known = baselines(train_windows, test_windows)
    if args.picture is not None:
        draw(args.picture, {**forecasts, "linear": known["linear"]}, test_windows)

    score = rms_error(forecasts[args.cell], test_windows)
    errors = {name: rms_error(forecast, test_windows) for name, forecast in known.items()}
    return report("forecast", args, models[args.cell], score=score, baselines=errors, goal=GOAL, reached=score <= GOAL)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The products of a step are too small to be shared among threads.
    sys.exit(main())

"""Forecast a chaotic series with a cell that is fed its own predictions.

The task is to forecast the next 16 values of the Mackey-Glass series, a delay equation once written for blood-cell
counts, from 32 noisy observations. The cell reads one number a step. Beyond the last observation it reads what it
predicted the step before.

The score is the root-mean-square error of all 16 steps, over windows that lie after the training part, in units of the
series' standard deviation. Lower is better, and the noise alone is 0.05. There are two baselines: to repeat the last
observation, and the best linear forecast from the same 32 observations (by least squares).

The goal is a score of at most 0.20, which is less than half the error of the linear forecast.

    python examples/forecast.py --cell eru
"""

import sys

import torch
from program import parse_arguments, report
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


def train(model: Forecaster, windows: Tensor, steps: int) -> None:
    """Minimise the squared error of one-step predictions in the context and of the rolled-out forecast."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step in range(1, steps + 1):
        batch = windows[torch.randint(len(windows), (BATCH_SIZE,))]
        loss = nn.functional.mse_loss(model(batch[:, :CONTEXT], HORIZON), batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)


def rms_error(forecast: Tensor, windows: Tensor) -> float:
    """Return the root-mean-square error of `forecast` (N, HORIZON) against the last steps of `windows`."""
    return (forecast - windows[:, CONTEXT:]).square().mean().sqrt().item()


def baselines(train_windows: Tensor, test_windows: Tensor) -> dict[str, float]:
    """Return the errors of the forecast that repeats the last observation and of the linear one."""
    coefficients = torch.linalg.lstsq(train_windows[:, :CONTEXT], train_windows[:, CONTEXT:]).solution
    context = test_windows[:, :CONTEXT]
    return {
        "persistence": round(rms_error(context[:, -1:].expand(-1, HORIZON), test_windows), 4),
        "linear": round(rms_error(context @ coefficients, test_windows), 4),
    }


def main(argv: list[str] | None = None) -> int:
    """Train the model, print its score beside the baselines as one JSON line, and return 0 if the goal is reached."""
    args = parse_arguments(__doc__, argv, steps=150)
    torch.manual_seed(args.seed)
    series = mackey_glass(TRAIN_SAMPLES + TEST_SAMPLES)
    series = (series - series[:TRAIN_SAMPLES].mean()) / series[:TRAIN_SAMPLES].std()
    series = series + NOISE * torch.randn(len(series))
    train_windows = series[:TRAIN_SAMPLES].unfold(0, CONTEXT + HORIZON, 1)
    test_windows = series[TRAIN_SAMPLES:].unfold(0, CONTEXT + HORIZON, 1)

    cell = {"eru": ERUCell, "lstm": nn.LSTMCell}[args.cell]
    model = Forecaster(cell)
    train(model, train_windows, args.steps)
    with torch.no_grad():
        score = rms_error(model(test_windows[:, :CONTEXT], HORIZON)[:, -HORIZON:], test_windows)

    known = baselines(train_windows, test_windows)
    return report("forecast", args, model, score=score, baselines=known, goal=GOAL, reached=score <= GOAL)


if __name__ == "__main__":
    torch.set_num_threads(1)  # The products of a step are too small to be shared among threads.
    sys.exit(main())

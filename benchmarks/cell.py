"""One step of one cell on this machine: ERUCell against nn.LSTMCell, forward and backward.

    python benchmarks/cell.py

Every round runs each contender in turn; the table shows medians and the ratio to nn.LSTMCell of the same sizes.
"""

import statistics
import time

import torch
from environment import write_result
from torch import nn

from eru import ERUCell

SIZES = [(64, 64, 64), (1, 64, 64), (20, 512, 512)]  # batch, input, hidden
ROUNDS, REPEATS = 15, 50


def milliseconds(cell: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Wall time of one step without gradients, and of one with its backward."""
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(REPEATS):
            cell(x)
    middle = time.perf_counter()
    for _ in range(REPEATS):
        cell(x)[0].sum().backward()
    return 1000 * (middle - start) / REPEATS, 1000 * (time.perf_counter() - middle) / REPEATS


def main() -> None:
    """Measure all sizes and write benchmarks/results/cell.json."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for batch, inputs, hidden in SIZES:
        cells = {"nn.LSTMCell": nn.LSTMCell(inputs, hidden), "ERUCell": ERUCell(inputs, hidden)}
        x = torch.randn(batch, inputs, requires_grad=True)
        rounds = [{name: milliseconds(cell, x) for name, cell in cells.items()} for _ in range(ROUNDS + 1)][1:]
        for name in cells:
            row = {"batch": batch, "input_size": inputs, "hidden_size": hidden, "cell": name}
            for index, kind in enumerate(("forward", "forward_backward")):
                row[f"{kind}_ms"] = round(statistics.median(turn[name][index] for turn in rounds), 4)
                ratios = [turn[name][index] / turn["nn.LSTMCell"][index] for turn in rounds]
                row[f"{kind}_ratio"] = round(statistics.median(ratios), 2)
            print(row)
            rows.append(row)
    write_result("cell", {"rounds": ROUNDS, "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()

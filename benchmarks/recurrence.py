"""One recurrent layer on this machine: ERU against nn.LSTM and a naive loop, forward and backward.

    python benchmarks/recurrence.py [--threads 2]

Every round runs each contender once, so that a drift of the machine meets all of them; the table shows medians and
the ratio to nn.LSTM of the same sizes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from environment import write_result
from torch import Tensor, nn

from eru import ERU

SIZES = [(1152, 1152), (512, 512), (400, 1152)]


def contenders(inputs: int, hidden: int) -> dict[str, nn.Module]:
    """The peer first; the naive loop is the oracle that every fast path is tested against."""
    return {
        "nn.LSTM": nn.LSTM(inputs, hidden),
        "ERU": ERU(inputs, hidden),
        "ERU time axis": ERU(inputs, hidden, conv_axis="time"),
        "ERU naive loop": ERU(inputs, hidden, backend="naive"),
    }


def seconds(work: Callable[[nn.Module, Tensor], None], module: nn.Module, x: Tensor) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work(module, x)
    return time.perf_counter() - start


def forward(module: nn.Module, x: Tensor) -> None:
    """One pass without gradients."""
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    """One pass with gradients for the weights and the input."""
    module.zero_grad()
    x.grad = None
    module(x)[0].sum().backward()


def main() -> None:
    """Measure all sizes and write benchmarks/results/recurrence.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    print(f"{'sizes':16s}{'layer':16s}{'forward ms':>12s}{'with backward ms':>18s}{'to nn.LSTM':>12s}")
    for inputs, hidden in SIZES:
        modules = contenders(inputs, hidden)
        x = torch.randn(args.steps, args.batch, inputs, requires_grad=True)
        times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in modules}
        for turn in range(args.rounds + 1):
            for name, module in modules.items():
                taken = seconds(forward, module, x), seconds(forward_backward, module, x)
                if turn:  # the first round warms up
                    times[name]["forward"].append(taken[0])
                    times[name]["both"].append(taken[1])
        for name in modules:
            one, both = (1000 * statistics.median(times[name][kind]) for kind in ("forward", "both"))
            pairs = zip(times[name]["both"], times["nn.LSTM"]["both"], strict=True)
            ratio = statistics.median(mine / peer for mine, peer in pairs)
            print(f"{inputs:>5d} -> {hidden:<5d}  {name:16s}{one:12.1f}{both:18.1f}{ratio:12.2f}")
            rows.append(
                {
                    "input_size": inputs,
                    "hidden_size": hidden,
                    "layer": name,
                    "forward_ms": round(one, 1),
                    "forward_backward_ms": round(both, 1),
                    "ratio_to_lstm": round(ratio, 3),
                }
            )
    settings = {"steps": args.steps, "batch": args.batch, "dtype": "float32", "rounds": args.rounds}
    write_result("recurrence", {"settings": settings, "rows": rows})


if __name__ == "__main__":
    main()

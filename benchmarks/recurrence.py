"""One recurrent layer on this machine: ERU against nn.LSTM and a naive loop, forward and backward.

    python benchmarks/recurrence.py [--threads 1 2]

Every round runs each contender once, so that a drift of the machine meets all of them; the table shows medians and
the ratio to nn.LSTM (float32) of the same sizes. "bf16" is the recipes' form: parameters in float32, products in
bfloat16 under autocast. Peak memory is that of a process of its own, over a long sequence, less what it held before.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from environment import write_result
from torch import Tensor, nn

from eru import ERU

SIZES = [(1152, 1152), (512, 512), (400, 1152)]
# name -> (makes the layer, products in bfloat16); the first is the peer
CONTENDERS: dict[str, tuple[Callable[[int, int], nn.Module], bool]] = {
    "nn.LSTM": (nn.LSTM, False),
    "ERU": (ERU, False),
    "ERU, torch's fused LSTM": (lambda inputs, hidden: ERU(inputs, hidden, backend="fused"), False),
    "ERU naive loop": (lambda inputs, hidden: ERU(inputs, hidden, backend="naive"), False),
    "nn.LSTM bf16": (nn.LSTM, True),
    "ERU bf16": (ERU, True),
}
MEMORY_STEPS = 700


def forward(module: nn.Module, x: Tensor) -> None:
    """One pass without gradients."""
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    """One pass with gradients for the weights and the input."""
    module.zero_grad()
    x.grad = None
    module(x)[0].sum().backward()


def milliseconds(work: Callable[[nn.Module, Tensor], None], module: nn.Module, x: Tensor, bf16: bool) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        work(module, x)
    return 1000 * (time.perf_counter() - start)


def peak_megabytes(name: str, inputs: int, hidden: int, batch: int) -> float:
    """Peak memory of forward and backward in this process, which must be fresh."""
    make, bf16 = CONTENDERS[name]
    module = make(inputs, hidden)
    x = torch.randn(MEMORY_STEPS, batch, inputs, requires_grad=True)
    milliseconds(forward_backward, module, x[:6].detach().requires_grad_(), bf16)
    status = Path("/proc/self/status")

    def resident(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    milliseconds(forward_backward, module, x, bf16)
    return (resident("VmHWM") - before) / 1000


def measure(threads: int, inputs: int, hidden: int, steps: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """The times of one pair of sizes."""
    torch.set_num_threads(threads)
    modules = {name: make(inputs, hidden) for name, (make, _) in CONTENDERS.items()}
    x = torch.randn(steps, batch, inputs, requires_grad=True)
    turns = [
        {
            name: [milliseconds(work, module, x, CONTENDERS[name][1]) for work in (forward, forward_backward)]
            for name, module in modules.items()
        }
        for _ in range(rounds + 1)
    ][1:]
    rows = []
    for name in modules:
        one, both = (statistics.median(turn[name][kind] for turn in turns) for kind in (0, 1))
        ratio = statistics.median(turn[name][1] / turn["nn.LSTM"][1] for turn in turns)
        print(
            f"{threads:>7d}  {inputs:>5d} -> {hidden:<5d}  {name:24s}{one:12.1f}{both:18.1f}{ratio:12.2f}", flush=True
        )
        rows.append(
            {
                "threads": threads,
                "input_size": inputs,
                "hidden_size": hidden,
                "layer": name,
                "forward_ms": round(one, 1),
                "forward_backward_ms": round(both, 1),
                "ratio_to_lstm": round(ratio, 3),
            }
        )
    return rows


def peaks(inputs: int, hidden: int, batch: int) -> dict[str, object]:
    """Peak memory of every contender at one pair of sizes, in megabytes."""
    row: dict[str, object] = {"input_size": inputs, "hidden_size": hidden}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--peak-of", name, str(inputs), str(hidden), str(batch)]
        row[name] = round(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(row, flush=True)
    return row


def main() -> None:
    """Measure all sizes and write benchmarks/results/recurrence.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=70)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak-of", nargs=4, metavar=("NAME", "INPUT", "HIDDEN", "BATCH"), help="only peak memory")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.peak_of:
        name, *sizes = args.peak_of
        print(peak_megabytes(name, *map(int, sizes)))
        return
    print(f"{'threads':9s}{'sizes':16s}{'layer':24s}{'forward ms':>12s}{'with backward ms':>18s}{'to nn.LSTM':>12s}")
    settings = {"steps": args.steps, "batch": args.batch, "rounds": args.rounds, "memory_steps": MEMORY_STEPS}
    result: dict[str, object] = {"settings": settings, "note": "each row names its own threads"}
    cases = [(threads, *sizes) for threads in args.threads for sizes in SIZES]
    result["rows"] = [row for case in cases for row in measure(*case, args.steps, args.batch, args.rounds)]
    result["peak_megabytes"] = [peaks(*sizes, args.batch) for sizes in SIZES]
    write_result("recurrence", result)


if __name__ == "__main__":
    main()

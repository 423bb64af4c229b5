"""One recurrent layer, and one step of a cell, on this machine: ERU against nn.LSTM.

    python benchmarks/recurrence.py        # writes recurrence.json and cell.json in benchmarks/results/

Every round runs each contender once; rows hold medians and the ratio to nn.LSTM, or nn.LSTMCell, of the same sizes in
float32. "bf16" is the recipes' form: parameters in float32, products in bfloat16 under autocast.
"""

import argparse
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from environment import write_result
from paired import has_bfloat16, milliseconds, paired
from torch import Tensor, nn

from eru import ERU, ERUCell

SIZES = [(1152, 1152), (512, 512), (400, 1152)]
STEPS, BATCH, REPEATS = 70, 20, 50
CELLS = [(64, 64, 64), (1, 64, 64), (20, 512, 512)]  # batch, input, hidden


def work(module: nn.Module, x: Tensor, backward: bool, bf16: bool) -> None:
    """One pass, with gradients for the weights and the input where there is a backward."""
    module.zero_grad()
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext(), torch.set_grad_enabled(backward):
        out = module(x)[0]
    if backward:
        out.sum().backward()


def measure(
    modules: dict[str, tuple[nn.Module, bool]], peer: str, x: Tensor, rounds: int, repeats: int = 1
) -> dict[str, dict[str, float]]:
    """Milliseconds and ratios of every contender, forward and with its backward."""
    found: dict[str, dict[str, float]] = {name: {} for name in modules}
    for kind, backward in (("forward", False), ("forward_backward", True)):
        tasks = {name: partial(work, module, x, backward, bf16) for name, (module, bf16) in modules.items()}
        turns = {name: partial(milliseconds, task, repeats) for name, task in tasks.items()}
        for name, (ms, ratio) in paired(turns, peer, rounds).items():
            found[name] |= {f"{kind}_ms": round(ms, 4), f"{kind}_ratio": round(ratio, 3)}
    return found


def layers(threads: int, inputs: int, hidden: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of one pair of sizes."""
    torch.set_num_threads(threads)
    eru, lstm = ERU(inputs, hidden), nn.LSTM(inputs, hidden)
    contenders = {
        "nn.LSTM": (lstm, False),
        "ERU": (eru, False),
        "ERU, torch's fused LSTM": (ERU(inputs, hidden, backend="fused"), False),
        "ERU naive loop": (ERU(inputs, hidden, backend="naive"), False),
    }
    if has_bfloat16():
        contenders |= {"nn.LSTM bf16": (lstm, True), "ERU bf16": (eru, True)}
    found = measure(contenders, "nn.LSTM", torch.randn(STEPS, BATCH, inputs, requires_grad=True), rounds)
    sizes = {"threads": threads, "input_size": inputs, "hidden_size": hidden}
    rows = []
    for name, figures in found.items():
        ratio = figures.pop("forward_backward_ratio")
        rows.append(sizes | {"layer": name, **figures, "ratio_to_lstm": ratio})
    return rows


def cells(rounds: int) -> list[dict[str, Any]]:
    """The rows of one step of a cell, with one thread."""
    torch.set_num_threads(1)
    rows = []
    for batch, inputs, hidden in CELLS:
        contenders: dict[str, tuple[nn.Module, bool]] = {
            "nn.LSTMCell": (nn.LSTMCell(inputs, hidden), False),
            "ERUCell": (ERUCell(inputs, hidden), False),
        }
        found = measure(contenders, "nn.LSTMCell", torch.randn(batch, inputs, requires_grad=True), rounds, REPEATS)
        sizes = {"batch": batch, "input_size": inputs, "hidden_size": hidden}
        rows += [sizes | {"cell": name, **figures} for name, figures in found.items()]
    return rows


def main() -> None:
    """Measure all sizes and write both results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for n in args.threads for sizes in SIZES for row in layers(n, *sizes, args.rounds)]
    settings = {"steps": STEPS, "batch": BATCH, "rounds": args.rounds}
    write_result("recurrence", {"settings": settings, "note": "each row names its own threads", "rows": rows})
    write_result("cell", {"rounds": args.rounds, "repeats": REPEATS, "rows": cells(args.rounds)})


if __name__ == "__main__":
    main()

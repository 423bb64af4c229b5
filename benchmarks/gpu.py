"""One command for a machine with a GPU: check that the fast ways give what the plain ones do, then time them.

    python benchmarks/gpu.py           # writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --tiny    # small sizes, on a CPU too; prints the record and writes nothing

What is timed has passed its check. Every round runs each contender once; rows hold medians of the rounds, and the
ratio to the first contender of the same case.
"""

import argparse
import json
import warnings
from functools import partial
from typing import Any

import torch
from environment import environment, write_result
from paired import milliseconds, paired
from torch import Tensor, nn

from eru import ERU, lstm_scan

# The largest difference that passes, relative to the largest number of the plain way.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.1}
# Steps, batch and hidden size of what is checked; the same and rounds of what is timed.
FULL = (70, 32, 512), (70, 64, 1152, 25)
TINY = (9, 4, 8), (9, 4, 8, 2)


def difference(made: list[Tensor], expected: list[Tensor]) -> float:
    """The largest one between two lists of tensors, relative to the largest number of each."""
    pairs = zip(made, expected, strict=True)
    return torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max().item()  # NaN stays NaN


CHECKS: list[dict[str, Any]] = []  # those that passed


def check(name: str, found: float, limit: float) -> None:
    """Record a difference, or end the program where it is too large, or is no number."""
    print(f"{name}: difference {found:.1e}, at most {limit:.0e}", flush=True)
    if not found <= limit:
        raise SystemExit(f"FAILED: {name}")
    CHECKS.append({"check": name, "difference": found, "limit": limit})


def scanned(backend: str, inputs: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Hidden states, the last state, and the gradients of all that has some."""
    moved = {k: x.to(dtype).requires_grad_() if x.is_floating_point() else x for k, x in inputs.items()}
    hidden, (h, c) = lstm_scan(**moved, backend=backend)
    leaves = [x for x in moved.values() if x.requires_grad]
    return [hidden, h, c, *torch.autograd.grad(hidden.square().sum() + c.sum(), leaves)]


def check_scan(device: str, steps: int, batch: int, hidden: int) -> None:
    """The fused way against the loop in float32: plain, with a projection, with sequences of several lengths."""
    for case, size in (("plain", hidden), ("projection", hidden // 2), ("lengths", hidden)):
        inputs = {
            "gates": torch.randn(steps, batch, 4 * hidden, device=device),
            "weight_hh": torch.randn(4 * hidden, size, device=device) / size**0.5,
            "h0": torch.randn(batch, size, device=device),
            "c0": torch.randn(batch, hidden, device=device),
        }
        if case == "projection":
            inputs["weight_hr"] = torch.randn(size, hidden, device=device) / hidden**0.5
        if case == "lengths":
            inputs["lengths"] = torch.randint(1, steps + 1, (batch,), device=device)
        expected = scanned("naive", inputs, torch.float32)
        for dtype, limit in LIMITS.items():
            check(f"fused, {case}, {dtype}", difference(scanned("fused", inputs, dtype), expected), limit)


def train(layer: nn.Module, x: Tensor) -> None:
    """One pass forward and backward."""
    layer(x)[0].float().sum().backward()


def time_layers(device: str, steps: int, batch: int, hidden: int, rounds: int) -> list[dict[str, Any]]:
    """A layer forward and backward, ERU beside nn.LSTM."""
    rows = []
    for dtype in LIMITS:
        x = torch.randn(steps, batch, hidden, device=device, dtype=dtype)
        layers = {"nn.LSTM": nn.LSTM(hidden, hidden), "ERU": ERU(hidden, hidden)}
        works = {name: partial(train, layer.to(device, dtype), x) for name, layer in layers.items()}
        contenders = {name: partial(milliseconds, work) for name, work in works.items()}
        sizes = {"steps": steps, "batch": batch, "hidden_size": hidden, "dtype": str(dtype)}
        for name, (ms, ratio) in paired(contenders, "nn.LSTM", rounds).items():
            rows.append({"layer": name, **sizes, "ms": ms, "ratio": ratio})
    return rows


def main() -> None:
    """Check, measure, and write or print the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program out")
    tiny = parser.parse_args().tiny
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        parser.error("there is no GPU here; --tiny tries the program out on a CPU")
    # A way that cannot run gives way to another, which would then be compared with itself.
    warnings.filterwarnings("error", message=".*cannot run")
    # By default cuDNN multiplies float32 with mantissas of 10 bits, too few for the checks.
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    scan, layer = TINY if tiny else FULL
    check_scan(device, *scan)
    result = {"layers": time_layers(device, *layer), "checks": CHECKS}
    print(json.dumps({"environment": environment(device), **result}) if tiny else write_result("gpu", result, device))


if __name__ == "__main__":
    main()

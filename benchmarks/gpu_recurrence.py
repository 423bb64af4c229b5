"""The recurrence on one GPU: is every path right, and how many microseconds does a step of it take?

    python benchmarks/gpu_recurrence.py

First each path is held against the loop in float64; then forward and backward are timed, of the recurrence alone and
of a whole layer with its input map, against nn.LSTM (whose recurrence cannot be had without its input product) and
the plain loop. The last part tries other tiles, for whoever sets the defaults.

"device" is the time between two events while the host is far ahead, as in training; "wall" has the host in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu import Row, errors, microseconds, run_parts
from torch import Tensor, nn

from eru import ERUCell
from eru.recurrence import naive
from eru.recurrence import triton as fast

STEPS, HIDDEN, BATCHES, ROUNDS = 70, 1152, (20, 32), 20
PEER = "nn.LSTM"
WAYS = ("steps", "persistent", "streamed")  # the last: persistent, with W read anew at every step
DTYPES = ("bfloat16", "float16", "tf32", "float32")
SHAPES = [
    (1, 1, 1),
    (5, 3, 13),
    (7, 33, 29),
    (1, 20, 1152),
    (70, 20, 1152),
    (70, 19, 1151),
    (70, 20, 1000),
    (9, 64, 1152),
]

Scan = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def set_precision(dtype: str) -> torch.dtype:
    """Allow TF32 or not, in matrix products and in cuDNN, and name torch's type."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    return torch.float32 if dtype == "tf32" else getattr(torch, dtype)


def override_plans(**options: dict[str, Any]) -> None:
    """Let the kernels run with other options than their plans have."""
    from eru.recurrence.triton import launch

    plan = launch.plan

    def changed(*arguments: Any) -> Any:
        tiles = plan(*arguments)
        return dataclasses.replace(tiles, **{kind: getattr(tiles, kind) | some for kind, some in options.items()})

    launch.plan = changed


def scan_of(way: str) -> Scan:
    """The recurrence by its name; "streamed" changes all plans of the process."""
    if way == "naive":
        return naive.lstm_scan
    if way == "streamed":
        override_plans(**{kind: {"RESIDENT": False, "AHEAD": 0, "num_stages": 3} for kind in ("forward", "backward")})
    return lambda *inputs: fast.lstm_scan(*inputs, persistent=way != "steps")


def how_it_runs(way: str, batch: int, size: int, dtype: torch.dtype) -> str:
    """What a way comes to for one shape: a persistent launch may not fit, and W may not stay on the chip."""
    if way in ("naive", PEER):
        return way
    from eru.recurrence.triton import launch

    padded, device = fast._padded_size(size), torch.device("cuda", torch.cuda.current_device())
    tiles = launch.plan(padded, batch, dtype, device, way != "steps", fast._precision(dtype))
    if not tiles.persistent:
        return "steps"
    return "persistent, W " + ("resident" if tiles.forward["RESIDENT"] and tiles.backward["RESIDENT"] else "streamed")


def make_inputs(steps: int, batch: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Gates, W, h0 and c0, which require gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = (steps, batch, 4 * size), (4 * size, size), (batch, size), (batch, size)
    gates, weight, h0, c0 = (torch.randn(shape, generator=generator) for shape in shapes)
    tensors = gates.to(dtype), (weight / size**0.5).to(dtype), h0.to(dtype), c0
    return [x.cuda().requires_grad_() for x in tensors]


def all_results(scan: Scan, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, last cells and all gradients."""
    outputs = scan(*inputs)
    generator = torch.Generator().manual_seed(1)
    tops = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, inputs, tops))]


def check(way: str) -> Iterator[Row]:
    """Errors against float64 beside the plain loop's own, and whether runs repeat bit for bit."""
    scan = scan_of(way)
    for dtype in DTYPES:
        for shape in SHAPES:
            row = {"path": way, "dtype": dtype, "steps, batch, size": shape}
            try:
                inputs = make_inputs(*shape, set_precision(dtype))
                row["runs as"] = how_it_runs(way, *shape[1:], inputs[0].dtype)
                exact = all_results(naive.lstm_scan, [x.detach().double().requires_grad_() for x in inputs])
                row["naive"] = errors(all_results(naive.lstm_scan, inputs), exact)
                # The later runs replay the graphs that the first has captured.
                first, *others = (all_results(scan, inputs) for _ in range(3))
                row["errors"] = errors(first, exact)
                row["repeats"] = all(torch.equal(a, b) for run in others for a, b in zip(first, run, strict=True))
                least = 1e-3 if dtype == "tf32" else torch.finfo(inputs[0].dtype).eps
                limits = [1e-4] * 2 + [1e-3] * 4 if dtype == "float32" else [2 * e + least for e in row["naive"]]
                row["ok"] = row["repeats"] and all(e <= most for e, most in zip(row["errors"], limits, strict=True))
            except Exception as error:
                row |= {"ok": False, "error": repr(error)[:500]}
            yield row


def time_one(forward: Callable[[], tuple[Tensor, ...]], wanted: list[Tensor], rounds: int = ROUNDS) -> Row:
    """Microseconds a step, and the memory of one call."""
    tops = [torch.randn_like(x) for x in forward()]

    def both() -> None:
        torch.autograd.grad(forward(), wanted, tops)

    both()
    row = {}
    for kind, ahead in (("device", True), ("wall", False)):
        one, two = (microseconds(work, rounds, ahead) / STEPS for work in (forward, both))
        row |= {f"{kind} forward": round(one, 2), f"{kind} backward": round(two - one, 2)}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    both()
    return row | {"peak MB": round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)}


def contenders(
    scan: Scan | None, batch: int, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Any], list[Tensor]]]:
    """The recurrence alone and a whole layer; of nn.LSTM, for which there is no ``scan``, only the latter."""
    x = torch.randn(STEPS, batch, HIDDEN, device="cuda", dtype=dtype, requires_grad=True)
    if scan is None:
        lstm = nn.LSTM(HIDDEN, HIDDEN, device="cuda", dtype=dtype)

        def layer() -> tuple[Tensor, ...]:
            output, (h, c) = lstm(x)
            return output, h, c

        yield "layer", layer, [x, *lstm.parameters()]
        return
    inputs = make_inputs(STEPS, batch, HIDDEN, dtype)
    yield "recurrence", lambda: scan(*inputs), inputs
    cell = ERUCell(HIDDEN, HIDDEN, device="cuda", dtype=dtype)
    h0, c0 = torch.zeros_like(inputs[2]), torch.zeros_like(inputs[3])
    yield "layer", lambda: scan(cell.project(x), cell.weight_hh, h0, c0), [x, *cell.parameters()]


def measure(way: str) -> Iterator[Row]:
    """All types and batch sizes of one path."""
    scan = None if way == PEER else scan_of(way)
    for dtype in DTYPES:
        for batch in BATCHES:
            torch_dtype = set_precision(dtype)
            runs_as = how_it_runs(way, batch, HIDDEN, torch_dtype)
            for what, forward, wanted in contenders(scan, batch, torch_dtype):
                row = {"what": what, "path": way, "dtype": dtype, "batch": batch, "runs as": runs_as}
                try:
                    row |= time_one(forward, wanted, 5 if way == "naive" else ROUNDS)
                except Exception as error:
                    row["error"] = repr(error)[:500]
                yield row


def try_tiles() -> Iterator[Row]:
    """One option changed at a time, bfloat16, batch 20."""
    from eru.recurrence.triton import launch

    set_precision("bfloat16")
    inputs = make_inputs(STEPS, 20, HIDDEN, torch.bfloat16)
    resident, streamed = {"RESIDENT": True, "num_stages": 1}, {"RESIDENT": False, "AHEAD": 0}
    trials = [("steps", kind, {"num_stages": n}) for kind in ("forward", "backward") for n in (2, 3, 5)]
    trials += [(way, "forward", {"INNER": 64} | more) for way, more in (("steps", {}), ("persistent", streamed))]
    trials += [(way, "backward", {"INNER": 32} | more) for way, more in (("steps", {}), ("persistent", streamed))]
    trials += [("persistent", "forward", resident | {"AHEAD": n}) for n in (0, 1, 3, 5)]
    trials += [
        ("persistent", "backward", resident | {"AHEAD": 0}),
        ("persistent", "backward", resident | {"INNER": 32}),
    ]
    trials += [("persistent", kind, streamed | {"num_stages": n}) for kind in ("forward", "backward") for n in (2, 4)]
    trials += [(way, "forward", {"num_warps": 8}) for way in ("steps", "persistent")]
    trials += [(way, "backward", {"num_warps": 4, "SPLIT": 4}) for way in ("steps", "persistent")]
    plan = launch.plan
    for way, kind, options in trials:
        row = {"path": way, "kind": kind, "options": options}
        try:
            override_plans(**{kind: options})
            scan = scan_of(way)
            row |= time_one(lambda scan=scan: scan(*inputs), inputs, 10)
        except Exception as error:
            row["error"] = repr(error)[:300]
        launch.plan = plan
        yield row


def main() -> None:
    """Run all parts and write benchmarks/results/gpu_recurrence.json after each."""
    checks = {f"check {way}": partial(check, way) for way in WAYS}
    timings = {f"time {way}": partial(measure, way) for way in (PEER, *WAYS, "naive")}
    settings = {"steps": STEPS, "hidden_size": HIDDEN, "rounds": ROUNDS, "unit": "microseconds a step"}
    run_parts(__file__, __doc__, checks, timings | {"tiles": try_tiles}, settings)


if __name__ == "__main__":
    main()

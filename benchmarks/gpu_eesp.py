"""The EESP's fused kernel on one GPU: is it right, how near is it to the memory's speed, and what does a network gain?

    python benchmarks/gpu_eesp.py

First the kernel is held against the eager unit in float64. Then the branches of every EESP unit of espnetv2_200 at
224 x 224 are timed, eager, compiled and fused: what they must move (the reduced map once, the concatenation once) by
the time they take, beside what a plain copy moves. Then whole networks, ESPNetv2 and, where torchvision has them,
others of its size: images a second against the batch size, and energy an image where the GPU reports its power. The
part "tiles" tries other tiles, for whoever sets the defaults.
"""

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu import Row, errors, microseconds, run_parts
from torch import Tensor, nn

sys.path.pop(0)  # this folder, in which the package's name would be a file's

import vision
from eru import pyramid
from eru.eesp import EESP

MODEL, SIDE = "espnetv2_200", 224
DTYPE = torch.bfloat16
BLOCK_BATCH, ROUNDS = 512, 20
BATCHES, COMPILED_BATCHES = (1, 4, 16, 64, 256, 1024), (1024,)
SECONDS = 1.0  # of a network at one batch size
CHECKED = [  # channels, height, width, stride, fusion
    (1, 1, 1, 1, True),
    (24, 56, 56, 2, True),
    (37, 29, 41, 1, False),
    (37, 29, 41, 2, True),
    (64, 28, 28, 1, True),
]
BLOCK_WAYS = ("eager", "eager, channels last", "compiled", "optimized", "fused", "fused, NCHW")
PEERS = {"MobileNetV2": "mobilenet_v2", "ShuffleNetV2 x2": "shufflenet_v2_x2_0", "MobileNetV3-L": "mobilenet_v3_large"}
PEER_WAYS = ("channels last", "optimized", "optimized, graph", "optimized, compiled")
WAYS = ("eager", "channels last", "optimized", "optimized, compiled", "fused", "fused, graph", "fused, compiled")


# --- the blocks


@dataclass(frozen=True)
class Block:
    """The branches of one EESP unit in a network: channels and size of the reduced map, and how it is convolved."""

    channels: int
    height: int
    width: int
    stride: int
    dilations: tuple[int, ...]

    def bytes_moved(self, batch: int, element_size: int) -> int:
        """The reduced map once and the concatenation once."""
        height, width = (-(-size // self.stride) for size in (self.height, self.width))
        pixels = self.height * self.width + len(self.dilations) * height * width
        return batch * self.channels * pixels * element_size


def blocks(name: str = MODEL, side: int = SIDE) -> Counter[Block]:
    """All blocks of a network for a square image, and how many there are of each."""
    model: Any = vision.create_model(name, device="meta").eval()
    found: Counter[Block] = Counter()

    def note(unit: EESP, _: nn.Module, __: Any, reduced: Tensor) -> None:
        found[Block(*reduced.shape[1:], unit.stride, unit.dilations)] += 1

    for unit in model.modules():
        if isinstance(unit, EESP):
            unit.reduce_layers.register_forward_hook(partial(note, unit))
    model(torch.empty(1, 3, side, side, device="meta"))
    return found


class EagerBranches(nn.Module):
    """The branches of a unit and what follows them, as the unit itself runs them."""

    def __init__(self, unit: EESP) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, y: Tensor) -> Tensor:
        """Of the reduced map."""
        parts = zip(self.unit.branch_weights(), self.unit.dilations, strict=True)
        maps = self.unit.fuse([self.unit._branch(y, weight, dilation) for weight, dilation in parts])
        return self.unit.branch_layers(torch.cat(maps, dim=1))


def make_unit(channels: int, stride: int, dilations: tuple[int, ...], **options: Any) -> EESP:
    """A unit with that reduced map and numbers that are neither zero nor one."""
    unit = EESP(
        channels,
        len(dilations) * channels,
        ndim=2,
        stride=stride,
        branches=len(dilations),
        groups=1,
        norm=nn.BatchNorm2d,
        activation=nn.PReLU,
        **options,
    )
    unit.dilations = dilations
    for tensor in (*unit.parameters(), *unit.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    unit.branch_weight.data -= 1
    return unit.eval().requires_grad_(False)


def branches(unit: EESP, way: str) -> Callable[[Tensor], Tensor]:
    """The unit's branches, run that way, on the GPU."""
    if way.startswith(("optimized", "fused")):
        holder: Any = vision.optimize(nn.Sequential(unit), fused=way.startswith("fused"))
        return holder.to("cuda", DTYPE)[0].branches
    module = EagerBranches(unit).to("cuda", DTYPE)
    return torch.compile(module, dynamic=False) if way == "compiled" else module


def copy_speed() -> float:
    """Bytes a second that a copy within the GPU's memory moves, read and written."""
    x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.numel() / (microseconds(lambda: y.copy_(x), ROUNDS, ahead=True) * 1e-6)


@torch.inference_mode()
def time_blocks(way: str) -> Iterator[Row]:
    """Every block one way; the last row has all of a network together."""
    speed, total, moved = copy_speed(), 0.0, 0
    for block, count in blocks().items():
        row: Row = {"way": way, "block": str(block), "units": count}
        try:
            run = branches(make_unit(block.channels, block.stride, block.dilations), way)
            y = torch.randn(BLOCK_BATCH, block.channels, block.height, block.width, device="cuda", dtype=DTYPE)
            if way not in ("eager", "fused, NCHW"):
                y = y.to(memory_format=torch.channels_last)
            row |= share_of(block, microseconds(partial(run, y), ROUNDS, ahead=True), speed)
            total, moved = total + count * row["us"], moved + count * block.bytes_moved(BLOCK_BATCH, DTYPE.itemsize)
        except Exception as error:
            row["error"] = repr(error)[:500]
        yield row
    yield {"way": way, "copy GB/s": round(speed / 1e9), "all units, us": round(total), "all units, bytes": moved}


def share_of(block: Block, us: float, speed: float) -> Row:
    """Time, bytes a second, and these as a share of a copy's."""
    rate = block.bytes_moved(BLOCK_BATCH, DTYPE.itemsize) / (us * 1e-6)
    return {"us": round(us, 1), "GB/s": round(rate / 1e9), "of a copy": round(rate / speed, 3)}


@torch.inference_mode()
def try_tiles() -> Iterator[Row]:
    """One thing changed at a time, for the blocks that there are most of."""
    speed, tiles = copy_speed(), pyramid._tiles
    changes: list[Callable[[dict[str, int]], dict[str, int]]] = [
        lambda t: {},
        *(lambda t, n=n: {"ROWS": n} for n in (1, 2, 4, 8, 14)),
        *(lambda t, n=n: {"COLUMNS": t["COLUMNS"] * n // 4, "num_warps": n} for n in (2, 8)),
        lambda t: {"COLUMNS": t["COLUMNS"] * 2},
        lambda t: {"COLUMNS": t["COLUMNS"] // 2},
        lambda t: {"BLOCK": t["BLOCK"] // 2, "COLUMNS": t["COLUMNS"] * 2},
        *(lambda t, n=n: {"maxnreg": n} for n in (128, 168)),
    ]
    for block, _ in blocks().most_common(3):
        run = branches(make_unit(block.channels, block.stride, block.dilations), "fused")
        y = torch.randn(BLOCK_BATCH, block.channels, block.height, block.width, device="cuda", dtype=DTYPE)
        y = y.to(memory_format=torch.channels_last)
        for change in changes:
            pyramid._tiles = lambda *shape, change=change: tiles(*shape) | change(tiles(*shape))
            row: Row = {"block": str(block), "changed": change(tiles(block.channels, block.height, True, 2))}
            try:
                row |= share_of(block, microseconds(partial(run, y), ROUNDS, ahead=True), speed)
            except Exception as error:
                row["error"] = repr(error)[:300]
            yield row
    pyramid._tiles = tiles


# --- is it right?


@torch.inference_mode()
def check() -> Iterator[Row]:
    """Errors against float64 beside the eager unit's own, and whether runs repeat bit for bit."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for channels, height, width, stride, fusion in CHECKED:
            unit = make_unit(channels, stride, (1, 1, 2, 4), fusion=fusion)
            y = torch.randn(3, channels, height, width).to(dtype)
            row: Row = {"dtype": str(dtype), "map": tuple(y.shape), "stride": stride, "fusion": fusion}
            try:
                row |= compare(unit, y)
            except Exception as error:
                row |= {"ok": False, "error": repr(error)[:500]}
            yield row
    yield check_network()


def compare(unit: EESP, y: Tensor) -> Row:
    """The kernel in both memory formats, and the eager unit, against float64."""
    eager = EagerBranches(unit).to("cuda", y.dtype)
    plain = eager(y.cuda())
    exact = [eager.double()(y.cuda().double())]  # of the same rounded weights
    holder: Any = vision.optimize(nn.Sequential(unit.float()), fused=True)
    run, row, ok = holder[0].branches, {"eager": errors([plain], exact)[0]}, True
    for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
        arranged = y.cuda().contiguous(memory_format=layout)
        first, second = run(arranged), run(arranged)
        row[name] = errors([first], exact)[0]
        limit = 1e-5 if y.dtype == torch.float32 else 2 * torch.finfo(y.dtype).eps
        ok = ok and torch.equal(first, second) and row[name] <= max(row["eager"], limit)
    return row | {"ok": ok}


def check_network() -> Row:
    """A whole network in bfloat16, fused and not, against float32."""
    model: Any = vision.create_model(MODEL).cuda()
    x = torch.randn(16, 3, SIDE, SIDE, device="cuda")
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean, so that no map vanishes
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.1)
    model.train()(x)
    exact, row = [model.eval()(x).double()], {"network": MODEL}
    for fused in (False, True):
        fast: Any = vision.optimize(model, fused=fused).to(DTYPE)
        row["fused" if fused else "optimized"] = errors([fast(x.to(DTYPE))], exact)[0]
    return row | {"ok": row["fused"] <= 1.5 * row["optimized"]}


# --- whole networks


def network(name: str) -> nn.Module:
    """ESPNetv2, or a peer from torchvision."""
    if name not in PEERS:
        return vision.create_model(name).eval()
    from torchvision.models import get_model  # pyright: ignore[reportMissingImports]

    return get_model(PEERS[name], weights=None).eval()


def prepared(model: nn.Module, way: str, x: Tensor) -> Callable[[], Any]:
    """A call of the network on one batch, run that way."""
    if way.startswith(("optimized", "fused")):
        model = vision.optimize(model, fused=way.startswith("fused"))
    elif way == "channels last":
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = model.to("cuda", DTYPE)
    x = x if way == "eager" else x.to(memory_format=torch.channels_last)
    if way.endswith("compiled"):
        model = torch.compile(model, dynamic=False)
    run = partial(model, x)
    for _ in range(3):
        run()
    if not way.endswith("graph"):
        return run
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> Any:
        graph.replay()
        return run  # which holds the weights that the graph reads

    return replay


@torch.inference_mode()
def time_network(name: str, way: str) -> Iterator[Row]:
    """Images a second and energy an image at every batch size."""
    try:
        model = network(name)
    except ImportError as error:
        yield {"network": name, "way": way, "error": f"not measured: {error}"}
        return
    for batch in COMPILED_BATCHES if way.endswith("compiled") else BATCHES:
        row: Row = {"network": name, "way": way, "batch": batch}
        try:
            x = torch.randn(batch, 3, SIDE, SIDE, device="cuda", dtype=DTYPE)
            row |= throughput(prepared(model, way, x), batch)
        except Exception as error:
            row["error"] = repr(error)[:500]
        yield row


def throughput(run: Callable[[], Any], batch: int) -> Row:
    """Of calls that follow one another, the host waiting for the GPU ten times a second."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    calls = max(1, round(3 * 0.1 / (time.perf_counter() - start)))
    rates = []
    with Power() as power:
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            torch.cuda.synchronize()
            rates.append(calls * batch / (time.perf_counter() - start))
    rate = statistics.median(rates)
    return {"images/s": round(rate, 1)} | power.row(rate)


class Power:
    """The mean power that the GPU reports while the body runs, read twenty times a second."""

    def __enter__(self) -> "Power":
        self.watts: list[float] = []
        self.error: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._over.wait(0.05):
                self.watts.append(torch.cuda.power_draw() / 1000)
        except Exception as error:  # NVML, or its package, is not there
            self.error = repr(error)[:200]

    def row(self, images_per_second: float) -> Row:
        """Watts and joules an image, or why there are none."""
        if self.error or not self.watts:
            return {"power": self.error or "not reported"}
        watts = statistics.mean(self.watts)
        return {"W": round(watts, 1), "J an image": float(f"{watts / images_per_second:.3g}")}


def main() -> None:
    """Run all parts and write benchmarks/results/gpu_eesp.json after each."""
    timings: dict[str, Callable[[], Iterator[Row]]] = {
        f"blocks {way}": partial(time_blocks, way) for way in BLOCK_WAYS
    }
    timings |= {f"{MODEL} {way}": partial(time_network, MODEL, way) for way in WAYS}
    timings["tiles"] = try_tiles
    timings |= {f"{name} {way}": partial(time_network, name, way) for name in PEERS for way in PEER_WAYS}
    settings = {"model": MODEL, "side": SIDE, "dtype": str(DTYPE), "batch of blocks": BLOCK_BATCH, "rounds": ROUNDS}
    run_parts(__file__, __doc__, {"check": check}, timings, settings)


if __name__ == "__main__":
    main()

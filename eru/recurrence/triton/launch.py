"""How the kernels are launched: a graph of single steps, or one persistent launch a sequence.

*Steps*: one launch a step, in CUDA graphs, since a launch from Python costs more than a step computes. A graph is
bound to the addresses it was captured with, and to its number of steps; lengths in truncated backpropagation are
random, and tensors move. So a captured step finds its tensors, and where it is in time, in a small table on the
device that is written before each replay; and graphs are of 1, 2, 4, ... steps, of which any length is a sum.
At most seven captures a shape then serve all lengths, without copies into static buffers and without masked steps.

*Persistent*: all steps in one cooperative launch, with a barrier of the grid a step; needs a grid that the device
holds at once, and is refused otherwise.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from eru.recurrence.triton import UNITS
from eru.recurrence.triton.backward import backward, backward_step
from eru.recurrence.triton.forward import forward, forward_step
from eru.recurrence.triton.shared import write_table

LONGEST_GRAPH = 64  # steps
MOST_SHAPES = 32  # with graphs kept; a shape has its sizes, type, device and stream
SPLIT = 8  # warps of a backward program, over which its products are split

_kernels: dict[str, tuple[Any, Any]] = {  # all steps, one step
    "forward": (forward, forward_step),
    "backward": (backward, backward_step),
}
# Said aloud, since Triton means to change its default, and warns of that.
_fusion = {"enable_fp_fusion": True}
_types = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Device:
    """What bounds a launch: programs at once, and bytes of shared memory a program may have."""

    programs: int
    shared: int


@cache
def device_limits(device: torch.device) -> Device:
    """Of a GPU; the interpreter runs programs one after another, so that a barrier lets only one pass."""
    if device.type != "cuda":
        return Device(1, 1 << 30)
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    return Device(properties.multi_processor_count, shared - 8192)  # 8 KB for the compiler's own


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True)
class Plan:
    """Tiles of one shape.

    Args:
        units: hidden units of a program: 16, with which a forward product has the 64 rows that tensor cores want.
        batch: streams of a program.
        grid: programs over units and over streams.
        persistent: one launch, with barriers.
        forward: options of the forward kernel: its inner tile, residence of W, warps and stages.
        backward: the same of the backward kernel.
    """

    units: int
    batch: int
    grid: tuple[int, int]
    persistent: bool
    forward: dict[str, Any]
    backward: dict[str, Any]


@cache
def plan(size: int, batch: int, dtype: torch.dtype, device: torch.device, persistent: bool, precision: str) -> Plan:
    """The tiles for ``size`` padded units and ``batch`` streams; persistent only where all programs run at once."""
    limits = device_limits(device)
    takes_all = persistent and limits.programs == 1 and size == _power_of_two(size)  # in the interpreter
    units = size if takes_all else UNITS
    streams = min(max(16, _power_of_two(batch)), 32)  # of more the registers spill
    grid = size // units, -(-batch // streams)
    persistent = persistent and grid[0] * grid[1] <= limits.programs
    may_reside = persistent and precision != "tf32x3"  # whose parts spill

    def options(rows: int, length: int, inner: int, split: int, most_ahead: int) -> dict[str, Any]:
        chunk = split * inner
        tiles = -(-length // chunk)
        weight_bytes, state_bytes = (n * chunk * dtype.itemsize for n in (rows, streams))
        ahead = min(tiles - 1, most_ahead, (limits.shared - tiles * weight_bytes) // state_bytes - 1)
        resident = may_reside and ahead >= 0
        stages = 1 if resident else max(2, min(4, limits.shared // (weight_bytes + state_bytes)))
        return {
            "INNER": inner,
            "AHEAD": ahead if resident else 0,
            "RESIDENT": resident,
            "BARRIER": persistent,
            "num_stages": stages,
        }

    inner = min(256 // dtype.itemsize, max(16, _power_of_two(size)))
    split_inner = min(64, max(16, 32768 // (SPLIT * streams * dtype.itemsize)), max(16, _power_of_two(size // 2)))
    forward = options(4 * units, size, inner, 1, most_ahead=8) | {"num_warps": 4}
    backward = options(units, 4 * size, split_inner, SPLIT, most_ahead=1) | {"num_warps": SPLIT, "SPLIT": SPLIT}
    return Plan(units, streams, grid, persistent, forward, backward)


def launch(kind: str, tensors: tuple[Tensor, ...], steps: int, tiles: Plan, constants: dict[str, Any]) -> None:
    """Run all steps of the ``"forward"`` or the ``"backward"`` kernel on the tensors that it takes."""
    device, batch = tensors[0].device, tensors[0].shape[1]
    if batch == 0:
        return
    first = 0 if kind == "forward" else steps - 1
    options = {"UNITS": tiles.units, "BATCH": tiles.batch} | getattr(tiles, kind) | constants | _fusion
    with torch.cuda.device_of(tensors[0]):
        if tiles.persistent:
            arrived = torch.zeros(1, dtype=torch.int32, device=device)
            kernel = _kernels[kind][0][tiles.grid]
            kernel(*tensors, arrived, first, steps, batch, **options, launch_cooperative_grid=True)
        else:
            for name in ("AHEAD", "RESIDENT", "BARRIER"):
                del options[name]
            options["DTYPE"] = _types[tensors[0].dtype]
            with _lock:
                _step_graphs(kind, device, batch, tiles, options).run(tensors, first, steps)


class StepGraphs:
    """Graphs of one shape's steps on one stream, and the table that they read.

    Args:
        device: where they run.
        direction: in time, 1 or -1.
        launch_step: launches one step, given the table and the step's offset from the table's.
    """

    def __init__(self, device: torch.device, direction: int, launch_step: Callable[[Tensor, int], None]) -> None:
        self._direction, self._launch_step = direction, launch_step
        self._table = torch.zeros(8, dtype=torch.int64, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, tensors: tuple[Tensor, ...], first: int, steps: int) -> None:
        """Steps ``first``, ``first + direction``, ..."""
        on_gpu = self._table.is_cuda
        if on_gpu and torch.cuda.is_current_stream_capturing():
            # The caller's own capture takes the launches in, with a table of its own.
            table = torch.empty_like(self._table)
            write_table[(1,)](table, tensors, first, **_fusion)
            self._launch(table, steps)
            return
        for start, count in powers_of_two(steps):
            write_table[(1,)](self._table, tensors, first + self._direction * start, **_fusion)
            if count in self._graphs:
                self._graphs[count].replay()
                continue
            self._launch(self._table, count)
            if on_gpu:
                # Only now: a capture must find its kernels compiled and loaded.
                self._graphs[count] = graph = torch.cuda.CUDAGraph()
                stream = torch.cuda.Stream(self._table.device)
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._launch(self._table, count)

    def _launch(self, table: Tensor, count: int) -> None:
        for offset in range(count):
            self._launch_step(table, self._direction * offset)


def powers_of_two(steps: int) -> Iterator[tuple[int, int]]:
    """Start and length of runs of 64, 32, ... 1 steps that make up ``steps``, longest first.

    Example:
        >>> list(powers_of_two(70)), list(powers_of_two(130))
        ([(0, 64), (64, 4), (68, 2)], [(0, 64), (64, 64), (128, 2)])
    """
    start = 0
    while start < steps:
        count = min(LONGEST_GRAPH, 1 << ((steps - start).bit_length() - 1))
        yield start, count
        start += count


_lock = threading.Lock()  # no other thread may write a table before the graph that reads it is queued
_kept: dict[tuple[Any, ...], StepGraphs] = {}


def _step_graphs(kind: str, device: torch.device, batch: int, tiles: Plan, options: dict[str, Any]) -> StepGraphs:
    """Those of one kernel and shape on the current stream."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (kind, device, stream, batch, *options.values())
    if key not in _kept:
        if len(_kept) >= MOST_SHAPES:
            torch.cuda.synchronize()  # no graph may go while it runs
            _kept.clear()
        kernel = _kernels[kind][1][tiles.grid]
        direction = 1 if kind == "forward" else -1
        _kept[key] = StepGraphs(device, direction, lambda table, offset: kernel(table, offset, batch, **options))
    return _kept[key]

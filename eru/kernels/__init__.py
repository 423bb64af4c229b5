"""Kernels in C, compiled once for this machine by its own compiler, if it has one.

An LSTM over a whole sequence with its products (sequence.c), one step of it without them, the cross-entropy of a
softmax (kernels.c), and the ERU's input map (gates.c, called by :mod:`eru.kernels.gates`). Where torch would walk over
the same small arrays ten times, they do so once. Nothing depends on them: where there is no compiler the callers take
torch's operators.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eru.storage import atomic_write, cache_dir, make_cache_folder

__all__ = ["cross_entropy_", "lstm_backward", "lstm_forward", "refusal", "sequence_backward", "sequence_forward"]

_SOURCES = [Path(__file__).with_name(name) for name in ("elementwise.h", "kernels.c", "sequence.c", "gates.c")]
_FLAGS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
# By themselves compilers use only half of an AVX-512 register, for the sake of programs that seldom need a whole one.
_ARM, _X86 = ["-mcpu=native"], ["-march=native", "-mprefer-vector-width=512"]
_TUNED = {"arm64": _ARM, "aarch64": _ARM, "x86_64": _X86, "AMD64": _X86}
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_pointer = ctypes.c_void_p
_size = ctypes.c_size_t
_SIGNATURES = {
    "lstm_forward": (None, [_size, _size, *[_pointer] * 6]),
    "lstm_backward": (None, [_size, _size, *[_pointer] * 6]),
    "cross_entropy": (ctypes.c_double, [_size, _size, *[_pointer] * 3, ctypes.c_float, *[_pointer] * 2]),
    "sequence_forward": (None, [*[_size] * 5, ctypes.c_int, *[_pointer] * 8, _size, _pointer, _size]),
    "sequence_backward": (None, [*[_size] * 5, ctypes.c_int, *[_pointer] * 13]),
    "gates_rows": (None, [_pointer, _size, *[_pointer] * 5]),
    "cell_step": (None, [_pointer, _size, _size, *[_pointer] * 10]),
    "gates_dense": (None, [_pointer, ctypes.c_int, *[_pointer] * 4]),
    "gates_dense_backward": (None, [_pointer, ctypes.c_int, *[_pointer] * 7]),
}

ForwardInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""Gates, W_hh, h0, c0, W_hr and the mask on h."""
BackwardInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""The gradients of all h and of the last c, W_hh, c0, W_hr, the mask on h, and where sequences end."""
BackwardOutputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Gradients of the gates, of all h (filled with a projection only), of h0 and of c0."""


def refusal(dtype: torch.dtype = torch.float32) -> str | None:
    """Why the kernels cannot run on tensors of this type; ``None`` if they can.

    Example:
        >>> refusal(torch.float64)
        'they are written for float32 and bfloat16, not float64'
    """
    if dtype not in _DTYPES:
        return f"they are written for float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    return _reason()


def lstm_forward(
    gates: Tensor, recurrent: Tensor, before: Tensor, activated: Tensor, cells: Tensor, hidden: Tensor
) -> None:
    """One step of an LSTM, as :func:`eru.recurrence.cpu_steps.lstm_forward` does it with torch's operators."""
    rows, size = before.shape
    tensors = (gates, recurrent, before, activated, cells, hidden)
    call("lstm_forward", gates.dtype)(rows, size, *map(Tensor.data_ptr, tensors))


def lstm_backward(
    grad_hidden: Tensor, grad_cells: Tensor, activated: Tensor, before: Tensor, cells: Tensor, grad_raw: Tensor
) -> None:
    """The gradient of one step, as :func:`eru.recurrence.cpu_steps.lstm_backward` computes it."""
    rows, size = before.shape
    tensors = (grad_hidden, grad_cells, activated, before, cells, grad_raw)
    call("lstm_backward", grad_raw.dtype)(rows, size, *map(Tensor.data_ptr, tensors))


def sequence_forward(inputs: ForwardInputs, hidden: Tensor, activated: Tensor, cells: Tensor) -> None:
    """All steps of an LSTM in float32, as :func:`eru.recurrence.cpu_steps.forward` takes them."""
    # The numbers from one step to the next: none where a step is written over the last.
    kept, cells_kept = (x.stride(0) if len(x) > 1 else 0 for x in (activated, cells))
    held = contiguous(*inputs)
    run = _sequence("sequence_forward", *inputs[:4])
    run(*map(address, (*held, hidden, activated)), kept, cells.data_ptr(), cells_kept)


def sequence_backward(inputs: BackwardInputs, activated: Tensor, cells: Tensor, made: BackwardOutputs) -> None:
    """The gradients of all steps in float32, as :func:`eru.recurrence.cpu_steps.backward` computes them."""
    grad_hidden, _, weight_hh, c0, *_ = inputs
    _, _, grad_h0, _ = made
    held = contiguous(*inputs)
    run = _sequence("sequence_backward", grad_hidden, weight_hh, grad_h0, c0)
    run(*map(address, (*held, activated, cells, *made)))


def _sequence(name: str, steps: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor) -> Callable[..., None]:
    """The C function of a whole sequence, given its sizes T, B, H, P and R, and the number of threads."""
    (batch, out), size = h.shape, c.shape[1]
    sizes = (len(steps), batch, size, out, out // weight_hh.shape[1])
    return partial(call(name), *sizes, torch.get_num_threads())


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as C reads them; what is a copy must be held until it has been read."""
    return [None if x is None else x.contiguous() for x in tensors]


def address(x: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; C's NULL for ``None``."""
    return None if x is None else x.data_ptr()


def cross_entropy_(products: Tensor, bias: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Turn products (N, V) into the gradient of the mean cross-entropy of ``products + bias``.

    Returns:
        That mean, and its gradient for the bias (V,).
    """
    rows, size = products.shape
    if rows and not 0 <= int(targets.min()) <= int(targets.max()) < size:
        raise IndexError(f"targets from {int(targets.min())} to {int(targets.max())}: must be from 0 to {size - 1}")
    function = call("cross_entropy", products.dtype)

    def part(begin: int, end: int) -> tuple[float, Tensor]:
        grad_bias, scratch = torch.zeros(2, size)
        tensors = (products[begin:end], bias, targets[begin:end])
        pointers = [x.data_ptr() for x in tensors]
        return function(
            end - begin, size, *pointers, 1 / max(rows, 1), grad_bias.data_ptr(), scratch.data_ptr()
        ), grad_bias

    threads = max(min(torch.get_num_threads(), rows), 1)
    ends = [rows * n // threads for n in range(threads + 1)]
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:  # C runs outside of Python's lock
        parts = map(part, ends[:-1], ends[1:]) if pool is None else pool.map(part, ends[:-1], ends[1:])
        losses, grads = zip(*parts, strict=True)
    return sum(losses) / max(rows, 1), torch.stack(grads).sum(dim=0)


def _reason() -> str | None:
    return _load()[1]


# What torch.compiler.assume_constant_result does; that itself would load the compiler.
_reason._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@cache
def call(name: str, dtype: torch.dtype | None = None) -> Any:
    """The C function of that name; of those that there are for several types, the one for this type."""
    library, reason = _load()
    if library is None:
        raise RuntimeError(f"eru.kernels: {reason}")
    function = getattr(library, name if dtype is None else f"{name}_{_DTYPES[dtype]}")
    function.restype, function.argtypes = _SIGNATURES[name]
    return function


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled kernels, or why there are none."""
    if os.environ.get("ERU_NATIVE") == "0":
        return None, "ERU_NATIVE=0 switches them off"
    named = os.environ.get("CC") or "cc"
    try:
        compiler = shlex.split(named)
        if not compiler or shutil.which(compiler[0]) is None:
            return None, f"there is no C compiler {named!r} ($CC names another)"
        return ctypes.CDLL(str(_build(compiler))), None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return None, f"they cannot be built with the compiler {named!r}: {error}"


def _build(compiler: list[str]) -> Path:
    """The compiled library in the user's cache, made there where this machine has no whole one yet."""
    command = [*compiler, *_FLAGS, *_TUNED.get(platform.machine(), ["-march=native"])]
    key = _digest("\0".join([*(source.read_text() for source in _SOURCES), *command, _processor()]).encode())
    folder = cache_dir() / "native"
    if folder.is_dir() and not _is_ours(folder):
        raise ValueError(f"others than you can write into {folder}, whose files would be run; $ERU_CACHE_DIR moves it")
    # The name says what the library was made of and what it holds: one that is damaged or cut off is not loaded.
    for library in folder.glob(f"{key}-*.so"):
        if library.stem == f"{key}-{_digest(library.read_bytes())}":
            return library
    make_cache_folder(folder)
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place) / "kernels.so"
        sources = [str(source) for source in _SOURCES if source.suffix == ".c"]
        run = partial(subprocess.run, capture_output=True, text=True, timeout=120)
        # Without OpenMP sequences and maps are one thread's work. On systems other than Linux the process may hold
        # another OpenMP of torch's, and two of them end it.
        for threads in ([["-fopenmp"]] if sys.platform == "linux" else []) + [[]]:
            done = run([*command, *threads, "-o", str(draft), *sources, "-lm"])
            if not done.returncode:
                break
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        content = draft.read_bytes()
    library = folder / f"{key}-{_digest(content)}.so"
    with atomic_write(library, "wb") as file:  # several processes may build at once
        file.write(content)
    return library


def _is_ours(folder: Path) -> bool:
    """Whether nobody but this user, the user's group and the administrator can write into a folder."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _processor() -> str:
    """What tells processors with different instructions apart, for caches that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())

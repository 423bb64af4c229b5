"""Element-wise kernels in C (kernels.c), compiled once for this machine by its own compiler, if it has one.

Matrix products stay torch's. What is fused here is the work between them, where torch would walk over the same small
arrays ten times a step. Nothing depends on it: where there is no compiler the callers take torch's operators.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eru.storage import atomic_write, cache_dir, make_cache_folder

__all__ = ["cross_entropy_", "lstm_backward", "lstm_forward", "refusal"]

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_pointer = ctypes.c_void_p
_SIGNATURES = {
    "lstm_forward": (None, [_pointer] * 6),
    "lstm_backward": (None, [_pointer] * 6),
    "cross_entropy": (ctypes.c_double, [*[_pointer] * 3, ctypes.c_float, *[_pointer] * 2]),
}


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
    """One step of an LSTM, as :func:`eru.recurrence.torch_step.lstm_forward` does it with torch's operators."""
    rows, size = before.shape
    tensors = (gates, recurrent, before, activated, cells, hidden)
    _call("lstm_forward", gates.dtype)(rows, size, *map(Tensor.data_ptr, tensors))


def lstm_backward(
    grad_hidden: Tensor, grad_cells: Tensor, activated: Tensor, before: Tensor, cells: Tensor, grad_raw: Tensor
) -> None:
    """The gradient of one step, as :func:`eru.recurrence.torch_step.lstm_backward` computes it."""
    rows, size = before.shape
    tensors = (grad_hidden, grad_cells, activated, before, cells, grad_raw)
    _call("lstm_backward", grad_raw.dtype)(rows, size, *map(Tensor.data_ptr, tensors))


def cross_entropy_(products: Tensor, bias: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Turn products (N, V) into the gradient of the mean cross-entropy of ``products + bias``.

    Returns:
        That mean, and its gradient for the bias (V,).

    Raises:
        IndexError: a target that is not from 0 to V - 1.
    """
    rows, size = products.shape
    if rows and not 0 <= int(targets.min()) <= int(targets.max()) < size:
        raise IndexError(f"targets from {int(targets.min())} to {int(targets.max())}: must be from 0 to {size - 1}")
    function = _call("cross_entropy", products.dtype)

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
def _call(name: str, dtype: torch.dtype) -> Any:
    """The C function of that name for a type."""
    library, reason = _load()
    if library is None:
        raise RuntimeError(f"eru.kernels: {reason}")
    function = getattr(library, f"{name}_{_DTYPES[dtype]}")
    function.restype, arguments = _SIGNATURES[name]
    function.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *arguments]
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
    tuned = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*compiler, *_FLAGS, tuned]
    key = _digest("\0".join([_SOURCE.read_text(), *command, _processor()]).encode())
    folder = cache_dir() / "native"
    # The name says what the library was made of and what it holds: one that is damaged or cut off is not loaded.
    for library in folder.glob(f"{key}-*.so"):
        if library.stem == f"{key}-{_digest(library.read_bytes())}":
            return library
    make_cache_folder(folder)
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place) / "kernels.so"
        done = subprocess.run(
            [*command, "-o", str(draft), str(_SOURCE), "-lm"], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        content = draft.read_bytes()
    library = folder / f"{key}-{_digest(content)}.so"
    with atomic_write(library, "wb") as file:  # several processes may build at once
        file.write(content)
    return library


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _processor() -> str:
    """What tells processors with different instructions apart, for caches that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())

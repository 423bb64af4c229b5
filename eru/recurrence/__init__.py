"""The recurrence h_t = LSTM(gates_t + W h_{t-1}): one function, several ways to run it."""

import os
from typing import Literal, get_args

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from eru import kernels
from eru.kernels.autocast import product_dtype, without_autocast
from eru.kernels.refusals import warn_once
from eru.recurrence import cpu, naive

__all__ = ["Backend", "lstm_scan", "resolve_backend"]

Backend = Literal["auto", "naive", "scan", "cpu", "native"]
_backends = get_args(Backend)
# Before torch 2.7 an export cannot be told from a compilation; it then keeps the CPU path's operator, not a scan.
_is_exporting = getattr(torch.compiler, "is_exporting", bool)


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    *,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""Run an LSTM's recurrence over gates whose input part is already there.

    .. math::
        (i, f, g, o) = \mathrm{gates}_t + W_{hh} (\mathrm{mask} \cdot h_{t-1}), \quad
        c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \quad
        h_t = W_{hr}\, \sigma(o) \tanh(c_t)

    Cells are computed in at least float32. Under autocast the products run in its type, and h is returned in it.

    Args:
        gates: input gates with bias (T, B, 4H), T >= 1, in the order i, f, g, o.
        weight_hh: (4H, H), or (4H, P) with a projection.
        h0: initial hidden state (B, H) or (B, P).
        c0: initial cells (B, H).
        weight_hr: projection (P, H), or ``None``.
        hidden_mask: factor on h before the recurrent product, (B, H or P), the same at every step; it gets no
            gradient.
        backend: ``"auto"`` takes what the environment variable ``ERU_BACKEND`` names, else the fastest that fits;
            ``"naive"`` is the oracle, ``"scan"`` one node for ``torch.export``, ``"cpu"`` packed weights, ``"native"``
            these with compiled element-wise kernels, and ``"triton"`` fused kernels on a GPU (never chosen by itself
            yet), the last three with an analytic backward (no forward mode, no torch.func). One that cannot run here
            gives way to the fastest that can, with one warning that says why.

    Returns:
        The hidden states (T, B, H or P), and the last (h, c).

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.

    Example:
        >>> hidden, (h, c) = lstm_scan(torch.zeros(5, 2, 12), torch.zeros(12, 3), torch.zeros(2, 3), torch.zeros(2, 3))
        >>> hidden.shape, h.shape, c.shape
        (torch.Size([5, 2, 3]), torch.Size([2, 3]), torch.Size([2, 3]))
    """
    _check_shapes(gates, weight_hh, h0, c0, weight_hr, hidden_mask)
    gates = gates.to(product_dtype(gates))
    dtype = gates.dtype
    cell_dtype = torch.promote_types(dtype, torch.float32)
    arguments = (
        gates,
        weight_hh.to(dtype),
        h0.to(dtype),
        c0.to(cell_dtype),
        None if weight_hr is None else weight_hr.to(dtype),
        None if hidden_mask is None else hidden_mask.detach().to(dtype),
    )
    with without_autocast(gates):
        match resolve_backend(backend, gates, *arguments[1:2], *arguments[4:]):
            case "cpu" | "native" as path:
                hidden, c = cpu.lstm_scan(*arguments, compiled=path == "native")
            case "scan":
                # A prototype of torch's: imported by those who export, and by nobody else.
                from eru.recurrence import export

                hidden, c = export.lstm_scan(*arguments)
            case _:
                hidden, c = naive.lstm_scan(*arguments)
    return hidden, (hidden[-1], c.to(c0.dtype))


def resolve_backend(
    backend: str,
    gates: Tensor,
    weight_hh: Tensor | None = None,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
) -> str:
    """The path that runs: the one asked for, or where it cannot run or none is, the fastest that can.

    One step, a device without a path of its own and the transforms of torch.func take the loop, and an export takes
    the scan.

    Args:
        backend: as for :func:`lstm_scan`.
        gates: as for :func:`lstm_scan`, like the others; their shapes, types and devices decide.
        weight_hh: see there.
        weight_hr: see there.
        hidden_mask: see there.

    Raises:
        ValueError: an unknown backend, here or in ``ERU_BACKEND``.

    Example:
        >>> resolve_backend("cpu", torch.zeros(70, 20, 12)), resolve_backend("naive", torch.zeros(70, 20, 12))
        ('cpu', 'naive')
    """
    source = "backend"
    if backend == "auto" and not _is_exporting():
        source, backend = "ERU_BACKEND", os.environ.get("ERU_BACKEND") or "auto"
    if backend not in _backends:
        raise ValueError(f"{source}={backend!r}: must be one of {', '.join(_backends)}")
    if backend != "auto":
        reason = _refusal(backend, gates, weight_hh, weight_hr, hidden_mask)
        if reason is None:
            return backend
        warn_once(f"{source}={backend!r} cannot run: {reason}; another path is taken", stacklevel=3)
    return _fastest(gates)


def _fastest(gates: Tensor) -> str:
    if _is_exporting():
        return "scan"
    if gates.shape[0] == 1 or (not torch.compiler.is_compiling() and _is_transformed()):
        return "naive"
    if gates.device.type != "cpu":
        return "naive"
    return "cpu" if kernels.refusal(gates.dtype) else "native"


def _refusal(
    backend: str, gates: Tensor, weight_hh: Tensor | None, weight_hr: Tensor | None, hidden_mask: Tensor | None
) -> str | None:
    """Why a path cannot run."""
    if backend in ("cpu", "native") and gates.device.type not in ("cpu", "meta"):
        return f"gates are on {gates.device}"
    if backend == "native":
        return kernels.refusal(gates.dtype)
    return None


def _is_transformed() -> bool:
    """Whether torch.func or forward mode is at work: they see through a loop, not through an operator's backward."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _check_shapes(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None,
    hidden_mask: Tensor | None,
) -> None:
    if gates.dim() != 3 or gates.shape[0] < 1 or gates.shape[2] % 4:
        raise ValueError(f"gates of shape {tuple(gates.shape)}: expected (T, B, 4H) with T >= 1")
    batch, size = gates.shape[1], gates.shape[2] // 4
    out = size if weight_hr is None else weight_hr.shape[0]
    expected = {
        "weight_hh": (weight_hh, (4 * size, out)),
        "h0": (h0, (batch, out)),
        "c0": (c0, (batch, size)),
        "weight_hr": (weight_hr, (out, size)),
        "hidden_mask": (hidden_mask, (batch, out)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}: expected {shape}")

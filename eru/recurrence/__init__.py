"""The recurrence h_t = LSTM(gates_t + W h_{t-1}): one function, several ways to run it.

==========  =============================================================================================
``naive``   the oracle, a loop that anyone can check; it knows every device and every transformation
``cpu``     an analytic backward; in float32 all steps in one compiled call, where there is a compiler
``fused``   torch's own fused LSTM, for GPUs
``export``  one ``scan`` node, for ``torch.export``
==========  =============================================================================================
"""

import os
from typing import Literal, get_args

import torch
from torch import Tensor

from eru.autocast import product_dtype, without_autocast
from eru.lengths import without_padding
from eru.recurrence import cpu, fused, naive
from eru.tracing import is_exporting, is_transformed
from eru.warn import warn_once

__all__ = ["Backend", "lstm_scan", "resolve_backend"]

Backend = Literal["auto", "naive", "cpu", "fused", "export"]
_backends = get_args(Backend)


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    *,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    r"""Run an LSTM's recurrence over gates whose input part is already there.

    .. math::
        (i, f, g, o) = \mathrm{gates}_t + W_{hh} (\mathrm{mask} \cdot h_{t-1}), \quad
        c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \quad
        h_t = W_{hr}\, \sigma(o) \tanh(c_t)

    Cells are computed in at least float32 (by the fused LSTM of a GPU, as that library does). Under autocast the
    products run in autocast's type, and h is returned in it.

    Args:
        gates: Input gates with bias (T, B, 4H), T >= 1, in the order i, f, g, o.
        weight_hh: Recurrent weights (4H, H), or (4H, P) with a projection. With R recurrent groups these are
            (4H, H / R) or (4H, P / R): of every gate's units, the r-th of R equal blocks reads slice r of h.
        h0: Initial hidden state (B, H) or (B, P).
        c0: Initial cells (B, H).
        weight_hr: Projection (P, H), or ``None``.
        hidden_mask: Factor on h before the recurrent product, (B, H or P), the same at every step, without a gradient.
        lengths: Steps of each sequence (B,), from 1 to T; ``None`` for T. The state is taken at each end, and hidden
            states behind it are zero. The gates there must be finite, and reach nothing.
        backend: ``"auto"`` takes what the environment variable ``ERU_BACKEND`` names, else the fastest that fits:
            ``"cpu"``, on other devices ``"fused"``, ``"export"`` while ``torch.export`` traces, and ``"naive"`` for a
            single step and under forward mode or ``torch.func``. A way that cannot run here gives way to the fastest
            that can, with one warning that says why.

    Returns:
        The hidden states (T, B, H or P), and the last (h, c), where c has the type of ``c0``.

    Raises:
        ValueError: Shapes that do not fit, or an unknown backend.

    Example:
        >>> hidden, (h, c) = lstm_scan(torch.zeros(5, 2, 12), torch.zeros(12, 3), torch.zeros(2, 3), torch.zeros(2, 3))
        >>> hidden.shape, h.shape, c.shape
        (torch.Size([5, 2, 3]), torch.Size([2, 3]), torch.Size([2, 3]))
    """
    _check_shapes((gates, weight_hh, h0, c0, weight_hr, hidden_mask, lengths))
    dtype = product_dtype(gates)
    gates, weight_hh, h = gates.to(dtype), weight_hh.to(dtype), h0.to(dtype)
    c = c0.to(torch.promote_types(dtype, torch.float32))
    weight_hr = None if weight_hr is None else weight_hr.to(dtype)
    hidden_mask = None if hidden_mask is None else hidden_mask.detach().to(dtype)
    ends = None if lengths is None else lengths - 1
    inputs = (gates, weight_hh, h, c, weight_hr, hidden_mask, ends)
    with without_autocast(gates):
        match resolve_backend(backend, gates, has_mask=hidden_mask is not None):
            case "cpu":
                hidden, c = cpu.lstm_scan(inputs)
            case "fused":
                hidden, c = fused.lstm_scan(inputs)
            case "export":
                # It stands on a prototype of torch's: imported by those who export, and by nobody else.
                from eru.recurrence import export

                hidden, c = export.lstm_scan(inputs)
            case _:
                hidden, c = naive.lstm_scan(*inputs)
    c = c.to(c0.dtype)
    if lengths is None or ends is None:
        return hidden, (hidden[-1], c)
    hidden = without_padding(hidden, lengths)
    return hidden, (naive.at(ends, hidden), c)


def resolve_backend(backend: str, gates: Tensor, *, has_mask: bool = False) -> str:
    """The way that runs: the one asked for, or where it cannot run or none is, the fastest that can.

    The length and device of the gates (T, B, 4H) decide, and whether there is a mask on the hidden state.

    Raises:
        ValueError: An unknown backend, here or in ``ERU_BACKEND``.

    Example:
        >>> resolve_backend("auto", torch.zeros(70, 20, 12)), resolve_backend("naive", torch.zeros(70, 20, 12))
        ('cpu', 'naive')
    """
    source = "backend"
    if backend == "auto" and not is_exporting():
        source, backend = "ERU_BACKEND", os.environ.get("ERU_BACKEND") or "auto"
    if backend not in _backends:
        raise ValueError(f"{source}={backend!r}: must be one of {', '.join(_backends)}")
    if backend != "auto":
        reason = _refusal(backend, gates, has_mask)
        if reason is None:
            return backend
        warn_once(f"{source}={backend!r} cannot run: {reason}; another way is taken", stacklevel=3)
    if gates.shape[0] == 1 and (torch.is_grad_enabled() or torch.compiler.is_compiling()):
        return "naive"
    if is_exporting():
        return "export"
    fast = "cpu" if gates.device.type == "cpu" else "fused"
    return "naive" if _refusal(fast, gates, has_mask) else fast


def _refusal(backend: str, gates: Tensor, has_mask: bool) -> str | None:
    """Why a way cannot run, or ``None`` where it can."""
    device = gates.device.type
    if backend == "cpu" and device not in ("cpu", "meta"):
        return f"the gates are on {gates.device}"
    if backend in ("cpu", "fused") and not torch.compiler.is_compiling() and is_transformed():
        return "torch.func and forward mode see through a loop only"
    if backend == "fused" and has_mask:
        return "torch's fused LSTM knows no mask on the hidden state"
    if backend == "fused" and device == "meta":
        return "the gates are on meta, where operations are counted one by one"
    return None


def _check_shapes(inputs: naive.Inputs) -> None:
    gates, weight_hh, h0, c0, weight_hr, hidden_mask, lengths = inputs
    if gates.dim() != 3 or gates.shape[0] < 1 or gates.shape[2] % 4:
        raise ValueError(f"gates of shape {tuple(gates.shape)}: expected (T, B, 4H) with T >= 1")
    batch, size = gates.shape[1], gates.shape[2] // 4
    out = size if weight_hr is None else weight_hr.shape[0]
    groups = out // max(weight_hh.shape[-1], 1)
    share = out // groups if groups and out % groups == size % groups == 0 else out
    expected = {
        "weight_hh": (weight_hh, (4 * size, share)),
        "h0": (h0, (batch, out)),
        "c0": (c0, (batch, size)),
        "weight_hr": (weight_hr, (out, size)),
        "hidden_mask": (hidden_mask, (batch, out)),
        "lengths": (lengths, (batch,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}: expected {shape}")

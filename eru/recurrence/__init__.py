"""The recurrence h_t = LSTM(gates_t + W h_{t-1}): one function, several ways to run it."""

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from eru.recurrence import cpu, naive

__all__ = ["Backend", "lstm_scan", "resolve_backend"]

Backend = Literal["auto", "naive", "scan", "cpu"]
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
        backend: ``"auto"`` picks the fastest that fits; ``"naive"`` is the oracle, ``"scan"`` one node for
            ``torch.export``, ``"cpu"`` packed weights with an analytic backward (no forward mode, no torch.func).

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
    kind = gates.device.type
    # The meta device knows no autocast, and autocast leaves float64 alone.
    has_autocast = kind != "meta"
    if has_autocast and torch.is_autocast_enabled(kind) and gates.dtype != torch.float64:
        gates = gates.to(torch.get_autocast_dtype(kind))
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
    with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
        match resolve_backend(backend, gates):
            case "cpu":
                hidden, c = cpu.lstm_scan(*arguments)
            case "scan":
                # A prototype of torch's: imported by those who export, and by nobody else.
                from eru.recurrence import traced

                hidden, c = traced.lstm_scan(*arguments)
            case _:
                hidden, c = naive.lstm_scan(*arguments)
    return hidden, (hidden[-1], c.to(c0.dtype))


def resolve_backend(backend: str, gates: Tensor) -> str:
    """The path that runs: ``backend`` itself, or for ``"auto"`` the fastest that fits the device and the length.

    One step, another device and the transforms of torch.func take the loop, and an export takes the scan.

    Raises:
        ValueError: an unknown backend.

    Example:
        >>> resolve_backend("auto", torch.zeros(70, 20, 12)), resolve_backend("auto", torch.zeros(1, 20, 12))
        ('cpu', 'naive')
    """
    if backend not in _backends:
        raise ValueError(f"backend={backend!r}: must be one of {', '.join(_backends)}")
    if backend != "auto":
        return backend
    if _is_exporting():
        return "scan"
    if not torch.compiler.is_compiling() and _is_transformed():
        return "naive"
    return "cpu" if gates.device.type == "cpu" and gates.shape[0] > 1 else "naive"


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

"""The fast way on a GPU: fused kernels for the steps, replayed from graphs or run as one persistent launch.

The mathematics is that of :mod:`eru.recurrence.steps`: forward keeps the activated gates and the cells, the backward
loop only multiplies by factors made of them beforehand and sends the gradient one step back, and the gradients of W
and h0 are one large product each after it. Sums are in float32 and in an order of their own, so that runs repeat bit
for bit. Products are in the type of the gates; float32 runs in TF32 only where ``torch.backends.cuda.matmul`` allows
that, and else as three such products, which together are as exact as float32.

Importing this needs no Triton; running it does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eru.fast_paths import triton_refusal
from eru.recurrence import cpu

__all__ = ["lstm_scan", "supports"]

UNITS = 16  # hidden units of a program; sizes are padded to a multiple
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def supports(
    gates: Tensor, weight_hh: Tensor, weight_hr: Tensor | None = None, hidden_mask: Tensor | None = None
) -> str | None:
    """Why :func:`lstm_scan` cannot run for these tensors, or ``None`` where it can.

    Example:
        >>> supports(torch.zeros(5, 2, 12), torch.zeros(12, 3), weight_hr=torch.zeros(2, 3))
        'there is a projection'
    """
    if weight_hr is not None:
        return "there is a projection"
    if hidden_mask is not None:
        return "there is a hidden_mask"
    if gates.dtype not in _TYPES:
        return f"gates are {gates.dtype}"
    if weight_hh.numel() >= 2**31:
        return f"weight_hh has {weight_hh.numel()} elements, and indices have 32 bits"
    return triton_refusal(gates.device)


def _precision(dtype: torch.dtype) -> str:
    matmul = torch.backends.cuda.matmul
    # From torch 2.9 on the older name raises where the newer has been set.
    newer = getattr(matmul, "fp32_precision", None)
    allowed = matmul.allow_tf32 if newer is None else newer == "tf32"
    return "tf32" if allowed or dtype != torch.float32 else "tf32x3"


def _padded_size(size: int) -> int:
    return -(-size // UNITS) * UNITS


def _padded(tensor: Tensor, *sizes: int) -> Tensor:
    """``tensor`` with zeros up to the given last sizes, contiguous and aligned to 16 bytes."""
    missing = [size - now for size, now in zip(sizes, tensor.shape[-len(sizes) :], strict=True)]
    if any(missing):
        return F.pad(tensor, [n for size in reversed(missing) for n in (0, size)])
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


@torch.library.custom_op("eru::lstm_scan_triton", mutates_args=())
def _scan(
    gates: Tensor, weight_hh: Tensor, h0: Tensor, c0: Tensor, keep: bool, persistent: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states (T, B, H), last cells, and, to ``keep`` for the backward, padded activated gates and all cells."""
    from eru.recurrence.triton import launch

    (steps, batch, _), size = gates.shape, c0.shape[-1]
    padded = _padded_size(size)
    precision = _precision(gates.dtype)
    tiles = launch.plan(padded, batch, gates.dtype, gates.device, persistent, precision)
    states = gates.new_empty(steps + 1, batch, padded)
    states[0] = _padded(h0, padded)
    cells = c0.new_empty(steps + 1 if keep else 1, batch, padded)
    cells[0] = _padded(c0, padded)
    activated = c0.new_empty(steps if keep else 0, batch, 4, padded)
    inputs = (
        _padded(gates.unflatten(-1, (4, size)), padded),
        _padded(weight_hh.unflatten(0, (4, size)), padded, padded),
    )
    constants = {"SIZE": padded, "KEEP": keep, "PRECISION": precision}
    launch.launch("forward", (*inputs, states, cells, activated), steps, tiles, constants)
    hidden, c = states[1:, :, :size].contiguous(), cells[-1, :, :size].clone(memory_format=torch.contiguous_format)
    return hidden, c, activated, cells


@_scan.register_fake
def _(gates, weight_hh, h0, c0, keep, persistent):  # noqa: ANN001, ANN202
    (steps, batch, _), size = gates.shape, c0.shape[-1]
    padded = _padded_size(size)
    return (
        gates.new_empty(steps + 1, batch, padded)[1:, :, :size].contiguous(),
        c0.new_empty(batch, size),
        c0.new_empty(steps if keep else 0, batch, 4, padded),
        c0.new_empty(steps + 1 if keep else 1, batch, padded),
    )


@torch.library.custom_op("eru::lstm_scan_triton_backward", mutates_args=())
def _scan_backward(
    grad_hidden: Tensor,
    grad_c: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    hidden: Tensor,
    activated: Tensor,
    cells: Tensor,
    persistent: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, weight_hh, h0 and c0."""
    from eru.recurrence.triton import launch

    (steps, batch, size), padded = hidden.shape, cells.shape[-1]
    precision = _precision(hidden.dtype)
    tiles = launch.plan(padded, batch, hidden.dtype, hidden.device, persistent, precision)
    weight = _padded(weight_hh.unflatten(0, (4, size)), padded, padded)
    dgates = hidden.new_empty(steps + 1, batch, 4, padded)
    dgates[-1] = 0
    dcells = _padded(grad_c, padded).clone()
    tensors = (_padded(grad_hidden, padded), weight.flatten(0, 1).t().contiguous(), dgates, cells, activated, dcells)
    launch.launch("backward", tensors, steps, tiles, {"SIZE": padded, "PRECISION": precision})

    dgates = dgates[:-1, :, :, :size].flatten(2)
    previous = torch.cat([h0.unsqueeze(0), hidden[:-1]])
    dweight = dgates.flatten(0, 1).t() @ previous.flatten(0, 1)
    return dgates, dweight, dgates[0] @ weight_hh, dcells[:, :size].contiguous()


@_scan_backward.register_fake
def _(grad_hidden, grad_c, weight_hh, h0, hidden, activated, cells, persistent):  # noqa: ANN001, ANN202
    return (
        hidden.new_empty(*hidden.shape[:2], weight_hh.shape[0]),
        weight_hh.new_empty(weight_hh.shape),
        h0.new_empty(h0.shape),
        grad_c.new_empty(grad_c.shape),
    )


def _setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
    gates, weight_hh, h0, c0, _, ctx.persistent = inputs
    hidden, _, activated, cells = output
    # In the order of the CPU path, whose second derivatives serve here too.
    ctx.save_for_backward(gates, weight_hh, h0, c0, None, None, hidden, activated, cells)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad_hidden, grad_c, _activated, _cells):  # noqa: ANN001, ANN202
    _, weight_hh, h0, c0, _, _, hidden, activated, cells = ctx.saved_tensors
    grad_hidden = torch.zeros_like(hidden) if grad_hidden is None else grad_hidden
    grad_c = torch.zeros_like(c0) if grad_c is None else grad_c
    if torch.is_grad_enabled():
        return cpu._differentiable_gradients(ctx, grad_hidden, grad_c)
    gradients = _scan_backward(grad_hidden, grad_c, weight_hh, h0, hidden, activated, cells, ctx.persistent)
    return *gradients, None, None


_scan.register_autograd(_gradients, setup_context=_setup_context)


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    *,
    persistent: bool = False,
) -> tuple[Tensor, Tensor]:
    """Same contract as :func:`eru.recurrence.naive.lstm_scan`, for tensors that :func:`supports` accepts.

    Args:
        gates: (T, B, 4H), in float32, float16 or bfloat16.
        weight_hh: (4H, H), in the type of the gates.
        h0: (B, H), in the type of the gates.
        c0: (B, H), in float32.
        weight_hr: must be ``None``.
        hidden_mask: must be ``None``.
        persistent: one launch for all steps where the whole grid fits the device at once; else one launch a step.

    Returns:
        The hidden states (T, B, H), and the last cells (B, H).

    Raises:
        ValueError: a projection or a mask.
    """
    if weight_hr is not None or hidden_mask is not None:
        raise ValueError("weight_hr and hidden_mask: must be None here")
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (gates, weight_hh, h0, c0))
    hidden, c, _, _ = _scan(gates, weight_hh, h0, c0, keep, persistent)
    return hidden, c

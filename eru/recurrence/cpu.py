"""The fast way on a CPU: weights packed once a call, and an analytic backward with dW as one product.

The forward pass keeps the activated gates and the cells. Each step is a product and element-wise work, done by
compiled kernels (:mod:`eru.kernels`) or by torch's operators (:mod:`eru.recurrence.steps`, with the equations). Both
directions are operators of torch's library, so that ``torch.compile`` takes each as one node whatever the length.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eru import kernels
from eru.recurrence import naive, steps


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The contract of :func:`eru.recurrence.naive.lstm_scan`; ``hidden_mask`` gets no gradient."""
    tensors = (gates, weight_hh, h0, c0, weight_hr)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    compiled = kernels.refusal(gates.dtype) is None
    hidden, c, _, _ = _scan(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, keep, compiled)
    return hidden, c


def _packed_linear(weight: Tensor, batch: int, length: int) -> Callable[[Tensor], Tensor]:
    """``x -> x weight^T`` with the weight laid out once for the many products of one call."""
    # Packing costs about as much as four products of a small batch, and a single row gains little from it.
    if length * min(batch, 4) <= 16 or not _can_pack(weight.dtype):
        return lambda x: F.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), batch)
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x, packed, None, "none", [], "")


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.library.custom_op("eru::lstm_scan", mutates_args=())
def _scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None,
    hidden_mask: Tensor | None,
    ends: Tensor | None,
    keep: bool,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states (T, B, P), last cells, and, to ``keep`` for the backward, activated gates and all cells."""
    (length, batch, _), size = gates.shape, c0.shape[-1]
    step = kernels.lstm_forward if compiled else steps.lstm_forward
    hidden = gates.new_empty(length, batch, h0.shape[-1])
    # What nobody will read again is written over at every step.
    activated = c0.new_empty(length if keep else 1, batch, 4, size)
    cells = c0.new_empty(length if keep or ends is not None else 1, batch, size)
    recur = _packed_linear(weight_hh, batch, length)
    project = None if weight_hr is None else _packed_linear(weight_hr, batch, length)
    unprojected = gates.new_empty(batch, size)
    h, c = h0, c0.contiguous()
    # Views of all steps at once, so that the loop makes none.
    kept, states, outputs = activated.unbind(0), cells.unbind(0), hidden.unbind(0)
    for t, gate in enumerate(gates.contiguous().unbind(0)):
        state = states[t % len(states)]
        recurrent = recur(h if hidden_mask is None else h * hidden_mask)
        step(gate, recurrent, c, kept[t % len(kept)], state, outputs[t] if project is None else unprojected)
        if project is not None:
            outputs[t].copy_(project(unprojected))
        h, c = outputs[t], state
    last = c.clone() if ends is None else naive.at(ends, cells)
    return hidden, last, activated, cells if keep else cells[:1]


@_scan.register_fake
def _(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, keep, compiled):  # noqa: ANN001, ANN202
    (length, batch, _), size = gates.shape, c0.shape[-1]
    kept = length if keep else 1
    return (
        gates.new_empty(length, batch, h0.shape[-1]),
        c0.new_empty(batch, size),
        c0.new_empty(kept, batch, 4, size),
        c0.new_empty(kept, batch, size),
    )


@torch.library.custom_op("eru::lstm_scan_backward", mutates_args=())
def _scan_backward(
    grad_hidden: Tensor,
    grad_c: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None,
    hidden_mask: Tensor | None,
    ends: Tensor | None,
    hidden: Tensor,
    activated: Tensor,
    cells: Tensor,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, weight_hh, h0, c0 and weight_hr (empty where there is none)."""
    length, batch, _, size = activated.shape
    step = kernels.lstm_backward if compiled else steps.lstm_backward
    back = _packed_linear(weight_hh.t(), batch, length)
    unproject = None if weight_hr is None else _packed_linear(weight_hr.t(), batch, length)
    projected = torch.empty_like(hidden) if weight_hr is not None else hidden[:0]  # gradients of all h
    dgates = hidden.new_empty(length, batch, 4 * size)
    split, flat = dgates.unflatten(2, (4, size)).unbind(0), dgates.unbind(0)
    dh = grad_hidden[-1].contiguous()
    # The gradient of a sequence's last cells comes in at its end.
    dc = torch.zeros_like(grad_c, memory_format=torch.contiguous_format)
    last = {length - 1: ...} if ends is None else {t: ends == t for t in ends.unique().tolist()}
    before = (c0.contiguous(), *cells.unbind(0))
    for t, kept in reversed(list(enumerate(activated.unbind(0)))):
        if t in last:
            dc[last[t]] += grad_c[last[t]]
        dm = dh
        if unproject is not None:
            projected[t] = dh
            dm = unproject(dh)
        step(dm, dc, kept, before[t], before[t + 1], split[t])
        dh = back(flat[t])
        if hidden_mask is not None:
            dh = dh * hidden_mask
        if t:
            dh = dh + grad_hidden[t - 1]

    first, others = h0, hidden[:-1]
    if hidden_mask is not None:
        first, others = first * hidden_mask, others * hidden_mask
    dweight = dgates[0].t() @ first
    dweight.addmm_(dgates[1:].flatten(0, 1).t(), others.flatten(0, 1))
    if weight_hr is None:
        return dgates, dweight, dh, dc, hidden.new_empty(0)
    unprojected = (activated[:, :, 3] * cells.tanh()).to(hidden.dtype)
    return dgates, dweight, dh, dc, projected.flatten(0, 1).t() @ unprojected.flatten(0, 1)


@_scan_backward.register_fake
def _(grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells, compiled):  # noqa: ANN001, ANN202
    length, batch, _, size = activated.shape
    return (
        hidden.new_empty(length, batch, 4 * size),
        hidden.new_empty(weight_hh.shape),
        hidden.new_empty(h0.shape),
        cells.new_empty(c0.shape),
        hidden.new_empty(0 if weight_hr is None else weight_hr.shape),
    )


def _setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
    gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, _, ctx.compiled = inputs
    hidden, _, activated, cells = output
    # The gates themselves are needed by second derivatives only, which must reach them through their history.
    ctx.save_for_backward(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad_hidden, grad_c, _activated, _cells):  # noqa: ANN001, ANN202
    _, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells = ctx.saved_tensors
    grad_hidden = torch.zeros_like(hidden) if grad_hidden is None else grad_hidden
    grad_c = torch.zeros_like(c0) if grad_c is None else grad_c
    if torch.is_grad_enabled():
        return (*_differentiable_gradients(ctx, grad_hidden, grad_c), None, None)
    dgates, dweight, dh0, dc0, dweight_hr = _scan_backward(
        grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells, ctx.compiled
    )
    return dgates, dweight, dh0, dc0, None if weight_hr is None else dweight_hr, None, None, None, None


def _differentiable_gradients(ctx, grad_hidden: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
    """The same gradients through the oracle, so that they can be differentiated again."""
    inputs = ctx.saved_tensors[:7]
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    outputs = naive.lstm_scan(*inputs)
    found = iter(torch.autograd.grad(outputs, wanted, (grad_hidden, grad_c), create_graph=True, allow_unused=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:7])


_scan.register_autograd(_gradients, setup_context=_setup_context)

"""The fast way on a CPU: weights packed once a call, and an analytic backward with dW as one product.

Forward keeps the activated gates and the cells. Backward first turns the gates, for all steps at once, into factors by
which the incoming gradients are multiplied; the loop then multiplies, and sends the gradient one step back through the
packed weight:

    A = o (1 - tanh(c)^2)            dc += dm A
    d(i, f, g) = dc (g i(1-i), c' f(1-f), i (1-g^2)),   d(o) = dm tanh(c) o(1-o)
    dc = dc f,   dh = d(i, f, g, o) W

where m = o tanh(c) is the state before the projection and c' the cells one step earlier. Both directions are
operators of torch's library, so that ``torch.compile`` takes each as one node whatever the length.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eru.recurrence import naive


def _packed_linear(weight: Tensor, batch: int, steps: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """``x, added -> x weight^T + added`` with the weight laid out once for the many products of one call."""
    # Packing costs about as much as four products of a small batch.
    if steps <= 4 or batch == 0 or not _can_pack(weight.dtype):
        return lambda x, added: F.linear(x, weight) if added is None else torch.addmm(added, x, weight.t())
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), batch)
    linear = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor, added: Tensor | None) -> Tensor:
        if added is None:
            return linear(x, packed, None, "none", [], "")
        return linear.binary(x, added, packed, None, "add")

    return product


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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states (T, B, P), last cells, and, to ``keep`` for the backward, activated gates and all cells."""
    (steps, batch, _), size = gates.shape, c0.shape[-1]
    hidden = gates.new_empty(steps, batch, h0.shape[-1])
    activated = c0.new_empty(steps if keep else 1, batch, 4, size)
    cells = c0.new_empty(steps if keep else 1, batch, size)
    recur = _packed_linear(weight_hh, batch, steps)
    project = None if weight_hr is None else _packed_linear(weight_hr, batch, steps)
    tanh_c = torch.empty_like(c0)
    h, c = h0, c0
    # Views of all steps at once, so that the loop makes none.
    flat, parts = activated.flatten(2).unbind(0), [part.unbind(0) for part in activated.unbind(2)]
    outputs, states = hidden.unbind(0), cells.unbind(0)
    for t, gate in enumerate(gates.contiguous().unbind(0)):
        now = t if keep else 0
        raw = recur(h if hidden_mask is None else h * hidden_mask, gate).to(c0.dtype)
        i, f, g, o = (part[now] for part in parts)
        torch.sigmoid(raw, out=flat[now])  # of g too, for one large operation takes all threads
        torch.tanh(raw[:, 2 * size : 3 * size], out=g)
        torch.mul(f, c, out=states[now])
        c = states[now].addcmul_(i, g)
        torch.tanh(c, out=tanh_c)
        if project is None:
            torch.mul(o, tanh_c, out=outputs[t])
        else:
            outputs[t].copy_(project((o * tanh_c).to(gates.dtype), None))
        h = outputs[t]
    return hidden, c.clone(), activated, cells


@_scan.register_fake
def _(gates, weight_hh, h0, c0, weight_hr, hidden_mask, keep):  # noqa: ANN001, ANN202
    (steps, batch, _), size = gates.shape, c0.shape[-1]
    kept = steps if keep else 1
    return (
        gates.new_empty(steps, batch, h0.shape[-1]),
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
    hidden: Tensor,
    activated: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, weight_hh, h0, c0 and weight_hr (empty where there is none)."""
    steps, batch, _, size = activated.shape
    dtype = hidden.dtype
    i, f, g, o = activated.unbind(2)
    factors = torch.empty_like(activated)  # becomes the gradient of the gates
    through_sigmoid, through_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    through_sigmoid(g, i, grad_input=factors[:, :, 0])
    through_sigmoid(c0, f[0], grad_input=factors[0, :, 1])
    through_sigmoid(cells[:-1], f[1:], grad_input=factors[1:, :, 1])
    through_tanh(i, g, grad_input=factors[:, :, 2])

    back = _packed_linear(weight_hh.t(), batch, steps)
    unproject = None if weight_hr is None else _packed_linear(weight_hr.t(), batch, steps)
    projected = torch.empty_like(hidden) if weight_hr is not None else hidden[:0]  # gradients of all h
    dgates = factors.view(steps, batch, 4 * size) if dtype == c0.dtype else hidden.new_empty(steps, batch, 4 * size)
    dh, dc = grad_hidden[-1], grad_c.clone(memory_format=torch.contiguous_format)
    tanh_c, through = torch.empty_like(dc), torch.empty_like(dc)
    for t in reversed(range(steps)):
        if unproject is None:
            dm = dh.to(c0.dtype)
        else:
            projected[t] = dh
            dm = unproject(dh, None).to(c0.dtype)
        gate = factors[t]
        torch.tanh(cells[t], out=tanh_c)
        dc.addcmul_(dm, through_tanh(o[t], tanh_c, grad_input=through))
        gate[:, :3].mul_(dc.unsqueeze(1))
        torch.mul(dm, through_sigmoid(tanh_c, o[t], grad_input=through), out=gate[:, 3])
        dc.mul_(f[t])
        if dtype != c0.dtype:
            dgates[t].copy_(gate.view(batch, 4 * size))
        before = grad_hidden[t - 1].contiguous() if t else None  # a sum's gradient is one number, expanded
        if hidden_mask is None:
            dh = back(dgates[t], before)
        else:
            dh = back(dgates[t], None) * hidden_mask
            dh = dh if before is None else dh + before

    first, later = h0, hidden[:-1]
    if hidden_mask is not None:
        first, later = first * hidden_mask, later * hidden_mask
    dweight = dgates[0].t() @ first
    dweight.addmm_(dgates[1:].flatten(0, 1).t(), later.flatten(0, 1))
    if weight_hr is None:
        return dgates, dweight, dh, dc, hidden.new_empty(0)
    dweight_hr = projected.flatten(0, 1).t() @ (o * cells.tanh()).to(dtype).flatten(0, 1)
    return dgates, dweight, dh, dc, dweight_hr


@_scan_backward.register_fake
def _(grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, hidden, activated, cells):  # noqa: ANN001, ANN202
    steps, batch, _, size = activated.shape
    return (
        hidden.new_empty(steps, batch, 4 * size),
        hidden.new_empty(weight_hh.shape),
        hidden.new_empty(h0.shape),
        cells.new_empty(c0.shape),
        hidden.new_empty(0 if weight_hr is None else weight_hr.shape),
    )


def _setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
    gates, weight_hh, h0, c0, weight_hr, hidden_mask, _ = inputs
    hidden, _, activated, cells = output
    # The gates themselves are needed by second derivatives only, which must reach them through their history.
    ctx.save_for_backward(gates, weight_hh, h0, c0, weight_hr, hidden_mask, hidden, activated, cells)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad_hidden, grad_c, _activated, _cells):  # noqa: ANN001, ANN202
    _, weight_hh, h0, c0, weight_hr, hidden_mask, hidden, activated, cells = ctx.saved_tensors
    grad_hidden = torch.zeros_like(hidden) if grad_hidden is None else grad_hidden
    grad_c = torch.zeros_like(c0) if grad_c is None else grad_c
    if torch.is_grad_enabled():
        return (*_differentiable_gradients(ctx, grad_hidden, grad_c), None)
    dgates, dweight, dh0, dc0, dweight_hr = _scan_backward(
        grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, hidden, activated, cells
    )
    return dgates, dweight, dh0, dc0, None if weight_hr is None else dweight_hr, None, None


def _differentiable_gradients(ctx, grad_hidden: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
    """The same gradients through the oracle, so that they can be differentiated again."""
    inputs = ctx.saved_tensors[:6]
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    outputs = naive.lstm_scan(*inputs)
    found = iter(torch.autograd.grad(outputs, wanted, (grad_hidden, grad_c), create_graph=True, allow_unused=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:6])


_scan.register_autograd(_gradients, setup_context=_setup_context)


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same contract as :func:`eru.recurrence.naive.lstm_scan`; ``hidden_mask`` gets no gradient."""
    tensors = (gates, weight_hh, h0, c0, weight_hr)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    hidden, c, _, _ = _scan(gates, weight_hh, h0, c0, weight_hr, hidden_mask, keep)
    return hidden, c

"""The fast way on a CPU: weights packed once a call, and an analytic backward with dW as one product.

The forward pass keeps the activated gates and the cells. Each step is a product and element-wise work, done by
compiled kernels (:mod:`eru.kernels`) or by torch's operators (:mod:`eru.recurrence.torch_step`, with the equations).
Both directions are operators of torch's library, so that ``torch.compile`` takes each as one node whatever the length.

Recurrent groups are R recurrences beside one another. Inside of the loops everything is laid out by blocks,
(R B, H / R) in place of (B, H): the element-wise work knows nothing of groups, and the blocks' products are one batch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eru import kernels
from eru.recurrence import naive, torch_step


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
    hidden, c, _, _ = _run_forward(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, keep, compiled)
    return hidden, c


def _linear(weight: Tensor, batch: int, length: int) -> Callable[[Tensor], Tensor]:
    """``x -> x weight^T`` with the weight laid out once for the many products of one call."""
    # Packing costs about as much as four products of a small batch, and a single row gains little from it.
    if length * min(batch, 4) <= 16 or not _can_pack(weight.dtype):
        return lambda x: F.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), batch)
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x, packed, None, "none", [], "")


def _blockwise(blocks: Tensor, batch: int, length: int) -> Callable[[Tensor], Tensor]:
    """``x -> x block^T`` for every block (R, out, in) and its rows of x (R B, in)."""
    if len(blocks) == 1:
        return _linear(blocks[0], batch, length)
    turned = blocks.transpose(1, 2).contiguous()
    return lambda x: torch.bmm(x.unflatten(0, (len(blocks), batch)), turned).flatten(0, 1)


def _by_block(x: Tensor, groups: int) -> Tensor:
    """(..., B, F) -> (..., R B, F / R)."""
    if groups == 1:
        return x.contiguous()
    return x.unflatten(-1, (groups, -1)).transpose(-3, -2).flatten(-3, -2).contiguous()


def _from_blocks(x: Tensor, groups: int) -> Tensor:
    """(..., R B, F / R) -> (..., B, F)."""
    return x if groups == 1 else x.unflatten(-2, (groups, -1)).transpose(-3, -2).flatten(-2).contiguous()


def _gates_by_block(gates: Tensor, groups: int) -> Tensor:
    """(T, B, 4H) -> (T, R B, 4H / R): of every gate the block's units."""
    if groups == 1:
        return gates.contiguous()
    return gates.unflatten(-1, (4, groups, -1)).movedim(3, 1).flatten(3).flatten(1, 2).contiguous()


def _gates_from_blocks(gates: Tensor, groups: int) -> Tensor:
    """(T, R B, 4H / R) -> (T, B, 4H)."""
    if groups == 1:
        return gates
    return gates.unflatten(1, (groups, -1)).unflatten(3, (4, -1)).movedim(1, 3).flatten(2).contiguous()


def _weight_by_block(weight_hh: Tensor, groups: int) -> Tensor:
    """(4H, P / R) -> (R, 4H / R, P / R)."""
    return weight_hh.unflatten(0, (4, groups, -1)).transpose(0, 1).flatten(1, 2)


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.library.custom_op("eru::lstm_scan", mutates_args=())
def _run_forward(
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
    groups = h0.shape[1] // weight_hh.shape[1]
    length, batch, _ = gates.shape
    rows, size = groups * batch, c0.shape[-1] // groups
    step = kernels.lstm_forward if compiled else torch_step.lstm_forward
    hidden = gates.new_empty(length, rows, weight_hh.shape[1])
    # What nobody will read again is written over at every step.
    activated = c0.new_empty(length if keep else 1, rows, 4, size)
    cells = c0.new_empty(length if keep or ends is not None else 1, rows, size)
    recur = _blockwise(_weight_by_block(weight_hh, groups), batch, length)
    project = None if weight_hr is None else _linear(weight_hr, batch, length)
    mask = None if hidden_mask is None else _by_block(hidden_mask, groups)
    unprojected = gates.new_empty(rows, size)
    h, c = _by_block(h0, groups), _by_block(c0, groups)
    # Views of all steps at once, so that the loop makes none.
    kept, states, outputs = activated.unbind(0), cells.unbind(0), hidden.unbind(0)
    for t, gate in enumerate(_gates_by_block(gates, groups).unbind(0)):
        state = states[t % len(states)]
        recurrent = recur(h if mask is None else h * mask)
        step(gate, recurrent, c, kept[t % len(kept)], state, outputs[t] if project is None else unprojected)
        if project is not None:
            outputs[t].copy_(_by_block(project(_from_blocks(unprojected, groups)), groups))
        h, c = outputs[t], state
    last = c.clone() if ends is None else naive.at(ends.repeat(groups), cells)
    return _from_blocks(hidden, groups), _from_blocks(last, groups), activated, cells if keep else cells[:1]


@_run_forward.register_fake
def _(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, keep, compiled):  # noqa: ANN001, ANN202
    (length, batch, _), hidden_size = gates.shape, c0.shape[-1]
    kept, groups = length if keep else 1, h0.shape[1] // weight_hh.shape[1]
    return (
        gates.new_empty(length, batch, h0.shape[-1]),
        c0.new_empty(batch, hidden_size),
        c0.new_empty(kept, groups * batch, 4, hidden_size // groups),
        c0.new_empty(kept, groups * batch, hidden_size // groups),
    )


@torch.library.custom_op("eru::lstm_scan_backward", mutates_args=())
def _run_backward(
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
    length, rows, _, size = activated.shape
    groups = h0.shape[1] // weight_hh.shape[1]
    batch = rows // groups
    step = kernels.lstm_backward if compiled else torch_step.lstm_backward
    back = _blockwise(_weight_by_block(weight_hh, groups).transpose(1, 2), batch, length)
    unproject = None if weight_hr is None else _linear(weight_hr.t(), batch, length)
    # Gradients of all h, which only the projection's weight needs.
    projected = torch.empty_like(hidden) if weight_hr is not None else hidden[:0]
    dgates = hidden.new_empty(length, rows, 4 * size)
    split, flat = dgates.unflatten(2, (4, size)).unbind(0), dgates.unbind(0)
    mask = None if hidden_mask is None else _by_block(hidden_mask, groups)
    tops = _by_block(grad_hidden, groups)
    dh = tops[-1]
    # The gradient of a sequence's last cells comes in at its end.
    grad_c = _by_block(grad_c, groups)
    dc = torch.zeros_like(grad_c)
    # Which rows end at a step; all of them at the last one where no lengths are given.
    ending = {length - 1: ...} if ends is None else {t: ends.repeat(groups) == t for t in ends.unique().tolist()}
    before = (_by_block(c0, groups), *cells.unbind(0))
    for t, kept in reversed(list(enumerate(activated.unbind(0)))):
        if t in ending:
            dc[ending[t]] += grad_c[ending[t]]
        dm = dh
        if unproject is not None:
            projected[t] = _from_blocks(dh, groups)
            dm = _by_block(unproject(projected[t]), groups)
        step(dm, dc, kept, before[t], before[t + 1], split[t])
        dh = back(flat[t])
        if mask is not None:
            dh = dh * mask
        if t:
            dh = dh + tops[t - 1]

    read = torch.cat([h0.unsqueeze(0), hidden[:-1]])
    read = _by_block(read if hidden_mask is None else read * hidden_mask, groups).unflatten(1, (groups, batch))
    # One product a block over all steps and rows: (R, 4H / R, T B) with (R, T B, P / R).
    dweight = dgates.unflatten(1, (groups, batch)).permute(1, 3, 0, 2).flatten(2) @ read.transpose(0, 1).flatten(1, 2)
    dweight = dweight.unflatten(1, (4, size)).transpose(0, 1).flatten(0, 2)
    gradients = _gates_from_blocks(dgates, groups), dweight, _from_blocks(dh, groups), _from_blocks(dc, groups)
    if weight_hr is None:
        return *gradients, hidden.new_empty(0)
    unprojected = _from_blocks((activated[:, :, 3] * cells.tanh()).to(hidden.dtype), groups)
    return *gradients, projected.flatten(0, 1).t() @ unprojected.flatten(0, 1)


@_run_backward.register_fake
def _(grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells, compiled):  # noqa: ANN001, ANN202
    length, batch, _ = hidden.shape
    return (
        hidden.new_empty(length, batch, 4 * c0.shape[1]),
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
    saved = ctx.saved_tensors  # which checkpointing gives out once
    _, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells = saved
    grad_hidden = torch.zeros_like(hidden) if grad_hidden is None else grad_hidden
    grad_c = torch.zeros_like(c0) if grad_c is None else grad_c
    if torch.is_grad_enabled():
        return (*_differentiable_gradients(ctx, saved[:7], grad_hidden, grad_c), None, None)
    dgates, dweight, dh0, dc0, dweight_hr = _run_backward(
        grad_hidden, grad_c, weight_hh, h0, c0, weight_hr, hidden_mask, ends, hidden, activated, cells, ctx.compiled
    )
    return dgates, dweight, dh0, dc0, None if weight_hr is None else dweight_hr, None, None, None, None


def _differentiable_gradients(ctx, saved, grad_hidden: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
    """The same gradients through the oracle, so that they can be differentiated again."""
    # Views, because an input may have been made of another one: its gradient must not go through that history here.
    inputs: list[Any] = [None if x is None else x.view_as(x) for x in saved]
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    outputs = naive.lstm_scan(*inputs)
    found = iter(torch.autograd.grad(outputs, wanted, (grad_hidden, grad_c), create_graph=True, allow_unused=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:7])


_run_forward.register_autograd(_gradients, setup_context=_setup_context)

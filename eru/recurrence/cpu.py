"""The fast way on a CPU: an analytic backward, whose weight gradients are one product each.

The forward pass keeps the activated gates and the cells. In float32 all steps of a direction are one compiled call
(:mod:`eru.kernels`). In bfloat16 the products must be torch's, for the sake of a processor's matrix units, so there
the steps are taken in Python (:mod:`eru.recurrence.cpu_steps`), as they are where there is no compiler. Both
directions are operators of torch's library, so that ``torch.compile`` takes each as one node whatever the length;
where no compiler and nobody else looks on, the same functions are called without the operator.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from eru import kernels
from eru.recurrence import cpu_steps, naive
from eru.recurrence.naive import Inputs
from eru.tracing import is_watched

_MANY_WEIGHTS = 1 << 21  # as many as a processor's cache holds, or more


def lstm_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The contract of :func:`eru.recurrence.naive.lstm_scan`; ``hidden_mask`` gets no gradient."""
    gates = inputs[0]
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    compiled = kernels.refusal(gates.dtype) is None
    if _needs_operator(gates):
        run: Any = _run_forward
    else:
        run = _Scan.apply if keep else _forward
    hidden, c, _, _ = run(*inputs, keep, compiled)
    return hidden, c


def _needs_operator(x: Tensor) -> bool:
    """Whether somebody looks on. An operator costs as much as a step of a small layer, so others do without."""
    return type(x) is not Tensor or not x.is_cpu or is_watched()


def _forward(
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
    length, batch, _ = gates.shape
    hidden = gates.new_empty(length, batch, h0.shape[1])
    # What nobody will read again is written over at every step.
    activated = c0.new_empty(length if keep else 1, batch, 4, c0.shape[1])
    cells = c0.new_empty(length if keep or ends is not None else 1, *c0.shape)
    one_call = compiled and _is_one_call(h0, weight_hh, length)
    run = kernels.sequence_forward if one_call else partial(cpu_steps.forward, compiled=compiled)
    run((gates, weight_hh, h0, c0, weight_hr, hidden_mask), hidden, activated, cells)
    last = cells[-1].clone() if ends is None else naive.at(ends, cells)
    return hidden, last, activated, cells if keep else cells[:1]


def _is_one_call(h0: Tensor, weight_hh: Tensor, length: int) -> bool:
    """Whether the compiled call for all steps knows the type, and is the fastest way."""
    (batch, out), threads = h0.shape, torch.get_num_threads()
    # A single step would have the weights laid out anew for one product. Of large weights every thread would read all
    # for its few rows, where torch's products share the weights out.
    wide = out == weight_hh.shape[1] and weight_hh.numel() > _MANY_WEIGHTS and threads > 1 and batch < 16 * threads
    return h0.dtype == torch.float32 and length > 1 and not wide


_run_forward = torch.library.custom_op("eru::lstm_scan", mutates_args=())(_forward)


@_run_forward.register_fake
def _(gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends, keep, compiled):  # noqa: ANN001, ANN202
    (length, batch, _), size = gates.shape, c0.shape[1]
    kept = length if keep else 1
    cells = c0.new_empty(kept, batch, size)
    return (
        gates.new_empty(length, batch, h0.shape[1]),
        c0.new_empty(c0.shape),
        cells.new_empty(kept, batch, 4, size),
        cells,
    )


def _backward(
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
    length, batch, _ = hidden.shape
    grad_gates = hidden.new_empty(length, batch, 4 * c0.shape[1])
    # Gradients of all h, which only the projection's weight needs.
    projected = torch.empty_like(hidden) if weight_hr is not None else hidden[:0]
    grad_h0, grad_c0 = h0.new_empty(h0.shape), c0.new_empty(c0.shape)
    one_call = compiled and _is_one_call(h0, weight_hh, length)
    run = kernels.sequence_backward if one_call else partial(cpu_steps.backward, compiled=compiled)
    inputs = (grad_hidden, grad_c, weight_hh, c0, weight_hr, hidden_mask, ends)
    run(inputs, activated, cells, (grad_gates, projected, grad_h0, grad_c0))

    groups = h0.shape[1] // weight_hh.shape[1]
    read = torch.cat([h0.unsqueeze(0), hidden[:-1]])
    read = (read if hidden_mask is None else read * hidden_mask).flatten(0, 1).unflatten(1, (groups, -1))
    # One product a gate and block over all steps and rows, (4, R, H / R, T B) with (R, T B, P / R); without groups all
    # gates are one block. The products read the gradients transposed and with gaps between their rows; copies without
    # gaps would cost more.
    shape = (4, groups) if groups > 1 else (1, 1)
    by_gate = grad_gates.flatten(0, 1).unflatten(1, (*shape, -1)).permute(1, 2, 3, 0)
    grad_weight = hidden.new_empty(weight_hh.shape)
    for blocks, made in zip(by_gate, grad_weight.view(*shape, -1, weight_hh.shape[1]), strict=True):
        torch.bmm(blocks, read.transpose(0, 1), out=made)
    if weight_hr is None:
        return grad_gates, grad_weight, grad_h0, grad_c0, hidden.new_empty(0)
    unprojected = (activated[:, :, 3] * cells.tanh()).to(hidden.dtype)
    return grad_gates, grad_weight, grad_h0, grad_c0, projected.flatten(0, 1).t() @ unprojected.flatten(0, 1)


_run_backward = torch.library.custom_op("eru::lstm_scan_backward", mutates_args=())(_backward)


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
    run = _run_backward if _needs_operator(grad_hidden) else _backward
    dgates, dweight, dh0, dc0, dweight_hr = run(
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


class _Scan(torch.autograd.Function):
    """What the operator is to autograd, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """Run it, and keep what the backward needs."""
        output = _forward(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """The gradients of the inputs."""
        return _gradients(ctx, *grads)

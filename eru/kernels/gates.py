"""The ERU's input map in C (gates.c): rows one by one, and the whole map as one matrix with its gradients."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from eru import kernels

MOST_BRANCHES = 16
Weights = tuple[Tensor, Tensor, Tensor]
"""Those of reduce, branches and expand."""


class Unit(ctypes.Structure):
    """The sizes of a map, as C reads them."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("units", "gates", "size", "inputs", "width", "branches")),
        *((name, ctypes.c_size_t) for name in ("reduce_groups", "groups", "expand_groups", "taps", "fusion")),
        ("dilations", ctypes.c_size_t * MOST_BRANCHES),
    ]


@cache
def unit(*sizes: Unit, dilations: tuple[int, ...]) -> Unit:
    """The structure of these sizes, given in the order of its fields; made once, for a step is short."""
    return Unit(*sizes, (ctypes.c_size_t * MOST_BRANCHES)(*dilations))


def rows(sizes: Unit, x: Tensor, weights: Weights, outputs: int) -> Tensor:
    """Gates (N, S H) of few rows (N, M), all of one type, without a gradient."""
    held, gates = kernels.contiguous(x, *weights), x.new_empty(len(x), outputs)
    kernels.call("gates_rows", x.dtype)(ctypes.byref(sizes), len(x), *map(kernels.address, (*held, gates)))
    return gates


def cell_step(
    sizes: Unit, x: Tensor, weights: Weights, bias: Tensor | None, weight_hh: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of a cell without a projection, all of one type, without a gradient: x (B, M) and (h, c) -> (h, c)."""
    held = kernels.contiguous(x, *weights, bias, weight_hh, h, c)
    out = x.new_empty(c.shape), x.new_empty(c.shape)
    groups = h.shape[1] // weight_hh.shape[1]
    kernels.call("cell_step", x.dtype)(ctypes.byref(sizes), len(x), groups, *map(kernels.address, (*held, *out)))
    return out


class Dense(torch.autograd.Function):
    """The map as one matrix (S H, M)."""

    @staticmethod
    def forward(
        ctx: Any, sizes: Unit, shape: tuple[int, int], plain: Callable[..., Tensor], *weights: Tensor
    ) -> Tensor:
        """Compute it; ``plain`` computes it from the weights with torch's operators, for second derivatives."""
        ctx.sizes, ctx.plain = sizes, plain
        ctx.save_for_backward(*weights)
        held, dense = kernels.contiguous(*weights), weights[0].new_empty(shape)
        kernels.call("gates_dense")(
            ctypes.byref(sizes), torch.get_num_threads(), *map(kernels.address, (*held, dense))
        )
        return dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """The gradients of the three weights."""
        weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # They are to be differentiated again. Views, for a weight may have a history.
            views = [weight.view_as(weight) for weight in weights]
            return None, None, None, *torch.autograd.grad(ctx.plain(*views), views, grad, create_graph=True)
        held = kernels.contiguous(grad, *weights)
        # Gates that share their reduce and branches each give a part of those gradients.
        parts = (ctx.sizes.gates, ctx.sizes.gates, 1)
        grads = [weight.new_empty(n, *weight.shape) for n, weight in zip(parts, weights, strict=True)]
        run = kernels.call("gates_dense_backward")
        run(ctypes.byref(ctx.sizes), torch.get_num_threads(), *map(kernels.address, (*held, *grads)))
        return None, None, None, *(g.sum(0) if len(g) > 1 else g[0] for g in grads)

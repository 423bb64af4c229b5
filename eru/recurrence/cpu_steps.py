"""The steps of the CPU's way one after another in Python: for types and machines that have no single compiled call.

Each step is a product by torch, with the weights laid out once, and element-wise work by a compiled kernel
(:mod:`eru.kernels`) or, where there is none, by torch's operators:

    c = f c' + i g,   m = o tanh(c)

    dc += dm o (1 - tanh(c)^2)
    d(i, f, g) = dc (g i(1-i), c' f(1-f), i (1-g^2)),   d(o) = dm tanh(c) o(1-o),   dc' = dc f

Here m is the hidden state before the projection, c' are the cells one step earlier, and d(i, f, g) and d(o) are the
gradients of the raw gates.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eru import kernels

Product = Callable[[Tensor], Tensor]
_through_sigmoid, _through_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def forward(
    inputs: kernels.ForwardInputs, hidden: Tensor, activated: Tensor, cells: Tensor, *, compiled: bool
) -> None:
    """Fill ``hidden`` (T, B, P), and ``activated`` (T, B, 4, H) and ``cells`` (T, B, H).

    Where the last two have room for one step only, each step is written over the one before.
    """
    gates, weight_hh, h0, c0, weight_hr, hidden_mask = inputs
    length, batch, _ = gates.shape
    step = kernels.lstm_forward if compiled else lstm_forward
    recur = _recurrent(weight_hh, h0.shape[1], batch, length)
    project = None if weight_hr is None else _linear(weight_hr, batch, length)
    unprojected = gates.new_empty(c0.shape)
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


def backward(
    inputs: kernels.BackwardInputs, activated: Tensor, cells: Tensor, made: kernels.BackwardOutputs, *, compiled: bool
) -> None:
    """Fill the gradients ``made``.

    Those of the hidden states (T, B, P), and of the cells (B, H) at each sequence's end, come in from outside.
    """
    grad_hidden, grad_c, weight_hh, c0, weight_hr, hidden_mask, ends = inputs
    grad_gates, projected, grad_h0, grad_c0 = made
    length, batch, _ = grad_hidden.shape
    step = kernels.lstm_backward if compiled else lstm_backward
    back = _recurrent_back(weight_hh, grad_h0.shape[1], batch, length)
    unproject = None if weight_hr is None else _linear(weight_hr.t(), batch, length)
    split = grad_gates.unflatten(2, (4, -1)).unbind(0)
    dh, dc = grad_hidden[-1], grad_c0.zero_()
    # Which sequences end at a step; all of them at the last one where no lengths are given.
    ending = {length - 1: ...} if ends is None else {t: ends == t for t in ends.unique().tolist()}
    before = (c0.contiguous(), *cells.unbind(0))
    for t, kept in reversed(list(enumerate(activated.unbind(0)))):
        if t in ending:
            dc[ending[t]] += grad_c[ending[t]]
        dm = dh
        if unproject is not None:
            projected[t] = dh
            dm = unproject(dh)
        step(dm.contiguous(), dc, kept, before[t], before[t + 1], split[t])
        dh = back(grad_gates[t])
        if hidden_mask is not None:
            dh = dh * hidden_mask
        if t:
            dh = dh + grad_hidden[t - 1]
    grad_h0.copy_(dh)


def lstm_forward(
    gates: Tensor, recurrent: Tensor, before: Tensor, activated: Tensor, cells: Tensor, hidden: Tensor
) -> None:
    """Fill activated (B, 4, H), cells and hidden (B, H).

    The raw gates are the sum of ``gates`` and ``recurrent``, both (B, 4H); ``before`` (B, H) are the cells one step
    earlier.
    """
    raw = torch.add(gates, recurrent).to(cells.dtype).view_as(activated)  # (B, 4H) is four gates of H side by side
    i, f, g, o = activated.unbind(1)
    torch.sigmoid(raw, out=activated)  # of g too, for one large operation takes all threads
    torch.tanh(raw[:, 2], out=g)
    torch.mul(f, before, out=cells)
    cells.addcmul_(i, g)
    hidden.copy_(cells.tanh().mul_(o))


def lstm_backward(
    grad_hidden: Tensor, grad_cells: Tensor, activated: Tensor, before: Tensor, cells: Tensor, grad_raw: Tensor
) -> None:
    """Fill ``grad_raw`` (B, 4, H) with the gradient of the raw gates, and turn ``grad_cells`` to the step before.

    ``grad_cells`` (B, H) holds the gradient of this step's cells when it comes in, and that of the cells one step
    earlier when it goes out.
    """
    i, f, g, o = activated.unbind(1)
    grad_hidden, tanh_c = grad_hidden.to(cells.dtype), cells.tanh()
    grad_cells.addcmul_(grad_hidden, _through_tanh(o, tanh_c))
    grad_raw[:, 0] = _through_sigmoid(grad_cells * g, i)
    grad_raw[:, 1] = _through_sigmoid(grad_cells * before, f)
    grad_raw[:, 2] = _through_tanh(grad_cells * i, g)
    grad_raw[:, 3] = _through_sigmoid(grad_hidden * tanh_c, o)
    grad_cells.mul_(f)


def _recurrent(weight_hh: Tensor, features: int, batch: int, length: int) -> Product:
    """Make h (B, P) into its product with W_hh (B, 4H); of recurrent groups each block has its own product."""
    groups = features // weight_hh.shape[1]
    if groups == 1:
        return _linear(weight_hh, batch, length)
    blocks = weight_hh.unflatten(0, (4, groups, -1)).permute(1, 3, 0, 2).flatten(2).contiguous()  # (R, P / R, 4H / R)

    def product(h: Tensor) -> Tensor:
        made = torch.bmm(h.unflatten(1, (groups, -1)).transpose(0, 1), blocks)  # (R, B, 4H / R)
        # Rows of W_hh are ordered by gate, and within a gate by block.
        return made.unflatten(2, (4, -1)).permute(1, 2, 0, 3).flatten(1)

    return product


def _recurrent_back(weight_hh: Tensor, features: int, batch: int, length: int) -> Product:
    """The gradient of the gates (B, 4H) -> that of h (B, P)."""
    groups = features // weight_hh.shape[1]
    if groups == 1:
        return _linear(weight_hh.t(), batch, length)
    blocks = weight_hh.unflatten(0, (4, groups, -1)).transpose(0, 1).flatten(1, 2).contiguous()  # (R, 4H / R, P / R)

    def product(grad: Tensor) -> Tensor:
        by_block = grad.unflatten(1, (4, groups, -1)).permute(2, 0, 1, 3).flatten(2)  # (R, B, 4H / R)
        return torch.bmm(by_block, blocks).transpose(0, 1).flatten(1)

    return product


def _linear(weight: Tensor, batch: int, length: int) -> Product:
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

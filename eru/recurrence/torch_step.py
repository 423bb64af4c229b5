"""One step of an LSTM, forward and backward, in torch's operators: what :mod:`eru.kernels` does where it can.

    c = f c' + i g,   m = o tanh(c)

    dc += dm o (1 - tanh(c)^2)
    d(i, f, g) = dc (g i(1-i), c' f(1-f), i (1-g^2)),   d(o) = dm tanh(c) o(1-o),   dc' = dc f

Here m is the hidden state before the projection, c' are the cells one step earlier, and d(i, f, g) and d(o) are the
gradients of the raw gates.
"""

import torch
from torch import Tensor

_through_sigmoid, _through_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


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

"""The oracle: the recurrence as a plain loop that anyone can check against the equations."""

import torch
from torch import Tensor

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""What :func:`lstm_scan` is given, in its order: the other ways take it as one."""


def lstm_step(
    gates: Tensor,
    weight_hh: Tensor,
    h: Tensor,
    c: Tensor,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step: gates (B, 4H), h (B, H or P), c (B, H) -> the next h and c, the cells in the type of c."""
    recurrent = recurrent_product(h if hidden_mask is None else h * hidden_mask, weight_hh)
    i, f, g, o = (gates + recurrent).to(c.dtype).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = (o.sigmoid() * c.tanh()).to(gates.dtype)
    return (h if weight_hr is None else h @ weight_hr.t()), c


def recurrent_product(h: Tensor, weight_hh: Tensor) -> Tensor:
    """The recurrent product of h (B, P) with W_hh (4H, P / R): block r of every gate's rows reads slice r of h.

    Example:
        >>> recurrent_product(torch.tensor([[1.0, 2.0]]), torch.ones(8, 1))  # R = 2: every gate has one unit a block
        tensor([[1., 2., 1., 2., 1., 2., 1., 2.]])
    """
    groups = h.shape[1] // weight_hh.shape[1]
    if groups == 1:
        return h @ weight_hh.t()
    # The rows are ordered by gate, and within a gate by block.
    blocks = weight_hh.unflatten(0, (4, groups, -1))  # (gate, R, H / R, P / R)
    return torch.einsum("brp,grup->bgru", h.unflatten(1, (groups, -1)), blocks).flatten(1)


def lstm_scan(
    gates: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_hr: Tensor | None = None,
    hidden_mask: Tensor | None = None,
    ends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All steps of gates (T, B, 4H).

    Returns:
        The hidden states (T, B, H or P), and the cells (B, H) after each sequence's last step: the one that ``ends``
        (B,) names, or T - 1.
    """
    h, c = h0, c0
    hidden: list[Tensor] = []
    cells: list[Tensor] = []  # needed only where sequences end at different steps
    for gate in gates.unbind(0):
        h, c = lstm_step(gate, weight_hh, h, c, weight_hr, hidden_mask)
        hidden.append(h)
        if ends is not None:
            cells.append(c)
    return torch.stack(hidden), c if ends is None else at(ends, torch.stack(cells))


def at(ends: Tensor, x: Tensor) -> Tensor:
    """Pick from each sequence of x (T, B, F) the step that ``ends`` (B,) names; the result is (B, F).

    Example:
        >>> at(torch.tensor([0, 2]), torch.arange(6).view(3, 2, 1)).flatten()
        tensor([0, 5])
    """
    return x.gather(0, ends.view(1, -1, 1).expand(1, -1, x.shape[2])).squeeze(0)

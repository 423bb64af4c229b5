"""The inference form of a recurrent model: every gate's EESP as the one matrix that it is, where that is quicker."""

import copy
from typing import Any

import torch
from torch import nn

from eru.gates import EESPGates


@torch.no_grad()
def optimize(model: nn.Module) -> Any:
    r"""A copy for inference, in which each ERU's input map is one dense matrix where that is quicker.

    Such a map has no activation inside, so reduce, branches, running sums and expand are together
    :math:`W = E \cdot \mathrm{branches}(I) \cdot R`. For single steps one product with it is quicker than the dozen
    small operators of the unit, though there are more weights to read. A map that the compiled kernels can run on a
    CPU takes single steps as it is, in one call that reads fewer weights: in float32 it stays as it is, in bfloat16 it
    keeps the matrix beside it, for many rows. All other parameters are shared with ``model``.

    Args:
        model: An :class:`eru.ERU`, an :class:`eru.ERUCell`, or any module that holds some; it stays as it is.

    Returns:
        A module of the same class in evaluation mode. Make it anew when the model's weights have changed: not all
        of its input maps follow them.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> from eru import ERU
        >>> rnn, x = ERU(10, 20), torch.randn(1, 3, 10)
        >>> torch.allclose(optimize(rnn)(x)[0], rnn(x)[0], atol=1e-5)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r}: must be a module")
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    holder = nn.Sequential(copy.deepcopy(model, shared))
    for module in list(holder.modules()):
        for name, unit in list(module.named_children()):
            if not isinstance(unit, EESPGates) or unit.runs_in_c():
                continue
            if unit.runs_in_c(narrow=True):
                unit.kept_dense = unit.dense_weight()
            else:
                setattr(module, name, _linear(unit))
    return holder.eval()[0]


def _linear(unit: EESPGates) -> nn.Linear:
    weight = unit.dense_weight()
    linear = nn.Linear(unit.input_size, len(weight), bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear

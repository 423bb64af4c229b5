"""The tied softmax and its cross-entropy in one, with a single copy of the logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 64  # of logits treated at once, so that their float32 form stays in the processor's cache


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        logits = torch.addmm(bias, features, weight.t())  # (N, V), overwritten by its own gradient
        count = len(targets)
        precise = torch.promote_types(logits.dtype, torch.float32)
        total = torch.zeros((), dtype=precise, device=features.device)
        for rows, wanted in zip(logits.split(_ROWS), targets.split(_ROWS), strict=True):
            scores = rows.to(precise, copy=True)
            norm = scores.logsumexp(dim=1, keepdim=True)
            wanted = wanted.unsqueeze(1)
            total += (norm - scores.gather(1, wanted)).sum()
            gradient = scores.sub_(norm).exp_()
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            rows.copy_(gradient.div_(count))
        ctx.save_for_backward(features, weight, logits)
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        features, weight, gradient = ctx.saved_tensors
        grad = grad.to(gradient.dtype)
        return grad * (gradient @ weight), grad * (gradient.t() @ features), grad * gradient.sum(dim=0), None


def tied_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy of ``softmax(features weight^T + bias)``, in at least float32.

    .. math::
        \ell = \frac1N \sum_n \Big(\log \sum_v e^{z_{nv}} - z_{n y_n}\Big), \qquad
        \frac{\partial \ell}{\partial z_{nv}} = \frac1N \big(\mathrm{softmax}(z_n)_v - [v = y_n]\big)

    For training the gradient overwrites the logits a few rows at a time while they are in the cache; there is no
    other array of their size. Second derivatives are refused.

    Args:
        features: (N, E).
        weight: (V, E).
        bias: (V,).
        targets: ids (N,), each from 0 to V - 1.

    Example:
        >>> loss = tied_cross_entropy(torch.zeros(3, 2), torch.zeros(7, 2), torch.zeros(7), torch.tensor([0, 3, 6]))
        >>> round(loss.exp().item(), 4)
        7.0
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        features, weight, bias = features.to(dtype), weight.to(dtype), bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        if torch.is_grad_enabled():
            return _TiedCrossEntropy.apply(features, weight, bias, targets)
        logits = F.linear(features, weight, bias)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)

"""The tied softmax and its cross-entropy in one, with a single copy of the logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eru import kernels
from eru.autocast import product_dtype, without_autocast

_ROWS = 64  # of logits treated at once, so that their float32 form stays in the processor's cache


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        gradient = features @ weight.t()  # (N, V): first the logits without their bias, then their gradient
        # A tracer of operators, such as torch.compile's, must see operators.
        is_native = gradient.device.type == "cpu" and kernels.refusal(gradient.dtype) is None
        if is_native and not torch.compiler.is_compiling():
            loss, grad_bias = kernels.cross_entropy_(gradient, bias.float().contiguous(), targets.contiguous())
            loss = features.new_tensor(loss, dtype=torch.float32)
        else:
            loss, grad_bias = _cross_entropy_(gradient, bias, targets)
        ctx.save_for_backward(features, weight, gradient, grad_bias)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        features, weight, gradient, grad_bias = ctx.saved_tensors
        scale = grad.to(gradient.dtype)
        return scale * (gradient @ weight), gradient.t() @ (scale * features), grad * grad_bias, None


def _cross_entropy_(products: Tensor, bias: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`eru.kernels.cross_entropy_` does, in torch's operators."""
    count = len(targets)
    precise = torch.promote_types(products.dtype, torch.float32)
    bias = bias.to(precise)
    total, grad_bias = bias.new_zeros(()), torch.zeros_like(bias)
    for rows, wanted in zip(products.split(_ROWS), targets.split(_ROWS), strict=True):
        scores = rows.to(precise).add(bias)
        norm = scores.logsumexp(dim=1, keepdim=True)
        wanted = wanted.unsqueeze(1)
        total += (norm - scores.gather(1, wanted)).sum()
        gradient = scores.sub_(norm).exp_()
        gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
        grad_bias += gradient.div_(count).sum(dim=0)
        rows.copy_(gradient)
    return total / count, grad_bias


def tied_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy of ``softmax(features weight^T + bias)``, in at least float32.

    .. math::
        \ell = \frac1N \sum_n \Big(\log \sum_v e^{z_{nv}} - z_{n y_n}\Big), \qquad
        \frac{\partial \ell}{\partial z_{nv}} = \frac1N \big(\mathrm{softmax}(z_n)_v - [v = y_n]\big)

    For training the gradient overwrites the logits a few rows at a time while they are in the cache; there is no
    other array of their size. Second derivatives are refused.

    Args:
        features: The inputs of the softmax (N, E).
        weight: The embedding (V, E).
        bias: One number for each token that there is (V,).
        targets: The ids to predict (N,), each from 0 to V - 1.

    Example:
        >>> loss = tied_cross_entropy(torch.zeros(3, 2), torch.zeros(7, 2), torch.zeros(7), torch.tensor([0, 3, 6]))
        >>> round(loss.exp().item(), 4)
        7.0
    """
    dtype = product_dtype(features)
    features, weight = features.to(dtype), weight.to(dtype)
    with without_autocast(features):
        if torch.is_grad_enabled():
            return _TiedCrossEntropy.apply(features, weight, bias, targets)
        logits = features @ weight.t()
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)) + bias, targets)

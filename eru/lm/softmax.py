"""The tied softmax and its cross-entropy in one, with a single copy of the logits; in two steps for many words."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def two_step_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, rare: nn.Linear, targets: Tensor, head: int
) -> Tensor:
    r"""Mean cross-entropy of a tied softmax in two steps, for vocabularies that are too large for one.

    The first ``head`` tokens, the frequent ones, compete with one more score r, which stands for all the others. Only
    where the token to predict is one of these do they compete with each other:

    .. math::
        p(v) = \frac{e^{z_v}}{e^r + \sum_{u < head} e^{z_u}} \quad (v < head), \qquad
        p(v) = \frac{e^r}{e^r + \sum_{u < head} e^{z_u}} \cdot \frac{e^{z_v}}{\sum_{u \geq head} e^{z_u}}

    Args:
        features: The inputs of the softmax (N, E).
        weight: The embedding (V, E).
        bias: One number for each token that there is (V,).
        rare: The map (E -> 1) that gives r.
        targets: The ids to predict (N,), each from 0 to V - 1; frequent tokens have the smaller ones.
        head: How many tokens are frequent.

    Source:
        Grave et al. 2017, "Efficient softmax approximation for GPUs", arXiv 1609.04309, here with tied weights.

    Example:
        >>> rare = nn.Linear(2, 1)
        >>> _ = nn.init.zeros_(rare.weight), nn.init.zeros_(rare.bias)
        >>> targets = torch.tensor([0, 4])
        >>> loss = two_step_cross_entropy(torch.zeros(2, 2), torch.zeros(7, 2), torch.zeros(7), rare, targets, head=3)
        >>> bool(torch.isclose(loss, (torch.tensor(4.0).log() + torch.tensor(16.0).log()) / 2))
        True
    """
    first = targets.clamp(max=head)
    loss = tied_cross_entropy(
        features, torch.cat([weight[:head], rare.weight]), torch.cat([bias[:head], rare.bias]), first
    )
    rows = (targets >= head).nonzero().squeeze(1)
    if len(rows):
        second = tied_cross_entropy(features[rows], weight[head:], bias[head:], targets[rows] - head)
        loss = loss + len(rows) / len(targets) * second
    return loss


def two_step_log_probabilities(scores: Tensor, rare: Tensor, head: int) -> Tensor:
    """The logarithms of the probabilities that :func:`two_step_cross_entropy` speaks of.

    Args:
        scores: The scores z of all tokens (..., V).
        rare: The score r of the others together (..., 1).
        head: How many tokens are frequent.

    Example:
        >>> two_step_log_probabilities(torch.zeros(5), torch.zeros(1), head=3).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.1250, 0.1250])
    """
    precise = torch.promote_types(scores.dtype, torch.float32)
    first = torch.cat([scores[..., :head], rare], dim=-1).log_softmax(dim=-1, dtype=precise)
    second = scores[..., head:].log_softmax(dim=-1, dtype=precise)
    return torch.cat([first[..., :head], first[..., head:] + second], dim=-1)

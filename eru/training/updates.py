"""The optimiser, and one update of the weights."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eru.training.distributed import Ranks

OptimizerName = Literal["adamw", "adam", "sgd"]


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    beta1: float = 0.9,
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """Make an optimiser that updates all parameters in one fused operation.

    Args:
        name: ``"adamw"``, ``"adam"`` or ``"sgd"``.
        parameters: What it updates.
        learning_rate: Its learning rate; `update` sets another one for each step.
        weight_decay: Its weight decay. AdamW's shrinks the weights apart from the gradient (decoupled). The others'
            is the gradient of an L2 penalty, so Adam divides it as it divides the gradient.
        beta1: How much of the mean gradient both kinds of Adam keep from step to step; 0 for none, which makes Adam an
            RMSProp whose beginning is corrected.
        momentum: How much of its last update SGD keeps.

    Raises:
        ValueError: There is no such optimiser, or a number is out of its range.
    """
    if name not in get_args(OptimizerName):
        raise ValueError(f"optimizer={name!r}: must be one of {', '.join(get_args(OptimizerName))}")
    if not 0 <= beta1 < 1:
        raise ValueError(f"beta1={beta1}: must be from 0 to below 1")
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
    adam = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return adam(parameters, lr=learning_rate, betas=(beta1, 0.999), weight_decay=weight_decay, fused=True)


def update(
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    *,
    parts: int = 1,
    learning_rate: float,
    clip: float,
    ranks: Ranks,
) -> Tensor:
    """Take one step down the gradient of a mean loss, clipped to a norm; the gradient is there until the next step.

    Where the gradient is not finite, nothing changes.

    Args:
        optimizer: The optimiser, over all parameters that the loss depends on.
        losses: The mean loss of each of the equal parts of the batch, a scalar; of several processes each gives those
            of its own equal share. The next one is asked for when the gradient of the one before it is there, so a
            generator needs the memory of one part.
        parts: How many there are.
        learning_rate: The learning rate of this step.
        clip: The limit on the norm of the gradient.
        ranks: The processes that train together.

    Returns:
        The norm of the gradient before it was clipped, the same on every process. It is not finite where the loss of
        any process is not.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    for loss in losses:
        (loss / parts).backward()
    ranks.average_gradients(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # A norm of NaN would make every gradient NaN, and hide the one that it came from.
    nn.utils.clip_grads_with_norm_(parameters, clip, norm.nan_to_num(0.0, 0.0, 0.0))
    # The fused optimisers ask for this on the device, so that it need not wait for us.
    vars(optimizer)["found_inf"] = norm.isfinite().logical_not().float()
    optimizer.step()
    return norm

"""The optimiser, and one update of the weights."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eru.training.distributed import Ranks

OptimizerName = Literal["adamw", "sgd"]


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimiser that updates all parameters in one fused operation.

    Args:
        name: ``"adamw"`` (its weight decay is decoupled) or ``"sgd"``.
        parameters: What it updates.
        learning_rate: Its learning rate; `update` sets another one for each step.
        weight_decay: Its weight decay.

    Raises:
        ValueError: There is no such optimiser, or a number is out of its range.
    """
    makers = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    if name not in makers:
        raise ValueError(f"optimizer={name!r}: must be one of {', '.join(get_args(OptimizerName))}")
    return makers[name](parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def update(
    optimizer: torch.optim.Optimizer, loss: Tensor, *, learning_rate: float, clip: float, ranks: Ranks
) -> Tensor:
    """Take one step down the gradient of a loss, clipped to a norm.

    Args:
        optimizer: The optimiser, over all parameters that the loss depends on.
        loss: A scalar; of several processes each gives the mean over its own equal share of the batch.
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
    loss.backward()
    ranks.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad()
    return norm

"""Networks with weights drawn at random that still pass something on to their last layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def calibrate(model: nn.Module, forward: Callable[[Tensor], Any], images: Tensor) -> nn.Module:
    """Set the running statistics of batch normalisation to those of some images, so that no map vanishes.

    Args:
        model: Any network; its linear layers are drawn anew.
        forward: Runs it.
        images: What it sees.

    Returns:
        The model, in evaluation mode.
    """
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean over the passes
        if isinstance(part, nn.Linear):  # drawn so small at first that no difference would show
            nn.init.normal_(part.weight, std=0.1)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            forward(images)
    return model.eval()

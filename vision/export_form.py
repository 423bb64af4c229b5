"""A vision model in the form that other runtimes are given: its inference form, in operators that all of them have."""

from typing import Any

import torch
from torch import Tensor, nn

from vision.folding import optimize


def export_form(model: nn.Module) -> nn.Module:
    """A copy for inference (see :func:`vision.optimize`) whose PReLUs are made of operators that every runtime fuses.

    Example:
        >>> from vision.classification import Classifier
        >>> model, image = Classifier(0.5, num_classes=10).eval(), torch.rand(1, 3, 64, 64)
        >>> torch.allclose(export_form(model)(image), model(image), atol=1e-5)
        True
    """
    holder = nn.Sequential(optimize(model))
    for part in list(holder.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.PReLU):
                setattr(part, name, _PReLU(child))
        for name, tensor in list(part.named_buffers(recurse=False)):
            # Each with its own memory, in the one layout that all formats know.
            setattr(part, name, tensor.clone(memory_format=torch.contiguous_format))
    return holder[0]


class _PReLU(nn.Module):
    r"""PReLU as :math:`\max(x, a x)`, which it is for slopes a up to 1; else as the sum of its two sides."""

    def __init__(self, original: nn.PReLU) -> None:
        super().__init__()
        self.slope = nn.Buffer(original.weight.detach().view(-1, 1, 1).clone())
        self.is_gentle = bool((self.slope <= 1).all())

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gentle:
            return torch.maximum(x, self.slope * x)
        return x.clamp(min=0) + self.slope * x.clamp(max=0)


class Logits(nn.Module):
    """A classifier or a segmenter, whose logits come as they are and not in a dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Logits of (N, channels, H, W)."""
        made = self.model(image)
        return made["out"] if isinstance(made, dict) else made


class Raw(nn.Module):
    """A detector's confidences (N, P, classes) and offsets (N, P, 4), with the priors (P, 4) that they belong to."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.priors = nn.Buffer(model.priors(size))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images (N, channels, H, W) of one size."""
        return *self.model.raw(image), self.priors.clone()


class Best(Raw):
    """A detector's best boxes (N, k, 4), labels (N, k) and scores (N, k), see :meth:`vision.Detector.best`."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images (N, channels, H, W) of one size."""
        return self.model.best(*self.model.raw(image), self.priors)

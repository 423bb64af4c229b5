"""What each task learns from: how its pictures are varied, and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vision.data.crops import Expand, RandomCrop, RandomScale, SSDCrop
from vision.data.sample import IGNORED, Sample
from vision.data.transforms import (
    Compose,
    Photometric,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    as_tensors,
    mixup,
)
from vision.network import Network
from vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vision.training.recipes import Recipe, Size

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Varied:
    """A sample varied at random, as the input and the target of a training; it can be sent to another process.

    Attributes:
        recipe: How far it is varied.
        size: Height and width of the input.
        mean: What is subtracted from red, green and blue.
        std: By what they are divided.
    """

    recipe: Recipe
    size: Size
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    def __call__(self, sample: Sample, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """The input (3, H, W) and the target; see :func:`vision.data.transforms.as_tensors`."""
        return as_tensors(self._variation(sample, rng), self.mean, self.std)

    @property
    def _variation(self) -> Compose:
        recipe, most = self.recipe, self.recipe.photometric
        photometric = Photometric(brightness=most, contrast=most, saturation=most, hue=most / 10)
        flip = RandomFlip(recipe.flip)
        if recipe.task == "detect":
            return Compose((photometric, Expand(recipe.expand), SSDCrop(), Resize(self.size), flip))
        if recipe.task == "segment":
            # A picture keeps its shape, and where it is smaller than the input it is padded.
            return Compose((RandomScale(*recipe.scales), RandomCrop(self.size), flip, photometric))
        return Compose((RandomResizedCrop(self.size, scale=(recipe.smallest_crop, 1.0)), flip, photometric))


def loss_of(model: Network, images: Tensor, targets: Any, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """The mean loss of a batch.

    Args:
        model: A model for the recipe's task, in training mode.
        images: (N, 3, H, W), normalised.
        targets: As the loader stacks them: classes (N,), which classes there are (N, C), masks (N, H, W), or a
            list of dictionaries with boxes and labels.
        recipe: The numbers of the loss.
        rng: Where MixUp draws from.

    Source:
        ESPNetv2, section 4 (cross-entropy, and the SSD loss for objects).
    """
    return _LOSSES[recipe.task](model, images, targets, recipe, rng)


def _one_label(model: Network, images: Tensor, targets: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    if recipe.mixup:
        images, soft = mixup(images, F.one_hot(targets, model.num_classes).float(), recipe.mixup, rng)
        return F.cross_entropy(model(images).float(), soft, label_smoothing=recipe.smoothing)
    return F.cross_entropy(model(images).float(), targets, label_smoothing=recipe.smoothing)


def _many_labels(model: Network, images: Tensor, targets: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(images).float(), targets)


def _pixels(model: Network, images: Tensor, targets: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    summed = F.cross_entropy(model(images)["out"].float(), targets, ignore_index=IGNORED, reduction="sum")
    # A batch of which every pixel is ignored teaches nothing; its mean would be no number.
    return summed / (targets != IGNORED).sum().clamp(min=1)


def _objects(
    model: Network, images: Tensor, targets: list[dict[str, Tensor]], recipe: Recipe, rng: np.random.Generator
) -> Tensor:
    return torch.stack(list(model(images, targets).values())).sum()


_LOSSES: dict[str, Callable[..., Tensor]] = {
    "classify": _one_label,
    "multilabel": _many_labels,
    "segment": _pixels,
    "detect": _objects,
}

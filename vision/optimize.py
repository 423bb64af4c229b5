"""The inference form of a model: what is linear at inference folded together, weights in the fastest memory format."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import EESP


def optimize(model: nn.Module) -> nn.Module:
    """A copy of a model for inference only: the same outputs, sooner.

    Batch normalisation goes into the convolution before it; where a sum or a concatenation stands between them it
    becomes one multiply-add. Weights are laid out channels last, which every map then follows. Nothing can be trained
    in the copy, and its state dict is its own.

    Args:
        model: any model, backbone or part of one, on any device; it stays as it is.

    Returns:
        The copy, in evaluation mode.

    Raises:
        TypeError: not a module.

    Example:
        >>> from vision.classification import Classifier
        >>> model, image = Classifier(0.5, num_classes=10).eval(), torch.rand(1, 3, 64, 64)
        >>> torch.allclose(optimize(model)(image), model(image), atol=1e-5)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r}: must be a module")
    holder = nn.Sequential(copy.deepcopy(model).eval().requires_grad_(False))
    with torch.no_grad():
        _fold_parts(holder)
    return holder[0].to(memory_format=torch.channels_last)


def _fold_parts(module: nn.Module) -> None:
    names = [name for name, _ in module.named_children()]
    for name in names:
        part = getattr(module, name)
        if isinstance(part, EESP):
            if part.ndim == 2 and part.stacks == 1 and part.reduce_layers and _folds(part.reduce_layers[0]):
                setattr(module, name, InferenceEESP(part))
        elif _folds(part):
            setattr(module, name, ScaleShift(*_affine(part)))
        elif isinstance(part, nn.Sequential):
            _fold_run(part)
            _fold_parts(part)
        else:
            _fold_parts(part)


def _fold_run(run: nn.Sequential) -> None:
    """Fold every normalisation of a run into the convolution right before it."""
    for i in range(len(run) - 1):
        convolution, norm = run[i], run[i + 1]
        if isinstance(convolution, nn.Conv2d) and _folds(norm):
            scale, shift = _affine(norm)
            run[i] = FoldedConv(
                convolution.weight * scale,
                shift if convolution.bias is None else shift + convolution.bias * scale.flatten(),
                stride=convolution.stride[0],
                groups=convolution.groups,
            )
            run[i + 1] = nn.Identity()


def _folds(part: nn.Module) -> bool:
    """Whether a part is a fixed scale and shift at inference."""
    return isinstance(part, nn.BatchNorm2d) and part.affine and part.track_running_stats


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale (C, 1, 1, 1) and shift (C) that a batch normalisation is at inference."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


class ScaleShift(nn.Module):
    """Batch normalisation at inference: one multiply-add for every channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift (N, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


class FoldedConv(nn.Module):
    """A convolution with what followed it folded in; padded so that stride 1 keeps the size."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = (weight.shape[-1] - 1) * dilation // 2

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, M, H, W)."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # With one thread torch would take its slow path for point-wise convolutions.
            padding, stride, dilation = [self.padding] * 2, [self.stride] * 2, [self.dilation] * 2
            return torch.mkldnn_convolution(x, self.weight, self.bias, padding, stride, dilation, self.groups)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class InferenceEESP(nn.Module):
    """An EESP unit at inference: five convolutions, running sums in place, one multiply-add."""

    def __init__(self, unit: EESP) -> None:
        super().__init__()
        scale, shift = _affine(unit.reduce_layers[0])
        self.reduce = FoldedConv(unit.reduce_weight * scale, shift, groups=unit.groups)
        self.reduce_activation = unit.reduce_layers[1]
        self.branches = nn.ModuleList(
            FoldedConv(weight, None, stride=unit.stride, dilation=dilation, groups=unit.width // weight.shape[1])
            for weight, dilation in zip(unit.branch_weights(), unit.dilations, strict=True)
        )
        self.branch_norm = ScaleShift(*_affine(unit.branch_layers[0]))
        self.branch_activation = unit.branch_layers[1]
        scale, shift = _affine(unit.expand_layers[0])
        # Of a width that does not divide evenly, the unit expands to more channels than it keeps.
        extra = len(unit.expand_weight) - unit.out_channels
        weight = unit.expand_weight * F.pad(scale, (0, 0, 0, 0, 0, 0, 0, extra))
        self.expand = FoldedConv(weight, F.pad(shift, (0, extra)), groups=unit.expand_groups)
        self.out_channels = unit.out_channels
        self.fusion, self.residual = unit.fusion, unit.residual
        self.activation = nn.Identity() if unit.stride > 1 else unit.activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to (N, M, H, W)."""
        y = self.reduce_activation(self.reduce(x))
        maps: list[Tensor] = []
        for branch in self.branches:
            made = branch(y)
            maps.append(made.add_(maps[-1]) if self.fusion and maps else made)
        z = self.expand(self.branch_activation(self.branch_norm(torch.cat(maps, dim=1))))
        z = z[:, : self.out_channels]
        return self.activation(z.add_(x) if self.residual else z)

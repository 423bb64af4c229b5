"""Folding: what is linear at inference, batch normalisation above all, goes into the convolution before it."""

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
        model: Any model, backbone or part of one, on any device; it stays as it is.

    Returns:
        The copy, in evaluation mode.

    Raises:
        TypeError: The model is not a module.

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
    holder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return holder[0]


def _fold_parts(module: nn.Module) -> None:
    for name, part in list(module.named_children()):
        if isinstance(part, EESP):
            if _folds_whole(part):
                setattr(module, name, InferenceEESP(part))
        elif _folds(part):
            setattr(module, name, ScaleShift(*_affine(part)))
        else:
            if isinstance(part, nn.Sequential):
                _fold_run(part)
            _fold_parts(part)


def _fold_run(run: nn.Sequential) -> None:
    """Fold every normalisation of a run into the convolution right before it."""
    for i in range(len(run) - 1):
        convolution, norm = run[i], run[i + 1]
        if isinstance(convolution, nn.Conv2d) and convolution.padding_mode == "zeros" and _folds(norm):
            scale, shift = _affine(norm)
            bias = 0 if convolution.bias is None else convolution.bias * scale.flatten()
            run[i] = FoldedConv(
                convolution.weight * scale,
                shift + bias,
                stride=convolution.stride,
                padding=convolution.padding,
                dilation=convolution.dilation,
                groups=convolution.groups,
            )
            run[i + 1] = nn.Identity()


def _folds(part: nn.Module) -> bool:
    """Whether a part is a fixed scale and shift at inference."""
    return isinstance(part, nn.BatchNorm2d) and part.affine and part.track_running_stats


def _folds_whole(unit: EESP) -> bool:
    """Whether a unit is one of the vision networks' kind: in two dimensions, with foldable normalisations."""
    norms = [layers[0] for layers in (unit.reduce_layers, unit.branch_layers, unit.expand_layers) if layers]
    return unit.ndim == 2 and len(norms) == 3 and all(map(_folds, norms))


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale (C, 1, 1, 1) and shift (C) that a batch normalisation is at inference."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


class ScaleShift(nn.Module):
    """Batch normalisation at inference: one multiply-add for every channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Buffer(scale.view(1, -1, 1, 1))
        self.shift = nn.Buffer(shift.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift (N, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


class FoldedConv(nn.Module):
    """A convolution with what followed it folded in; its options are those of ``torch.nn.functional.conv2d``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)
        self.bias = None if bias is None else nn.Buffer(bias)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, M, H, W)."""
        if self.weight.shape[2:] == (1, 1) and self.options.get("stride", 1) in (1, (1, 1)) and _prefers_onednn(x):
            return torch.mkldnn_convolution(x, self.weight, self.bias, [0, 0], [1, 1], [1, 1], self.options["groups"])
        return F.conv2d(x, self.weight, self.bias, **self.options)


def _prefers_onednn(x: Tensor) -> bool:
    """Whether oneDNN is to be called by name for a point-wise convolution.

    torch calls it by itself for all others, but with one thread takes a slower way for these. A compiler cannot trace
    the operator, and has its own way.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or not x.numel():
        return False
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and mkldnn.enabled and not torch.is_autocast_enabled("cpu")


class InferenceEESP(nn.Module):
    """An EESP unit at inference: reduce, branches and expand, what is linear folded into them."""

    ndim = 2

    def __init__(self, unit: EESP) -> None:
        super().__init__()
        first: Any = unit.reduce_layers
        middle: Any = unit.branch_layers
        last: Any = unit.expand_layers
        norm, *activation = first
        scale, shift = _affine(norm)
        reduce = FoldedConv(unit.reduce_weight * scale, shift, groups=unit.groups)
        self.reduce = nn.Sequential(reduce, *activation)
        self.branches = nn.ModuleList(
            FoldedConv(
                weight,
                None,
                stride=unit.stride,
                padding=(unit.kernel_size - 1) * dilation // 2,
                dilation=dilation,
                groups=unit.width // weight.shape[1],
            )
            for weight, dilation in zip(unit.branch_weights(), unit.dilations, strict=True)
        )
        self.fusion = unit.fusion
        norm, *activation = middle
        self.branch_layers = nn.Sequential(ScaleShift(*_affine(norm)), *activation)
        # Where the sizes do not divide evenly, the unit expands to more channels than it keeps.
        self.out_channels, extra = unit.out_channels, len(unit.expand_weight) - unit.out_channels
        scale, shift = _affine(last[0])
        weight = unit.expand_weight * F.pad(scale.flatten(), (0, extra)).view(-1, 1, 1, 1)
        self.expand = FoldedConv(weight, F.pad(shift, (0, extra)), groups=unit.expand_groups)
        self.residual = unit.residual
        # The strided units of published networks hold an activation that is never applied.
        self.activation = None if unit.stride > 1 else unit.activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to (N, M, H, W)."""
        y = self.reduce(x)
        maps: list[Tensor] = []
        for branch in self.branches:
            made = branch(y)
            maps.append(made.add_(maps[-1]) if self.fusion and maps else made)  # running sums, in place
        z = self.expand(self.branch_layers(torch.cat(maps, dim=1)))[:, : self.out_channels]
        z = z.add_(x) if self.residual else z
        return z if self.activation is None else self.activation(z)

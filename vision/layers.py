"""The 2-D layers that the ESPNetv2 networks are made of, beside the EESP units of the core."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import EESP


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation and PReLU; padded so that stride 1 keeps the size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps along each axis, odd.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H / stride, W / stride), rounded up.

    Example:
        >>> ConvNormAct(3, 8, 3, stride=2)(torch.zeros(1, 3, 9, 8)).shape
        torch.Size([1, 8, 5, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias=False,
                **place,
            ),
            *norm_act(out_channels, **place),
        )


def norm_act(channels: int, **place: Any) -> nn.Sequential:
    """Batch normalisation and PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, **place), nn.PReLU(channels, **place))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation with corners aligned, as everywhere in the published networks."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class EfficientPyramid(nn.Module):
    r"""Efficient spatial pyramid pooling (EPP): depth-wise convolutions at several scales of one reduced input.

    .. math::
        y = \mathrm{project}(x), \quad
        z = \mathrm{expand}(\mathrm{merge}(\mathrm{shuffle}([D_1(y), \dots, D_S(y)])))

    :math:`D_i` is a depth-wise 3x3 convolution seen at scale i: the input pooled (below 1) or enlarged (above 1) to
    ``max(5, ceil(size * scale))`` first and brought back after.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels of the reduced input.
        scales: Scale of each branch.
        last: Whether the output is a network's logits: then the expand has a bias, and nothing follows it.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H, W).

    Source:
        The authors' published segmentation and detection networks.

    Example:
        >>> EfficientPyramid(8, 16, 4, (2.0, 1.0, 0.5))(torch.zeros(2, 8, 9, 7)).shape
        torch.Size([2, 16, 9, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        scales: Sequence[float],
        *,
        last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.scales = tuple(scales)
        count = len(self.scales)
        self.project = ConvNormAct(in_channels, width, 1, **place)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False, **place) for _ in self.scales
        )
        self.norm_act = norm_act(count * width, **place)
        self.merge = ConvNormAct(count * width, width, 3, groups=width, **place)
        self.expand = nn.Conv2d(width, out_channels, 1, bias=last, **place)
        self.last = nn.Identity() if last else norm_act(out_channels, **place)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the pyramid to (N, in_channels, H, W)."""
        y = self.project(x)
        pyramid = torch.cat([self._at_scale(y, i) for i in range(len(self.scales))], dim=1)
        # The shuffle brings the scales of one channel together, since the merge has a group for each channel.
        pyramid = F.channel_shuffle(self.norm_act(pyramid), len(self.scales))
        return self.last(self.expand(self.merge(pyramid)))

    def _at_scale(self, y: Tensor, i: int) -> Tensor:
        scale, convolve, size = self.scales[i], self.branches[i], (y.shape[2], y.shape[3])
        if scale == 1:
            return convolve(y)
        other = max(5, math.ceil(size[0] * scale)), max(5, math.ceil(size[1] * scale))
        if scale < 1:
            return resize(convolve(F.adaptive_avg_pool2d(y, other)), size)
        return F.adaptive_avg_pool2d(convolve(resize(y, other)), size)


class EfficientPointwise(nn.Module):
    r"""Efficient point-wise convolution: a grouped 3x3 one, each output scaled by a gate that sees the whole picture.

    .. math::
        z = \sigma(W\, \mathrm{mean}(x)) \odot \mathrm{conv}(x)

    Args:
        in_channels: M.
        out_channels: N; the convolution has gcd(M, N) groups.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H, W).

    Source:
        The authors' published segmentation networks.

    Example:
        >>> EfficientPointwise(8, 12)(torch.zeros(2, 8, 9, 7)).shape
        torch.Size([2, 12, 9, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        groups = math.gcd(in_channels, out_channels)
        self.gate = nn.Conv2d(in_channels, out_channels, 1, bias=False, device=device, dtype=dtype)
        self.convolution = ConvNormAct(in_channels, out_channels, 3, groups=groups, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gated convolution to (N, in_channels, H, W)."""
        return self.convolution(x) * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()


def init_weights(module: nn.Module) -> None:
    """Draw all weights anew as the paper's networks do.

    Convolutions are Kaiming normal (fan out) and linear layers N(0, 0.001); biases are 0. Batch normalisation begins
    with scale 1 and shift 0, PReLU with the slope 0.25.

    Example:
        >>> init_weights(nn.Linear(3, 4))
    """
    for part in module.modules():
        if isinstance(part, EESP):
            for weight in (part.reduce_weight, *part.branch_weights(), part.expand_weight):
                nn.init.kaiming_normal_(weight, mode="fan_out")
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.001)
        elif isinstance(part, nn.BatchNorm2d | nn.PReLU):
            part.reset_parameters()
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)

"""The 2-D layers of which the authors' published ESPNetv2 networks are made, beside the EESP units of the core."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from eru import StridedEESP
from eru.eesp import EESP
from eru.tracing import is_exporting


class ConvNormAct(nn.Sequential):
    """Convolution with an odd kernel, batch normalisation and PReLU; padded so that stride 1 keeps the size.

    ``place`` is the ``device`` and ``dtype`` of the parameters, as in all layers of this module.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1, **place: Any
    ) -> None:
        padding = kernel_size // 2
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False, **place),
            *norm_and_prelu(out_channels, **place),
        )


def norm_and_prelu(channels: int, **place: Any) -> nn.Sequential:
    """Make batch normalisation followed by PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, **place), nn.PReLU(channels, **place))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation with corners aligned, as everywhere in the published networks."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)  # pyright: ignore[reportArgumentType]


class EfficientPyramid(nn.Module):
    r"""Efficient spatial pyramid pooling (EPP): depth-wise convolutions at several scales of one reduced input.

    .. math::
        y = \mathrm{project}(x), \quad
        z = \mathrm{expand}(\mathrm{merge}(\mathrm{shuffle}([D_1(y), \dots, D_S(y)])))

    :math:`D_i` is a depth-wise 3x3 convolution seen at scale i: the input pooled (below 1) or enlarged (above 1) to
    ``max(5, ceil(size * scale))`` first and brought back after.

    Args:
        width: Channels of the reduced input y.
        scales: Scale of each branch.
        last: Whether the output is a network's logits: then the expand has a bias, and nothing follows it.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        scales: Sequence[float],
        *,
        last: bool = False,
        **place: Any,
    ) -> None:
        super().__init__()
        self.scales, count = tuple(scales), len(scales)
        self.project = ConvNormAct(in_channels, width, 1, **place)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False, **place) for _ in self.scales
        )
        self.norm_act = norm_and_prelu(count * width, **place)
        self.merge = ConvNormAct(count * width, width, 3, groups=width, **place)
        self.expand = nn.Conv2d(width, out_channels, 1, bias=last, **place)
        self.last = nn.Identity() if last else norm_and_prelu(out_channels, **place)

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
        other = _scaled(size[0], scale), _scaled(size[1], scale)
        if scale < 1:
            return resize(convolve(pool_to(y, other)), size)
        return pool_to(convolve(resize(y, other)), size)


@torch.fx.wrap  # Python's arithmetic, which a traced graph calls as a whole
def _scaled(side: int, scale: float) -> Any:
    return torch.sym_max(5, math.ceil(side * scale))  # a whole number, or while exporting one that is not yet known


def pool_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling of (N, C, H, W) to a height and a width.

    Example:
        >>> pool_to(torch.tensor([[[[1.0, 2.0, 6.0]]]]), (1, 2))
        tensor([[[[1.5000, 4.0000]]]])
    """
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, size)  # pyright: ignore[reportArgumentType]
    # Other runtimes have no such operator. Cells that are all of one size are plain pooling; for others the exporters
    # would pick each cell by itself, and two products do as well.
    sides = x.shape[2:]
    if all(isinstance(side, int) and side % wanted == 0 for side, wanted in zip(sides, size, strict=True)):
        return F.avg_pool2d(x, [side // wanted for side, wanted in zip(sides, size, strict=True)])
    rows, columns = (_pooling(x, axis, wanted) for axis, wanted in zip((2, 3), size, strict=True))
    return rows @ x @ columns.t()


def _pooling(x: Tensor, axis: int, wanted: int) -> Tensor:
    """The matrix (wanted, side) whose rows are the means over what each cell sees of an axis of that side."""
    side = x.shape[axis]
    cell = torch.arange(wanted, device=x.device).unsqueeze(1)
    place = torch.arange(side, device=x.device)
    # Cell i reaches from floor(i side / wanted) to ceil((i + 1) side / wanted), the latter not included.
    seen = (cell * side < (place + 1) * wanted) & ((cell + 1) * side > place * wanted)
    seen = seen.to(x.dtype)
    return seen / seen.sum(dim=1, keepdim=True)


class EfficientPointwise(nn.Module):
    r"""Efficient point-wise convolution: a grouped 3x3 one, each output scaled by a gate that sees the whole picture.

    .. math::
        z = \sigma(W\, \mathrm{mean}(x)) \odot \mathrm{conv}(x)

    With M input and N output channels the convolution has gcd(M, N) groups.

    Shape:
        input (N, in_channels, H, W), output (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, **place: Any) -> None:
        super().__init__()
        self.gate = nn.Conv2d(in_channels, out_channels, 1, bias=False, **place)
        groups = math.gcd(in_channels, out_channels)
        self.convolution = ConvNormAct(in_channels, out_channels, 3, groups=groups, **place)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gated convolution to (N, in_channels, H, W)."""
        return self.convolution(x) * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()


class PublishedDown(StridedEESP):
    """A strided EESP unit in two dimensions whose state dict is that of the authors' published networks.

    Their files hold parameters that no output depends on: the EESP's last activation in every such unit, and, without
    ``feed_image``, as at level 5 of the classifiers, the whole shortcut. They are held here, frozen, so that published
    files load strictly and the parameters are as many as in the paper. Whoever makes them trainable again, for
    instance with all others, gives them gradients of zero. The ``options`` are further ones of
    :class:`eru.StridedEESP`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, feed_image: bool = True, **options: Any) -> None:
        super().__init__(in_channels, out_channels, ndim=2, norm=nn.BatchNorm2d, activation=nn.PReLU, **options)
        self.feed_image = feed_image
        # A strided EESP ends before its activation, so this one is only held.
        like = self.eesp.reduce_weight
        self.eesp.activation = nn.PReLU(out_channels - in_channels, device=like.device, dtype=like.dtype)
        for parameter in self._unused():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Halve (N, M, H, W); the image feeds the shortcut, if it is fed at all."""
        out = super().forward(x, image) if self.feed_image else self.activation(self.halve(x))
        for parameter in self._unused():
            if parameter.requires_grad:
                # Data parallelism waits for a gradient of every trainable parameter. The sum of no numbers is 0.
                out = out + parameter[:0].sum().to(out.dtype)
        return out

    def _unused(self) -> list[nn.Parameter]:
        """The parameters that no output depends on."""
        parts = [self.eesp.activation, None if self.feed_image else self.shortcut]
        return [parameter for part in parts if part is not None for parameter in part.parameters()]


def init_weights(module: nn.Module) -> None:
    """Draw all weights anew as the paper's networks do.

    Convolutions are Kaiming normal (fan out) and linear layers N(0, 0.001); biases are 0. Batch normalisation begins
    with scale 1 and shift 0, PReLU with the slope 0.25.
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

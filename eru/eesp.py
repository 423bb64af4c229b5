"""The EESP unit in one, two and three dimensions: what the ESPNetv2 family is made of.

EESP (extremely efficient spatial pyramid of depth-wise dilated separable convolutions) is Fig. 1c of ESPNetv2
(arXiv 1811.11431). The ERU's input maps are made of the same parts, see :mod:`eru.gates`.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Literal, get_args

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from eru.sizes import dilations, fit_sizes

Layer = Callable[[int], nn.Module]
Convolution = Literal["depthwise-dilated", "depthwise", "dilated"]

convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class EESP(nn.Module):
    r"""EESP unit: reduce, split into dilated branches, fuse them by running sums, expand.

    .. math::
        y = \mathrm{reduce}(x), \quad
        s_b = \sum_{j \le b} D_j(y), \quad
        z = \mathrm{expand}([s_1, \dots, s_K])\ (+\ x)

    ``reduce`` and ``expand`` are grouped point-wise convolutions (M -> d and K d -> N), and :math:`D_j` are
    depth-wise dilated ones. With ``norm`` and ``activation`` both follow the reduce, the concatenation and the expand,
    where the activation comes after the residual sum.

    With a stride above 1 the unit ends after the expand and its normalisation: there is no residual, and
    :class:`eru.StridedEESP`, which such a unit is a part of, applies the activation to its own sum.

    Args:
        in_channels: M.
        out_channels: N.
        ndim: 1, 2 or 3.
        kernel_size: Taps of a branch along each axis, odd.
        stride: Stride of the branches.
        branches: K; by default 4, see :func:`eru.sizes.fit_sizes`.
        groups: Groups of reduce and expand; by default chosen to fit any channel counts.
        receptive_field: Limit on what a branch may see, see :func:`eru.sizes.dilations`.
        convolution: ``"depthwise-dilated"``, or one of the ablations of Table 5: ``"depthwise"`` (no dilation) and
            ``"dilated"`` (standard d -> d convolutions).
        fusion: Whether there is hierarchical feature fusion, the running sums (off: an ablation of Table 6).
        residual: Whether to add the input where shapes match.
        norm, activation: Each makes a layer from a channel count; ``None`` for none.
        device, dtype: Where the parameters live, and their type.

    Shape:
        input (B, M, *space), output (B, N, *space / stride).

    Raises:
        ValueError: Sizes or options that do not fit, or an input of the wrong shape.

    Source:
        ESPNetv2, section 3.2, Fig. 1c (arXiv 1811.11431).

    Example:
        >>> EESP(16, 32, ndim=2)(torch.zeros(1, 16, 7, 5)).shape
        torch.Size([1, 32, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        kernel_size: int = 3,
        stride: int = 1,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        residual: bool = True,
        norm: Layer | None = None,
        activation: Layer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if ndim not in convolve:
            raise ValueError(f"ndim={ndim}: must be 1, 2 or 3")
        if convolution not in get_args(Convolution):
            raise ValueError(f"convolution={convolution!r}: must be one of {', '.join(get_args(Convolution))}")
        if stride < 1:
            raise ValueError(f"stride={stride}: must be at least 1")
        self.branches, self.groups, self.expand_groups, self.width = fit_sizes(
            in_channels, out_channels, branches, groups
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.ndim, self.kernel_size, self.stride, self.fusion = ndim, kernel_size, stride, fusion
        self.residual = residual and stride == 1 and in_channels == out_channels
        schedule = dilations(self.branches, receptive_field, kernel_size)
        self.dilations = (1,) * self.branches if convolution == "depthwise" else schedule

        # A standard convolution reads all d features of the reduced map, a depth-wise one its own.
        read = self.width if convolution == "dilated" else 1
        # Where K does not divide N, the groups of the expand make a few outputs more, which forward cuts off.
        made = self.expand_groups * math.ceil(out_channels / self.expand_groups)
        point, taps = (1,) * ndim, (kernel_size,) * ndim
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.reduce_weight = nn.Parameter(empty(self.width, in_channels // self.groups, *point))
        self.branch_weight = nn.Parameter(empty(self.branches * self.width, read, *taps))
        fused = self.branches * self.width
        self.expand_weight = nn.Parameter(empty(made, fused // self.expand_groups, *point))

        def layers(channels: int, *kinds: Layer | None) -> nn.Sequential | None:
            parts = [kind(channels).to(device=device, dtype=dtype) for kind in kinds if kind is not None]
            return nn.Sequential(*parts) if parts else None

        self.reduce_layers = layers(self.width, norm, activation)
        self.branch_layers = layers(fused, norm, activation)
        self.expand_layers = layers(out_channels, norm)
        self.activation = None
        if activation is not None and stride == 1:
            self.activation = activation(out_channels).to(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions so that an input of unit variance gives an output of about unit variance."""
        # Reduce and expand are drawn from N(0, 1 / fan_in).
        for weight in (self.reduce_weight, self.expand_weight):
            nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
        draw_branches(self.branch_weight, self.branches, self.fusion)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to (B, M, *space)."""
        _check_input(x, self.ndim, self.in_channels)
        y = _apply(self.reduce_layers, convolve[self.ndim](x, self.reduce_weight, groups=self.groups))
        weights = self.branch_weights()
        branches = [
            convolve[self.ndim](
                y,
                weights[branch],  # by number, since torch.fx cannot trace how many there are
                stride=self.stride,
                padding=(self.kernel_size - 1) * dilation // 2,
                dilation=dilation,
                groups=self.width // weights[branch].shape[1],
            )
            for branch, dilation in enumerate(self.dilations)
        ]
        out = self.expand(_apply(self.branch_layers, torch.cat(self.fuse(branches), dim=1)))
        out = _apply(self.expand_layers, out[:, : self.out_channels])
        if self.stride > 1:
            return out
        out = out + x if self.residual else out
        return _apply(self.activation, out)

    def branch_weights(self) -> tuple[Tensor, ...]:
        """The weight of every branch."""
        return self.branch_weight.chunk(self.branches)

    def fuse(self, branches: list[Tensor]) -> list[Tensor]:
        """Hierarchical feature fusion: the running sums of the branches (themselves, with fusion off)."""
        return running_sums(branches) if self.fusion else branches

    def expand(self, fused: Tensor) -> Tensor:
        """The grouped point-wise convolution of the concatenated branches, before the cut to N channels."""
        return convolve[self.ndim](fused, self.expand_weight, groups=self.expand_groups)

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, ndim={self.ndim}, branches={self.branches}, "
            f"groups={self.groups}, dilations={self.dilations}"
        )


@torch.fx.wrap  # a traced graph calls it on what it is given
def _check_input(x: Tensor, ndim: int, in_channels: int) -> None:
    if x.dim() != ndim + 2 or x.shape[1] != in_channels:
        raise ValueError(f"input of shape {tuple(x.shape)}: expected {ndim + 2} dimensions and {in_channels} channels")


def running_sums(branches: list[Tensor]) -> list[Tensor]:
    """The sums of the first one, two, ... branches: hierarchical feature fusion.

    Example:
        >>> [part.item() for part in running_sums([torch.tensor(1), torch.tensor(2), torch.tensor(3)])]
        [1, 3, 6]
    """
    return list(accumulate(branches, torch.add))


@torch.no_grad()
def draw_branches(weight: Tensor, branches: int, fusion: bool = True) -> None:
    """Draw the taps (K channels, read channels, *taps) of all K branches: zero but for the middle one.

    So a branch starts without neighbours. The middle tap of branch b = 1, 2, ... is drawn from
    N(0, 1 / fan_in) / sqrt(b), so that the running sums stay near unit variance. Without fusion there are no sums, and
    every branch is drawn from N(0, 1 / fan_in).
    """
    weight.zero_()
    for number, part in enumerate(weight.chunk(branches), start=1):
        middle = part.flatten(2)[..., part[0, 0].numel() // 2]
        middle.normal_(std=1 / math.sqrt(weight.shape[1] * (number if fusion else 1)))


def _apply(layers: nn.Module | None, x: Tensor) -> Tensor:
    return x if layers is None else layers(x)

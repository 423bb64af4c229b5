"""The EESP unit in one, two and three dimensions: the core that the ERU and the ESPNetv2 family share.

EESP (extremely efficient spatial pyramid of depth-wise dilated separable convolutions) is Fig. 1c of
ESPNetv2 (arXiv 1811.11431): reduce, split into dilated depth-wise branches, fuse by running sums, expand.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[[int], nn.Module]
Convolution = Literal["depthwise-dilated", "depthwise", "dilated"]
CONVOLUTIONS = ("depthwise-dilated", "depthwise", "dilated")

_conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def dilations(branches: int = 4, receptive_field: int | None = None, kernel_size: int = 3) -> tuple[int, ...]:
    """Dilation of every branch, ascending.

    Branch i = 0, 1, ... sees ``(kernel_size - 1) * (i + 1) + 1`` positions; a branch that would see more than
    ``receptive_field`` falls back to dilation 1 (it is not clipped to the limit).

    Args:
        branches: number of branches K, at least 1.
        receptive_field: the limit n_d, odd; ``None`` sets none.
        kernel_size: taps of each branch.

    Example:
        >>> dilations(4, 13), dilations(4, 7), dilations(4, 5)
        ((1, 2, 3, 4), (1, 1, 2, 3), (1, 1, 1, 2))
    """
    spans = [(kernel_size - 1) * (i + 1) + 1 for i in range(branches)]
    fits = [receptive_field is None or span <= receptive_field for span in spans]
    return tuple(sorted(i + 1 if fit else 1 for i, fit in enumerate(fits)))


def receptive_field_limit(size: int) -> int:
    """The paper's limit ``n_d = 5 + Z / 7`` at spatial size Z, lowered to an odd number (section 3.3).

    Example:
        >>> [receptive_field_limit(size) for size in (56, 28, 14, 7)]
        [13, 9, 7, 5]
    """
    limit = 5 + size // 7
    return limit - 1 + limit % 2


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def fit_sizes(
    in_channels: int, out_channels: int, branches: int | None, groups: int | None
) -> tuple[int, int, int, int]:
    """Branches K, reduce groups, expand groups and width d of a unit, for any channel counts.

    By default K = 4 (fewer where so few outputs would leave a group without one), d is ``out_channels / K`` rounded up
    to a multiple of K (so it does not depend on the input), the expand has K groups, and the reduce the largest common
    divisor of ``in_channels`` and d that is at most K. Explicit numbers must fit exactly.

    Raises:
        ValueError: a channel count below 1, or ``branches`` or ``groups`` that do not divide what they must.

    Example:
        >>> fit_sizes(400, 448, None, None), fit_sizes(1, 51, None, None), fit_sizes(3, 1, None, None)
        ((4, 4, 4, 112), (4, 1, 4, 16), (1, 1, 1, 1))
    """
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    for name, value in (("branches", branches), ("groups", groups)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if branches is None:
        shares = ((k, math.ceil(out_channels / k)) for k in (4, 3, 2, 1))
        branches = next(k for k, share in shares if k * share - out_channels < share)
    elif out_channels % branches:
        raise ValueError(f"branches={branches} does not divide out_channels={out_channels}")
    if groups is None:
        width = math.ceil(out_channels / branches**2) * branches
        return branches, _largest_divisor(math.gcd(in_channels, width), branches), branches, width
    for name, value in (
        ("in_channels", in_channels),
        ("out_channels", out_channels),
        (f"the width out_channels / branches = {out_channels} / {branches}", out_channels / branches),
    ):
        if value % groups:
            raise ValueError(f"groups={groups} does not divide {name}{'' if '=' in name else f'={value}'}")
    return branches, groups, groups, out_channels // branches


def _check_options(
    ndim: int, kernel_size: int, stride: int, stacks: int, conv_axis: str, causal: bool, convolution: str
) -> None:
    if ndim not in _conv:
        raise ValueError(f"ndim={ndim}: must be 1, 2 or 3")
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution={convolution!r}: must be one of {', '.join(CONVOLUTIONS)}")
    if conv_axis not in ("space", "feature"):
        raise ValueError(f"conv_axis={conv_axis!r}: must be 'space' or 'feature'")
    if causal and (ndim != 1 or conv_axis == "feature"):
        raise ValueError(f"causal={causal} needs ndim=1 and conv_axis='space', not {ndim} and {conv_axis!r}")
    for name, value in (("stride", stride), ("stacks", stacks)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if kernel_size < 1 or (kernel_size % 2 == 0 and not causal):
        raise ValueError(f"kernel_size={kernel_size}: must be odd and at least 1")
    if conv_axis == "feature" and (stride > 1 or convolution == "dilated"):
        raise ValueError("conv_axis='feature' takes neither a stride nor standard convolutions")


class EESP(nn.Module):
    r"""EESP unit in ``ndim`` dimensions, or ``stacks`` of them over one input.

    .. math::
        y = \mathrm{reduce}(x), \quad
        s_b = \sum_{j \le b} D_j(y), \quad
        z = \mathrm{expand}([s_1, \dots, s_K])\ (+\ x)

    ``reduce`` and ``expand`` are grouped point-wise convolutions (M -> d and K d -> N), :math:`D_j` depth-wise
    dilated ones. With ``norm`` and ``activation`` both follow the reduce, the concatenation and the expand, the last
    activation coming after the residual sum.

    Args:
        in_channels: M.
        out_channels: N of each stack.
        ndim: 1, 2 or 3.
        kernel_size: taps of a branch along each axis; odd unless ``causal``.
        stride: of the branches; above 1 there is neither a residual nor the last activation, which comes after the
            sum of :class:`StridedEESP`.
        branches: K; by default 4, see :func:`fit_sizes`.
        groups: of reduce and expand; by default chosen to fit any channel counts.
        receptive_field: limit on what a branch may see, see :func:`dilations`.
        stacks: S units side by side over the same input, in stacked weights; the output is (S N) channels.
        conv_axis: ``"space"`` slides the branches over the input's axes. ``"feature"`` slides them over the reduced
            vector of each position itself, seen as groups x (d / groups) zero-padded positions.
        causal: pad the past only (``ndim=1``).
        convolution: ``"depthwise-dilated"``, or the ablations of Table 5: ``"depthwise"`` (no dilation) and
            ``"dilated"`` (standard d -> d convolutions).
        fusion: hierarchical feature fusion, the running sums (off: an ablation of Table 6).
        residual: add the input where shapes match.
        norm: makes a normalisation from a channel count; ``None`` for none.
        activation: makes an activation from a channel count; ``None`` for none.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        input (B, M, *space), output (B, S N, *space / stride).

    Raises:
        ValueError: sizes or options that do not fit, naming them.

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
        stacks: int = 1,
        conv_axis: Literal["space", "feature"] = "space",
        causal: bool = False,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        residual: bool = True,
        norm: Layer | None = None,
        activation: Layer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_options(ndim, kernel_size, stride, stacks, conv_axis, causal, convolution)
        self.branches, self.groups, self.expand_groups, self.width = fit_sizes(
            in_channels, out_channels, branches, groups
        )
        self.in_channels, self.out_channels, self.stacks = in_channels, out_channels, stacks
        self.ndim, self.kernel_size, self.stride = ndim, kernel_size, stride
        self.conv_axis, self.causal, self.fusion = conv_axis, causal, fusion
        self.residual = residual and stride == 1 and stacks == 1 and in_channels == out_channels
        schedule = dilations(self.branches, receptive_field, kernel_size)
        self.dilations = (1,) * self.branches if convolution == "depthwise" else schedule

        # A branch's channels: every reduced feature, or every group when it slides over a group's features.
        depthwise = convolution != "dilated"
        channels = stacks * (self.groups if conv_axis == "feature" else self.width)
        taps = (kernel_size,) if conv_axis == "feature" else (kernel_size,) * ndim
        self._branch_groups = channels if depthwise else stacks
        share = math.ceil(out_channels / self.expand_groups)
        empty = partial(torch.empty, device=device, dtype=dtype)
        point = (1,) * ndim
        self.reduce_weight = nn.Parameter(empty(stacks * self.width, in_channels // self.groups, *point))
        self.branch_weight = nn.Parameter(empty(self.branches * channels, 1 if depthwise else self.width, *taps))
        fan_in = self.branches * self.width // self.expand_groups
        self.expand_weight = nn.Parameter(empty(stacks * self.expand_groups * share, fan_in, *point))

        def layers(channels: int, last: bool = True) -> nn.Sequential:
            made = [layer(channels) for layer in (norm, activation if last else None) if layer is not None]
            return nn.Sequential(*(module.to(device=device, dtype=dtype) for module in made))

        self.reduce_layers = layers(stacks * self.width)
        self.branch_layers = layers(stacks * self.branches * self.width)
        self.expand_layers = layers(stacks * out_channels, last=False)
        self.activation = None
        if activation is not None and stride == 1:
            self.activation = activation(stacks * out_channels).to(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Keep the variance at every stage, so that a unit-variance input gives an output of about unit variance.

        Reduce and expand N(0, 1 / fan_in); of branch b only the current tap is nonzero, N(0, 1) / sqrt(b), so that the
        running sums stay near unit variance (N(0, 1) without fusion).
        """
        for weight in (self.reduce_weight, self.expand_weight):
            nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
        nn.init.zeros_(self.branch_weight)
        here = self.kernel_size - 1 if self.causal and self.conv_axis == "space" else self.kernel_size // 2
        fan_in = self.branch_weight.shape[1]
        with torch.no_grad():
            for b, weight in enumerate(self.branch_weights(), start=1):
                current = weight.flatten(2)[..., here if weight.dim() == 3 else weight[0, 0].numel() // 2]
                current.normal_(std=1 / math.sqrt(fan_in * (b if self.fusion else 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to (B, M, *space)."""
        if x.dim() != self.ndim + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected {self.ndim + 2} dimensions and {self.in_channels} channels"
            )
        reduced = _conv[self.ndim](x, self.reduce_weight, groups=self.groups)  # (B, groups S d/groups, *space)
        # The groups slice the input alike for every stack, so the reduce puts groups outside of stacks.
        parts = reduced.unflatten(1, (self.groups, self.stacks, self.width // self.groups)).transpose(1, 2)
        y = self.reduce_layers(parts.flatten(1, 3))  # (B, S d, *space)
        if self.conv_axis == "feature":
            fused = self.over_features(y.movedim(1, -1))  # (K, B, *space, S, d)
            concatenated = fused.movedim((-2, 0, -1), (1, 2, 3)).flatten(1, 3)
        else:
            weights = zip(self.branch_weights(), self.dilations, strict=True)
            branches = self.fuse([self._branch(y, weight, dilation) for weight, dilation in weights])
            stacks = zip(*(branch.chunk(self.stacks, dim=1) for branch in branches), strict=True)
            concatenated = torch.cat([part for stack in stacks for part in stack], dim=1)  # (B, S K d, *space)
        out = self.expand(self.branch_layers(concatenated))
        out = out.unflatten(1, (self.stacks, -1))[:, :, : self.out_channels].flatten(1, 2)
        out = self.expand_layers(out)
        if self.stride > 1:
            return out
        out = out + x if self.residual else out
        return out if self.activation is None else self.activation(out)

    def branch_weights(self) -> tuple[Tensor, ...]:
        """The weight of every branch."""
        return self.branch_weight.chunk(self.branches)

    def _branch(self, y: Tensor, weight: Tensor, dilation: int) -> Tensor:
        reach = (self.kernel_size - 1) * dilation
        if self.causal:
            y = F.pad(y, (reach, 0))
        return _conv[self.ndim](
            y,
            weight,
            stride=self.stride,
            padding=0 if self.causal else reach // 2,
            dilation=dilation,
            groups=self._branch_groups,
        )

    def expand(self, fused: Tensor) -> Tensor:
        """Grouped point-wise convolution of the concatenated branches, before the cut to N channels a stack."""
        return _conv[self.ndim](fused, self.expand_weight, groups=self.stacks * self.expand_groups)

    def fuse(self, branches: list[Tensor]) -> list[Tensor]:
        """Hierarchical feature fusion: the running sums of the branches (themselves, with fusion off)."""
        return list(accumulate(branches, torch.add)) if self.fusion else branches

    def over_features(self, y: Tensor) -> Tensor:
        """Branches over the reduced vector itself, fused: (..., S d) -> (K, ..., S, d)."""
        positions = y.reshape(-1, self._branch_groups, self.width // self.groups)
        branches = [
            F.conv1d(
                positions,
                weight,
                padding=(self.kernel_size - 1) * dilation // 2,
                dilation=dilation,
                groups=self._branch_groups,
            )
            for weight, dilation in zip(self.branch_weights(), self.dilations, strict=True)
        ]
        return torch.stack(self.fuse(branches)).reshape(self.branches, *y.shape[:-1], self.stacks, self.width)

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, ndim={self.ndim}, branches={self.branches}, "
            f"groups={self.groups}, dilations={self.dilations}, stacks={self.stacks}, axis={self.conv_axis}"
        )


class EESP1d(EESP):
    """:class:`EESP` in one dimension, by default with batch normalisation and PReLU, as in the paper.

    Example:
        >>> EESP1d(8, 16)(torch.zeros(2, 8, 9)).shape
        torch.Size([2, 16, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Layer | None = nn.BatchNorm1d,
        activation: Layer | None = nn.PReLU,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, ndim=1, norm=norm, activation=activation, **options)


class EESP2d(EESP):
    """:class:`EESP` in two dimensions, by default with batch normalisation and PReLU, as in the paper.

    Example:
        >>> EESP2d(8, 16)(torch.zeros(2, 8, 9, 7)).shape
        torch.Size([2, 16, 9, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Layer | None = nn.BatchNorm2d,
        activation: Layer | None = nn.PReLU,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, ndim=2, norm=norm, activation=activation, **options)


class EESP3d(EESP):
    """:class:`EESP` in three dimensions, by default with batch normalisation and PReLU, as in the paper.

    Example:
        >>> EESP3d(8, 16)(torch.zeros(2, 8, 9, 7, 5)).shape
        torch.Size([2, 16, 9, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Layer | None = nn.BatchNorm3d,
        activation: Layer | None = nn.PReLU,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, ndim=3, norm=norm, activation=activation, **options)

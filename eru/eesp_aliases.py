"""The EESP unit with its number of dimensions fixed, normalised and activated as in the paper."""

from typing import Any

import torch
from torch import nn

from eru.eesp import EESP, Convolution, Layer


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor, all of which it hands on."""
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__")}


class EESP1d(EESP):
    """:class:`EESP` in one dimension, by default with batch normalisation and PReLU, as in the paper.

    Every other argument is that of :class:`EESP`.

    Example:
        >>> EESP1d(8, 16)(torch.zeros(2, 8, 9)).shape
        torch.Size([2, 16, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        residual: bool = True,
        norm: Layer | None = nn.BatchNorm1d,
        activation: Layer | None = nn.PReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(ndim=1, **_given(locals()))


class EESP2d(EESP):
    """:class:`EESP` in two dimensions, by default with batch normalisation and PReLU, as in the paper.

    Every other argument is that of :class:`EESP`.

    Example:
        >>> EESP2d(8, 16)(torch.zeros(2, 8, 9, 7)).shape
        torch.Size([2, 16, 9, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        residual: bool = True,
        norm: Layer | None = nn.BatchNorm2d,
        activation: Layer | None = nn.PReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(ndim=2, **_given(locals()))


class EESP3d(EESP):
    """:class:`EESP` in three dimensions, by default with batch normalisation and PReLU, as in the paper.

    Every other argument is that of :class:`EESP`.

    Example:
        >>> EESP3d(8, 16)(torch.zeros(2, 8, 9, 7, 5)).shape
        torch.Size([2, 16, 9, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        residual: bool = True,
        norm: Layer | None = nn.BatchNorm3d,
        activation: Layer | None = nn.PReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(ndim=3, **_given(locals()))

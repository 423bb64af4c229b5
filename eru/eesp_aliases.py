"""The EESP unit with its number of dimensions fixed, normalised and activated as in the paper."""

from typing import Literal

import torch
from torch import nn

from eru.eesp import EESP, Convolution, Layer


class _PaperEESP(EESP):
    """:class:`EESP` in the number of dimensions of its class, with the paper's normalisation and activation."""

    _ndim: int

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
        norm: Layer | Literal["batch"] | None = "batch",
        activation: Layer | None = nn.PReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if norm == "batch":
            norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[self._ndim - 1]
        # Every argument is handed on.
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(ndim=self._ndim, **given)


class EESP1d(_PaperEESP):
    """:class:`EESP` in one dimension, by default with batch normalisation and PReLU, as in the paper.

    ``norm="batch"`` is that normalisation; every other argument is that of :class:`EESP`.

    Example:
        >>> EESP1d(8, 16)(torch.zeros(2, 8, 9)).shape
        torch.Size([2, 16, 9])
    """

    _ndim = 1


class EESP2d(_PaperEESP):
    """:class:`EESP1d` in two dimensions.

    Example:
        >>> EESP2d(8, 16)(torch.zeros(2, 8, 9, 7)).shape
        torch.Size([2, 16, 9, 7])
    """

    _ndim = 2


class EESP3d(_PaperEESP):
    """:class:`EESP1d` in three dimensions.

    Example:
        >>> EESP3d(8, 16)(torch.zeros(2, 8, 9, 7, 5)).shape
        torch.Size([2, 16, 9, 7, 5])
    """

    _ndim = 3

"""The baselines of Fig. 1 of ESPNetv2 (arXiv 1811.11431): ESP (Fig. 1a) and EESP-A (Fig. 1b)."""

import torch
from torch import Tensor, nn

from eru.eesp import EESP, Layer, check_kernel_size, convolve, running_sums
from eru.sizes import dilations


class ESP(nn.Module):
    r"""ESP unit, from which EESP descends: dense reduce, standard dilated convolutions, fusion, concatenation.

    .. math::
        y = \mathrm{reduce}(x), \quad
        s_b = \sum_{j \le b} C_j(y), \quad
        z = [s_1, \dots, s_K]\ (+\ x)

    ``reduce`` is a point-wise convolution M -> d = N / K, and :math:`C_j` are standard dilated ones d -> d. With n
    taps along each axis they hold M d + K n^ndim d^2 weights. ``norm`` and ``activation`` follow the sum.

    Args:
        in_channels: M.
        out_channels: N, a multiple of ``branches``.
        ndim: 1, 2 or 3.
        kernel_size: Taps of a branch along each axis, odd.
        branches: K.
        receptive_field: Limit on what a branch may see, see :func:`eru.sizes.dilations`.
        residual: Whether to add the input where shapes match.
        norm: Makes a normalisation from a channel count; ``None`` for none.
        activation: Makes an activation from a channel count; ``None`` for none.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Shape:
        input (B, M, *space), output (B, N, *space).

    Raises:
        ValueError: Sizes that do not fit, naming them.

    Source:
        ESPNet (arXiv 1803.06815).

    Example:
        >>> ESP(16, 32, ndim=2)(torch.zeros(1, 16, 7, 5)).shape
        torch.Size([1, 32, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        kernel_size: int = 3,
        branches: int = 4,
        receptive_field: int | None = None,
        residual: bool = True,
        norm: Layer | None = None,
        activation: Layer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if ndim not in convolve:
            raise ValueError(f"ndim={ndim}: must be 1, 2 or 3")
        if branches < 1 or out_channels % branches:
            raise ValueError(f"branches={branches} does not divide out_channels={out_channels}")
        check_kernel_size(kernel_size)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
        width, reach = out_channels // branches, (kernel_size - 1) // 2
        self.reduce = conv(in_channels, width, 1, bias=False)
        self.branches = nn.ModuleList(
            conv(width, width, kernel_size, padding=reach * dilation, dilation=dilation, bias=False)
            for dilation in dilations(branches, receptive_field, kernel_size)
        )
        self.residual = residual and in_channels == out_channels
        self.layers = nn.Sequential(*(layer(out_channels) for layer in (norm, activation) if layer is not None))
        self.to(device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit to (B, M, *space)."""
        y = self.reduce(x)
        out = torch.cat(running_sums([branch(y) for branch in self.branches]), dim=1)
        return self.layers(out + x if self.residual else out)


class EESPA(EESP):
    """EESP-A: an :class:`EESP` that expands each fused branch by a point-wise convolution of its own.

    It has the parameters and the outputs of an EESP, whose one grouped convolution does the work of these K.

    Source:
        ESPNetv2, Fig. 1b (arXiv 1811.11431).

    Example:
        >>> unit, slow = EESP(8, 16, ndim=1), EESPA(8, 16, ndim=1)
        >>> _ = slow.load_state_dict(unit.state_dict())
        >>> x = torch.randn(2, 8, 9)
        >>> torch.allclose(slow(x), unit(x), atol=1e-6)
        True
    """

    def expand(self, fused: Tensor) -> Tensor:
        """Point-wise convolutions of the fused branches, one after the other, concatenated."""
        groups = self.expand_groups
        parts = zip(fused.chunk(groups, dim=1), self.expand_weight.chunk(groups), strict=True)
        return torch.cat([convolve[self.ndim](branch, weight) for branch, weight in parts], dim=1)

"""The strided EESP: down-sampling by two, with a long-range shortcut to the input image."""

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import EESP, Convolution, Layer, convolve
from eru.tracing import is_exporting

_pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class StridedEESP(nn.Module):
    r"""Down-sampling by two: average pooling beside a strided EESP, and a long-range shortcut to the input image.

    .. math::
        z = \phi([\mathrm{pool}(x), \mathrm{EESP}_{/2}(x)] + \mathrm{shortcut}(\mathrm{image}))

    The shortcut pools the image until its size matches, and then applies a convolution with 3 taps along each axis and
    a point-wise one. :math:`\phi` is the activation.

    Args:
        in_channels: M, the channels of the input.
        out_channels: N > M; the pooling contributes M of these channels and the EESP N - M.
        ndim: 1, 2 or 3.
        shortcut_channels: Channels of the image; ``None`` builds no shortcut (an ablation of Table 6).
        kernel_size, branches, groups, receptive_field, convolution, fusion, norm, activation, device, dtype: See
            :class:`eru.EESP`.

    Shape:
        input (B, M, *space), image (B, C, *larger space), output (B, N, *space / 2), halves rounded up.

    Raises:
        ValueError: ``out_channels`` is not above ``in_channels``, or halving the image never gives the output's size.

    Source:
        ESPNetv2, section 3.3, Fig. 2 (arXiv 1811.11431).

    Example:
        >>> down = StridedEESP(16, 32, ndim=2, shortcut_channels=3)
        >>> down(torch.zeros(1, 16, 33, 24), torch.zeros(1, 3, 65, 48)).shape
        torch.Size([1, 32, 17, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        shortcut_channels: int | None = None,
        kernel_size: int = 3,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        norm: Layer | None = None,
        activation: Layer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if out_channels <= in_channels:
            raise ValueError(f"out_channels={out_channels}: must be above in_channels={in_channels}")
        self.eesp = EESP(
            in_channels,
            out_channels - in_channels,
            ndim=ndim,
            kernel_size=kernel_size,
            stride=2,
            branches=branches,
            groups=groups,
            receptive_field=receptive_field,
            convolution=convolution,
            fusion=fusion,
            norm=norm,
            activation=activation,
            device=device,
            dtype=dtype,
        )
        self.shortcut = None
        if shortcut_channels is not None:
            conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
            layers = [
                conv(shortcut_channels, shortcut_channels, 3, padding=1, bias=False),
                *(layer(shortcut_channels) for layer in (norm, activation) if layer is not None),
                conv(shortcut_channels, out_channels, 1, bias=False),
                *([norm(out_channels)] if norm is not None else []),
            ]
            self.shortcut = nn.Sequential(*layers).to(device=device, dtype=dtype)
        last = nn.Identity() if activation is None else activation(out_channels)
        self.activation = last.to(device=device, dtype=dtype)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Halve (B, M, *space); ``image`` (B, C, *as large as the result, or larger) feeds the shortcut."""
        out = self.halve(x)
        if self.shortcut is not None:
            out = out + self.shortcut(_pool_to(image, out.shape))
        return self.activation(out)

    def halve(self, x: Tensor) -> Tensor:
        """Both halves of the channels, before the shortcut and the activation."""
        return torch.cat([pool_by_two(x, self.eesp.ndim), self.eesp(x)], dim=1)


@torch.fx.wrap  # how often it pools depends on the sizes, so a traced graph calls it as a whole
def _pool_to(image: Tensor | None, shape: torch.Size) -> Tensor:
    """The image in the size of the result, whose shape is given."""
    if image is None:
        raise ValueError("image=None: this unit has a long-range shortcut and needs the image")
    if image.dim() != len(shape):
        raise ValueError(f"image of shape {tuple(image.shape)}: expected {len(shape)} dimensions")
    pooled, size = image, shape[2:]
    while any(have > want for have, want in zip(pooled.shape[2:], size, strict=True)):
        pooled = pool_by_two(pooled, len(size))
    if pooled.shape[2:] != size:
        given = tuple(image.shape[2:])
        raise ValueError(f"image of size {given}: halving it never gives the size {tuple(size)} of the result")
    return pooled


def pool_by_two(x: Tensor, ndim: int) -> Tensor:
    """Average pooling of 3 by 3 places, or as many as there are dimensions, that halves each size and rounds up.

    Places outside of the map count as zeros.

    Example:
        >>> pool_by_two(torch.ones(1, 1, 4), 1)
        tensor([[[0.6667, 1.0000]]])
    """
    if is_exporting():
        # Of two ways to the same, every runtime is quick at this one.
        weight = x.new_full((x.shape[1], 1, *(3,) * ndim), 3.0**-ndim)
        return convolve[ndim](x, weight, stride=2, padding=1, groups=x.shape[1])
    return _pool[ndim](x, kernel_size=3, stride=2, padding=1)

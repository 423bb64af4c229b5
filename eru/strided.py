"""The strided EESP: down-sampling by two, with a long-range shortcut to the input image."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import EESP, Layer

_avg_pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class StridedEESP(nn.Module):
    r"""Down-sampling by two: average pooling beside a strided EESP, and a long-range shortcut to the input.

    .. math::
        z = \phi([\mathrm{pool}(x), \mathrm{EESP}_{/2}(x)] + \mathrm{shortcut}(\mathrm{image}))

    The image is pooled until its size matches, then passes a 3-convolution and a point-wise one (Fig. 2 of the paper).

    Args:
        in_channels: M.
        out_channels: N > M; the EESP contributes N - M channels.
        ndim: 1, 2 or 3.
        shortcut_channels: channels of the image; ``None`` builds no shortcut (an ablation of Table 6).
        feed_image: use the shortcut. Where not, it is held, frozen, but not applied, as level 5 of the published
            classifiers does; the image may then be left out.
        norm: as for :class:`EESP`.
        activation: as for :class:`EESP`.
        device: where the parameters live.
        dtype: type of the parameters.
        options: any further option of :class:`EESP`.

    Shape:
        input (B, M, *space), image (B, C, *larger space), output (B, N, *space / 2), halves rounded up.

    Raises:
        ValueError: ``out_channels`` not above ``in_channels``, or an image that never matches.

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
        feed_image: bool = True,
        norm: Layer | None = None,
        activation: Layer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if out_channels <= in_channels:
            raise ValueError(f"out_channels={out_channels}: must be above in_channels={in_channels}")
        self.ndim = ndim
        self.eesp = EESP(
            in_channels,
            out_channels - in_channels,
            ndim=ndim,
            stride=2,
            norm=norm,
            activation=activation,
            **options,
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
            self.shortcut = nn.Sequential(*layers).to(device=device, dtype=dtype).requires_grad_(feed_image)
        self.feed_image = feed_image
        last = nn.Identity() if activation is None else activation(out_channels)
        self.activation = last.to(device=device, dtype=dtype)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Halve (B, M, *space); ``image`` (B, C, *as large as the result, or larger) feeds the shortcut."""
        halve = partial(_avg_pool[self.ndim], kernel_size=3, stride=2, padding=1)
        out = torch.cat([halve(x), self.eesp(x)], dim=1)
        if self.shortcut is not None and self.feed_image:
            if image is None:
                raise ValueError("image=None: this unit has a long-range shortcut and needs the image")
            size = out.shape[2:]
            if image.dim() != out.dim():
                raise ValueError(f"image of shape {tuple(image.shape)}: expected {out.dim()} dimensions")
            pooled = image
            while any(have > want for have, want in zip(pooled.shape[2:], size, strict=True)):
                pooled = halve(pooled)
            if pooled.shape[2:] != size:
                raise ValueError(f"image: halving it never gives the size {tuple(size)} of this level")
            out = out + self.shortcut(pooled)
        return self.activation(out)

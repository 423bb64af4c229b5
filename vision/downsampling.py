"""The strided unit of the published networks, with the parameters that they hold and never use."""

import torch
from torch import Tensor, nn

from eru.eesp import Convolution
from eru.strided import StridedEESP


class PublishedDown(StridedEESP):
    """A strided EESP unit in two dimensions whose state dict is that of the authors' published networks.

    Their files hold parameters that no output depends on: the EESP's last activation in every such unit, and, where
    the image is not fed, the whole shortcut. The paper's parameter counts include them. They are held here, frozen, so
    that published files load strictly and the counts agree.

    Args:
        in_channels: M, the channels of the input.
        out_channels: N > M.
        shortcut_channels: Channels of the image; ``None`` builds no shortcut.
        feed_image: Whether the shortcut is used. The published classifiers hold one at level 5 that is not.
        receptive_field: Limit on what a branch may see, see :func:`eru.sizes.dilations`.
        convolution: Kind of the branches' convolutions, see :class:`eru.EESP`.
        fusion: Whether there is hierarchical feature fusion.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Shape:
        input (N, M, H, W), image (N, C, *larger sides), output (N, N, H / 2, W / 2), rounded up.

    Example:
        >>> down = PublishedDown(16, 32, shortcut_channels=3, feed_image=False)
        >>> down(torch.zeros(1, 16, 33, 24), torch.zeros(1, 3, 65, 48)).shape
        torch.Size([1, 32, 17, 12])
        >>> sum(not parameter.requires_grad for parameter in down.parameters())
        8
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        shortcut_channels: int | None = None,
        feed_image: bool = True,
        receptive_field: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            ndim=2,
            shortcut_channels=shortcut_channels,
            receptive_field=receptive_field,
            convolution=convolution,
            fusion=fusion,
            norm=nn.BatchNorm2d,
            activation=nn.PReLU,
            device=device,
            dtype=dtype,
        )
        self.feed_image = feed_image
        # A strided EESP ends before its activation, so this one is only held.
        self.eesp.activation = nn.PReLU(out_channels - in_channels, device=device, dtype=dtype).requires_grad_(False)
        if self.shortcut is not None and not feed_image:
            self.shortcut.requires_grad_(False)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Halve (N, M, H, W); ``image`` feeds the shortcut, where it is fed at all."""
        return super().forward(x, image) if self.feed_image else self.activation(self.halve(x))

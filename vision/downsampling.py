"""The strided unit of the published networks, with the parameters that they hold and never use."""

from typing import Any

from torch import Tensor, nn

from eru import StridedEESP


class PublishedDown(StridedEESP):
    """A strided EESP unit in two dimensions whose state dict is that of the authors' published networks.

    Their files hold parameters that no output depends on: the EESP's last activation in every such unit, and, where
    the image is not fed, the whole shortcut. The paper's parameter counts include them. They are held here, frozen, so
    that published files load strictly and the counts agree.

    Args:
        in_channels: M, the channels of the input.
        out_channels: N > M.
        feed_image: Whether the shortcut is used. The published classifiers hold one at level 5 that is not.
        options: Further options of :class:`eru.StridedEESP`.

    Example:
        >>> down = PublishedDown(16, 32, shortcut_channels=3, feed_image=False)
        >>> sum(not parameter.requires_grad for parameter in down.parameters())
        8
    """

    def __init__(self, in_channels: int, out_channels: int, *, feed_image: bool = True, **options: Any) -> None:
        super().__init__(in_channels, out_channels, ndim=2, norm=nn.BatchNorm2d, activation=nn.PReLU, **options)
        self.feed_image = feed_image
        # A strided EESP ends before its activation, so this one is only held.
        like = self.eesp.reduce_weight
        unused = nn.PReLU(out_channels - in_channels, device=like.device, dtype=like.dtype)
        self.eesp.activation = unused.requires_grad_(False)
        if self.shortcut is not None and not feed_image:
            self.shortcut.requires_grad_(False)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Halve (N, M, H, W); ``image`` feeds the shortcut, where it is fed at all."""
        return super().forward(x, image) if self.feed_image else self.activation(self.halve(x))

"""Semantic segmentation: a class for every pixel."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eru.eesp import Convolution
from vision.layers import EfficientPointwise, EfficientPyramid, init_weights, norm_and_prelu, resize
from vision.network import Network
from vision.options import whole_number

SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
_PLANES = (64, 48, 32)


class Segmenter(Network):
    r"""ESPNetv2's first four levels, and a decoder of efficient pyramids.

    .. math::
        d_4 = P_4(e_4), \quad
        d_l = P_l(\phi(\mathrm{up}(d_{l+1}) + W_l(e_l)))

    with the levels' maps :math:`e_l`, efficient pyramids P, efficient point-wise convolutions W and normalisation with
    PReLU :math:`\phi`; the last pyramid's logits are enlarged to the image's size.

    Args:
        num_classes: At least 1. With one class, its logit tells the foreground from the background.
        pyramid_width: Channels inside of the pyramids. By default half the number of classes, but at least the 10 of
            the published networks and at most 16.
        width, in_channels, convolution, fusion, shortcut, device, dtype: As for :class:`vision.ESPNetv2`.

    Shape:
        image (N, in_channels, H, W), H and W at least 32; output ``{"out": (N, num_classes, H, W)}``, logits, as
        torchvision's models give them.

    Raises:
        ValueError: Options that do not fit, or an image that is too small or has other channels.

    Source:
        ESPNetv2, section 4.2, and the authors' published networks.

    Example:
        >>> Segmenter(0.5, num_classes=5)(torch.zeros(2, 3, 65, 97))["out"].shape
        torch.Size([2, 5, 65, 97])
    """

    depth = 4
    told_by_shapes: ClassVar[dict[str, tuple[str, int]]] = {
        "num_classes": ("pyramids.3.expand.weight", 0),
        "pyramid_width": ("pyramids.0.project.0.weight", 0),
    }

    def __init__(
        self,
        width: float = 2.0,
        num_classes: int = 21,
        in_channels: int = 3,
        *,
        pyramid_width: int | None = None,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        shortcut: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        kind: dict[str, Any] = {"convolution": convolution, "fusion": fusion, "shortcut": shortcut}
        super().__init__(width=width, in_channels=in_channels, **kind, **place)
        self._take_classes(num_classes, least=1)
        if pyramid_width is None:
            pyramid_width = min(max(self.num_classes // 2, 10), 16)
        self.pyramid_width = pyramid_width = whole_number("pyramid_width", pyramid_width, least=1)
        coarsest, *finer = reversed(self.feature_info.channels())
        # Each pyramid takes what the one before it gives, the first one the coarsest map.
        self.pyramids = nn.ModuleList(
            EfficientPyramid(before, planes, pyramid_width, SCALES, **place)
            for before, planes in zip((coarsest, *_PLANES[:-1]), _PLANES, strict=True)
        )
        self.pyramids.append(
            EfficientPyramid(_PLANES[-1], self.num_classes, pyramid_width, SCALES, last=True, **place)
        )
        self.skips = nn.ModuleList(
            EfficientPointwise(size, planes, **place) for size, planes in zip(finer, _PLANES, strict=True)
        )
        self.merges = nn.ModuleList(norm_and_prelu(planes, **place) for planes in _PLANES)
        init_weights(self)

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new last convolution for other classes; the decoder stays as it is."""
        self._take_classes(num_classes, least=1)
        old = self.get_classifier()
        like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
        self.pyramids[-1].expand = nn.Conv2d(old.in_channels, self.num_classes, 1, **like)
        init_weights(self.get_classifier())

    def get_classifier(self) -> nn.Conv2d:
        """The convolution that gives the logits."""
        last: Any = self.pyramids[-1]
        return last.expand

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits at the images' size."""
        *finer, coarsest = self.backbone.forward_levels(x, self.depth)
        decoded = self.pyramids[0](coarsest)
        for i, encoded in enumerate(reversed(finer)):
            merged = resize(decoded, encoded.shape[2:]) + self.skips[i](encoded)
            decoded = self.pyramids[i + 1](self.merges[i](merged))
        return {"out": resize(decoded, x.shape[2:])}

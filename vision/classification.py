"""Classification: one label a picture, or several."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import Convolution
from vision.layers import init_weights
from vision.network import Network


class Classifier(Network):
    """ESPNetv2 with a linear classifier on the average of its last map.

    Args:
        num_classes: At least 1, or 0 for none: then the averaged features are the output.
        multi_label: Whether a picture may have several labels, or none: :meth:`probabilities` are then independent.
        dropout: Probability that an averaged feature is dropped in training.
        width, in_channels, convolution, fusion, shortcut, device, dtype: As for :class:`vision.ESPNetv2`.

    Shape:
        image (N, in_channels, H, W), H and W at least 32; output (N, num_classes), logits.

    Raises:
        ValueError: Options that do not fit, or an image that is too small or has other channels.

    Source:
        ESPNetv2, section 4.1, Table 2.

    Example:
        >>> model = Classifier(0.5, num_classes=10)
        >>> model(torch.zeros(2, 3, 64, 48)).shape
        torch.Size([2, 10])
    """

    told_by_shapes: ClassVar[dict[str, tuple[str, int]]] = {"num_classes": ("classifier.weight", 0)}

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        multi_label: bool = False,
        dropout: float = 0.2,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        shortcut: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kind: dict[str, Any] = {"convolution": convolution, "fusion": fusion, "shortcut": shortcut}
        super().__init__(width=width, in_channels=in_channels, device=device, dtype=dtype, **kind)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout}: must be 0 to 1")
        self.multi_label, self.dropout = multi_label, dropout
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new classifier for other classes, where and as the backbone is; 0 for none."""
        self._take_classes(num_classes, least=0)
        like = next(self.backbone.parameters())
        self.classifier: nn.Module = nn.Identity()
        if self.num_classes:
            self.classifier = nn.Linear(self.num_features, self.num_classes, device=like.device, dtype=like.dtype)
            init_weights(self.classifier)

    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity where there are no classes."""
        return self.classifier

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a last map; with ``pre_logits`` what the classifier would see."""
        pooled = F.dropout(self.pool(x).flatten(1), self.dropout, self.training)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        return self.forward_head(self.forward_features(x))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the classes; with ``multi_label`` the sigmoid of each."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

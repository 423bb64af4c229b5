"""Mean intersection over union of a segmentation, from one confusion matrix over all pictures."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from vision.data.sample import IGNORED
from vision.metrics.metric import Counts, as_classes, check_num_classes, check_scores, quotient


class MeanIoU(Counts):
    r"""How well the pixels of each class are found, over all pixels of all pictures.

    With :math:`n_{ij}` pixels of class i that were taken for class j,

    .. math::
        \mathrm{IoU}_c = \frac{n_{cc}}{\sum_j n_{cj} + \sum_i n_{ic} - n_{cc}}

    Pixels whose true class is `vision.data.sample.IGNORED` do not count. A class that is neither true nor answered at
    any pixel that counts has no IoU and no part in the mean.

    Args:
        num_classes: How many classes there are, 2 to 255.
        left_out: Classes that have no part in the mean either. A pixel that is taken for one still counts as an error.
            For Cityscapes that is the background, 19, which no pixel that counts has.

    Raises:
        ValueError: An option does not fit.

    Source:
        The development kit of PASCAL VOC (``VOCevalseg``), whose mean is NaN if a class occurs nowhere; the scripts of
        Cityscapes leave out such a class, as here.

    Example:
        >>> metric = MeanIoU(num_classes=3)
        >>> metric.update(torch.tensor([[[0, 1], [1, 1]]]), torch.tensor([[[0, 0], [1, 255]]]))
        >>> metric.compute() == {"mean_iou": 0.5, "pixel_accuracy": 2 / 3}
        True
        >>> metric.per_class()
        [0.5, 0.5, None]
    """

    def __init__(self, num_classes: int, *, left_out: Collection[int] = ()) -> None:
        check_num_classes(num_classes, least=2, most=IGNORED)
        if not set(left_out) < set(range(num_classes)):
            raise ValueError(f"left_out={left_out}: must be some, not all, of the classes 0 to {num_classes - 1}")
        super().__init__(num_classes, num_classes)
        self.num_classes, self.left_out = num_classes, sorted(set(left_out))

    @property
    def confusion(self) -> Tensor:
        """How many pixels of class i were taken for class j, (num_classes, num_classes), int64."""
        return self._counts.clone()

    def update(self, outputs: Tensor | Mapping[str, Tensor], targets: Tensor) -> None:
        """Count a batch.

        Args:
            outputs: What a `vision.Segmenter` gives, or its ``"out"``: (N, num_classes, H, W), logits or other scores.
                Or the classes of the pixels, (N, H, W), integers.
            targets: (N, H, W), the classes of the pixels, or `IGNORED`, integers.

        Raises:
            ValueError: A shape, type or class does not fit, or a score is NaN.
        """
        outputs = outputs["out"] if isinstance(outputs, Mapping) else outputs
        if targets.dim() != 3:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: expected (N, H, W)")
        if outputs.shape == targets.shape:
            predicted = outputs
        else:
            pictures, *size = targets.shape
            check_scores(outputs, (pictures, self.num_classes, *size), "(N, num_classes, H, W)")
            predicted = outputs.argmax(dim=1)
        targets = targets.to(outputs.device)
        counted = targets != IGNORED
        truth = as_classes("targets", targets[counted], self.num_classes)
        predicted = as_classes("outputs", predicted[counted], self.num_classes)
        pairs = torch.bincount(self.num_classes * truth + predicted, minlength=self._counts.numel())
        self._counts.add_(pairs.view_as(self._counts).cpu())

    def per_class(self) -> list[float | None]:
        """The IoU of each class, from 0 to 1; None for one that is neither true nor answered anywhere."""
        right = self._counts.diagonal()
        union = self._counts.sum(dim=0) + self._counts.sum(dim=1) - right
        values = quotient(right, union).tolist()
        return [value if occurs else None for value, occurs in zip(values, union.tolist(), strict=True)]

    def compute(self) -> dict[str, float]:
        """The mean of the IoUs, ``"mean_iou"``, and the share of pixels that are right, ``"pixel_accuracy"``.

        Raises:
            ValueError: No pixel was counted, or none of a class that has part in the mean.
        """
        ious = [iou for c, iou in enumerate(self.per_class()) if iou is not None and c not in self.left_out]
        if not ious:
            raise ValueError("no pixel was counted: update comes first, and some pixels must not be ignored")
        accuracy = int(self._counts.trace()) / int(self._counts.sum())
        return {"mean_iou": sum(ious) / len(ious), "pixel_accuracy": accuracy}

"""Precision, recall and F1 of a classifier of any number of classes a picture."""

import math

import torch
from torch import Tensor

from vision.metrics.metric import Counts, check_num_classes, check_scores, quotient


class MultiLabelF1(Counts):
    r"""Precision, recall and F1 of which classes are in a picture, over all labels and class by class.

    Of class c let R be the labels that were given rightly, P those given and T those that are true:

    .. math::
        p_c = \frac{R_c}{P_c}, \quad r_c = \frac{R_c}{T_c}, \quad F_c = \frac{2 R_c}{P_c + T_c}

    - ``"precision"``, ``"recall"`` and ``"f1"`` are the same of all labels, from the sums of R, P and T over the
      classes: OP, OR and OF1 of the literature.
    - ``"precision_class"`` and ``"recall_class"`` are the means of :math:`p_c` and :math:`r_c` over the classes: CP
      and CR.
    - ``"f1_class"`` is the mean of :math:`F_c`: the class-wise F1 of ESPNetv2.
    - ``"f1_class_means"`` is the harmonic mean of the means, ``"precision_class"`` and ``"recall_class"``: CF1.

    A class that was neither true nor given anywhere counts in no mean; any other quotient of 0 and 0 is 0.

    Args:
        num_classes: How many classes there are, at least 1.
        threshold: The probability above which a label is given, between 0 and 1.

    Raises:
        ValueError: An option does not fit.

    Source:
        ESPNetv2 (arXiv 1811.11431), Fig. 6, and its authors' program, where an absent class counts as 0; with the data
        set COCO no class is absent.

    Example:
        >>> scores = MultiLabelF1(num_classes=2)
        >>> scores.update(torch.tensor([[2.0, -1.0], [3.0, 4.0]]), torch.tensor([[True, True], [False, True]]))
        >>> {name: round(value, 3) for name, value in scores.compute().items()}  # doctest: +NORMALIZE_WHITESPACE
        {'precision': 0.667, 'recall': 0.667, 'f1': 0.667,
         'precision_class': 0.75, 'recall_class': 0.75, 'f1_class': 0.667, 'f1_class_means': 0.75}
    """

    def __init__(self, num_classes: int, *, threshold: float = 0.5) -> None:
        check_num_classes(num_classes, least=1)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: must be between 0 and 1")
        # For each class the labels that are right, given and true.
        super().__init__(3, num_classes)
        self.num_classes = num_classes
        self._least_logit = math.log(threshold / (1 - threshold))

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch.

        Args:
            outputs: (N, num_classes), logits: sigmoid makes them probabilities.
            targets: (N, num_classes), which classes are in the pictures: booleans, or numbers that are 0 or 1.

        Raises:
            ValueError: A shape or value does not fit, or a logit is NaN.
        """
        check_scores(outputs, (len(targets), self.num_classes), "(targets, num_classes)")
        if targets.shape != outputs.shape:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: expected {tuple(outputs.shape)}, as outputs")
        wrong = (targets != 0) & (targets != 1)
        if wrong.any():
            raise ValueError(f"targets has {targets[wrong][0].item()}: must be 0 or 1")
        given, true = outputs > self._least_logit, targets.to(outputs.device, torch.bool)
        counts = [(given & true).sum(dim=0), given.sum(dim=0), true.sum(dim=0)]
        self._counts.add_(torch.stack(counts).cpu())

    def compute(self) -> dict[str, float]:
        """The numbers that the class describes, from 0 to 1.

        Raises:
            ValueError: No label was true or given.
        """
        occurs = self._counts[1:].any(dim=0)
        if not occurs.any():
            raise ValueError("no label was counted: update comes first")
        right, given, true = self._counts[:, occurs]
        by_class = quotient(right, given).mean(), quotient(right, true).mean()
        found = {
            "precision": quotient(right.sum(), given.sum()),
            "recall": quotient(right.sum(), true.sum()),
            "f1": quotient(2 * right.sum(), (given + true).sum()),
            "precision_class": by_class[0],
            "recall_class": by_class[1],
            "f1_class": quotient(2 * right, given + true).mean(),
            "f1_class_means": quotient(2 * by_class[0] * by_class[1], by_class[0] + by_class[1]),
        }
        return {name: value.item() for name, value in found.items()}

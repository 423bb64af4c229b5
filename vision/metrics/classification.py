"""Accuracy of a classifier of one class a picture."""

import torch
from torch import Tensor

from vision.metrics.metric import Counts, as_classes, check_num_classes, check_scores

_FEW = 5


class Accuracy(Counts):
    """How often the right class has the highest score (top-1), or one of the five highest (top-5).

    Of classes with the same score the one of the lower index ranks higher, so a model that says the same for all
    classes is right only about the first.

    Args:
        num_classes: How many classes there are, at least 2.

    Raises:
        ValueError: There are fewer classes.

    Example:
        >>> accuracy = Accuracy(num_classes=3)
        >>> accuracy.update(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
        >>> accuracy.compute()
        {'top1': 0.5}
        >>> accuracy.confusion
        tensor([[0, 0, 0],
                [0, 1, 0],
                [1, 0, 0]])
    """

    def __init__(self, num_classes: int) -> None:
        check_num_classes(num_classes, least=2)
        # A row for each true class: how often each class was answered and, last, how often it was among the five.
        super().__init__(num_classes, num_classes + 1)
        self.num_classes = num_classes

    @property
    def confusion(self) -> Tensor:
        """How often pictures of class i were taken for class j, (num_classes, num_classes), int64."""
        return self._counts[:, :-1].clone()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch.

        Args:
            outputs: (N, num_classes), logits or any other scores.
            targets: (N,), the right classes, integers.

        Raises:
            ValueError: A shape, type or class does not fit, or a score is NaN.
        """
        check_scores(outputs, (len(targets), self.num_classes), "(targets, num_classes)")
        if targets.dim() != 1:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: expected (N,)")
        truth = as_classes("targets", targets, self.num_classes).to(outputs.device)
        own = outputs.gather(1, truth.unsqueeze(1))
        earlier = torch.arange(self.num_classes, device=outputs.device) < truth.unsqueeze(1)
        rank = ((outputs > own) | ((outputs == own) & earlier)).sum(dim=1)

        truth, rank, predicted = truth.cpu(), rank.cpu(), outputs.argmax(dim=1).cpu()
        among = truth[rank < _FEW]
        self._add(truth, predicted)
        self._add(among, torch.full_like(among, self.num_classes))

    def _add(self, rows: Tensor, columns: Tensor) -> None:
        self._counts.index_put_((rows, columns), torch.ones_like(rows), accumulate=True)

    def compute(self) -> dict[str, float]:
        """The accuracies ``"top1"`` and, where there are more than five classes, ``"top5"``, from 0 to 1.

        Raises:
            ValueError: Nothing was counted.
        """
        total = int(self.confusion.sum())
        if total == 0:
            raise ValueError("no picture was counted: update comes first")
        found = {"top1": int(self.confusion.trace()) / total}
        if self.num_classes > _FEW:
            found["top5"] = int(self._counts[:, -1].sum()) / total
        return found

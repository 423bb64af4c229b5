"""Non-monotonically triggered averaging of the weights: the trigger, and the average itself.

Merity, Keskar and Socher 2017, "Regularizing and Optimizing LSTM Language Models", arXiv 1708.02182,
Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel


def has_stalled(history: Sequence[float], n: int = 5) -> bool:
    """Tell whether the validation loss has stopped falling, so that averaging should start, or finetuning end.

    With v_1 .. v_t the losses so far and v_t the newest, it has stalled when

        t - 1 > n   and   v_t > min(v_1, ..., v_{t-1-n}),

    that is, when the newest loss is worse than the best of all but the last n losses before it. This is the rule of
    the authors' code (``val_loss > min(best_val_loss[:-nonmono])``, salesforce/awd-lstm-lm, main.py). Algorithm 1 in
    the paper's arXiv version takes the minimum over the *last* n losses instead, which fires at the first small rise;
    the authors call that a typo and the code right (issue 13 there).

    Args:
        history: All validation losses, oldest first.
        n: The number of evaluations without progress that are forgiven, at least 1.

    Raises:
        ValueError: The number is below 1.

    Example:
        >>> has_stalled([5.0, 4.0, 4.1, 4.2], n=2)
        False
        >>> has_stalled([5.0, 4.0, 4.1, 4.2, 4.1], n=2)
        True
    """
    if n < 1:
        raise ValueError(f"n={n}: must be at least 1")
    earlier = history[:-1]
    return len(earlier) > n and history[-1] > min(earlier[:-n])


class WeightAverage:
    """The arithmetic mean of a model's weights over the updates it was shown.

        mean_k = mean_{k-1} + (w_k - mean_{k-1}) / k

    Plain SGD beside this class is averaged SGD. ``torch.optim.ASGD`` is not used, since it applies a changed learning
    rate one step late and leaves the first iterate out of the mean. The mean lives in a copy of the model, so
    evaluating it never touches the weights in training; tied parameters stay tied. Buffers follow the model.

    Args:
        model: The model to average. It is copied; its present weights do not count until `update`.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(model)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update(model)
        >>> average.module.weight.item(), average.count
        (3.0, 3)
    """

    def __init__(self, model: nn.Module) -> None:
        self._averaged = AveragedModel(model)

    @property
    def module(self) -> nn.Module:
        """The model that holds the mean; a copy of the given model before the first update."""
        return self._averaged.module

    @property
    def count(self) -> int:
        """The number of updates in the mean."""
        return int(self._averaged.n_averaged)

    def update(self, model: nn.Module) -> None:
        """Take the present weights of the model into the mean."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """The mean and its count, to be saved."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved mean; RuntimeError where the names or shapes do not fit."""
        self._averaged.load_state_dict(state)

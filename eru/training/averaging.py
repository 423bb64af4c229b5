"""The trigger of averaging: when the validation loss has stalled, the mean of the weights takes over.

Merity, Keskar and Socher 2017, "Regularizing and Optimizing LSTM Language Models", arXiv 1708.02182, Algorithm 1.

The mean itself is torch's ``AveragedModel``, which holds it in a copy of the model, so that evaluating it never
touches the weights in training. Plain SGD beside it is averaged SGD; ``torch.optim.ASGD`` is not used, since it
applies a changed learning rate one step late and leaves the first iterate out of the mean.
"""

from collections.abc import Sequence


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

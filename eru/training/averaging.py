"""The trigger of averaging: when the validation loss has stalled, the mean of the weights takes over.

The mean itself is torch's ``AveragedModel``, which holds it in a copy of the model, so that evaluating it never
touches the weights in training.
"""

from collections.abc import Sequence


def has_stalled(history: Sequence[float], n: int = 5) -> bool:
    """Tell whether the validation loss has stopped falling, so that averaging should start, or finetuning end.

    With v_1 .. v_t the losses so far and v_t the newest, it has stalled when

        t - 1 > n   and   v_t > min(v_1, ..., v_{t-1-n}),

    that is, when the newest loss is worse than the best of all but the last n losses before it.

    Args:
        history: All validation losses, oldest first.
        n: The number of evaluations without progress that are forgiven, at least 1.

    Raises:
        ValueError: The number is below 1.

    Source:
        Merity, Keskar and Socher 2017, arXiv 1708.02182, Algorithm 1, as the authors' code has it
        (``val_loss > min(best_val_loss[:-nonmono])``, salesforce/awd-lstm-lm, main.py). The paper takes the minimum
        over the *last* n losses, which fires at the first small rise; the authors call that a typo (issue 13 there).

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

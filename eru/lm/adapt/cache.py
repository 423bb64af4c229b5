"""The neural cache: words of the recent past become likelier where the hidden state is as it was before them."""

from collections.abc import Sequence

import torch
from torch import Tensor


class NeuralCache:
    r"""Probabilities of the tokens of a text, made of the tokens before them alone, for many settings at once.

    .. math::
        p_{\mathrm{cache}}(y_t) = \frac{\sum_{i=t-W}^{t-1} [y_i = y_t]\, e^{\theta\, h_t \cdot h_i}}
        {\sum_{i=t-W}^{t-1} e^{\theta\, h_t \cdot h_i}}

    where y_i is the token that followed the hidden state h_i. Nothing is learned, and the hidden states depend on no
    setting, so one pass over a text serves all.

    Args:
        windows: Values of W, how many predictions back the cache remembers. 0 remembers nothing.
        thetas: Values of theta. 0 counts words; larger ones look only where the hidden states agree.

    Raises:
        ValueError: A window or a theta is negative or not finite.

    Source:
        arXiv 1612.04426 (Grave et al.), section 3.

    Example:
        >>> cache = NeuralCache(windows=[100], thetas=[0.0])
        >>> cache(torch.ones(4, 2), torch.tensor([7, 7, 8, 7])).exp()
        tensor([[[   nan, 1.0000, 0.0000, 0.6667]]])
    """

    def __init__(self, windows: Sequence[int], thetas: Sequence[float]) -> None:
        for name, values in (("windows", windows), ("thetas", thetas)):
            if not all(0 <= value < float("inf") for value in values):
                raise ValueError(f"{name}={list(values)}: each must be finite and not negative")
        self._windows, self._thetas = list(windows), list(thetas)
        self._keys: Tensor | None = None
        self._words: Tensor | None = None

    def __call__(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The log-probabilities of the next stretch of the text, which is then remembered.

        It is given by h_t of consecutive predictions (T, E), and y_t, the tokens that followed (T,). What comes back
        is of shape (windows, thetas, T), NaN where nothing is remembered yet.
        """
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        keys = hidden if self._keys is None else torch.cat([self._keys, hidden])
        words = targets if self._words is None else torch.cat([self._words, targets])
        found = hidden.new_empty(len(self._windows), len(self._thetas), len(targets))
        scores, hits = hidden @ keys.t(), words == targets.unsqueeze(1)
        # How many predictions before each of the T targets every remembered one lies. 0 is the target itself, and what
        # is negative lies in its future: neither may be looked at.
        times = torch.arange(len(keys), device=keys.device)
        age = times[-len(targets) :].unsqueeze(1) - times  # (T, remembered + T)
        for row, window in zip(found, self._windows, strict=True):
            recent = slice(max(len(keys) - len(targets) - window, 0), None)
            outside = (age[:, recent] < 1) | (age[:, recent] > window)
            for out, theta in zip(row, self._thetas, strict=True):
                attention = (theta * scores[:, recent]).masked_fill_(outside, -torch.inf).softmax(dim=1)
                torch.sum(attention.mul_(hits[:, recent]), dim=1, out=out)
        kept = max(len(keys) - max(self._windows, default=0), 0)
        self._keys, self._words = keys[kept:], words[kept:]
        return found.log_()

"""Drawing a token from the scores that a language model gives to all of them."""

import numpy as np

from eru_runtime.checks import real_number, whole_number


class Sampler:
    """Draws tokens, one after another.

    Args:
        temperature: Divides the scores: below 1 likely tokens are drawn more often, and 0 always takes the likeliest.
        top_k: Draw from the k likeliest tokens only; None for all.
        top_p: Draw from the likeliest tokens that together reach this probability only; None for all. Where ``top_k``
            is given too, it is the probability among those that this keeps.
        seed: For the same draws again; None draws others every time.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> draw = Sampler(temperature=0)
        >>> draw(np.array([0.5, 2.0, 1.0]))
        1
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._temperature = real_number("temperature", temperature, least=0)
        self._top_k = None if top_k is None else whole_number("top_k", top_k, least=1)
        self._top_p = None if top_p is None else real_number("top_p", top_p, least=0, most=1, above=True)
        self._generator = np.random.default_rng(None if seed is None else whole_number("seed", seed, least=0))

    def __call__(self, scores: np.ndarray) -> int:
        """The index of the token that is drawn, from scores (V,), float64; one of minus infinity is never drawn."""
        if self._temperature == 0:
            return int(scores.argmax())
        # The largest becomes 0, at the smallest temperature too, at which the others may become minus infinity.
        with np.errstate(over="ignore"):
            scaled = (scores - scores.max()) / self._temperature
        tokens, probabilities = truncate(scaled, self._top_k, self._top_p)
        return int(self._generator.choice(tokens, p=probabilities))


def truncate(scores: np.ndarray, top_k: int | None, top_p: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn, by rising index, and their probabilities.

    Example:
        >>> tokens, probabilities = truncate(np.log([0.2, 0.5, 0.3]), top_k=None, top_p=0.6)
        >>> tokens.tolist(), probabilities.round(3).tolist()
        ([1, 2], [0.625, 0.375])
    """
    tokens = np.arange(len(scores))
    if top_k is not None and top_k < len(scores):
        tokens = np.sort(np.argpartition(-scores, top_k)[:top_k])
    weights = np.exp(scores[tokens] - scores.max())
    probabilities = weights / weights.sum()
    if top_p is not None:
        falling = np.argsort(-scores[tokens])
        # A token stays while those before it have not reached top_p, so the likeliest always stays.
        before = probabilities[falling].cumsum() - probabilities[falling]
        stays = np.sort(falling[before < top_p])
        tokens, probabilities = tokens[stays], probabilities[stays] / probabilities[stays].sum()
    return tokens, probabilities

"""Search over adaptations: the temperature, dynamic evaluation and neural cache that predict a text best."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eru.lm.adapt.cache import NeuralCache
from eru.lm.adapt.dynamic import Predictions, predict_dynamically, segments_of
from eru.lm.model import LanguageModel, evaluating

_WINDOW = 70  # Steps computed at once. It changes nothing but memory and speed.
_Rule = tuple[Callable[[float], bool], str]
_NOT_NEGATIVE: _Rule = (lambda value: 0 <= value < math.inf, "finite and not negative")
_RULES: dict[str, _Rule] = {
    "temperature": (lambda value: 0 < value < math.inf, "finite and above 0"),
    "cache_weight": (lambda value: 0 <= value <= 1, "from 0 to 1"),
}
_TRIED: dict[str, dict[str, Sequence[Any]]] = {
    "dynamic": {"learning_rate": [3e-5, 6e-5, 1.2e-4], "decay": [5e-4, 1.5e-3, 5e-3]},
    "cache": {
        "cache_window": [100, 500, 1000, 2000],
        "cache_theta": [0.1, 0.2, 0.3, 0.5, 0.8, 1.2],
        "cache_weight": [0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3],
    },
    "temperature": {"temperature": [round(0.8 + 0.02 * i, 2) for i in range(21)]},
}


@dataclass(frozen=True)
class AdaptationGrid:
    r"""Values to try, each of a field with each of the others; the defaults leave the model as it was trained.

    .. math::
        p(y) = (1 - \lambda)\, \mathrm{softmax}(z / \tau)_y + \lambda\, p_{\mathrm{cache}}(y)

    Attributes:
        learning_rate: Step size of dynamic evaluation, see `eru.lm.adapt.dynamic.predict_dynamically`; 0 for none.
        decay: Pull of dynamic evaluation back to the trained weights.
        temperature: tau, which divides the logits z.
        cache_window: How many predictions back the cache remembers, see `eru.lm.adapt.cache.NeuralCache`; 0 for no
            cache.
        cache_theta: How closely the hidden states must agree for the cache.
        cache_weight: lambda, the share of the cache.

    Raises:
        ValueError: A field has no values, or a value is out of range.

    Example:
        >>> AdaptationGrid(cache_window=[100], cache_theta=[0.1, 0.2], cache_weight=[0.1, 0.2, 0.3]).combinations
        6
    """

    learning_rate: Sequence[float] = (0.0,)
    decay: Sequence[float] = (0.0,)
    temperature: Sequence[float] = (1.0,)
    cache_window: Sequence[int] = (0,)
    cache_theta: Sequence[float] = (0.0,)
    cache_weight: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        """Refuse a value that cannot be tried, and name it."""
        for name, values in vars(self).items():
            fits, rule = _RULES.get(name, _NOT_NEGATIVE)
            if not len(values):
                raise ValueError(f"{name}=[]: at least one value is needed")
            for value in values:
                if not fits(value):
                    raise ValueError(f"{name}={value}: must be {rule}")

    @property
    def axes(self) -> tuple[Sequence[Any], ...]:
        """The values of every field, in order."""
        return tuple(vars(self).values())

    @property
    def combinations(self) -> int:
        """The number of combinations of the values."""
        return math.prod(map(len, self.axes))

    @property
    def readings(self) -> int:
        """How often a text is read to try them all: once for each learning rate with each decay."""
        return len(self.learning_rate) * len(self.decay)

    @property
    def learns(self) -> bool:
        """Whether dynamic evaluation is among the combinations."""
        return any(self.learning_rate)


def default_grid(*kinds: str, **values: Sequence[Any]) -> AdaptationGrid:
    """The grid that is usually searched for some kinds of adaptation.

    Args:
        kinds: Any of ``"dynamic"``, ``"cache"`` and ``"temperature"``.
        values: For fields of these kinds, values to try in place of the usual ones.

    Raises:
        ValueError: A kind is unknown, a field belongs to none of the kinds, or a value is out of range.

    Example:
        >>> default_grid("dynamic", decay=[0.0, 0.001]).decay
        [0.0, 0.001]
    """
    for kind in kinds:
        if kind not in _TRIED:
            raise ValueError(f"unknown adaptation {kind!r}: must be one of {', '.join(_TRIED)}")
    usual = {name: tried for kind in kinds for name, tried in _TRIED[kind].items()}
    for name in values:
        if name not in usual:
            raise ValueError(f"{name} is of no adaptation that was asked for: {_fields_by_kind()}")
    return AdaptationGrid(**usual | values)


def parse_values(text: str) -> tuple[str, list[float]]:
    """Read a field of a grid with its values from ``field=value,value,...``.

    Raises:
        ValueError: There is no such field, or a value is not a number, or not a whole one for the cache's window.

    Example:
        >>> parse_values("decay=0.001,0.002"), parse_values("cache_window=500")
        (('decay', [0.001, 0.002]), ('cache_window', [500]))
    """
    name, _, values = text.partition("=")
    if all(name not in tried for tried in _TRIED.values()):
        raise ValueError(f"{text!r}: must be field=value or field=value,value,... with {_fields_by_kind()}")
    whole = name == "cache_window"
    try:
        return name, [int(value) if whole else float(value) for value in values.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: each value must be a {'whole ' if whole else ''}number") from None


def _fields_by_kind() -> str:
    return "; ".join(f"{kind} has {', '.join(tried)}" for kind, tried in _TRIED.items())


def choose_adaptation(
    model: LanguageModel,
    ids: np.ndarray,
    grid: AdaptationGrid,
    rms: Sequence[Tensor] | None = None,
    count: Callable[[int], object] | None = None,
) -> tuple[AdaptationGrid, float]:
    """Find the combination of a grid that predicts a text best.

    Args:
        model: The trained model, which is left as it is.
        ids: Token ids to choose on, at least 2. They must not be those of the text to be reported on.
        grid: The combinations to try.
        rms: What `grid_losses` takes.
        count: What `grid_losses` takes.

    Returns:
        The best combination, as a grid of one, and its mean loss in nats.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> best, loss = choose_adaptation(model, np.arange(60) % 10, AdaptationGrid(temperature=[0.5, 1.0, 2.0]))
        >>> best.combinations
        1
    """
    losses = grid_losses(model, ids, grid, rms, count).nan_to_num(nan=math.inf, posinf=math.inf)
    best = (losses == losses.min()).nonzero()[0].tolist()
    return AdaptationGrid(*([values[i]] for values, i in zip(grid.axes, best, strict=True))), losses.min().item()


def grid_losses(
    model: LanguageModel,
    ids: np.ndarray,
    grid: AdaptationGrid,
    rms: Sequence[Tensor] | None = None,
    count: Callable[[int], object] | None = None,
) -> Tensor:
    """Mean negative log-likelihood in nats of every token but the first, for every combination of a grid.

    The text is read ``grid.readings`` times. The fields besides the learning rate and the decay are computed in the
    same pass.

    Args:
        model: The trained model, which is left as it is.
        ids: Token ids, at least 2.
        grid: The combinations to try.
        rms: What `eru.lm.adapt.dynamic.gradient_rms` returns. Dynamic evaluation needs it.
        count: What is called with how many more tokens of all readings are predicted, as they are.

    Returns:
        The losses in float64, with one axis for each field of the grid.

    Raises:
        ValueError: There are fewer than 2 tokens, or ``rms`` is missing where it is needed.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> grid_losses(model, np.arange(60) % 10, AdaptationGrid(temperature=[0.9, 1.0, 1.1])).shape
        torch.Size([1, 1, 3, 1, 1, 1])
    """
    if grid.learns and rms is None:
        raise ValueError(f"learning_rate={list(grid.learning_rate)}: without rms, so only 0 is possible")
    losses = torch.empty([len(values) for values in grid.axes], dtype=torch.float64)
    with evaluating(model):
        for i, learning_rate in enumerate(grid.learning_rate):
            for j, decay in enumerate(grid.decay):
                if learning_rate and rms is not None:
                    parts = predict_dynamically(model, ids, rms, learning_rate=learning_rate, decay=decay)
                else:
                    parts = _predict(model, ids)
                losses[i, j] = _mixture_loss(parts, grid, count)
    return losses


@torch.no_grad()
def _predict(model: LanguageModel, ids: np.ndarray) -> Iterator[Predictions]:
    """The predictions of the model as it is."""
    state = None
    for inputs, targets in segments_of(ids, 1, _WINDOW, model.embedding.weight.device):
        features = model.features(inputs, state)
        state = features.state
        logits = model.logits(features.dropped)
        yield Predictions(features.raw.flatten(0, 1), logits.flatten(0, 1), targets.flatten())


def _mixture_loss(parts: Iterable[Predictions], grid: AdaptationGrid, count: Callable[[int], object] | None) -> Tensor:
    """Mean loss over all parts, of shape (temperatures, windows, thetas, weights)."""
    cache = NeuralCache(grid.cache_window, grid.cache_theta)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for hidden, logits, targets in parts:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = torch.stack([-F.cross_entropy(logits / tau, targets, reduction="none") for tau in grid.temperature])
        own = own.double()[:, None, None, None]  # (temperatures, 1, 1, 1, T)
        cached = cache(hidden, targets).double()[:, :, None]  # (windows, thetas, 1, T)
        share = own.new_tensor(grid.cache_weight)[:, None]  # (weights, 1)
        mixed = torch.logaddexp(own + (1 - share).log(), cached + share.log())
        # The cache is NaN where it remembers nothing yet: there the model speaks alone.
        total = total.to(own.device) - torch.where(cached.isnan(), own, mixed).sum(dim=-1)
        tokens += len(targets)
        if count is not None:
            count(len(targets))
    return (total / tokens).cpu()

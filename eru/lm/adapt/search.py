"""Adapting a trained model to the text that it predicts: temperature, dynamic evaluation, neural cache."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eru.lm.adapt.cache import NeuralCache
from eru.lm.adapt.dynamic import Predictions, predict_dynamically
from eru.lm.batches import Streams
from eru.lm.model import LanguageModel, evaluating

_WINDOW = 70  # steps computed at once; it changes nothing but memory and speed
_Rule = tuple[Callable[[float], bool], str]
_NOT_NEGATIVE: _Rule = (lambda value: 0 <= value < math.inf, "finite and not negative")
_RULES: dict[str, _Rule] = {
    "temperature": (lambda value: 0 < value < math.inf, "finite and above 0"),
    "cache_weight": (lambda value: 0 <= value <= 1, "from 0 to 1"),
}
_CANDIDATES: dict[str, dict[str, Sequence[Any]]] = {
    "dynamic": {"learning_rate": [3e-5, 6e-5, 1.2e-4], "decay": [5e-4, 1.5e-3, 5e-3]},
    "cache": {
        "cache_window": [100, 500, 1000, 2000],
        "cache_theta": [0.1, 0.2, 0.3, 0.5, 0.8, 1.2],
        "cache_weight": [0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3],
    },
    "temperature": {"temperature": [round(0.8 + 0.02 * i, 2) for i in range(21)]},
}


@dataclass(frozen=True)
class Grid:
    r"""Values to choose an adaptation among, each with each; the defaults leave the model as it was trained.

    .. math::
        p(y) = (1 - \lambda)\, \mathrm{softmax}(z / \tau)_y + \lambda\, p_{\mathrm{cache}}(y)

    Attributes:
        learning_rate: of dynamic evaluation, see :func:`eru.lm.adapt.dynamic.predict_dynamically`; 0 for none.
        decay: of dynamic evaluation.
        temperature: tau, by which the logits z are divided.
        cache_window: what the cache remembers, see :class:`eru.lm.adapt.cache.NeuralCache`; 0 is no cache.
        cache_theta: how closely its hidden states must agree.
        cache_weight: lambda, the cache's share.

    Raises:
        ValueError: a field without values, or a value out of range.

    Example:
        >>> Grid(cache_window=[100], cache_theta=[0.1, 0.2], cache_weight=[0.1, 0.2, 0.3]).combinations
        6
    """

    learning_rate: Sequence[float] = (0.0,)
    decay: Sequence[float] = (0.0,)
    temperature: Sequence[float] = (1.0,)
    cache_window: Sequence[int] = (0,)
    cache_theta: Sequence[float] = (0.0,)
    cache_weight: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        """Refuse what cannot be tried, naming it."""
        for name, values in zip(_FIELDS, self.axes, strict=True):
            fits, rule = _RULES.get(name, _NOT_NEGATIVE)
            if not len(values):
                raise ValueError(f"{name}=[]: at least one value is needed")
            for value in values:
                if not fits(value):
                    raise ValueError(f"{name}={value}: must be {rule}")

    @property
    def axes(self) -> tuple[Sequence[Any], ...]:
        """The values of every field, in order."""
        return tuple(getattr(self, name) for name in _FIELDS)

    @property
    def combinations(self) -> int:
        """How many there are."""
        return math.prod(map(len, self.axes))

    @property
    def learns(self) -> bool:
        """Whether dynamic evaluation is among them."""
        return any(self.learning_rate)


_FIELDS = tuple(field.name for field in fields(Grid))


def make_grid(*parts: str, **values: Sequence[Any]) -> Grid:
    """What is tried for some kinds of adaptation.

    Args:
        parts: of ``"dynamic"``, ``"cache"`` and ``"temperature"``.
        values: for fields of these, in place of the values tried by default.

    Raises:
        ValueError: an unknown part, a field of none of the parts, or a value out of range.

    Example:
        >>> make_grid("dynamic", decay=[0.0, 0.001]).decay
        [0.0, 0.001]
    """
    for part in parts:
        if part not in _CANDIDATES:
            raise ValueError(f"unknown adaptation {part!r}: must be one of {', '.join(_CANDIDATES)}")
    tried = {name: candidates for part in parts for name, candidates in _CANDIDATES[part].items()}
    for name in values:
        if name not in tried:
            raise ValueError(f"{name} is of no adaptation that was asked for: {_fields_by_part()}")
    return Grid(**tried | values)


def parse_values(text: str) -> tuple[str, list[float]]:
    """Name and values of ``field=value,value,...``, whole numbers for the cache's window.

    Raises:
        ValueError: no such field, or something that is no number.

    Example:
        >>> parse_values("decay=0.001,0.002"), parse_values("cache_window=500")
        (('decay', [0.001, 0.002]), ('cache_window', [500]))
    """
    name, _, values = text.partition("=")
    if name not in _FIELDS:
        raise ValueError(f"{text!r}: must be field=value or field=value,value,... with {_fields_by_part()}")
    whole = name == "cache_window"
    try:
        return name, [int(value) if whole else float(value) for value in values.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}: each value must be a {'whole ' if whole else ''}number") from None


def _fields_by_part() -> str:
    return "; ".join(f"{part} has {', '.join(tried)}" for part, tried in _CANDIDATES.items())


def choose(
    model: LanguageModel, ids: np.ndarray, grid: Grid, rms: Sequence[Tensor] | None = None
) -> tuple[Grid, float]:
    """The combination with the lowest loss on a text, as a grid of one, and that loss.

    Args:
        model: see :func:`losses`, like the others.
        ids: see there; never those of the text to be reported on.
        grid: see there.
        rms: see there.

    Raises:
        ValueError: see there.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> best, loss = choose(model, np.arange(60) % 10, Grid(temperature=[0.5, 1.0, 2.0]))
        >>> best.combinations
        1
    """
    table = losses(model, ids, grid, rms).nan_to_num(nan=math.inf, posinf=math.inf)
    best = (table == table.min()).nonzero()[0].tolist()
    return Grid(*([values[i]] for values, i in zip(grid.axes, best, strict=True))), table.min().item()


def losses(model: LanguageModel, ids: np.ndarray, grid: Grid, rms: Sequence[Tensor] | None = None) -> Tensor:
    """Mean negative log-likelihood in nats of every token but the first, for every combination of a grid.

    The text is read once for each learning rate with each decay; one pass serves all the rest.

    Args:
        model: it is left as it is.
        ids: token ids, at least 2.
        grid: the combinations.
        rms: from :func:`eru.lm.adapt.dynamic.gradient_rms`, for dynamic evaluation.

    Returns:
        One axis a field of the grid, float64.

    Raises:
        ValueError: fewer than 2 tokens, or no ``rms`` where it is needed.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> losses(model, np.arange(60) % 10, Grid(temperature=[0.9, 1.0, 1.1])).shape
        torch.Size([1, 1, 3, 1, 1, 1])
    """
    if grid.learns and rms is None:
        raise ValueError(f"learning_rate={list(grid.learning_rate)}: without rms, so only 0 is possible")
    found = torch.empty([len(values) for values in grid.axes], dtype=torch.float64)
    with evaluating(model):
        for i, learning_rate in enumerate(grid.learning_rate):
            for j, decay in enumerate(grid.decay):
                if learning_rate and rms is not None:
                    parts = predict_dynamically(model, ids, rms, learning_rate=learning_rate, decay=decay)
                else:
                    parts = _predict(model, ids)
                found[i, j] = _mixture_loss(parts, grid)
    return found


@torch.no_grad()
def _predict(model: LanguageModel, ids: np.ndarray) -> Iterator[Predictions]:
    """The predictions of the model as it is."""
    streams, state = Streams(ids, 1), None
    device = model.embedding.weight.device
    for start in range(0, streams.length, _WINDOW):
        inputs, targets = streams.window(start, min(_WINDOW, streams.length - start))
        features = model.features(inputs.to(device), state)
        state = features.state
        logits = model.logits(features.dropped)
        yield Predictions(features.raw.flatten(0, 1), logits.flatten(0, 1), targets.to(device).flatten())


def _mixture_loss(parts: Iterable[Predictions], grid: Grid) -> Tensor:
    """Mean loss over all parts (temperatures, windows, thetas, weights)."""
    cache = NeuralCache(grid.cache_window, grid.cache_theta)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for hidden, logits, targets in parts:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = torch.stack([-F.cross_entropy(logits / tau, targets, reduction="none") for tau in grid.temperature])
        own = own.double()[:, None, None, None]
        cached = cache(hidden, targets).double()[:, :, None]
        share = own.new_tensor(grid.cache_weight)[:, None]
        mixed = torch.logaddexp(own + (1 - share).log(), cached + share.log())
        total = total.to(own.device) - torch.where(cached.isnan(), own, mixed).sum(dim=-1)
        tokens += len(targets)
    return (total / tokens).cpu()

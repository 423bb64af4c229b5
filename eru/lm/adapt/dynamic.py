"""Dynamic evaluation: a model that goes on learning from the text that it has already predicted.

arXiv 1709.07432 (Krause et al.), section 5: gradient descent with RMS statistics and decay.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.cell import State
from eru.lm.batches import Streams
from eru.lm.model import LanguageModel, detach

# Both are the authors' own.
SEGMENT = 5  # Tokens between two updates.
_EPSILON = 2e-5  # Keeps a weight that hardly ever has a gradient from taking a huge step.


class Predictions(NamedTuple):
    """What a model says about a stretch of one text, before it has learned from it.

    Attributes:
        hidden: Outputs of the last layer, of shape (T, E).
        logits: Scores of the next token, of shape (T, V).
        targets: The tokens that came next, of shape (T,).
    """

    hidden: Tensor
    logits: Tensor
    targets: Tensor


def gradient_rms(
    model: LanguageModel,
    ids: np.ndarray,
    *,
    batch_size: int = 100,
    segment: int = SEGMENT,
    count: Callable[[int], object] | None = None,
) -> list[Tensor]:
    r"""Root mean square of the gradient of every weight over a text: how much each weight matters for it.

    .. math::
        r = \sqrt{\tfrac1K \sum_{k=1}^K (\nabla L_k)^2}, \qquad L_k \text{ the mean loss of segment } k

    Args:
        model: The trained model, which is left as it is. Dropout is off.
        ids: Tokens of the training text.
        batch_size: The number of streams that the text is cut into. One gradient is the mean over all of them.
        segment: Steps in a gradient.
        count: What is called with how many more tokens are read, as they are.

    Returns:
        One tensor for each parameter, in the order of ``model.parameters()``.

    Raises:
        ValueError: A number is below 1, or the text is too short for the streams.
    """
    learner = _Learner(model)
    squares = [torch.zeros_like(parameter) for parameter in learner.parameters]
    number, state = 0, None
    for inputs, targets in segments_of(ids, batch_size, segment, learner.device):
        _, gradients, state = learner.read(inputs, targets, state)
        for total, gradient in zip(squares, gradients, strict=True):
            total.addcmul_(gradient, gradient)
        number += 1
        if count is not None:
            count(inputs.numel())
    return [total.div_(number).sqrt_() for total in squares]


@torch.no_grad()
def predict_dynamically(
    model: LanguageModel,
    ids: np.ndarray,
    rms: Sequence[Tensor],
    *,
    learning_rate: float,
    decay: float,
    segment: int = SEGMENT,
) -> Iterator[Predictions]:
    r"""Predict a text in segments, and learn from each of them after it was predicted.

    .. math::
        \theta \leftarrow \theta + \min\!\Big(\lambda \frac{r}{\bar r}, 1\Big) (\theta_0 - \theta)
        - \eta \frac{\nabla L(\theta)}{r + \epsilon}

    with r from `gradient_rms` and its mean over all weights. Each token is predicted once, by weights that have seen
    only what comes before its segment.

    Args:
        model: The trained model, which is left as it is: a copy of it learns.
        ids: Tokens of the text, at least 2.
        rms: r, one tensor for each parameter.
        learning_rate: eta.
        decay: lambda, which pulls the weights back to the trained ones.
        segment: Tokens between two updates.

    Raises:
        ValueError: A number is out of range, the text is too short, or ``rms`` is of another model.

    Example:
        >>> model, text = LanguageModel(10, 8, 8), np.arange(60) % 10
        >>> rms = gradient_rms(model, text, batch_size=3)
        >>> [len(part.targets) for part in predict_dynamically(model, text[:13], rms, learning_rate=1e-3, decay=0.01)]
        [5, 5, 2]
    """
    for name, value in (("learning_rate", learning_rate), ("decay", decay)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value}: must be finite and not negative")
    learner = _Learner(model)
    if [part.shape for part in rms] != [parameter.shape for parameter in learner.parameters]:
        raise ValueError("rms: must hold one tensor of each parameter's shape, as gradient_rms(model, ...) gives")
    starts = [parameter.clone() for parameter in learner.parameters]
    mean = sum(part.sum() for part in rms) / sum(part.numel() for part in rms)
    pulls = [(part * (decay / mean)).clamp_(max=1) for part in rms]
    scales = [1 / (part + _EPSILON) for part in rms]
    state = None
    for inputs, targets in segments_of(ids, 1, segment, learner.device):
        predictions, gradients, state = learner.read(inputs, targets, state)
        yield predictions
        for weight, start, pull, gradient, scale in zip(
            learner.parameters, starts, pulls, gradients, scales, strict=True
        ):
            weight.lerp_(start, pull).addcmul_(gradient, scale, value=-learning_rate)


class _Learner:
    """A copy of a model that tells its gradients.

    The embedding and the softmax share one weight, which is as large as the vocabulary. So that its gradient is made
    only once, by the softmax, there are two copies of the model with the same parameters: the scorer, and a reader
    whose embedding holds only the words of the segment. The gradient of these few rows is added afterwards.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._scorer = copy.deepcopy(model).eval().requires_grad_()
        self.parameters = list(self._scorer.parameters())
        # deepcopy takes what it finds under an object's id instead of copying that object.
        shared = {id(parameter): parameter for parameter in self.parameters}
        self._reader = copy.deepcopy(self._scorer, shared)
        self._vocabulary = self._scorer.embedding.weight
        self._embedding = next(i for i, parameter in enumerate(self.parameters) if parameter is self._vocabulary)

    @property
    def device(self) -> torch.device:
        return self._vocabulary.device

    def read(
        self, inputs: Tensor, targets: Tensor, state: list[State] | None
    ) -> tuple[Predictions, list[Tensor], list[State]]:
        """Predictions of targets (T, B), the gradient of their mean loss for every parameter, and the state after."""
        words = inputs.flatten()
        # Row n of the reader's embedding is the word at position n, so positions take the place of the tokens.
        self._reader.embedding.weight = nn.Parameter(self._vocabulary.detach()[words])
        with torch.enable_grad():
            features = self._reader.features(torch.arange(len(words), device=self.device).view_as(inputs), state)
            logits = self._scorer.logits(features.dropped).flatten(0, 1)
            loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets.flatten())
        *gradients, of_words = torch.autograd.grad(loss, [*self.parameters, self._reader.embedding.weight])
        gradients[self._embedding].index_add_(0, words, of_words)
        predictions = Predictions(features.raw.detach().flatten(0, 1), logits.detach(), targets.flatten())
        return predictions, gradients, detach(features.state)


def segments_of(
    ids: np.ndarray, batch_size: int, segment: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a text into B streams, and give the inputs and targets (T, B) of their consecutive segments of T steps.

    Raises:
        ValueError: A number is below 1, or the text is too short for the streams.
    """
    if segment < 1:
        raise ValueError(f"segment={segment}: must be at least 1")
    streams = Streams(ids, batch_size)
    for start in range(0, streams.length, segment):
        inputs, targets = streams.window(start, min(segment, streams.length - start))
        yield inputs.to(device), targets.to(device)

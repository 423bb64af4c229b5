"""The language model: a tied embedding around three recurrent layers."""

import math
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.cell import InputTransform, State
from eru.layer import ERU
from eru.lm.sampled_softmax import sampled_cross_entropy, sampling_chances
from eru.lm.softmax import tied_cross_entropy, two_step_cross_entropy, two_step_log_probabilities

CellName = Literal["eru", "lstm"]


class Features(NamedTuple):
    """What the last layer gives for a window of tokens.

    Attributes:
        raw: The outputs of the last layer (T, B, E).
        dropped: The same after dropout, the input of the softmax.
        state: The state of every layer, to carry to the next window.
    """

    raw: Tensor
    dropped: Tensor
    state: list[State]


class LanguageModel(nn.Module):
    """Embedding, dropout, recurrent layers with dropout between them, and a softmax tied to the embedding.

    Layers are E -> H -> ... -> H -> E wide, so that the last one's output meets the embedding again. The embedding is
    drawn with variance 1/E and its output scaled by sqrt(E), so that what reaches the first gates has unit variance
    and the first logits are small.

    Args:
        vocab_size: V, the number of tokens that there are.
        embedding_size: E.
        hidden_size: H, the width of all layers but the last.
        num_layers: The number of layers.
        cell: ``"eru"``; or ``"lstm"``, the control, which is the same recurrence with dense input maps; or whatever
            else makes the input maps, see ``input_transform`` of `eru.ERUCell`.
        kernel_size, branches, groups, shared_reduce: The EESP of the ERU cells, see `eru.ERUCell`; by default theirs.
            Other cells have none.
        recurrent_groups: R, the blocks of the recurrent map of every cell; it must divide E and H.
        softmax_head: How many of the first tokens, the frequent ones, the softmax predicts in one step; the others
            take two, see :func:`eru.lm.softmax.two_step_cross_entropy`. 0 for one step for all. It is for vocabularies
            of some 50,000 tokens and more.
        sampled_softmax: How many tokens, on average, the loss of a training step looks at, see
            :func:`eru.lm.sampled_softmax.sampled_cross_entropy`. 0 for all of them, as everywhere but in training.
            A vocabulary that is not twice as large is not sampled either, since all of it takes less time.
        input_dropout: The dropout on the embedded tokens.
        layer_dropout: The dropout between layers.
        output_dropout: The dropout before the softmax.
        embedding_dropout: The dropout of whole words of the embedding.
        weight_dropout: The dropout on the recurrent weights.
        hidden_dropout: The dropout on h in the recurrent products, with one mask for all steps of a window.
        locked: Whether one dropout mask holds for all steps (variational dropout) in place of a fresh one for each.

    Shape:
        Tokens are (T, B), logits (T, B, V).

    Raises:
        ValueError: A size or a probability makes no sense, the cell is unknown, or it has no use for an option.

    Source:
        ESPNetv2, section 4.4; tying: arXiv 1611.01462.

    Example:
        >>> model = LanguageModel(vocab_size=100, embedding_size=16, hidden_size=32)
        >>> logits, state = model(torch.zeros(5, 2, dtype=torch.long))
        >>> logits.shape
        torch.Size([5, 2, 100])
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 3,
        *,
        cell: CellName | InputTransform = "eru",
        kernel_size: int | None = None,
        branches: int | None = None,
        groups: int | None = None,
        shared_reduce: bool = False,
        recurrent_groups: int = 1,
        softmax_head: int = 0,
        sampled_softmax: int = 0,
        input_dropout: float = 0.0,
        layer_dropout: float = 0.0,
        output_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        locked: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "embedding_size": embedding_size, "hidden_size": hidden_size}
        for name, size in {**sizes, "num_layers": num_layers}.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if softmax_head and not 0 < softmax_head < vocab_size:
            raise ValueError(f"softmax_head={softmax_head}: must be 0, or below the vocabulary's {vocab_size} tokens")
        if sampled_softmax < 0:
            raise ValueError(f"sampled_softmax={sampled_softmax}: must be 0 or a number of tokens")
        if sampled_softmax and softmax_head:
            raise ValueError(
                f"softmax_head={softmax_head}, sampled_softmax={sampled_softmax}: one of the two must be 0"
            )
        dropouts = {"input_dropout": input_dropout, "layer_dropout": layer_dropout, "output_dropout": output_dropout}
        for name, p in {**dropouts, "embedding_dropout": embedding_dropout}.items():
            if not 0 <= p <= 1:
                raise ValueError(f"{name}={p}: must be a probability from 0 to 1")
        if cell not in ("eru", "lstm") and not callable(cell):
            raise ValueError(f"cell={cell!r}: must be 'eru', 'lstm' or a callable")
        unit: dict[str, Any] = {"kernel_size": kernel_size, "branches": branches, "groups": groups}
        unit = {name: value for name, value in unit.items() if value is not None}
        if shared_reduce:
            unit["shared_reduce"] = True
        if cell != "eru" and unit:
            [(name, value), *_] = unit.items()
            raise ValueError(f"{name}={value}: only cell='eru' has an EESP, and cell={cell!r} was given")
        self.vocab_size, self.embedding_size = vocab_size, embedding_size
        self.input_dropout, self.layer_dropout, self.output_dropout = input_dropout, layer_dropout, output_dropout
        self.embedding_dropout, self.locked = embedding_dropout, locked
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(embedding_size))
        self.softmax_bias = nn.Parameter(torch.zeros(vocab_size))
        self.softmax_head, self.rare = softmax_head, nn.Linear(embedding_size, 1) if softmax_head else None
        chances = sampling_chances(vocab_size, sampled_softmax) if 0 < 2 * sampled_softmax <= vocab_size else None
        self.chances: Tensor | None
        self.register_buffer("chances", chances, persistent=False)
        widths = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size]
        make = partial(
            ERU, weight_dropout=weight_dropout, hidden_dropout=hidden_dropout, recurrent_groups=recurrent_groups
        )
        if cell != "eru":
            make = partial(make, input_transform=dense_gates if cell == "lstm" else cell)
        self.layers = nn.ModuleList(make(a, b, **unit) for a, b in pairwise(widths))

    def features(self, tokens: Tensor, state: list[State] | None = None) -> Features:
        """Run the recurrent layers over a window of tokens (T, B), from the state before it, by default zeros."""
        drop = locked_dropout if self.locked else F.dropout
        x = self._embed(tokens) * math.sqrt(self.embedding_size)
        x = drop(x, self.input_dropout, self.training)
        after: list[State] = []
        for index, layer in enumerate(self.layers):
            if index:
                x = drop(x, self.layer_dropout, self.training)
            x, layer_state = layer(x, state[index] if state is not None else None)
            after.append(layer_state)
        return Features(x, drop(x, self.output_dropout, self.training), after)

    def logits(self, dropped: Tensor) -> Tensor:
        """Tied softmax scores (T, B, V) of the dropped outputs (T, B, E) of the last layer.

        Of a softmax in two steps these are the logarithms of the probabilities.
        """
        scores = F.linear(dropped, self.embedding.weight, self.softmax_bias)
        if self.rare is None:
            return scores
        return two_step_log_probabilities(scores, self.rare(dropped), self.softmax_head)

    def loss(self, features: Features, targets: Tensor) -> Tensor:
        """Mean cross-entropy of targets (T, B), in nats."""
        rows = features.dropped.flatten(0, 1)  # one for every token of every stream
        tied = rows, self.embedding.weight, self.softmax_bias
        if self.chances is not None and self.training:
            return sampled_cross_entropy(*tied, targets.flatten(), self.chances)
        if self.rare is None:
            return tied_cross_entropy(*tied, targets.flatten())
        return two_step_cross_entropy(*tied, self.rare, targets.flatten(), self.softmax_head)

    def forward(self, tokens: Tensor, state: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Logits of the token after each one, and the state to carry."""
        features = self.features(tokens, state)
        return self.logits(features.dropped), features.state

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.embedding_dropout and self.training:
            # A word is dropped wherever it stands. That is the same as dropping rows of the embedding, on far fewer
            # numbers.
            words = F.dropout(x.new_ones(self.vocab_size, 1), self.embedding_dropout)
            x = x * words[tokens]
        return x


def detach(state: list[State]) -> list[State]:
    """The state cut from its history, so that gradients end where the window does."""
    return [cast("State", tuple(part.detach() for part in layer)) for layer in state]


def locked_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout of (T, B, features) with one mask for all steps (variational dropout, arXiv 1512.05287)."""
    return x * F.dropout(torch.ones_like(x[:1]), p) if training and p else x


def dense_gates(input_size: int, output_size: int) -> nn.Linear:
    """The LSTM's input map, drawn like the ERU's: inputs of unit variance give gates of unit variance."""
    linear = nn.Linear(input_size, output_size, bias=False)
    nn.init.normal_(linear.weight, std=1 / math.sqrt(input_size))
    return linear


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the ``with`` block, and back into its own afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def nearest_hidden_size(parameters: int, count: Callable[[int], int]) -> int:
    """The hidden size whose ``count`` of parameters, which grows with the size, is nearest to the number wanted.

    Raises:
        ValueError: The number of parameters does not grow with the size.

    Example:
        >>> nearest_hidden_size(110, lambda size: 10 * size + 10)
        10
    """
    low, high = 1, 2
    while count(high) < parameters:
        if count(high) <= count(low):
            raise ValueError(f"count: no more parameters at size {high} than at {low}, so none has {parameters}")
        low, high = high, 2 * high
    above = low + 1 + bisect(range(low + 1, high), parameters, key=count)
    return min((above - 1, above), key=lambda size: abs(count(size) - parameters))

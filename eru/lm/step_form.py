r"""A language model in the forms that other runtimes are given: one step, and a whole sequence.

The layer that trains is written for sequences on a CPU or a GPU. In a step every cell is what its equations are, in as
few and as plain operators as they need, which every runtime has and can turn into int8:

.. math::
    a_r = [x, h_r]\, W_r + b_r, \quad
    c_r' = \sigma(a_f) c_r + \sigma(a_i) \tanh(a_g), \quad h_r' = \sigma(a_o) \tanh(c_r')

with one product for each recurrent block r, of the input map and the recurrent map in one.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from eru.cell import ERUCell
from eru.gates import EESPGates
from eru.layer import ERU
from eru.lm.model import LanguageModel
from eru.lm.softmax import two_step_log_probabilities


class StepForm(nn.Module):
    """One step of a language model.

    The embedding is held once, as (E, V): its columns embed the tokens, and the softmax multiplies by it as it stands.

    Args:
        model: It stays as it is; its cells must be ERU or LSTM cells.

    Shape:
        tokens (B,); the state of each layer as h (B, H) and c (B, H), all in one list; outputs are the scores (B, V)
        and the next state, in the same order.

    Raises:
        ValueError: A cell has an input map of another kind.

    Example:
        >>> model = LanguageModel(10, 8, 8).eval()
        >>> scores, *state = StepForm(model)(torch.tensor([3]), *zero_state(model, 1))
        >>> torch.allclose(scores, model(torch.tensor([[3]]))[0][0], atol=1e-5)
        True
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.table = nn.Buffer(model.embedding.weight.detach().t().contiguous())
        self.bias = nn.Buffer(model.softmax_bias.detach().clone())
        self.scale = math.sqrt(model.embedding_size)
        self.cells = nn.ModuleList(_CellForm(_cell(layer)) for layer in model.layers)
        self.head, self.rare = model.softmax_head, model.rare

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        x = self.table.index_select(1, tokens).t() * self.scale
        after: list[Tensor] = []
        for number, cell in enumerate(self.cells):
            x, c = cell(x, *state[2 * number : 2 * number + 2])
            after += [x, c]
        scores = x @ self.table + self.bias
        if self.rare is not None:
            scores = two_step_log_probabilities(scores, self.rare(x), self.head)
        return scores, *after


class SequenceForm(nn.Module):
    """A whole sequence of a language model; its loop over time becomes one operator, for any number of steps.

    Args:
        model: As for :class:`StepForm`.

    Shape:
        tokens (T, B), the state as for :class:`StepForm`; outputs are the scores (T, B, V) and the state at the end.

    Example:
        >>> model = LanguageModel(10, 8, 8).eval()
        >>> scores, *state = SequenceForm(model)(torch.tensor([[3], [4]]), *zero_state(model, 1))
        >>> torch.allclose(scores, model(torch.tensor([[3], [4]]))[0], atol=1e-5)
        True
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.chances = None  # of training alone, and as long as the vocabulary
        for layer in self.model.layers:
            cell = _cell(layer)
            if isinstance(cell.input_transform, EESPGates):
                cell.input_transform = _linear(cell.input_transform.dense_weight())
        # As in a step: once, and as the softmax multiplies by it.
        self.table = nn.Buffer(model.embedding.weight.detach().t().contiguous())
        del self.model.embedding

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """All steps."""
        x = self.table.index_select(1, tokens.flatten()).t().unflatten(0, tokens.shape)
        x = x * math.sqrt(self.model.embedding_size)
        after: list[Tensor] = []
        for number, layer in enumerate(self.model.layers):
            h, c = state[2 * number : 2 * number + 2]
            x, parts = layer(x, (h.unsqueeze(0), c.unsqueeze(0)))
            after += [part.squeeze(0) for part in parts]
        scores = x @ self.table + self.model.softmax_bias
        if self.model.rare is not None:
            scores = two_step_log_probabilities(scores, self.model.rare(x), self.model.softmax_head)
        return scores, *after


class _CellForm(nn.Module):
    """A cell that makes one product for each recurrent block, of its inputs and of its part of h together."""

    def __init__(self, cell: ERUCell) -> None:
        super().__init__()
        self.count, size = cell.recurrent_groups, cell.hidden_size // cell.recurrent_groups
        unit: Any = cell.input_transform
        factors = unit.two_factors() if isinstance(unit, EESPGates) else None
        # Each block must read its own part of what the first factor makes.
        self.has_factors = factors is not None and len(factors[1]) == self.count
        if factors is not None and self.has_factors:
            first, inputs = factors
            self.first = nn.Buffer(first.t().contiguous())
        else:
            dense = unit.dense_weight() if isinstance(unit, EESPGates) else unit.weight
            inputs = dense.view(4, self.count, size, -1).transpose(0, 1)
        # All are (R, 4, H / R, ...): for each block the four gates of its units.
        recurrent = cell.weight_hh.view(4, self.count, size, size).transpose(0, 1)
        blocks = torch.cat([inputs, recurrent], dim=3).flatten(1, 2).transpose(1, 2)
        for number, weight in enumerate(blocks):
            self.register_buffer(f"weight{number}", weight.contiguous())
        bias = cell.weight_hh.new_zeros(4 * cell.hidden_size) if cell.bias is None else cell.bias
        for number, part in enumerate(bias.view(4, self.count, size).transpose(0, 1).flatten(1)):
            self.register_buffer(f"bias{number}", part.clone())

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next state of (B, H) each, from an input (B, M)."""
        if self.has_factors:
            x = x @ self.first
        if self.count == 1:
            return _lstm(torch.cat([x, h], dim=1) @ self.get_buffer("weight0") + self.get_buffer("bias0"), c)
        # Blocks have an axis of their own, (B, R, ...), which costs a runtime less than to take them apart.
        x = x.unflatten(1, (self.count, -1)) if self.has_factors else x.unsqueeze(1).expand(-1, self.count, -1)
        inputs = torch.cat([x, h.unflatten(1, (self.count, -1))], dim=2)
        products = [
            part @ self.get_buffer(f"weight{number}") + self.get_buffer(f"bias{number}")
            for number, part in enumerate(inputs.split(1, dim=1))
        ]
        h, c = _lstm(torch.cat(products, dim=1), c.unflatten(1, (self.count, -1)))
        return h.flatten(1), c.flatten(1)


def _lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The next h and c (..., H) of all gates (..., 4 H)."""
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _linear(weight: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=False, device="meta")
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return linear


def _cell(layer: nn.Module) -> ERUCell:
    """The one cell of a layer of a language model."""
    assert isinstance(layer, ERU)
    cell = layer.cells["l0"]
    assert isinstance(cell, ERUCell)
    if not isinstance(cell.input_transform, EESPGates | nn.Linear):
        kind = type(cell.input_transform).__name__
        raise ValueError(f"model: the input map of its cells is a {kind}; only ERU and LSTM cells can be exported")
    return cell


def zero_state(model: LanguageModel, batch: int) -> list[Tensor]:
    """The state before the first token, as the step takes it: zeros h0, c0, h1, c1, ... of (B, H) each."""
    sizes = [_cell(layer).hidden_size for layer in model.layers for _ in "hc"]
    return [torch.zeros(batch, size) for size in sizes]

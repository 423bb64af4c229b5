"""ERU: cells over time, layers and directions, with the surface of ``nn.LSTM``."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from eru.cell import ERUCell, InputTransform, State, check_state
from eru.recurrence import Backend, lstm_scan


class ERU(nn.Module):
    r"""Layers of efficient recurrent units; a drop-in for ``nn.LSTM``.

    The input gates of all steps come from one :class:`ERUCell` a layer and direction at once; what remains per step
    is the recurrent product (:func:`eru.recurrence.lstm_scan`).

    Args:
        input_size: M, from 1 up.
        hidden_size: H, from 1 up.
        num_layers: layers, each over the outputs of the one below.
        bias: whether there is a bias.
        batch_first: input and output are (B, T, features); the state never is.
        dropout: on the outputs of each layer but the last.
        bidirectional: a second set of cells over the reversed sequence, outputs concatenated.
        proj_size: P; above 0, h is projected to P features.
        device: where the parameters live.
        dtype: type of the parameters.
        branches: see :class:`ERUCell`.
        groups: see :class:`ERUCell`.
        conv_axis: see :class:`ERUCell`. ``"time"`` makes the state (h, c, window); with ``bidirectional`` it stays
            (h, c) and the windows start from zeros in every call.
        kernel_size: see :class:`ERUCell`.
        input_transform: see :class:`ERUCell`.
        weight_dropout: dropout on the recurrent weights, one draw a call (AWD-LSTM's weight drop).
        hidden_dropout: dropout on h in the recurrent product, one mask over time (variational dropout).
        layer_norm: normalise the input gates.
        backend: see :func:`eru.recurrence.lstm_scan`.

    Shape:
        input (T, B, M), (B, T, M) if ``batch_first``, (T, M) for one sequence, or a ``PackedSequence``;
        output the same with D H features (D P with a projection), D = 2 if bidirectional else 1;
        h_n (D layers, B, H or P), c_n (D layers, B, H), window (layers, window_size, B, 4d).

    Raises:
        ValueError: options that do not fit, an input, a state or lengths of the wrong shape.

    Source:
        ESPNetv2, section 4.4 (arXiv 1811.11431).

    Example:
        >>> rnn = ERU(10, 20, num_layers=2)
        >>> output, (h_n, c_n) = rnn(torch.zeros(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        branches: int | None = None,
        groups: int | None = None,
        conv_axis: Literal["feature", "time"] = "feature",
        kernel_size: int = 3,
        input_transform: InputTransform | None = None,
        weight_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        layer_norm: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers}: must be at least 1")
        for name, p in (
            ("dropout", dropout),
            ("weight_dropout", weight_dropout),
            ("hidden_dropout", hidden_dropout),
        ):
            if not 0 <= p <= 1:
                raise ValueError(f"{name}={p}: must be a probability from 0 to 1")
        if dropout and num_layers == 1:
            warnings.warn(f"dropout={dropout} acts between layers, and there is only one", stacklevel=2)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.proj_size = proj_size
        self.backend: Backend = backend
        self.dropout, self.weight_dropout, self.hidden_dropout = dropout, weight_dropout, hidden_dropout
        self._directions = ("", "_reverse") if bidirectional else ("",)
        make = partial(
            ERUCell,
            bias=bias,
            device=device,
            dtype=dtype,
            branches=branches,
            groups=groups,
            conv_axis=conv_axis,
            kernel_size=kernel_size,
            input_transform=input_transform,
            proj_size=proj_size,
            layer_norm=layer_norm,
        )
        width = len(self._directions) * (proj_size or hidden_size)
        self.cells = nn.ModuleDict(
            {
                f"l{layer}{direction}": make(width if layer else input_size, hidden_size)
                for layer in range(num_layers)
                for direction in self._directions
            }
        )

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM) -> "ERU":
        """An ERU with linear input transforms that gives the outputs of ``lstm``.

        Example:
            >>> lstm, x = nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
            >>> torch.allclose(ERU.from_lstm(lstm)(x)[0], lstm(x)[0], atol=1e-6)
            True
        """
        weight = next(lstm.parameters())
        eru = cls(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            lstm.bias,
            lstm.batch_first,
            lstm.dropout,
            lstm.bidirectional,
            lstm.proj_size,
            weight.device,
            weight.dtype,
            input_transform=partial(nn.Linear, bias=lstm.bias),
        )
        theirs = {"input_transform.weight": "weight_ih", "input_transform.bias": "bias_ih", "bias": "bias_hh"}
        for name, cell in eru._cells.items():
            cell.load_state_dict(
                {ours: getattr(lstm, f"{theirs.get(ours, ours)}_{name}") for ours in cell.state_dict()}
            )
        return eru.train(lstm.training)

    @property
    def _cells(self) -> dict[str, ERUCell]:
        return cast("dict[str, ERUCell]", self.cells)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer and direction, as in ``nn.LSTM``."""
        return [list(cell.parameters()) for cell in self._cells.values()]

    def flatten_parameters(self) -> None:
        """Nothing to do: kept so that code written for ``nn.LSTM`` runs unchanged."""

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        for cell in self._cells.values():
            cell.reset_parameters()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the sequence; ``hx`` defaults to zeros.

        Args:
            input: the sequence, see Shape above.
            hx: the state before it, (h, c) or (h, c, window).
            lengths: (B,), each from 1 to T, where padded sequences end: the state is taken there, the reverse
                direction starts there, and outputs behind are zero. A ``PackedSequence`` brings its own.

        Returns:
            The outputs and the state after them.

        Raises:
            ValueError: an input, a state or lengths of the wrong shape.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: a PackedSequence brings its own")
            return self._forward_packed(input, hx)
        first = self._cells["l0"]
        first.check_input(input, (2, 3))
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if self.batch_first and batched:
            x = x.transpose(0, 1)
        if hx is not None and not batched:
            hx = tuple(part.unsqueeze(-2) for part in hx)
        if lengths is not None:
            lengths = _check_lengths(lengths, x)
        output, state = self._run(x, hx, lengths)
        if not batched:
            return output.squeeze(1), tuple(part.squeeze(-2) for part in state)
        return (output.transpose(0, 1) if self.batch_first else output), state

    def _forward_packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        x, lengths = pad_packed_sequence(packed)
        first = self._cells["l0"]
        first.check_input(x, (3,))
        output, state = self._run(x, hx, lengths.to(x.device))
        if packed.sorted_indices is not None:
            output = output.index_select(1, packed.sorted_indices)
        columns = torch.arange(x.shape[1])
        valid = columns < packed.batch_sizes.unsqueeze(1)  # (T, B), batch sizes live on the CPU
        data = output[valid.to(output.device)]
        return packed._replace(data=data), state

    def _run(self, x: Tensor, hx: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        initial = self._initial_state(x)
        if hx is None:
            hx = initial
        check_state(hx, initial)
        valid = None
        if lengths is not None:
            valid = (torch.arange(x.shape[0], device=x.device).unsqueeze(1) < lengths).unsqueeze(-1)  # (T, B, 1)
            x = x.masked_fill(~valid, 0)
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in self._directions:
                index = len(ends)
                start = tuple(part[index] for part in hx)
                cell = self._cells[f"l{layer}{direction}"]
                y = _flip(x, lengths) if direction else x
                y, end = self._run_cell(cell, y, start, lengths, valid)
                outputs.append(_flip(y, lengths) if direction else y)
                ends.append(end)
            x = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*ends, strict=True))

    def _initial_state(self, x: Tensor) -> State:
        states = [cell.initial_state(x.shape[1], x) for cell in self._cells.values()]
        parts = 2 if self.bidirectional else len(states[0])
        return tuple(torch.stack([state[part] for state in states]) for part in range(parts))

    def _run_cell(
        self, cell: ERUCell, x: Tensor, start: State, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer in one direction, always forwards in time."""
        h0, c0, *window = start
        gates, past = cell.project_on(x, window[0] if window else None)
        if valid is not None:
            # Behind a sequence's end the cell must stay as it is: input gate shut, forget gate open.
            frozen = gates.new_tensor([-1e4, 1e4, 0.0, 0.0]).repeat_interleave(self.hidden_size)
            gates = torch.where(valid, gates, frozen)
        mask = None
        if self.hidden_dropout and self.training:
            mask = F.dropout(torch.ones_like(h0), self.hidden_dropout)
        hidden, (h, c) = lstm_scan(
            gates,
            drop_weight(cell.weight_hh, self.weight_dropout) if self.training else cell.weight_hh,
            h0,
            c0,
            weight_hr=cell.weight_hr,
            hidden_mask=mask,
            backend=self.backend,
        )
        if valid is not None and lengths is not None:
            h = hidden.gather(0, (lengths - 1).view(1, -1, 1).expand(1, -1, hidden.shape[2])).squeeze(0)
            hidden = hidden.masked_fill(~valid, 0)
        if not window or past is None:
            return hidden, (h, c)
        return hidden, (h, c, _last(past, cell.window_size, lengths))

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        shown = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("num_layers", 1),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            if getattr(self, name) != default:
                shown += f", {name}={getattr(self, name)}"
        return shown


def drop_weight(weight: Tensor, p: float) -> Tensor:
    """Dropout of a weight: what ``F.dropout`` does, with draws that a CPU makes sooner.

    Example:
        >>> dropped = drop_weight(torch.ones(4, 5), 0.5)
        >>> bool(((dropped == 0) | (dropped == 2)).all())
        True
    """
    if not 0 < p < 1:
        return F.dropout(weight, p)
    return weight * (torch.rand_like(weight) >= p).to(weight.dtype).div_(1 - p)


def _check_lengths(lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
    steps, batch, _ = x.shape
    lengths = torch.as_tensor(lengths, dtype=torch.int64, device=x.device)
    if lengths.shape != (batch,):
        raise ValueError(f"lengths of shape {tuple(lengths.shape)}: expected ({batch},), one a sequence")
    if not torch.compiler.is_compiling() and bool(((lengths < 1) | (lengths > steps)).any()):
        raise ValueError(f"lengths={lengths.tolist()}: each must be from 1 to the number of steps, {steps}")
    return lengths


def _flip(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse (T, B, features) in time, each sequence within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, index.unsqueeze(-1).expand_as(x))


def _last(past: Tensor, size: int, lengths: Tensor | None) -> Tensor:
    """The last ``size`` steps of (size + T, B, features), at each sequence's own end."""
    if lengths is None:
        return past[-size:]
    index = lengths + torch.arange(size, device=past.device).unsqueeze(1)
    return past.gather(0, index.unsqueeze(-1).expand(-1, -1, past.shape[2]))

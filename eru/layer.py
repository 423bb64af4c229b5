"""ERU: cells over time, layers and directions, with the surface of ``nn.LSTM``."""

import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import cast, get_args

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from eru.cell import ERUCell, InputTransform, State, call_as_leaf, check_state
from eru.lengths import check_lengths, flip, without_padding
from eru.lstm_names import LSTMNames
from eru.recurrence import Backend, lstm_scan


class ERU(LSTMNames):
    r"""Layers of efficient recurrent units; a drop-in for ``nn.LSTM``.

    The input gates of all steps come from one :class:`ERUCell` a layer and direction at once; what remains per step
    is the recurrent product (:func:`eru.recurrence.lstm_scan`).

    Call ``reset_parameters()`` after an initialisation loop over all parameters of a model: such loops shut the gates,
    see :class:`eru.EESPGates`. TorchScript and the exporter built on it are not supported; ``torch.export`` is.

    Args:
        input_size: M, from 1 up.
        hidden_size: H, from 1 up.
        num_layers: Layers, each over the outputs of the one below.
        bias: Whether there is a bias.
        batch_first: Whether input and output are (B, T, features); the state never is.
        dropout: Probability of dropout on the outputs of each layer but the last.
        bidirectional: Whether there is a second set of cells over the reversed sequence; outputs are concatenated.
        proj_size: P; above 0, h is projected to P features.
        device, dtype: Where the parameters live, and their type.
        branches, groups, kernel_size, shared_reduce, input_transform, recurrent_groups: See :class:`ERUCell`.
        weight_dropout: Probability of dropout on the recurrent weights, one draw a call (AWD-LSTM's weight drop).
        hidden_dropout: Probability of dropout on h in the recurrent product, one mask over time (variational dropout).
        layer_norm: Whether to normalise the input gates.
        backend: See :func:`eru.recurrence.lstm_scan`.

    Shape:
        input (T, B, M), (B, T, M) if ``batch_first``, (T, M) for one sequence, or a ``PackedSequence``;
        output the same with D H features (D P with a projection), D = 2 if bidirectional else 1;
        h_n (D layers, B, H or P), c_n (D layers, B, H), c_n in the type of the parameters.

    Raises:
        ValueError: Options that do not fit, an input, a state or lengths of the wrong shape or type.

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
        kernel_size: int = 3,
        shared_reduce: bool = False,
        input_transform: InputTransform | None = None,
        weight_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        layer_norm: bool = False,
        recurrent_groups: int = 1,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if backend not in get_args(Backend):
            raise ValueError(f"backend={backend!r}: must be one of {', '.join(get_args(Backend))}")
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers}: must be at least 1")
        dropouts = {"dropout": dropout, "weight_dropout": weight_dropout, "hidden_dropout": hidden_dropout}
        for name, p in dropouts.items():
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
        make = partial(ERUCell, bias=bias, proj_size=proj_size, layer_norm=layer_norm, device=device, dtype=dtype)
        make = partial(make, branches=branches, groups=groups, kernel_size=kernel_size, shared_reduce=shared_reduce)
        make = partial(make, input_transform=input_transform, recurrent_groups=recurrent_groups)
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
        """An ERU with linear input transforms that gives the outputs of ``lstm``; frozen weights stay frozen.

        Raises:
            TypeError: ``lstm`` is not an ``nn.LSTM``.

        Example:
            >>> lstm, x = nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)
            >>> torch.allclose(ERU.from_lstm(lstm)(x)[0], lstm(x)[0], atol=1e-6)
            True
        """
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"lstm of type {type(lstm).__name__}: must be an nn.LSTM")
        sizes = ("input_size", "hidden_size", "num_layers", "proj_size")
        options = {name: getattr(lstm, name) for name in (*sizes, "bias", "batch_first", "dropout", "bidirectional")}
        weight = next(lstm.parameters())
        dense = partial(nn.Linear, bias=lstm.bias)
        eru = cls(**options, input_transform=dense, device=weight.device, dtype=weight.dtype)
        theirs = {"input_transform.weight": "weight_ih", "input_transform.bias": "bias_ih", "bias": "bias_hh"}
        with torch.no_grad():
            for name, cell in eru._cells.items():
                for ours, parameter in cell.named_parameters():
                    source = getattr(lstm, f"{theirs.get(ours, ours)}_{name}")
                    parameter.copy_(source)
                    parameter.requires_grad_(source.requires_grad)
        return eru.train(lstm.training)

    @property
    def _cells(self) -> dict[str, ERUCell]:
        return cast("dict[str, ERUCell]", self.cells)

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
        """Run the sequence.

        Args:
            input: The sequence, see Shape above.
            hx: The state (h, c) before it; zeros by default.
            lengths: (B,), each from 1 to T, where padded sequences end: the state is taken there, the reverse
                direction starts there, and outputs behind are zero. A ``PackedSequence`` brings its own.

        Returns:
            The outputs, and the state after them.
        """
        if isinstance(input, torch.fx.Proxy):
            return call_as_leaf(self, input, hx, lengths=lengths)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: a PackedSequence brings its own")
            return self._forward_packed(input, hx)
        self._cells["l0"].check_input(input, (2, 3))
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if self.batch_first and batched:
            x = x.transpose(0, 1)
        if x.shape[0] < 1:
            raise ValueError(f"input of shape {tuple(input.shape)}: at least one step is needed")
        start = self._start(x, hx, batched)
        output, (h, c) = self._run(x, start, None if lengths is None else check_lengths(lengths, x))
        if not batched:
            return output.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return (output.transpose(0, 1) if self.batch_first else output), (h, c)

    def _forward_packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        x, lengths = pad_packed_sequence(packed)
        self._cells["l0"].check_input(x, (3,))
        output, state = self._run(x, self._start(x, hx, True), lengths.to(x.device))
        if packed.sorted_indices is not None:
            output = output.index_select(1, packed.sorted_indices)
        columns = torch.arange(x.shape[1])
        valid = columns < packed.batch_sizes.unsqueeze(1)  # (T, B), batch sizes live on the CPU
        data = output[valid.to(output.device)]
        return packed._replace(data=data), state

    def _start(self, x: Tensor, hx: State | None, batched: bool) -> State:
        """The state before the sequence (T, B, M): (layers and directions, B, features) each."""
        first, count, batch = self._cells["l0"], len(self._cells), x.shape[1]
        if hx is None:
            h, c = first.initial_state(count * batch, x)
            return h.unflatten(0, (count, batch)), c.unflatten(0, (count, batch))
        sizes = (count, batch) if batched else (count,)
        h, c = check_state(hx, sizes, first.output_size, first.hidden_size, first.weight_hh.dtype)
        return (h, c) if batched else (h.unsqueeze(1), c.unsqueeze(1))

    def _run(self, x: Tensor, start: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """All layers and directions over (T, B, M)."""
        if lengths is not None:
            x = without_padding(x, lengths)
        recurrence = partial(self._recurrence, lengths=lengths)
        # One evaluated step is the cell's own, which has less to prepare. No traced graph may depend on the length.
        evaluates = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        alone = evaluates and lengths is None and x.shape[0] == 1
        alone = alone and self.backend == os.environ.get("ERU_BACKEND", "auto") == "auto"
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in self._directions:
                cell = self._cells[f"l{layer}{direction}"]
                h, c = (part[len(ends)] for part in start)
                if alone:
                    end = cell(x[0], (h, c))
                    y = end[0].unsqueeze(0)
                else:
                    y, end = cell(flip(x, lengths) if direction else x, (h, c), recurrence=recurrence)
                    y = flip(y, lengths) if direction else y
                outputs.append(y)
                ends.append(end)
            x = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        # Stacked, and so copied: who changes the outputs in place must not change the state.
        return x, cast("State", tuple(torch.stack(parts) for parts in zip(*ends, strict=True)))

    def _recurrence(
        self, gates: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, weight_hr: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        """The recurrence of one layer in one direction, with the dropouts on what recurs."""
        mask = None
        if self.training:
            weight_hh = drop_weight(weight_hh, self.weight_dropout)
            if self.hidden_dropout:
                mask = F.dropout(torch.ones_like(h), self.hidden_dropout)
        return lstm_scan(
            gates, weight_hh, h, c, weight_hr=weight_hr, hidden_mask=mask, lengths=lengths, backend=self.backend
        )

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        defaults = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        values = {name: getattr(self, name) for name in defaults}
        others = [f"{name}={value}" for name, value in values.items() if value != defaults[name]]
        return ", ".join([str(self.input_size), str(self.hidden_size), *others])


def drop_weight(weight: Tensor, p: float) -> Tensor:
    """Dropout of a weight: what ``F.dropout`` does, with draws that a CPU makes sooner.

    Example:
        >>> dropped = drop_weight(torch.ones(4, 5), 0.5)
        >>> bool(((dropped == 0) | (dropped == 2)).all())
        True
    """
    if not 0 < p < 1:
        return F.dropout(weight, p) if p else weight
    # In bfloat16 the draws would have too few digits for a small p.
    draws = torch.rand_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    return weight * (draws >= p).to(weight.dtype).div_(1 - p)

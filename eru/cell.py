"""ERUCell: one time step of an LSTM whose input-to-gate maps are EESP units."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from eru.autocast import product_dtype
from eru.gates import EESPGates
from eru.recurrence.naive import lstm_step

InputTransform = Callable[[int, int], nn.Module]
State = tuple[Tensor, Tensor]
Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, State]]
"""Input gates (T, B, 4H), W_hh, h, c and W_hr -> all hidden states and the last state.

Input gates are what the input adds to all four gates, of which the first is called i here.
"""


class ERUCell(nn.Module):
    r"""Efficient recurrent unit: an LSTM cell whose input maps are 1-D EESP units; a drop-in for ``nn.LSTMCell``.

    .. math::
        a_q = \mathrm{EESP}_q(x) + W_q h + b_q, \quad q \in \{i, f, g, o\}, \qquad
        c' = \sigma(a_f) c + \sigma(a_i) \tanh(a_g), \quad h' = \sigma(a_o) \tanh(c')

    Call ``reset_parameters()`` after an initialisation loop over all parameters of a model: such loops shut the gates,
    see :class:`eru.EESPGates`.

    Args:
        input_size: M, from 1 up.
        hidden_size: H, from 1 up.
        bias: Whether there is a bias b (4H).
        device, dtype: Where the parameters live, and their type.
        branches: K of the EESP; by default 4 (fewer for the smallest H). An explicit number must divide H.
        groups: Groups of the EESP; by default chosen to fit. An explicit number must divide H / K, and M too unless
            the reduce is shared.
        kernel_size: Taps of a branch, odd.
        shared_reduce: Whether the gates share one EESP with a dense reduce, in place of one grouped EESP each, which
            has as many weights; see :class:`eru.EESPGates`.
        input_transform: ``(input_size, 4 * hidden_size) -> nn.Module``, which replaces the EESP and so excludes the
            four options before it; ``nn.Linear`` makes an LSTM.
        proj_size: P; above 0, h is projected to (B, P) as in ``nn.LSTM``.
        layer_norm: Whether to normalise the input gates.
        recurrent_groups: R, which must divide H and P. The units are cut into R blocks, each of which reads its own
            slice of h: R times fewer recurrent weights, (4H, H / R), as in PRU (arXiv 1808.09029).

    Shape:
        input (B, M) or (M,); h (B, H or P) and c (B, H), without B for one vector. The output is the next (h, c), with
        c in the type of the parameters.

    Raises:
        ValueError: Sizes or options that do not fit, an input or a state of the wrong shape or type.

    Source:
        ESPNetv2, section 4.4 (arXiv 1811.11431).

    Example:
        >>> cell = ERUCell(10, 20)
        >>> h, c = cell(torch.zeros(3, 10))
        >>> h, c = cell(torch.zeros(3, 10), (h, c))
        >>> h.shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        branches: int | None = None,
        groups: int | None = None,
        kernel_size: int = 3,
        shared_reduce: bool = False,
        input_transform: InputTransform | None = None,
        proj_size: int = 0,
        layer_norm: bool = False,
        recurrent_groups: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("proj_size", proj_size)):
            if not isinstance(value, int):
                raise TypeError(f"{name}={value!r}: must be a whole number")
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"proj_size={proj_size}: must be at least 0 and below hidden_size={hidden_size}")
        for name, value in (("hidden_size", hidden_size), ("proj_size", proj_size)):
            if recurrent_groups < 1 or value % recurrent_groups:
                raise ValueError(f"recurrent_groups={recurrent_groups}: must divide {name}={value}")
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.recurrent_groups = recurrent_groups
        if input_transform is None:
            sizes = {"branches": branches, "groups": groups, "kernel_size": kernel_size}
            input_transform = partial(EESPGates, **sizes, shared_reduce=shared_reduce, device=device, dtype=dtype)
        else:
            given = {"branches": (branches, None), "groups": (groups, None)}
            given |= {"kernel_size": (kernel_size, 3), "shared_reduce": (shared_reduce, False)}
            for name, (value, default) in given.items():
                if value != default:
                    raise ValueError(f"{name}={value}: is an option of the EESP, which input_transform replaces")
        self.input_transform = input_transform(input_size, 4 * hidden_size).to(device=device, dtype=dtype)
        self.layer_norm = None
        if layer_norm:
            self.layer_norm = nn.LayerNorm(4 * hidden_size, bias=False, device=device, dtype=dtype)
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.weight_hh = nn.Parameter(empty(4 * hidden_size, (proj_size or hidden_size) // recurrent_groups))
        self.weight_hr = nn.Parameter(empty(proj_size, hidden_size)) if proj_size else None
        self.bias = nn.Parameter(empty(4 * hidden_size)) if bias else None
        self._reset_recurrent()

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as the constructor does."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self._reset_recurrent()

    def _reset_recurrent(self) -> None:
        """Draw recurrent weights as ``nn.LSTM``'s of each block's size; biases are 0, the forget gate's 1."""
        limit = 1 / math.sqrt(self.hidden_size // self.recurrent_groups)
        nn.init.uniform_(self.weight_hh, -limit, limit)
        if self.weight_hr is not None:
            limit = 1 / math.sqrt(self.hidden_size)
            nn.init.uniform_(self.weight_hr, -limit, limit)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
            nn.init.ones_(self.bias[self.hidden_size : 2 * self.hidden_size])

    @property
    def output_size(self) -> int:
        """Features of h: P with a projection, else H."""
        return self.proj_size or self.hidden_size

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        """Zeros for a batch on the device of ``like``: h in its type, c in the parameters' type."""
        h = like.new_zeros(batch_size, self.output_size)
        return h, like.new_zeros(batch_size, self.hidden_size, dtype=self.weight_hh.dtype)

    def project(self, x: Tensor) -> Tensor:
        """What the input adds to the four gates, bias included, of any number of steps at once: (*, M) -> (*, 4H)."""
        if type(self.input_transform) is EESPGates and self.layer_norm is None:
            return self.input_transform(x, self.bias)
        gates = self.input_transform(x)
        if self.layer_norm is not None:
            gates = self.layer_norm(gates)
        return gates if self.bias is None else gates + self.bias.to(gates.dtype)

    def step(self, gates: Tensor, state: State) -> State:
        """One step of the recurrence: input gates (B, 4H) and (h, c) -> the next (h, c)."""
        h, c = state
        # Cells add up over many steps, so they are computed in at least float32.
        cells = c.to(torch.promote_types(c.dtype, torch.float32))
        h, cells = lstm_step(gates, self.weight_hh, h.to(gates.dtype), cells, self.weight_hr)
        return h, cells.to(c.dtype)

    def forward(
        self, input: Tensor, hx: State | None = None, *, recurrence: Recurrence | None = None
    ) -> State | tuple[Tensor, State]:
        """One step, or with ``recurrence`` a whole sequence.

        Args:
            input: (B, M) or (M,), or (T, B, M) with ``recurrence``.
            hx: The state (h, c) before it; zeros by default.
            recurrence: Runs all steps, given their input gates. :class:`eru.ERU` calls its cells with it, so that
                whatever hangs on a cell's call (hooks, spectral norm, pruning, sharding) is at work there too.

        Returns:
            The next (h, c); with ``recurrence`` what that returns, all hidden states and the last (h, c).
        """
        if isinstance(input, torch.fx.Proxy):
            return call_as_leaf(self, input, hx)
        if recurrence is not None:
            h, c = self.initial_state(input.shape[1], input) if hx is None else hx
            return recurrence(self.project(input), self.weight_hh, h, c, self.weight_hr)
        self.check_input(input, (1, 2))
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            state = self.initial_state(x.shape[0], x)
        else:
            h, c = check_state(hx, input.shape[:-1], self.output_size, self.hidden_size, self.weight_hh.dtype)
            state = (h, c) if batched else (h.unsqueeze(0), c.unsqueeze(0))
        unit, done = self.input_transform, None
        # A subclass may have a `project` or a `step` of its own.
        if type(self) is ERUCell and type(unit) is EESPGates and self.layer_norm is None and self.weight_hr is None:
            done = unit.step_in_c(x, self.bias, self.weight_hh, *state)
        h, c = self.step(self.project(x), state) if done is None else done
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))

    def check_input(self, x: Tensor, dimensions: tuple[int, ...]) -> None:
        """Raise an error unless ``x`` is a tensor of a fitting type and shape, with ``input_size`` features last."""
        if not isinstance(x, Tensor):
            raise TypeError(f"input of type {type(x).__name__}: must be a tensor")
        if x.dim() not in dimensions or x.shape[-1] != self.input_size:
            allowed = " or ".join(f"{n}-D" for n in dimensions)
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected {allowed} with input_size={self.input_size} last"
            )
        # Autocast brings every type but float64 into its own, so there it is enough that the products agree.
        dtype = self.weight_hh.dtype
        if x.dtype != dtype and product_dtype(x) != product_dtype(self.weight_hh):
            raise ValueError(f"input of type {x.dtype}: expected {dtype}, the type of the parameters")

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        projected = f", proj_size={self.proj_size}" if self.proj_size else ""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias is not None}{projected}"


def check_state(
    state: Sequence[Tensor], sizes: Sequence[int], output_size: int, hidden_size: int, dtype: torch.dtype
) -> State:
    """What a caller gave as (h, c), with c in the parameters' type; ``sizes`` come before the features, such as (B,).

    A state of a wider type than ``dtype``, that of the parameters, is refused; a narrower one comes from autocast.

    Example:
        >>> check_state((torch.zeros(2, 3), torch.zeros(2, 4)), (2,), 4, 4, torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: state h of shape (2, 3): expected (2, 4)
    """
    if not isinstance(state, tuple | list) or len(state) != 2:
        found = f"{len(state)} tensors" if isinstance(state, tuple | list) else f"type {type(state).__name__}"
        raise ValueError(f"state of {found}: expected (h, c)")
    for name, part, features in (("h", state[0], output_size), ("c", state[1], hidden_size)):
        shape = (*sizes, features)
        if not isinstance(part, Tensor):
            raise ValueError(f"state {name} is {part!r}: expected a tensor of shape {shape}")
        if part.shape != shape:
            raise ValueError(f"state {name} of shape {tuple(part.shape)}: expected {shape}")
        if torch.promote_types(part.dtype, dtype) != dtype:
            raise ValueError(f"state {name} of type {part.dtype}: expected {dtype}, the type of the parameters")
    return state[0], state[1].to(dtype)


def call_as_leaf(module: nn.Module, input: torch.fx.Proxy, hx: object, **options: object) -> Any:
    """One node for the whole module while ``torch.fx`` traces, as it makes for torch's own recurrent modules."""
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input, hx), options)

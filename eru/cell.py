"""ERUCell: one time step of an LSTM whose input-to-gate maps are EESP units."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from eru.gates import SequenceEESP
from eru.recurrence.naive import lstm_step

InputTransform = Callable[[int, int], nn.Module]
State = tuple[Tensor, ...]


class ERUCell(nn.Module):
    r"""Efficient recurrent unit: an LSTM cell whose input map is one 1-D EESP per gate; a drop-in for ``nn.LSTMCell``.

    .. math::
        a_q = \mathrm{EESP}_q(x) + W_q h + b_q, \quad q \in \{i, f, g, o\}, \qquad
        c' = \sigma(a_f) c + \sigma(a_i) \tanh(a_g), \quad h' = \sigma(a_o) \tanh(c')

    Args:
        input_size: M, from 1 up.
        hidden_size: H, from 1 up.
        bias: whether there is a bias b (4H).
        device: where the parameters live.
        dtype: type of the parameters.
        branches: K of the EESP; by default 4 (fewer for the smallest H). An explicit number must divide H.
        groups: of the EESP; by default chosen to fit. An explicit number must divide M and H / K.
        conv_axis: what the taps slide over: ``"feature"``, within the reduced vector of a step, or ``"time"``,
            causally over the steps; the state then is (h, c, window).
        kernel_size: taps of a branch; odd for ``"feature"``.
        input_transform: ``(input_size, 4 * hidden_size) -> nn.Module`` that replaces the EESP; ``nn.Linear`` makes
            an LSTM.
        proj_size: P; above 0, h is projected to (B, P) as in ``nn.LSTM``.
        layer_norm: normalise the input gates.

    Shape:
        input (B, M) or (M,); h (B, H or P), c (B, H), window (window_size, B, 4d), each without B for one vector.
        The output is the next state.

    Raises:
        ValueError: sizes or options that do not fit, an input or a state of the wrong shape.

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
        conv_axis: Literal["feature", "time"] = "feature",
        kernel_size: int = 3,
        input_transform: InputTransform | None = None,
        proj_size: int = 0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"proj_size={proj_size}: must be at least 0 and below hidden_size={hidden_size}")
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        if input_transform is None:
            input_transform = partial(
                SequenceEESP,
                branches=branches,
                groups=groups,
                conv_axis=conv_axis,
                kernel_size=kernel_size,
                device=device,
                dtype=dtype,
            )
        self.input_transform = input_transform(input_size, 4 * hidden_size).to(device=device, dtype=dtype)
        self.layer_norm = None
        if layer_norm:
            self.layer_norm = nn.LayerNorm(4 * hidden_size, bias=False, device=device, dtype=dtype)
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.weight_hh = nn.Parameter(empty(4 * hidden_size, proj_size or hidden_size))
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
        """Recurrent weights U(-1/sqrt(H), 1/sqrt(H)) as in ``nn.LSTM``; bias 0, but 1 for the forget gate."""
        limit = 1 / math.sqrt(self.hidden_size)
        nn.init.uniform_(self.weight_hh, -limit, limit)
        if self.weight_hr is not None:
            nn.init.uniform_(self.weight_hr, -limit, limit)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
            nn.init.ones_(self.bias[self.hidden_size : 2 * self.hidden_size])

    @property
    def window_size(self) -> int:
        """Steps of reduced inputs in the state; 0 where the state is (h, c)."""
        return getattr(self.input_transform, "window_size", 0)

    @property
    def output_size(self) -> int:
        """Features of h: P with a projection, else H."""
        return self.proj_size or self.hidden_size

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        """Zeros for a batch, on the device and in the type of ``like``; cells, which add up, in at least float32."""
        h = like.new_zeros(batch_size, self.output_size)
        c = like.new_zeros(batch_size, self.hidden_size, dtype=torch.promote_types(like.dtype, torch.float32))
        if isinstance(self.input_transform, SequenceEESP) and self.window_size:
            return h, c, self.input_transform.initial_window(batch_size, like)
        return h, c

    def project(self, x: Tensor) -> Tensor:
        """Input gates, bias included, of any number of steps at once: (T, B, M) -> (T, B, 4H).

        With ``conv_axis="time"`` the steps are the first of their sequence.
        """
        return self.project_on(x, None)[0]

    def project_on(self, x: Tensor, window: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Input gates of steps that follow ``window``, and the window followed by the steps' reduced inputs."""
        if isinstance(self.input_transform, SequenceEESP) and self.window_size:
            gates, past = self.input_transform.continued(x, window)
        else:
            gates, past = self.input_transform(x), None
        if self.layer_norm is not None:
            gates = self.layer_norm(gates)
        return (gates if self.bias is None else gates + self.bias.to(gates.dtype)), past

    def step(self, gates: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """One step of the recurrence: input gates (B, 4H) and (h, c) -> the next (h, c)."""
        h, c = state[:2]
        h, cells = lstm_step(gates, self.weight_hh, h, c, self.weight_hr)
        return h, cells

    def check_input(self, x: Tensor, dimensions: tuple[int, ...]) -> None:
        """Raise ``ValueError`` unless ``x`` has one of the dimensions and ``input_size`` features."""
        if x.dim() not in dimensions or x.shape[-1] != self.input_size:
            allowed = " or ".join(f"{n}-D" for n in dimensions)
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected {allowed} with input_size={self.input_size} last"
            )

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """One step; the state ``hx`` defaults to zeros."""
        self.check_input(input, (1, 2))
        x = input if input.dim() == 2 else input.unsqueeze(0)
        initial = self.initial_state(x.shape[0], x)
        if hx is None:
            hx = initial
        elif input.dim() == 1:
            hx = tuple(part.unsqueeze(-2) for part in hx)
        check_state(hx, initial)
        gates, past = self.project_on(x.unsqueeze(0), hx[2] if self.window_size else None)
        new: State = self.step(gates[0], hx)
        if past is not None:
            new = (*new, past[-self.window_size :])
        return new if input.dim() == 2 else tuple(part.squeeze(-2) for part in new)

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        projected = f", proj_size={self.proj_size}" if self.proj_size else ""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias is not None}{projected}"


def check_state(state: State, expected: State) -> None:
    """Raise ``ValueError`` unless every part of the state has its expected shape.

    Example:
        >>> check_state((torch.zeros(2, 3),), (torch.zeros(2, 4),))
        Traceback (most recent call last):
        ...
        ValueError: state h of shape (2, 3): expected (2, 4)
    """
    names = ("h", "c", "window")[: len(expected)]
    if len(state) != len(expected):
        raise ValueError(f"state of {len(state)} tensors: expected ({', '.join(names)})")
    for name, part, want in zip(names, state, expected, strict=True):
        if part.shape != want.shape:
            raise ValueError(f"state {name} of shape {tuple(part.shape)}: expected {tuple(want.shape)}")

"""What an ERU's input map could be: the forms that input_maps.py compares, each ``(M, 4H) -> module``."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru import ERU, EESPGates
from eru.eesp import draw_branches, running_sums
from eru.lm.model import dense_gates

GATES = 4


class Residual(EESPGates):
    """The unit with its input added to every gate, where it is as wide as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        gates = super().forward(x)
        return gates + x.repeat(1, 1, GATES) if self.input_size == self.size else gates


class Identity(EESPGates):
    """The unit whose branches start as if they were not there: the first is the identity, the others zero."""

    def reset_parameters(self) -> None:
        """Draw reduce and expand as ever."""
        super().reset_parameters()
        nn.init.zeros_(self.branch_weight)
        nn.init.ones_(self.branch_weight.detach().chunk(self.branches)[0][..., self.kernel_size // 2])


class Activated(EESPGates):
    """The unit with PReLU after the reduce and the fused branches, as in vision; none on the gates themselves."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.reduce_activation = nn.PReLU(GATES * self.width)
        self.branch_activation = nn.PReLU(self.branches * GATES * self.width)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        reduced = self._reduce(x.flatten(0, 1), self.reduce_weight).transpose(0, 1)  # (N, S, d)
        activated = self.reduce_activation(reduced.flatten(1)).view_as(reduced)
        fused = self._convolved(activated)  # (K, N, S, d)
        rows = fused.transpose(0, 1).flatten(1)  # (N, K S d), a slope for each feature
        fused = self.branch_activation(rows).view(-1, *fused.shape[:1], *fused.shape[2:]).transpose(0, 1)
        return self._expand(fused, self.expand_weight).transpose(0, 1).reshape(*x.shape[:2], -1)


class OverTime(EESPGates):
    """The unit whose branches slide over the steps, causally, one channel a reduced feature.

    ``window`` holds the last reduced inputs before a call, and after it those to go on from; :class:`OverTimeERU`
    makes it a part of the state.
    """

    window: Tensor

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.branch_weight = nn.Parameter(torch.empty(self.branches * GATES * self.width, 1, self.kernel_size))
        self.reach = (self.kernel_size - 1) * max(self.dilations)
        draw_branches(self.branch_weight, self.branches)
        # The tap of the present is the last one: those before it see the past.
        self.branch_weight.data = self.branch_weight.data.roll(self.kernel_size // 2, dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        steps, batch, _ = x.shape
        reduced = self._reduce(x.flatten(0, 1), self.reduce_weight)  # (S, T B, d)
        reduced = reduced.unflatten(1, (steps, batch)).permute(1, 2, 0, 3)  # (T, B, S, d)
        past = torch.cat([self.window.to(reduced.dtype), reduced])
        self.window = past[-self.reach :]
        signals = past.flatten(2).permute(1, 2, 0)  # (B, S d, reach + T)
        branches = [
            # Every branch starts where its own reach begins.
            F.conv1d(signals[..., self.reach - 2 * d :], weight, dilation=d, groups=signals.shape[1])
            for weight, d in zip(self.branch_weight.chunk(self.branches), self.dilations, strict=True)
        ]
        fused = torch.stack(running_sums(branches)).unflatten(2, (GATES, -1))  # (K, B, S, d, T)
        gates = self._expand(fused.permute(0, 4, 1, 2, 3).flatten(1, 2), self.expand_weight)  # (S, T B, H)
        return gates.transpose(0, 1).reshape(steps, batch, -1)


class OverTimeERU(ERU):
    """An ERU over time: its state is (h, c, window)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, input_transform=OverTime)

    def forward(self, x: Tensor, hx: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run (T, B, M)."""
        unit = self.cells["l0"].input_transform
        unit.window = x.new_zeros(unit.reach, x.shape[1], GATES, unit.width) if hx is None else hx[2]
        output, state = super().forward(x, None if hx is None else hx[:2])
        return output, (*state, unit.window)


class SharedReduceDrawn(EESPGates):
    """The unit that all gates share, with taps drawn as those of any EESP."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size, shared_reduce=True)

    def reset_parameters(self) -> None:
        """Draw reduce and expand as ever."""
        super().reset_parameters()
        draw_branches(self.branch_weight, self.branches)


class Grouped(nn.Module):
    """Dense maps from each quarter of the input to a quarter of every gate."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        share = input_size // GATES
        self.weight = nn.Parameter(torch.randn(GATES, share, output_size // GATES) / math.sqrt(share))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        slices = x.unflatten(-1, (GATES, -1)).flatten(0, 1).transpose(0, 1)
        gates = torch.bmm(slices, self.weight).unflatten(-1, (GATES, -1))  # (group, T B, gate, H / 4)
        return gates.permute(1, 2, 0, 3).reshape(*x.shape[:2], -1)


class LowRank(nn.Module):
    """A dense reduce that all gates share, and a dense expand, with as many weights as the EESP map has."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        with torch.device("meta"):
            wanted = sum(p.numel() for p in EESPGates(input_size, output_size).parameters())
        rank = round(wanted / (input_size + output_size))
        self.reduce = nn.Parameter(torch.randn(rank, input_size) / math.sqrt(input_size))
        self.expand = nn.Parameter(torch.randn(output_size, rank) / math.sqrt(rank))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        return F.linear(F.linear(x, self.reduce), self.expand)


FORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "feature": EESPGates,
    "identity taps": Identity,
    "time": OverTime,
    "kernel 1": partial(EESPGates, kernel_size=1),
    "lstm": dense_gates,
    "one group": partial(EESPGates, groups=1),
    "no fusion": partial(EESPGates, fusion=False),
    "residual": Residual,
    "activation": Activated,
    "shared reduce": partial(EESPGates, shared_reduce=True),
    "one branch": partial(EESPGates, shared_reduce=True, branches=1, groups=4),
    "two branches": partial(EESPGates, shared_reduce=True, branches=2, groups=4),
    "shared reduce drawn": SharedReduceDrawn,
    "low rank": LowRank,
    "grouped linear": Grouped,
}

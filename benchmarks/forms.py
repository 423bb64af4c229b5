"""What an ERU's input map could be: the forms that input_maps.py compares, each ``(M, 4H) -> module``."""

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import EESP, dilations
from eru.gates import SequenceEESP
from eru.lm.model import dense_gates

GATES = 4


class Residual(SequenceEESP):
    """The unit with its input added to every gate, where it is as wide as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        gates = super().forward(x)
        return gates + x.repeat(1, 1, GATES) if self.in_channels == self.out_channels else gates


class Identity(SequenceEESP):
    """The unit whose branches start as if they were not there: the first is the identity, the others zero."""

    def reset_parameters(self) -> None:
        """Reduce and expand as ever."""
        for weight in (self.reduce_weight, self.expand_weight):
            nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
        nn.init.zeros_(self.branch_weight)
        nn.init.ones_(self.branch_weights()[0].detach()[..., self.kernel_size // 2])


class Activated(EESP):
    """The unit with PReLU after the reduce and the fused branches, as in vision; none on the gates themselves."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(
            input_size,
            output_size // GATES,
            ndim=1,
            stacks=GATES,
            conv_axis="feature",
            residual=False,
            activation=nn.PReLU,
        )
        self.activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        return super().forward(x.flatten(0, 1).unsqueeze(-1)).squeeze(-1).unflatten(0, x.shape[:2])


class SharedReduce(nn.Module):
    """The unit with one dense reduce and one set of branches that all gates share; only the expand has groups.

    Its branches start as the identity, or with ``drawn_taps`` as :class:`eru.eesp.EESP`'s do.
    """

    def __init__(self, input_size: int, output_size: int, *, drawn_taps: bool = False) -> None:
        super().__init__()
        self.width = math.ceil(output_size / GATES**3) * GATES  # as fit_sizes
        self.reduce = nn.Parameter(torch.randn(self.width, input_size) / math.sqrt(input_size))
        self.branches = nn.ModuleList(
            nn.Conv1d(GATES, GATES, 3, padding=dilation, dilation=dilation, groups=GATES, bias=False)
            for dilation in dilations()
        )
        self.expand = nn.Parameter(torch.randn(len(self.branches), self.width, output_size // len(self.branches)))
        nn.init.normal_(self.expand, std=1 / math.sqrt(self.width))
        for number, branch in enumerate(self.branches, start=1):
            nn.init.zeros_(branch.weight)
            if drawn_taps:
                nn.init.normal_(branch.weight[..., 1], std=1 / math.sqrt(number))
        if not drawn_taps:
            nn.init.ones_(self.branches[0].weight[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        identity = torch.eye(self.width, device=x.device, dtype=self.reduce.dtype).unflatten(1, (GATES, -1))
        fused = torch.stack(list(accumulate(branch(identity) for branch in self.branches))).flatten(2)  # (K, d, d)
        parts = torch.bmm(fused, self.expand).unflatten(2, (GATES, -1))  # (K, d, gate, H / K)
        return F.linear(F.linear(x, self.reduce), parts.permute(2, 0, 3, 1).flatten(0, 2))


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
            wanted = sum(p.numel() for p in SequenceEESP(input_size, output_size).parameters())
        rank = round(wanted / (input_size + output_size))
        self.reduce = nn.Parameter(torch.randn(rank, input_size) / math.sqrt(input_size))
        self.expand = nn.Parameter(torch.randn(output_size, rank) / math.sqrt(rank))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, M) -> (T, B, 4H)."""
        return F.linear(F.linear(x, self.reduce), self.expand)


FORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "feature": SequenceEESP,
    "identity taps": Identity,
    "time": partial(SequenceEESP, conv_axis="time"),
    "kernel 1": partial(SequenceEESP, kernel_size=1),
    "lstm": dense_gates,
    "one group": partial(SequenceEESP, groups=1),
    "no fusion": partial(SequenceEESP, fusion=False),
    "residual": Residual,
    "activation": Activated,
    "shared reduce": SharedReduce,
    "shared reduce drawn": partial(SharedReduce, drawn_taps=True),
    "low rank": LowRank,
    "grouped linear": Grouped,
}

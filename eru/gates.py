"""EESP as an input-to-gate map: the 1-D unit over a sequence, run as batched matrix products."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eru.eesp import EESP
from eru.kernels.autocast import product_dtype, without_autocast


class SequenceEESP(EESP):
    r"""A 1-D EESP per gate over a sequence: (T, B, M) -> (T, B, S H), where S gates share the slices of the input.

    It holds no normalisation, no activation and no residual, so it is linear, and its parts are matrix products:
    the reduce is one product over the groups, the expand one over the stacks. What the taps slide over is
    ``conv_axis``:

    - ``"feature"``: over the reduced vector of each step, so steps are independent. Branches, running sums and expand
      are then ONE matrix :math:`E \cdot \mathrm{branches}(I)` of d x H per gate, composed once per call; in a type
      narrower than float32, where products cost less than the copies between them, the reduce is composed with it.
    - ``"time"``: causally over the steps. The last :attr:`window_size` reduced inputs are the state it carries.

    Args:
        input_size: M, any number from 1 up.
        output_size: S H, a multiple of ``stacks``.
        stacks: S, one unit per gate.
        conv_axis: ``"feature"`` or ``"time"``.
        kernel_size: taps a branch; 1 has no neighbourhood.
        branches: as for :class:`EESP`.
        groups: as for :class:`EESP`.
        receptive_field: as for :class:`EESP`.
        fusion: as for :class:`EESP`.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        input (T, B, M), output (T, B, S H).

    Raises:
        ValueError: options that do not fit, or an input of the wrong shape, naming them.

    Example:
        >>> gates = SequenceEESP(20, 4 * 32)
        >>> gates(torch.zeros(7, 3, 20)).shape
        torch.Size([7, 3, 128])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        stacks: int = 4,
        conv_axis: Literal["feature", "time"] = "feature",
        kernel_size: int = 3,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        fusion: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if conv_axis not in ("feature", "time"):
            raise ValueError(f"conv_axis={conv_axis!r}: must be 'feature' or 'time'")
        if stacks < 1 or output_size % stacks:
            raise ValueError(f"output_size={output_size}: must be a multiple of stacks={stacks}, at least 1")
        over_time = conv_axis == "time"
        super().__init__(
            input_size,
            output_size // stacks,
            ndim=1,
            stacks=stacks,
            kernel_size=kernel_size,
            branches=branches,
            groups=groups,
            conv_axis="space" if over_time else "feature",
            causal=over_time,
            receptive_field=receptive_field,
            fusion=fusion,
            residual=False,
            device=device,
            dtype=dtype,
        )
        #: Steps of reduced inputs that the next call needs; 0 when steps are independent.
        self.window_size = (kernel_size - 1) * max(self.dilations) if over_time else 0

    def initial_window(self, batch_size: int, like: Tensor) -> Tensor:
        """Zeros for the reduced inputs before the first step: (window_size, B, S d)."""
        return like.new_zeros(self.window_size, batch_size, self.stacks * self.width)

    def forward(self, x: Tensor) -> Tensor:
        """Gates of a sequence that starts here: (T, B, M) -> (T, B, S H)."""
        return self.continued(x, None)[0]

    def continued(self, x: Tensor, window: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gates of a sequence that goes on after ``window``.

        Args:
            x: (T, B, M).
            window: reduced inputs before it (window_size, B, S d); ``None`` for zeros.

        Returns:
            The gates (T, B, S H) and the window followed by the reduced inputs (window_size + T, B, S d), whose last
            ``window_size`` steps are the next window (earlier ones where a sequence ends earlier). Where steps are
            independent there is none to return: (0, B, S d).
        """
        if x.dim() != 3 or x.shape[-1] != self.in_channels:
            raise ValueError(f"input of shape {tuple(x.shape)}: expected (T, B, {self.in_channels})")
        steps, batch, _ = x.shape
        # Composing costs as much as some H rows of the direct way; a traced graph must not depend on T.
        many = torch.compiler.is_compiling() or steps * batch >= self.out_channels
        if self.conv_axis == "feature" and many and product_dtype(x).itemsize < 4:
            gates = F.linear(x, self.dense_weight())
            return gates, self.initial_window(batch, gates)
        reduced = self._reduce(x)  # (S, T, B, d)
        if self.window_size == 0:
            past = self.initial_window(batch, reduced)
            if self.conv_axis == "feature" and many:
                out = torch.bmm(reduced.flatten(1, 2), self._composed())  # (S, T B, H)
                return out.transpose(0, 1).reshape(steps, batch, self.stacks * self.out_channels), past
        if self.conv_axis == "feature":
            fused = self.over_features(reduced.movedim(0, 2).flatten(2))  # (K, T, B, S, d)
            return self._expand(fused.movedim(3, 1)), past
        if window is None:
            window = self.initial_window(batch, reduced)
        past = torch.cat([window.unflatten(2, (self.stacks, self.width)).movedim(2, 0), reduced], dim=1)
        return self._expand(self._over_time(past, steps)), past.movedim(0, 2).flatten(2)

    def _reduce(self, x: Tensor) -> Tensor:
        steps, batch, _ = x.shape
        share = self.in_channels // self.groups
        groups = x.reshape(steps * batch, self.groups, share).transpose(0, 1)
        weight = self.reduce_weight.view(self.groups, -1, share).transpose(1, 2)
        out = torch.bmm(groups, weight)  # (groups, T B, S d/groups)
        out = out.view(self.groups, steps, batch, self.stacks, self.width // self.groups)
        return out.permute(3, 1, 2, 0, 4).reshape(self.stacks, steps, batch, self.width)

    def _over_time(self, past: Tensor, steps: int) -> Tensor:
        """Causal branches, fused: (S, window + T, B, d) -> (K, S, T, B, d)."""
        taps = self.branch_weight.view(self.branches, self.stacks, 1, 1, self.width, -1)
        branches = []
        for weight, dilation in zip(taps, self.dilations, strict=True):
            branch = None
            for tap in range(self.kernel_size):
                start = self.window_size - (self.kernel_size - 1 - tap) * dilation
                term = past[:, start : start + steps]
                branch = term * weight[..., tap] if branch is None else branch.addcmul(term, weight[..., tap])
            branches.append(branch)
        return torch.stack(self.fuse(branches))

    def _expand(self, fused: Tensor) -> Tensor:
        """Fused branches (K, S, T, B, d) -> gates (T, B, S H)."""
        _, stacks, steps, batch, _ = fused.shape
        # A group of the expand reads the concatenated branches' features, K d / groups of them.
        share = self.branches * self.width // self.expand_groups
        parts = fused.permute(1, 2, 3, 0, 4).reshape(stacks, steps * batch, self.expand_groups, share)
        parts = parts.transpose(1, 2).flatten(0, 1)  # (S groups, T B, K d/groups)
        weight = self.expand_weight.view(stacks * self.expand_groups, -1, share)
        out = torch.bmm(parts, weight.transpose(1, 2)).unflatten(0, (stacks, -1))  # (S, groups, T B, H/groups)
        out = out.permute(2, 0, 1, 3).flatten(2)[..., : self.out_channels]
        return out.reshape(steps, batch, stacks * self.out_channels)

    def _composed(self) -> Tensor:
        """Branches, running sums and expand as one matrix a stack (S, d, H): the expand of the branches of I.

        The branches act alike on the groups' slices of I, so they see one slice, and the rest is zero.
        """
        length = self.width // self.groups
        identity = torch.eye(length, device=self.reduce_weight.device, dtype=self.reduce_weight.dtype)
        slices = self.over_features(identity.repeat(1, self.stacks * self.groups))  # (K, length, S, d)
        slices = slices.unflatten(3, (self.groups, length)).movedim(3, 4)  # (K, length, S, length, groups)
        fused = torch.diag_embed(slices).permute(0, 2, 4, 1, 5, 3).flatten(4, 5).flatten(2, 3)  # (K, S, d, d)
        out = self._expand(fused.unsqueeze(3))  # (d, 1, S H)
        return out.view(self.width, self.stacks, self.out_channels).transpose(0, 1)

    def dense_weight(self) -> Tensor:
        """The whole unit as one matrix (S H, M), composed in the parameters' own type."""
        with without_autocast(self.reduce_weight):
            composed = self._composed().unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2)  # (groups, S, H, d/groups)
            reduce = self.reduce_weight.view(self.groups, self.stacks, self.width // self.groups, -1)
            return (composed @ reduce).permute(1, 2, 0, 3).reshape(-1, self.in_channels)

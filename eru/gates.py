"""The ERU's input map: linear, one-dimensional EESP units, one for each of the four gates or one for all of them."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from eru import kernels
from eru.autocast import product_dtype, without_autocast
from eru.eesp import draw_branches, running_sums
from eru.kernels import gates as compiled
from eru.sizes import dilations, fit_sizes
from eru.tracing import is_transformed, is_watched
from eru.warn import warn_once

# What the constructor draws has a gain of about 1. With H below 16 a rare draw may be as small as this.
_SMALLEST_GAIN, _LEAST_SIZE = 0.1, 16
# Up to here the compiled kernels are fastest: H of a dense map, weights that one row reads, products of several
# rows (of more rows than units the dense map is faster, but for a handful).
_NARROW, _FEW_WEIGHTS, _FEW_PRODUCTS, _FEW_ROWS = 128, 1 << 24, 1 << 21, 8


class EESPGates(nn.Module):
    r"""Maps the input of a step to the S gates of its cell by one EESP unit for each gate q.

    .. math::
        y_q = R_q x, \quad
        s_{q,b} = \sum_{j \le b} D_{q,j}(y_q), \quad
        a_q = E_q [s_{q,1}, \dots, s_{q,K}]

    R and E are the grouped point-wise maps of :class:`eru.EESP`. The depth-wise branches D slide over the features of
    the reduced vector itself, which is seen as ``groups`` signals of ``width / groups`` positions, padded with zeros.

    With ``shared_reduce`` all gates share one unit. Its reduce has no groups, so it has as many weights as the four
    grouped ones, and so has the whole map; each branch's sum is expanded to a part of every gate. The branches start
    as the identity.

    There is no normalisation, activation or residual, so each unit is one matrix, :math:`E_q D_q R_q`. For many
    rows two of its factors are multiplied out first, which is the same in fewer and larger products.

    Because three linear maps stand behind one another, an initialisation loop over all parameters of a model (such as
    ``nn.init.normal_(p, 0, 0.01)``) makes their product, and with it the gates, tiny. Call ``reset_parameters()``
    after such a loop; the first training step warns where it is needed.

    Args:
        input_size: M, any number from 1 up.
        output_size: S H, a multiple of ``gates``.
        gates: S.
        kernel_size: Taps of a branch, odd; 1 has no neighbourhood.
        branches: K, see :func:`eru.sizes.fit_sizes`.
        groups: Groups of reduce and expand, see :func:`eru.sizes.fit_sizes`.
        receptive_field: Limit on what a branch may see, see :func:`eru.sizes.dilations`.
        fusion: Whether the branches are summed up (hierarchical feature fusion).
        shared_reduce: Whether all gates share one dense reduce and one set of branches.
        device, dtype: Where the parameters live, and their type.

    Shape:
        input (*, M), output (*, S H).

    Raises:
        ValueError: Options that do not fit, or an input of the wrong width.

    Source:
        ESPNetv2, sections 3.2 and 4.4 (arXiv 1811.11431).

    Example:
        >>> unit = EESPGates(20, 4 * 32)
        >>> unit(torch.zeros(7, 3, 20)).shape
        torch.Size([7, 3, 128])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        gates: int = 4,
        kernel_size: int = 3,
        branches: int | None = None,
        groups: int | None = None,
        receptive_field: int | None = None,
        fusion: bool = True,
        shared_reduce: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if gates < 1 or output_size % gates:
            raise ValueError(f"output_size={output_size}: must be a multiple of gates={gates}, at least 1")
        self.input_size, self.output_size = input_size, output_size
        self.gates, self.size, self.shared_reduce = gates, output_size // gates, shared_reduce
        if input_size < 1:
            raise ValueError(f"input_size={input_size}: must be at least 1")
        grouped = None if shared_reduce else input_size
        self.branches, self.groups, self.expand_groups, self.width = fit_sizes(
            grouped, self.size, branches, groups, names=("input_size", "hidden_size")
        )
        self.kernel_size, self.fusion = kernel_size, fusion
        self.dilations = dilations(self.branches, receptive_field, kernel_size)
        self.units, self.reduce_groups = (1, 1) if shared_reduce else (gates, self.groups)
        # Each group of the expand reads its part of a unit's K d fused features, and makes its part of the H outputs
        # of each gate. Where the groups do not divide H, they make a few outputs more, which _expand cuts off.
        fan_in = self.branches * self.width // self.expand_groups
        fan_out = gates // self.units * math.ceil(self.size / self.expand_groups)
        empty = partial(torch.empty, device=device, dtype=dtype)
        # Laid out as the weights of 1-D convolutions. The reduce has its groups outside of the units, since every
        # group reads its slice of the input once for all of them.
        self.reduce_weight = nn.Parameter(empty(self.units * self.width, input_size // self.reduce_groups, 1))
        self.branch_weight = nn.Parameter(empty(self.branches * self.units * self.groups, 1, kernel_size))
        self.expand_weight = nn.Parameter(empty(self.units * self.expand_groups * fan_out, fan_in, 1))
        self.kept_dense: Tensor | None
        self.register_buffer("kept_dense", None)  # the map as one matrix, where eru.optimize keeps it
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights so that an input of unit variance gives gates of about unit variance."""
        for weight in (self.reduce_weight, self.expand_weight):
            nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
        if self.shared_reduce:
            # What is expanded starts as what was reduced: of branches that are summed up only the first adds to it.
            nn.init.zeros_(self.branch_weight)
            branches = self.branch_weight.detach().chunk(self.branches)
            for taps in branches[:1] if self.fusion else branches:
                nn.init.ones_(taps[..., self.kernel_size // 2])
        else:
            draw_branches(self.branch_weight, self.branches, self.fusion)
        self._gain_is_checked = False

    def train(self, mode: bool = True) -> "EESPGates":
        """Switch to training or evaluation; for training a matrix is dropped that would not follow the weights."""
        if mode:
            self.kept_dense = None
        return super().train(mode)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Gates (*, S H) of the inputs (*, M), to which a bias (S H) may be added."""
        if x.dim() < 1 or x.shape[-1] != self.input_size:
            raise ValueError(f"input of shape {tuple(x.shape)}: expected {self.input_size} features last")
        traced = torch.compiler.is_compiling()
        if self.training and not self._gain_is_checked and not traced:
            self._check_gain()
        rows = x.reshape(-1, self.input_size)  # (N, M)
        # To compose costs as much as about H rows of the direct way. A traced graph must not depend on their number.
        composes = traced or rows.shape[0] >= self.size
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self._weights))
        # One larger product is cheaper than the copies between those of several gates, in types for which processors
        # have matrix units, and for narrow cells.
        by_type = composes and self.units > 1 and product_dtype(x).itemsize < 4
        if not (traced or learns) and self._is_little_work(rows) and self.runs_in_c(x, narrow=True):
            gates = compiled.rows(self._sizes, rows, self._weights, self.output_size)
        elif self.kept_dense is not None and not learns:
            return F.linear(x, self.kept_dense, bias)
        elif by_type or ((composes or learns) and self.size <= _NARROW and self.runs_in_c(x)):
            return F.linear(x, self.dense_weight(), bias)
        else:
            if composes and self._branches_join_reduce:  # the form of the recipes, in training
                parts = F.linear(rows, self._branched_reduce()).unflatten(1, (self.branches, self.units, -1))
                by_unit = self._expand(parts.transpose(0, 1), self.expand_weight)  # (units, N, S H / units)
            elif composes:
                reduced = self._reduce(rows, self.reduce_weight)  # (units, N, d)
                by_unit = torch.bmm(reduced, self._composed(self.branch_weight, self.expand_weight))
            else:
                reduced = self._reduce(rows, self.reduce_weight)
                by_unit = self._expand(self._convolved(reduced.transpose(0, 1)), self.expand_weight)
            gates = by_unit.transpose(0, 1).reshape(-1, self.output_size)
        if bias is not None:
            # In place, since fresh memory costs more than the sum; but a transformation may know the bias alone.
            gates = gates + bias.to(gates.dtype) if is_watched() else gates.add_(bias.to(gates.dtype))
        return gates.reshape(*x.shape[:-1], self.output_size)

    def dense_weight(self) -> Tensor:
        """The whole map as one matrix (S H, M), computed in the parameters' own type."""
        with without_autocast(self.reduce_weight):
            if self.runs_in_c(self.reduce_weight):
                shape = (self.output_size, self.input_size)
                return compiled.Dense.apply(self._sizes, shape, self._dense, *self._weights)
            return self._dense(*self._weights)

    def two_factors(self) -> tuple[Tensor, Tensor] | None:
        """Two matrices that stand for the whole map, where they hold fewer numbers than :meth:`dense_weight`.

        Returns:
            What the reduce and the branches make of the input (K d, M); and the expand, of which each group reads its
            own part of that and makes its part of every gate: (groups, S, H / groups, K d / groups). ``None`` where
            the dense matrix is smaller, or every gate has a unit of its own.
        """
        if self.units > 1 or self.size % self.expand_groups:
            return None
        first = self.branches * self.width * self.input_size
        if first + self.expand_weight.numel() >= self.input_size * self.output_size:
            return None
        return self._branched_reduce(), self.expand_weight.view(
            self.expand_groups, self.gates, self.size // self.expand_groups, -1
        )

    @property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.reduce_weight, self.branch_weight, self.expand_weight

    @property
    def _sizes(self) -> compiled.Unit:
        sizes = (self.units, self.gates // self.units, self.size, self.input_size, self.width, self.branches)
        groups = (self.reduce_groups, self.groups, self.expand_groups)
        return compiled.unit(*sizes, *groups, self.kernel_size, self.fusion, dilations=self.dilations)

    def step_in_c(
        self, x: Tensor, bias: Tensor | None, weight_hh: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """A whole evaluated step of this map's cell in one compiled call; ``None`` where that cannot be."""
        if torch.is_grad_enabled() or self.gates != 4 or not self._is_little_work(x, weight_hh):
            return None
        if not self.runs_in_c(x, weight_hh, h, c, weight_hh if bias is None else bias, narrow=True):
            return None
        # A step that does not call this module must not pass over what hangs on its call.
        if self._forward_hooks or self._forward_pre_hooks or _has_any_global_hook():
            return None
        return compiled.cell_step(self._sizes, x, self._weights, bias, weight_hh, h, c)

    def _is_little_work(self, rows: Tensor, *others: Tensor) -> bool:
        """Whether the rows, each of which reads all weights, are few enough to be taken one by one."""
        count, weights = rows.shape[0], sum(w.numel() for w in (self.reduce_weight, self.expand_weight, *others))
        few = count < max(self.size, _FEW_ROWS) and count * weights <= _FEW_PRODUCTS
        return few or (count == 1 and weights <= _FEW_WEIGHTS)

    def runs_in_c(self, *tensors: Tensor, narrow: bool = False) -> bool:
        """Whether the compiled kernels can be used, which know plain tensors in float32 and no transformations.

        Args:
            *tensors: What is given beside the weights.
            narrow: Whether to allow bfloat16, if all are of that type; it is known to what takes rows one by one.
        """
        dtype = self.reduce_weight.dtype
        for x in (*tensors, *self._weights):
            if x.dtype != dtype or not x.is_cpu or type(x) not in (Tensor, nn.Parameter):
                return False
        if dtype != torch.float32 and not (narrow and dtype == torch.bfloat16):
            return False
        if is_watched() or kernels.refusal() is not None:
            return False
        return product_dtype(self.reduce_weight) == dtype and self.branches <= compiled.MOST_BRANCHES

    def _dense(self, reduce_weight: Tensor, branch_weight: Tensor, expand_weight: Tensor) -> Tensor:
        # A group of the input reaches the features of its own slice of each reduced vector, and no others.
        composed = self._composed(branch_weight, expand_weight).unflatten(1, (self.reduce_groups, -1))
        reduce = self._by_group(reduce_weight)
        reduce = reduce.unflatten(1, (self.units, -1))  # (groups, units, d / groups, M / groups)
        dense = composed.permute(1, 0, 3, 2) @ reduce  # (groups, units, S H / units, M / groups)
        return dense.permute(1, 2, 0, 3).reshape(self.output_size, self.input_size)

    def _by_group(self, reduce_weight: Tensor) -> Tensor:
        return reduce_weight.view(self.reduce_groups, -1, self.input_size // self.reduce_groups)

    def _reduce(self, rows: Tensor, weight: Tensor) -> Tensor:
        """R: (N, M) -> (units, N, d), one product for each group of the input."""
        slices = rows.unflatten(1, (self.reduce_groups, -1)).transpose(0, 1)  # (groups, N, M / groups)
        out = torch.bmm(slices, self._by_group(weight).transpose(1, 2))  # (groups, N, units d / groups)
        # Every unit's reduced vector is made of its parts from all groups.
        out = out.unflatten(2, (self.units, -1)).permute(2, 1, 0, 3)  # (units, N, groups, d / groups)
        return out.flatten(2)

    def _branches(self, reduced: Tensor, weight: Tensor) -> Tensor:
        """D and its running sums, of the columns of a matrix: (units, d, N) -> (K, units, d, N)."""
        # The taps of a unit's groups slide over the features of their slices, which are rows here. To add up shifted
        # rows takes a fraction of the time of a convolution, which is slow for many signals of few channels.
        slices = reduced.unflatten(1, (self.groups, -1))  # (units, groups, positions, N)
        far = (self.kernel_size - 1) * max(self.dilations) // 2
        padded = F.pad(slices, (0, 0, far, far))
        branches = []
        for taps, dilation in zip(weight.chunk(self.branches), self.dilations, strict=True):
            first = far - (self.kernel_size - 1) * dilation // 2
            branch = slices.new_zeros(())
            for n, tap in enumerate(taps.view(self.units, self.groups, -1, 1, 1).unbind(2)):
                branch = torch.addcmul(branch, tap, padded.narrow(2, first + n * dilation, slices.shape[2]))
            branches.append(branch)
        sums = running_sums(branches) if self.fusion else branches
        return torch.stack(sums).flatten(2, 3)

    def _convolved(self, reduced: Tensor) -> Tensor:
        """`_branches` of few rows, (N, units, d) -> (K, N, units, d), in as few operators as there are branches."""
        # Each unit's groups are the channels of a convolution over the features of their slices.
        channels = self.units * self.groups
        signals = reduced.reshape(-1, channels, self.width // self.groups)
        branches = [
            F.conv1d(signals, taps, padding=(self.kernel_size - 1) * dilation // 2, dilation=dilation, groups=channels)
            for taps, dilation in zip(self.branch_weight.chunk(self.branches), self.dilations, strict=True)
        ]
        sums = running_sums(branches) if self.fusion else branches
        return torch.stack(sums).unflatten(2, (self.units, -1)).flatten(3)

    def _expand(self, fused: Tensor, weight: Tensor) -> Tensor:
        """E: (K, N, units, d) -> (units, N, S H / units)."""
        parts = fused.permute(2, 1, 0, 3).flatten(2)  # (units, N, K d)
        parts = parts.unflatten(2, (self.expand_groups, -1)).transpose(1, 2)  # (units, groups, N, K d / groups)
        parts = parts.flatten(0, 1)
        weight = weight.view(self.units * self.expand_groups, -1, parts.shape[2])
        out = torch.bmm(parts, weight.transpose(1, 2)).unflatten(0, (self.units, -1))
        # Every group makes its part of each of the unit's gates: (units, groups, N, gates, H / groups).
        out = out.unflatten(3, (self.gates // self.units, -1))
        return out.permute(0, 2, 3, 1, 4).flatten(3)[..., : self.size].flatten(2)

    @property
    def _branches_join_reduce(self) -> bool:
        """Whether, for many rows, the branches are multiplied into the reduce, for smaller products."""
        # Into the expand, they make it dense; into the reduce, as many times as wide as there are branches.
        inside, outside = self.input_size, self.output_size // self.units
        joined = self.branches * (inside + outside // self.expand_groups)
        return self.reduce_groups == 1 and joined < inside + outside

    def _branched_reduce(self) -> Tensor:
        """Reduce, branches and running sums as one matrix (K units d, M): what they make of every input alone."""
        rows = self.reduce_weight.view(self.units, self.width, self.input_size)
        return self._branches(rows, self.branch_weight).reshape(-1, self.input_size)

    def _composed(self, branch_weight: Tensor, expand_weight: Tensor) -> Tensor:
        """What branches, running sums and expand make of the identity: one matrix a unit, (units, d, S H / units).

        The branches treat each group's slice apart, so they are run over the positions of ONE slice, in all groups at
        once, and every group's answer is put into its own block of an otherwise empty d x d matrix.
        """
        length = self.width // self.groups
        positions = torch.eye(length, device=branch_weight.device, dtype=branch_weight.dtype)
        positions = positions.repeat(self.units * self.groups, 1).unflatten(0, (self.units, -1))
        # What the branches make of each position: (K, units, d, length).
        answers = self._branches(positions, branch_weight).unflatten(2, (self.groups, length))
        answers = answers.permute(0, 4, 1, 3, 2)  # (K, from, units, to, groups)
        blocks = torch.diag_embed(answers)  # (K, from, units, to, groups, groups): zero off the diagonal
        whole = blocks.permute(0, 4, 1, 2, 5, 3)  # (K, groups, from, units, groups, to)
        return self._expand(whole.flatten(4, 5).flatten(1, 2), expand_weight)

    @torch.no_grad()  # so that gradient checkpointing finds nothing saved here when it computes the call again
    def _check_gain(self) -> None:
        """Warn where the weights make the gates so small that the cell can hardly learn."""
        if is_transformed():
            return  # no value can be looked at
        self._gain_is_checked = True
        weights = self.dense_weight()
        if self.size < _LEAST_SIZE or type(weights) is not Tensor or weights.is_meta:
            return
        gain = weights.float().square().sum(dim=1).mean().sqrt().item()
        if gain < _SMALLEST_GAIN:
            warn_once(
                f"inputs of unit variance reach the gates of this ERU with a standard deviation of {gain:.2g}, so it "
                "will hardly learn: an initialisation loop over all parameters makes the product of its three stacked "
                "linear maps tiny. Call reset_parameters() after such a loop"
            )

    def extra_repr(self) -> str:
        """Sizes, as printed by ``print(module)``."""
        names = ("input_size", "output_size", "gates", "branches", "groups", "dilations", "shared_reduce")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

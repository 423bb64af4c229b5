"""Parameters and multiply-adds of any module, by stage."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# Element-wise modules, which count nothing. The meta device takes each apart into many small operators, and with them
# most of the time.
_UNCOUNTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)


@dataclass(frozen=True)
class Stage:
    """A part of a model.

    Attributes:
        name: Name of the submodule; ``""`` for what the model holds and computes outside of its submodules.
        parameters: Numbers in its parameters; a shared one is counted where it appears first.
        multiply_adds: Multiply-adds of its matrix products and convolutions for the given input; element-wise work is
            not counted.
    """

    name: str
    parameters: int
    multiply_adds: int


def stages(
    module: nn.Module,
    shapes: Sequence[Sequence[int]],
    *,
    depth: int = 2,
    integer: bool = False,
    method: str = "forward",
) -> list[Stage]:
    """Cut a model into its submodules down to ``depth`` names, and count each.

    A copy of the model runs once on the meta device, so nothing is computed and nothing of the model changes.

    Args:
        module: Any module; it is counted in evaluation mode.
        shapes: Shapes of its input tensors.
        depth: Levels of submodules that are told apart.
        integer: Whether the inputs are ids rather than numbers.
        method: The method that is run, where not all of a model's ``forward`` is its arithmetic.

    Returns:
        Stages in the order of the model; their sums are the model's own counts.

    Example:
        >>> for stage in stages(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), [(1, 3)]):
        ...     print(stage)
        Stage(name='0', parameters=16, multiply_adds=12)
        Stage(name='1', parameters=10, multiply_adds=8)
    """
    model = _on_meta(module).eval()
    dtype = torch.long if integer else next((p.dtype for p in model.parameters()), torch.get_default_dtype())
    inputs = [torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in shapes]
    names = {part: name for name, part in model.named_modules() if not name or name.count(".") < depth}

    parameters = dict.fromkeys(names.values(), 0)
    for name, parameter in model.named_parameters():
        path = name.split(".")[:-1]
        parameters[".".join(path[:depth])] += parameter.numel()

    flops = dict.fromkeys(names.values(), 0)
    running = [""]  # the names of the parts that are being run, the innermost last
    counted = 0

    def settle() -> None:
        """Charge what was computed since the last call to the innermost part."""
        nonlocal counted
        total = counter.get_total_flops()
        flops[running[-1]] += total - counted
        counted = total

    def enter(part: nn.Module, _: Any) -> None:
        settle()
        running.append(names[part])

    def leave(*_: Any) -> None:
        settle()
        running.pop()

    for part in model.modules():
        if type(part) in _UNCOUNTED:
            part.forward = _unchanged
    for part in names:
        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (model if method == "forward" else getattr(model, method))(*inputs)
        settle()  # a method other than forward enters and leaves nothing
    # What a model does outside of its submodules, such as a tied softmax, comes last.
    order = [*(name for name in names.values() if name), ""]
    return [Stage(n, parameters[n], flops[n] // 2) for n in order if parameters[n] or flops[n]]


def _unchanged(input: Tensor) -> Tensor:
    return input


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy without numbers. ``module.to("meta")`` would give tied parameters copies of their own."""
    empty = {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    empty |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, empty)

"""Parameters and multiply-adds of any module, by stage."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Stage:
    """A part of a model.

    Attributes:
        name: of the submodule; ``""`` for what the model holds and computes outside of its submodules.
        parameters: numbers in its parameters, each shared one counted where it appears first.
        multiply_adds: of its matrix products and convolutions for the given input; element-wise work is not counted.
    """

    name: str
    parameters: int
    multiply_adds: int


def stages(
    module: nn.Module, shapes: Sequence[Sequence[int]], *, depth: int = 2, integer: bool = False
) -> list[Stage]:
    """Cut a model into its submodules down to ``depth`` names, and count each.

    The model is copied to the meta device and run there once, so nothing is computed and nothing of it changes.

    Args:
        module: any module; it is counted in evaluation mode.
        shapes: of its input tensors.
        depth: levels of submodules told apart.
        integer: the inputs are ids rather than numbers.

    Returns:
        Stages in the order of the model; their sums are the model's own counts.

    Example:
        >>> for stage in stages(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), [(1, 3)]):
        ...     print(stage)
        Stage(name='0', parameters=16, multiply_adds=12)
        Stage(name='1', parameters=10, multiply_adds=8)
    """
    model = copy.deepcopy(module).to("meta").eval()
    dtype = torch.long if integer else next(model.parameters()).dtype
    inputs = [torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in shapes]
    root = type(model).__name__
    with torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
        model(*inputs)
    flops = {name: sum(count.values()) for name, count in counter.get_flop_counts().items()}

    def total(part: nn.Module, name: str) -> int:
        """FLOPs of a submodule; one that is never called itself, such as a list, has those of its own submodules."""
        path = f"{root}.{name}" if name else root
        if path in flops:
            return flops[path]
        return sum(total(child, _join(name, label)) for label, child in part.named_children())

    found: list[Stage] = []
    seen: set[int] = set()

    def visit(part: nn.Module, name: str, level: int) -> None:
        children = list(part.named_children()) if level < depth else []
        own = part.parameters(recurse=not children)
        size = sum(p.numel() for p in own if id(p) not in seen and not seen.add(id(p)))
        work = total(part, name) - sum(total(child, _join(name, label)) for label, child in children)
        place = len(found)
        for label, child in children:
            visit(child, _join(name, label), level + 1)
        if size or work:
            # What a model does outside of its submodules, such as a tied softmax, comes last.
            found.insert(len(found) if not name else place, Stage(name, size, work // 2))

    visit(model, "", 0)
    return found


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child

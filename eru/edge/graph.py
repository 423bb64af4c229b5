"""What is exported: a module without options, with example inputs, and a name for everything that goes in or out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""A graph that a runtime has opened: from its inputs, in their order, to its outputs."""


@dataclass(frozen=True)
class Graph:
    """A module as one graph.

    Attributes:
        module: What is computed, in evaluation mode; it takes the inputs in their order.
        inputs: An example of every input, by its name.
        outputs: The names of the outputs, in their order.
        dynamic: The axes whose size may differ from the example's: by the name of an input or an output, the name of
            the dimension at each such axis, as in ``{"tokens": {0: "batch"}}``.
        least: The smallest size of a dynamic dimension, where that is not 1.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)

    @torch.no_grad()
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs by PyTorch itself, which those of every runtime must equal."""
        made = self.module(*inputs)
        return [made] if isinstance(made, Tensor) else list(made)

    @property
    def dimensions(self) -> list[str]:
        """The names of the dynamic dimensions."""
        return list(dict.fromkeys(name for axes in self.dynamic.values() for name in axes.values()))

    def trace(self) -> torch.export.ExportedProgram:
        """The graph as ``torch.export`` sees it."""
        dims = {name: torch.export.Dim(name, min=self.least.get(name, 1)) for name in self.dimensions}
        axes = [self.dynamic.get(name, {}) for name in self.inputs]
        shapes = tuple({axis: dims[name] for axis, name in of_input.items()} for of_input in axes)
        with torch.no_grad():
            program = torch.export.export(
                _Positional(self.module),
                tuple(self.inputs.values()),
                dynamic_shapes=(shapes,),
                strict=False,
                # What can be known of a dynamic size only when it is there is checked then, and not ruled out now.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # It names files of this machine.
        return program

    def signature(self) -> dict[str, list[dict[str, object]]]:
        """Names, types and shapes of inputs and outputs, where the name of a dimension stands for a dynamic size."""

        def described(name: str, tensor: Tensor) -> dict[str, object]:
            axes = self.dynamic.get(name, {})
            shape = [axes.get(axis, size) for axis, size in enumerate(tensor.shape)]
            return {"name": name, "type": str(tensor.dtype).removeprefix("torch."), "shape": shape}

        results = self.run(list(self.inputs.values()))
        return {
            "inputs": [described(name, tensor) for name, tensor in self.inputs.items()],
            "outputs": [described(name, tensor) for name, tensor in zip(self.outputs, results, strict=True)],
        }


class _Positional(nn.Module):
    """A module as a function of a list of inputs, however it names and gathers them itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

"""A graph in ONNX Runtime, on the CPU."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnxruntime

from eru_runtime.checks import whole_number
from eru_runtime.folder import Folder

Shape = tuple[int | str | None, ...]
"""Sizes along the axes, where the name of a dimension (or None) stands for any size."""


class Session:
    """The graph of an exported folder.

    Args:
        folder: The folder.
        threads: How many threads compute; None leaves it to ONNX Runtime, which takes one for each core.

    Raises:
        ValueError: The model's file is damaged, ONNX Runtime cannot run it, or ``threads`` is below 1.

    Attributes:
        file: The path of the model's file.
        inputs: The names of the inputs, in their order.
        outputs: The names of the outputs, in their order.
        shapes: The shape of every input and output, by its name.
    """

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = whole_number("threads", threads, least=1)
        self.file, content = folder.model()
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a dozen of its own, which share no class
            raise ValueError(f"{self.file}: ONNX Runtime cannot run it: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = [each.name for each in inputs], [each.name for each in outputs]
        self.shapes: dict[str, Shape] = {each.name: tuple(each.shape) for each in (*inputs, *outputs)}
        self._types = {each.name: each.type for each in (*inputs, *outputs)}

    def check_names(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Check that the graph has these inputs and outputs, in this order.

        Raises:
            ValueError: It has others.
        """
        for kind, wanted, found in (("inputs", inputs, self.inputs), ("outputs", outputs, self.outputs)):
            if found != list(wanted):
                raise ValueError(f"{self.file}: its {kind} are {', '.join(found)}: must be {', '.join(wanted)}")

    def check(self, name: str, dtype: Literal["int64", "float32"], shape: Shape) -> None:
        """Check that arrays of a type and shape are what an input takes, or an output is.

        Raises:
            ValueError: They are not.
        """
        wanted = {"int64": "tensor(int64)", "float32": "tensor(float)"}[dtype]
        found, kind = self.shapes[name], self._types[name]
        if kind != wanted or not fits(found, shape):
            raise ValueError(f"{self.file}: {name} is {kind} {_told(found)}: must be {wanted} {_told(shape)}")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs, by their names, for all inputs."""
        values = self._session.run(self.outputs, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def fits(found: Shape, wanted: Shape) -> bool:
    """Whether two shapes may be the same; what is no number fits every size.

    Example:
        >>> fits(("batch", 3, 224, 224), (1, 3, 224, 224)), fits((4, 3), (1, 3))
        (True, False)
    """
    return len(found) == len(wanted) and all(
        here == there or not (isinstance(here, int) and isinstance(there, int))
        for here, there in zip(found, wanted, strict=True)
    )


def _told(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"

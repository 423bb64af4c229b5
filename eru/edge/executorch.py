"""A graph as an ExecuTorch program, whose products and convolutions XNNPACK runs, on phones and on computers."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from torch import Tensor

from eru.edge.graph import Graph, Run
from eru.warn import quiet


def write_executorch(graph: Graph, path: Path) -> None:
    """Write the graph, lowered to XNNPACK where that has its operators."""
    with quiet():
        xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        exir = import_module("executorch.exir")
        lowered = exir.to_edge_transform_and_lower(graph.trace(), partitioner=[xnnpack.XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def open_executorch(path: Path) -> Run:
    """The program of a file in ExecuTorch's own runtime."""
    with quiet():
        runtime = import_module("executorch.runtime")
    method = runtime.Runtime.get().load_program(path).load_method("forward")

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            made = method.execute([tensor.contiguous() for tensor in inputs])
        except RuntimeError as error:  # It does not run all that can be lowered: a map of one pixel it may mistake.
            raise ValueError(f"format='executorch': its runtime cannot run this graph ({error})") from error
        # What it gives lies in memory that its next call writes into again.
        return [tensor.clone() for tensor in made]

    return run

"""A graph as a file of ``torch.export``, for C++ programs with libtorch and for AOTInductor."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eru.edge.graph import Graph, Run


def write_pt2(graph: Graph, path: Path) -> None:
    """Write the graph."""
    content = io.BytesIO()  # torch's own way to a file raises no OSError where the disk is full
    torch.export.save(graph.trace(), content)
    path.write_bytes(content.getvalue())


def open_pt2(path: Path) -> Run:
    """The graph of a file, run by PyTorch."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        made = module(*inputs)
        return [made] if isinstance(made, Tensor) else list(made)

    return run

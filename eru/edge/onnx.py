"""A graph as an ONNX file, and such a file in ONNX Runtime."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eru.edge.graph import Graph, Run
from eru.warn import quiet

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20


def to_onnx(graph: Graph, translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None) -> "ModelProto":
    """The graph as an ONNX model: one file, without the traces of its making.

    Args:
        graph: What is exported.
        translations: For an operator that ONNX does not have by itself, an onnxscript function that does the same.
    """
    import onnx

    with quiet():
        made = torch.onnx.export(
            graph.trace(),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table=dict(translations or {}),
        )
    assert made is not None
    model: ModelProto = made.model_proto
    _name_dimensions(model, graph)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def strip(model: "ModelProto") -> None:
    """Take out what the exporter notes for its own authors: stack traces with this machine's paths, above all."""
    for part in _parts(model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    for function in model.functions:
        for part in (function, *function.node):
            del part.metadata_props[:]
            part.doc_string = ""


def _parts(graph: Any) -> Iterator[Any]:
    """A graph with all that it holds, and with the graphs inside of its nodes."""
    yield graph
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _parts(attribute.g)


def _name_dimensions(model: "ModelProto", graph: Graph) -> None:
    """Let the file call dynamic sizes what the graph calls them."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in graph.dynamic.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = name


def open_onnx(path: Path, threads: int = 0) -> Run:
    """The model of a file in ONNX Runtime, on the CPU.

    Args:
        path: The file.
        threads: How many threads a node may use; 0 for one for each core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        fed = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
        return [torch.from_numpy(array) for array in session.run(None, fed)]

    return run

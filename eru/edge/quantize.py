"""int8: products whose weights are whole numbers of eight bits, and weights that are only kept so."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eru.edge.onnx import strip

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LEAST = 1024  # numbers in a weight, below which nothing is won


def quantize_products(model: "ModelProto") -> "ModelProto":
    """The same model with int8 products; what it multiplies by is turned into int8 as it comes (dynamic).

    Weights have one scale for each output. They take seven bits of the eight, since x86 processors without VNNI add up
    pairs of products in sixteen. A table that is looked up as well as multiplied by, such as a tied embedding, stays
    one table.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # By this sign the quantiser knows that shapes have been inferred, as the exporter does.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(path)
    _share_tables(made)
    strip(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def _share_tables(model: "ModelProto") -> None:
    """Look up in the int8 table what is multiplied by as int8, and drop the table in float32."""
    from onnx import TensorProto, helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        table = node.input[0] if node.op_type == "Gather" else ""
        if f"{table}_quantized" not in weights:
            nodes.append(node)
            continue
        _, tokens = node.input
        whole, values, scales = (f"{table}_{part}" for part in ("looked_up", "values", "scales"))
        nodes += [
            helper.make_node("Gather", [f"{table}_quantized", tokens], [whole], axis=1),
            helper.make_node("Gather", [f"{table}_scale", tokens], [scales], axis=0),
            # Older runtimes know no DequantizeLinear whose scales are computed.
            helper.make_node("Cast", [whole], [values], to=TensorProto.FLOAT),
            helper.make_node("Mul", [values, scales], node.output),
        ]
        model.graph.initializer.remove(weights[table])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize_weights(model: "ModelProto") -> "ModelProto":
    """The same model with its weights kept in int8, one scale for each output, for a smaller file.

    They are turned back into float32 when the file is opened, so the answers come as soon as before.
    """
    import onnx
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= _LEAST}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        # Of these the outputs are the first axis of the weight.
        name = node.input[1] if node.op_type in ("Conv", "Gemm") else ""
        if name in weights and len(weights[name].dims) > 1:
            values = numpy_helper.to_array(weights[name])
            scale = np.abs(values).reshape(len(values), -1).max(axis=1) / 127
            scale[scale == 0] = 1
            whole = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            model.graph.initializer.remove(weights.pop(name))
            for array, end in ((whole, "_int8"), (scale.astype(np.float32), "_scale")):
                model.graph.initializer.append(numpy_helper.from_array(array, name + end))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=0))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantize_convolutions(
    model: "ModelProto", *, inputs: Sequence[Mapping[str, np.ndarray]], layers: Sequence[str]
) -> "ModelProto":
    """The same model with some of its convolutions computed in int8, for ranges that are known beforehand (static).

    Args:
        model: The model.
        inputs: What it is run on to find the range of every activation.
        layers: A convolution is quantised if the name of its weight holds one of these.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rest = iter(inputs)

        def get_next(self) -> Any:
            return next(self.rest, None)

    names = [n.name for n in model.graph.node if n.op_type == "Conv" and any(layer in n.input[1] for layer in layers)]
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            Reader(),
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(path)
    strip(made)
    onnx.checker.check_model(made, full_check=True)
    return made

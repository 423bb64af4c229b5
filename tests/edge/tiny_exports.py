"""Small models as an export writes them, made node by node, so that what they answer is known."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

WORDS = ["<unk>", "<eos>", "a", "rose", "is", "red", "and", "so"]
RED, BLUE = [200, 40, 40], [40, 40, 200]


def save_model(folder, nodes, weights, inputs, outputs, **fields):
    """Write a model and its export.json; weights that are lists are float32."""
    folder.mkdir()
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    described = [
        [{"name": name, "type": kind, "shape": shape} for name, kind, shape in side] for side in (inputs, outputs)
    ]
    values = [
        [helper.make_tensor_value_info(name, types[kind], shape) for name, kind, shape in s] for s in (inputs, outputs)
    ]
    constants = [
        numpy_helper.from_array(np.asarray(value, dtype=getattr(value, "dtype", np.float32)), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "tiny", *values, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    exported = {"format": "onnx", "quantize": "none", "name": "tiny", "file": "model.onnx", **fields}
    exported |= {"inputs": described[0], "outputs": described[1]}
    (folder / "export.json").write_text(json.dumps(exported))
    return model


def save_language_model(site):
    """A recurrent model of eight words, which would say the unknown one most of all."""
    draw = np.random.default_rng(3)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["x"]),
        helper.make_node("MatMul", ["h0", "recurrent"], ["from_h"]),
        helper.make_node("Sum", ["x", "from_h", "c0"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h0_next"]),
        helper.make_node("Sub", ["h0_next", "c0"], ["c0_next"]),
        helper.make_node("MatMul", ["h0_next", "out"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    weights = {
        "table": draw.normal(size=(8, 4)).astype(np.float32),
        "recurrent": draw.normal(size=(4, 4)).astype(np.float32),
        "out": 3 * draw.normal(size=(4, 8)).astype(np.float32),
        "bias": [9.0, 0, 0, 0, 0, 0, 0, 0],
    }
    state, after = ([(name, "float32", [1, 4]) for name in names] for names in (("h0", "c0"), ("h0_next", "c0_next")))
    model = save_model(
        site / "text",
        nodes,
        weights,
        [("tokens", "int64", [1]), *state],
        [("logits", "float32", [1, 8]), *after],
        kind="language-model",
        graph="step",
        tokenizer="tokenizer.json",
        licence="MIT",
    )
    (site / "text" / "tokenizer.json").write_text(json.dumps({"kind": "word", "types": WORDS, "unknown": 0, "eos": 1}))
    return model


def likeliest_text(model, prompt, tokens):
    """What a model says after a prompt of one line, by ONNX's own slow reference."""
    step = ReferenceEvaluator(model)
    state = [np.zeros((1, 4), np.float32)] * 2
    said, waiting = list(prompt), [WORDS.index("<eos>"), *map(WORDS.index, prompt)]
    for _ in range(tokens):
        for token in waiting:
            scores, *state = step.run(None, {"tokens": np.array([token]), "h0": state[0], "c0": state[1]})
        scores[0, WORDS.index("<unk>")] = -np.inf
        waiting = [int(scores.argmax())]
        said.append(WORDS[waiting[0]])
    return " ".join(said).replace(" <eos> ", "\n").replace(" <eos>", "\n")


def save_vision_model(site, kind):
    """A model of 8 x 8 pixels that goes by the colour alone: nothing, red or blue."""
    names, fields = ["background", "red", "blue"], {}
    by_colour = np.array([[0, 0, 0], [4, 0, 0], [0, 0, 4]], dtype=np.float32)
    if kind == "segmentation":
        nodes = [helper.make_node("Conv", ["image", "weight"], ["logits"])]
        weights = {"weight": by_colour[:, :, None, None]}
        outputs = [("logits", "float32", [1, 3, 8, 8])]
        fields = {"colours": [[0, 0, 0], RED, BLUE], "background": 0}
    elif kind == "classification":
        nodes = [
            helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        ]
        weights = {"axes": np.array([2, 3]), "weight": np.ascontiguousarray(by_colour.T)}
        outputs = [("logits", "float32", [1, 3])]
        fields = {"multi_label": False}
    else:
        nodes = [
            helper.make_node("ReduceMax", ["image"], ["score"], keepdims=0),
            helper.make_node("Mul", ["score", "certainty"], ["scores"]),
            helper.make_node("Identity", ["where"], ["boxes"]),
            helper.make_node("Identity", ["which"], ["labels"]),
        ]
        weights = {
            "certainty": [[0.9, -1]],
            "where": [[[0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]]],
            "which": np.array([[1, 0]]),
        }
        outputs = [("boxes", "float32", [1, 2, 4]), ("labels", "int64", [1, 2]), ("scores", "float32", [1, 2])]
        fields = {"nms": True, "colours": [[0, 0, 0], RED, BLUE]}
    preprocessing = {"size": [8, 8], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    fields |= {"kind": kind, "labels": "labels.txt", "preprocessing": preprocessing}
    save_model(site / "pictures", nodes, weights, [("image", "float32", [1, 3, 8, 8])], outputs, **fields)
    (site / "pictures" / "labels.txt").write_text("\n".join(names) + "\n")

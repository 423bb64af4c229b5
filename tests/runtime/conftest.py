"""Folders as an export writes them, with models small enough to be computed by hand beside ONNX Runtime."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes, inputs, outputs, weights):
    """An ONNX model; inputs and outputs are (name, type, shape), weights arrays by name."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class ToyText:
    """A language model whose states are sums over what was read: logits = bias + sum of tanh(state) @ head."""

    def __init__(self, vocab_size, seed=0):
        draw = np.random.default_rng(seed).normal
        self.vocab_size, self.sizes = vocab_size, {"h0": 3, "c0": 4, "h1": 2, "c1": 5}
        self.tables, self.heads = {}, {}
        for name, size in self.sizes.items():
            self.tables[name] = draw(scale=0.3, size=(vocab_size, size)).astype(np.float32)
            self.heads[name] = draw(size=(size, vocab_size)).astype(np.float32)
        self.bias = draw(size=vocab_size).astype(np.float32)

    def scores(self, tokens):
        """The logits (V,) after some tokens."""
        states = {name: table[list(tokens)].sum(axis=0) for name, table in self.tables.items()}
        return self.bias + sum(np.tanh(state) @ self.heads[name] for name, state in states.items())

    def model(self, graph="step", steps="steps", batch=1):
        tokens = [batch] if graph == "step" else [steps, batch]
        nodes, weights = [], {"bias": self.bias}
        if graph == "sequence":
            weights |= {"axis": np.int64(0), "last": np.int64(-1)}
        for name in self.sizes:
            weights |= {f"{name}_table": self.tables[name], f"{name}_head": self.heads[name]}
            nodes.append(helper.make_node("Gather", [f"{name}_table", "tokens"], [f"{name}_read"]))
            if graph == "step":
                nodes.append(helper.make_node("Add", [f"{name}_read", name], [f"{name}_next"]))
                states = f"{name}_next"
            else:
                states = f"{name}_all"
                nodes.append(helper.make_node("CumSum", [f"{name}_read", "axis"], [f"{name}_sums"]))
                nodes.append(helper.make_node("Add", [f"{name}_sums", name], [states]))
                nodes.append(helper.make_node("Gather", [states, "last"], [f"{name}_next"], axis=0))
            nodes.append(helper.make_node("Tanh", [states], [f"{name}_tanh"]))
            nodes.append(helper.make_node("MatMul", [f"{name}_tanh", f"{name}_head"], [f"{name}_said"]))
        nodes.append(helper.make_node("Sum", ["bias", *(f"{name}_said" for name in self.sizes)], ["logits"]))
        return model_of(
            nodes,
            [("tokens", INT64, tokens), *((name, FLOAT, [batch, size]) for name, size in self.sizes.items())],
            [
                ("logits", FLOAT, [*tokens, self.vocab_size]),
                *((f"{name}_next", FLOAT, [batch, size]) for name, size in self.sizes.items()),
            ],
            weights,
        )


@pytest.fixture(scope="session")
def toy_text():
    return ToyText


@pytest.fixture(scope="session")
def seeing():
    """``seeing(kind, weight, bias, size)`` is a model that sees: a weight (C, 3) with a bias (C,) for every pixel."""

    def make(kind, weight, bias, size, batch=1):
        weight, bias = np.float32(weight), np.float32(bias)
        mean = [helper.make_node("GlobalAveragePool", ["image"], ["mean"])] if kind == "classification" else []
        convolved = "convolved" if mean else "logits"
        nodes = [*mean, helper.make_node("Conv", ["mean" if mean else "image", "weight", "bias"], [convolved])]
        nodes += [helper.make_node("Flatten", [convolved], ["logits"])] if mean else []
        return model_of(
            nodes,
            [("image", FLOAT, [batch, 3, *size])],
            [("logits", FLOAT, [batch, len(weight), *([] if mean else size)])],
            {"weight": weight[:, :, None, None], "bias": bias},
        )

    return make


@pytest.fixture(scope="session")
def finding():
    """``finding(boxes, labels, scores, size)`` is a detector that finds the same in every picture."""

    def make(boxes, labels, scores, size):
        outputs = {"boxes": np.float32([boxes]), "labels": np.int64([labels]), "scores": np.float32([scores])}
        types = {"boxes": FLOAT, "labels": INT64, "scores": FLOAT}
        return model_of(
            [
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
                for name, array in outputs.items()
            ],
            [("image", FLOAT, [1, 3, *size])],
            [(name, types[name], array.shape) for name, array in outputs.items()],
            {},
        )

    return make


@pytest.fixture
def write_folder(tmp_path_factory):
    """``write_folder(kind, model, files, **fields)`` is the path of a new exported folder.

    Files are the texts of further files by name; the fields are those of ``export.json`` that are not the usual ones.
    """

    def write(kind, model, files=(), **fields):
        folder = tmp_path_factory.mktemp("exported")
        onnx.save(model, folder / "model.onnx")
        digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        usual = {"format": "onnx", "kind": kind, "file": "model.onnx", "sha256": digest}
        (folder / "export.json").write_text(json.dumps(usual | fields))
        for name, text in dict(files).items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder

    return write


WORDS = ["<unk>", "<eos>", "the", "cat", "sat", "on", "a", "mat"]


@pytest.fixture
def write_text_folder(write_folder):
    """``write_text_folder(model)`` is the path of an exported language model; by default of eight words."""

    def write(model, tokenizer=None, **fields):
        told = tokenizer or {"kind": "word", "types": WORDS, "unknown": 0, "eos": 1}
        named = {"graph": "step", "tokenizer": "tokenizer.json"}
        return write_folder("language-model", model, {"tokenizer.json": json.dumps(told)}, **named | fields)

    return write


@pytest.fixture
def write_vision_folder(write_folder):
    """``write_vision_folder(kind, model, labels, size)`` is the path of an exported vision model."""

    def write(kind, model, labels, size, crop=None, **fields):
        preprocessing = {"size": list(size), "crop": crop, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
        usual = {"labels": "labels.txt", "preprocessing": preprocessing, "multi_label": False}
        if kind == "segmentation":
            usual |= {"colours": [[i, 2 * i, 255 - i] for i in range(len(labels))], "background": None}
        return write_folder(kind, model, {"labels.txt": "\n".join(labels)}, **usual | fields)

    return write

"""Exports of language models, compared with the models themselves, and what is refused."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from eru.edge import folder as edge_folder
from eru.edge import quantize
from eru.lm.edge import export
from eru.lm.model import LanguageModel
from eru.lm.recipes import RECIPES, make_recipe
from eru.lm.run import open_run
from eru.lm.step_form import SequenceForm, StepForm, zero_state

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FORMS = {
    "a unit for each gate": {},
    "shared reduce": {"shared_reduce": True, "recurrent_groups": 4},
    "one branch as wide as the cell": {"branches": 1, "groups": 4, "shared_reduce": True, "recurrent_groups": 4},
    "other groups than blocks": {"branches": 1, "groups": 2, "shared_reduce": True, "recurrent_groups": 4},
    "lstm": {"cell": "lstm"},
    "lstm in groups": {"cell": "lstm", "recurrent_groups": 2},
    "softmax in two steps": {"softmax_head": 9},
}
# Of the recipes whose models differ by their sizes alone, the last one is exported.
SHAPES = ("cell", "branches", "groups", "shared_reduce", "recurrent_groups", "kernel_size", "softmax_head")
FORMS_OF_RECIPES = {tuple(getattr(make_recipe(name), n) for n in SHAPES): name for name in RECIPES}


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_equal_the_model(form):
    torch.manual_seed(0)
    model = LanguageModel(50, 16, 32, 2, **FORMS[form]).double().eval()
    state = [torch.randn_like(part, dtype=torch.float64) for part in zero_state(model, 3)]
    pairs = [(state[0][None], state[1][None]), (state[2][None], state[3][None])]
    tokens = torch.randint(50, (4, 3))
    with torch.no_grad():
        logits, after = model(tokens, pairs)
        wanted = [logits, *(part[0] for pair in after for part in pair)]
        torch.testing.assert_close(list(SequenceForm(model)(tokens, *state)), wanted)
        step, given = StepForm(model), state
        for row, scores in zip(tokens, logits, strict=True):
            made, *given = step(row, *given)
            torch.testing.assert_close(made, scores)
        torch.testing.assert_close(given, wanted[1:])


def test_the_smaller_of_both_input_maps_is_kept():
    shared = LanguageModel(50, 64, 64, 1, branches=1, groups=4, shared_reduce=True, recurrent_groups=4)
    plain = LanguageModel(50, 64, 64, 1)
    assert StepForm(shared).cells[0].has_factors
    assert not StepForm(plain).cells[0].has_factors


def test_other_input_maps_are_refused():
    model = LanguageModel(50, 8, 8, cell=lambda a, b: torch.nn.Sequential(torch.nn.Linear(a, b)))
    with pytest.raises(ValueError, match="is a Sequential; only ERU and LSTM cells can be exported"):
        StepForm(model)


def chain(path, model, windows, count):
    """The scores of windows of tokens by ONNX Runtime and by the model, each carrying its own state."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    state, carried = [part.numpy() for part in zero_state(model, count)], None
    for window in windows:
        step = len(session.get_inputs()[0].shape) == 1
        tokens = (window[0] if step else window).numpy()
        scores, *state = session.run(None, dict(zip(names, [tokens, *state], strict=True)))
        with torch.no_grad():
            wanted, carried = model(window, carried)
        yield scores.reshape(wanted.shape), wanted.numpy()


@pytest.mark.parametrize("recipe", FORMS_OF_RECIPES.values())
def test_every_recipe_exports(recipe, make_run, tmp_path):
    folder = make_run(recipe, num_layers=3)
    record = export(folder, tmp_path / "step", batch="dynamic")
    model = open_run(folder).load_model()
    text = torch.randint(model.vocab_size, (9, 5))
    for made, wanted in chain(tmp_path / "step" / record["file"], model, text.split(1), 5):
        np.testing.assert_allclose(made, wanted, atol=1e-4)


@pytest.mark.parametrize("recipe", ["small", "lstm-7m"])
def test_sequences_of_any_length_and_number_of_texts(recipe, make_run, tmp_path):
    folder = make_run(recipe, num_layers=2)
    record = export(folder, tmp_path / "sequence", graph="sequence", batch="dynamic")
    assert record["inputs"][0] == {"name": "tokens", "type": "int64", "shape": ["steps", "batch"]}
    model = open_run(folder).load_model()
    for count in (1, 6):
        text = torch.randint(model.vocab_size, (40, count))
        for made, wanted in chain(tmp_path / "sequence" / "model.onnx", model, text.split([1, 2, 37]), count):
            np.testing.assert_allclose(made, wanted, atol=1e-4)


def test_the_record_names_all_that_goes_in_and_out(deep_run, tmp_path):
    record = export(deep_run, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == record
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export.json",
        "model.onnx",
        "tokenizer.json",
    ]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert [(value["name"], value["shape"]) for value in record[side]] == [(v.name, v.shape) for v in values]
    assert record["verified"]["largest_difference"] < 1e-4
    assert record["kind"] == "language-model"
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["types"][2] == "0"


def numbers_in(model):
    """The names and the shapes of the weights of an ONNX model."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1}


@pytest.mark.parametrize("quantized", ["none", "int8"])
@pytest.mark.parametrize("graph", ["step", "sequence"])
def test_the_embedding_is_there_once(quantized, graph, run, tmp_path):
    export(run, tmp_path / "out", graph=graph, quantize=quantized)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    [shape] = [shape for shape in numbers_in(model).values() if 61 in shape]
    assert shape == (24, 61)


def test_int8_products_take_a_quarter_of_the_room(make_run, tmp_path):
    folder = make_run("awd-7m", embedding_size=128, hidden_size=256, num_layers=3)
    exact = export(folder, tmp_path / "exact")
    small = export(folder, tmp_path / "small", quantize="int8")
    assert small["bytes"] < 0.3 * exact["bytes"]
    assert small["verified"]["perplexity"] < 1.01 * small["verified"]["perplexity_of_pytorch"]
    model = onnx.load(tmp_path / "small" / "model.onnx")
    floats = [
        t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 2000
    ]
    assert floats == []


def test_nothing_of_this_machine_is_in_the_file(run, tmp_path):
    for format in ("onnx", "pt2"):
        record = export(run, tmp_path / format, format=format)
        content = (tmp_path / format / record["file"]).read_bytes()
        assert b".py" not in content
        assert str(tmp_path).encode() not in content


@pytest.mark.parametrize("graph", ["step", "sequence"])
def test_pt2(graph, deep_run, tmp_path):
    record = export(deep_run, tmp_path / "out", format="pt2", graph=graph, batch="dynamic")
    assert record["verified"]["largest_difference"] < 1e-4


def test_executorch(run, tmp_path):
    pytest.importorskip("executorch")
    record = export(run, tmp_path / "out", format="executorch")
    assert record["verified"]["largest_difference"] < 1e-4
    assert record["file"] == "model.pte"


def test_an_export_that_is_wrong_is_not_kept(run, tmp_path, monkeypatch):
    def zeros(model):
        for tensor in model.graph.initializer:
            if len(tensor.dims) > 1:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
        return model

    monkeypatch.setattr(quantize, "quantize_products", zeros)
    with pytest.raises(ValueError, match=r"not kept: its perplexity is [\d.]+, that of PyTorch [\d.]+ on"):
        export(run, tmp_path / "out", quantize="int8")
    monkeypatch.setattr("eru.lm.edge.TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"not kept: after 50 steps it differs from PyTorch by .*, above 0"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format='tflite': must be one of onnx, pt2, executorch"),
        ({"graph": "loop"}, "graph='loop': must be step or sequence"),
        ({"batch": 0}, "batch=0: must be a whole number, 1 to 65,536, or 'dynamic'"),
        ({"batch": 10**30}, "batch=10+: must be a whole number"),
        ({"batch": 1.0}, "batch=1.0: must be a whole number"),
        ({"batch": True}, "batch=True: must be a whole number"),
        ({"batch": "any"}, "batch='any': must be a whole number"),
        ({"batch": "dynamic", "format": "executorch"}, "batch='dynamic': format='executorch' plans its memory"),
        ({"graph": "sequence", "format": "executorch"}, "graph='sequence': format='executorch' plans its memory"),
        ({"quantize": "int4"}, "quantize='int4': must be one of none, int8"),
        ({"quantize": "int8", "format": "pt2"}, "quantize='int8': only format='onnx' has int8 here"),
    ],
)
def test_bad_options(options, message, run, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(run, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(edge_folder, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ValueError, match=r"needs onnxscript, which `pip install 'eru\[export\]'` brings"):
        export(run, tmp_path / "out")


def test_what_is_there_is_never_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"out=.*is there already"):
        export(run, tmp_path / "out")


def test_a_run_without_weights(make_run, tmp_path):
    folder = make_run("small")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        export(folder, tmp_path / "out")

"""Exports of vision models, compared with the models themselves, and what is refused."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eru.edge import quantize
from eru.edge.folder import largest_difference
from vision import create_model, edge, list_models, load_predictor
from vision.edge import export, share_found
from vision.export_form import export_form
from vision.layers import pool_to

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL = ["espnetv2_050", "espnetv2_050_seg_voc", "espnetv2_050_ssd_voc"]


def calibrated(name, size=(96, 128), **options):
    """A predictor with drawn weights whose normalisations have seen pictures, so that outputs are of about 1."""
    torch.manual_seed(0)
    predictor = load_predictor(name, None, size=size, **options)
    model = predictor.model.train()
    for seed in range(3):
        images = edge.example_images(predictor, size, 4, seed)
        with torch.no_grad():
            model.raw(images) if hasattr(model, "raw") else model(images)
    model.eval()
    # Drawn heads make nearly the same scores of every picture, on which nothing could be seen.
    head = model.get_classifier()
    with torch.no_grad():
        if isinstance(head, torch.nn.Linear):
            images = edge.example_images(predictor, size, 16, seed=5)
            head.weight *= 0.4 / model(images).std(dim=0).unsqueeze(1)
            head.bias -= model(images).mean(dim=0)
        else:
            for parameter in head.parameters():
                parameter *= 30
    return predictor


@pytest.fixture(scope="module")
def classifier(shallow):
    with shallow():
        return calibrated("espnetv2_050", num_classes=6)


@pytest.fixture(scope="module")
def detector(shallow):
    with shallow():
        return calibrated("espnetv2_050_ssd_voc", num_classes=4)


def onnx_outputs(folder, image):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"image": image.numpy()})]


def model_outputs(predictor, image):
    model = predictor.model
    with torch.no_grad():
        made = model.raw(image) if hasattr(model, "raw") else model(image)
    return list(made) if isinstance(made, tuple) else [made["out"] if isinstance(made, dict) else made]


@pytest.mark.parametrize("name", list_models())
def test_the_form_that_is_exported_equals_every_model(name):
    predictor = calibrated(name, (64, 64))
    predictor.model.double()
    image = edge.example_images(predictor, (64, 64), 2, seed=9).double()
    form = export_form(predictor.model)
    with torch.no_grad():
        made = form.raw(image) if hasattr(form, "raw") else form(image)
    made = list(made) if isinstance(made, tuple) else [made["out"] if isinstance(made, dict) else made]
    torch.testing.assert_close(made, model_outputs(predictor, image))


@pytest.mark.parametrize("slopes", [[0.25, 1.0], [0.5, 1.5], [-0.3, 0.0]])
def test_prelu_in_other_operators_is_exact(slopes):
    prelu = torch.nn.PReLU(2)
    prelu.weight = torch.nn.Parameter(torch.tensor(slopes))
    x = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(export_form(torch.nn.Sequential(prelu))(x), prelu(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sides", "size"),
    [((7, 9), (5, 5)), ((30, 41), (5, 21)), ((5, 5), (5, 5)), ((12, 9), (6, 3)), ((12, 9), (6, 4)), ((3, 4), (6, 5))],
)
def test_the_pooling_that_is_exported_is_adaptive_pooling(sides, size):
    x = torch.randn(2, 3, *sides, dtype=torch.float64)

    class Pool(torch.nn.Module):
        def forward(self, x):
            return pool_to(x, size)

    exported = torch.export.export(Pool(), (x,)).module()
    assert not any("adaptive" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported(x), torch.nn.functional.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("espnetv2_050", {"batch": "dynamic", "size": "dynamic"}, [(1, 96, 128), (5, 33, 200), (2, 150, 71)]),
        ("espnetv2_050_seg_voc", {"size": "dynamic"}, [(1, 64, 64), (1, 33, 81), (1, 201, 130)]),
        ("espnetv2_050_ssd_voc", {"batch": "dynamic"}, [(1, 96, 128), (5, 96, 128)]),
    ],
    ids=["classifier", "segmenter", "detector"],
)
def test_every_kind_of_model_exports_for_other_pictures_than_it_saw(name, options, shapes, shallow, tmp_path):
    """Of any size but for a detector, whose priors belong to one; in any number but for a segmenter, to save time."""
    with shallow():
        predictor = calibrated(name, num_classes=4)
    record = export(predictor, tmp_path / "out", **options)
    sides = ["height", "width"] if "size" in options else [96, 128]
    assert record["inputs"][0]["shape"] == ["batch" if "batch" in options else 1, 3, *sides]
    if "batch" in options:
        assert record["verified"]["batches"] == [1, 3]
    if "size" in options:
        assert record["dynamic"]["height"] == {"least": 33}
    for count, *sides in shapes:
        image = edge.example_images(predictor, tuple(sides), count, seed=7)
        made, wanted = onnx_outputs(tmp_path / "out", image), model_outputs(predictor, image)
        torch.testing.assert_close(made[: len(wanted)], wanted, atol=2e-4, rtol=1e-4)
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == list(predictor.dataset.categories)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == json.loads(json.dumps(record))


def test_boxes_that_are_chosen_inside_are_those_of_the_model(detector, tmp_path):
    export(detector, tmp_path / "out", nms=True)
    image = edge.example_images(detector, (96, 128), 1, seed=3)
    boxes, labels, scores = onnx_outputs(tmp_path / "out", image)
    with torch.no_grad():
        [wanted] = detector.model(image)
    found = scores[0] >= 0
    assert found.sum() == len(wanted["scores"]) > 5
    scale = torch.tensor([128.0, 96.0, 128.0, 96.0])
    torch.testing.assert_close(scores[0][found], wanted["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes[0][found] * scale, wanted["boxes"], atol=1e-2, rtol=0)
    assert labels[0][found].tolist() == wanted["labels"].tolist()


def test_a_box_that_is_missing_or_moved_counts():
    boxes, labels, scores = torch.rand(1, 4, 4), torch.tensor([[1, 1, 2, 2]]), torch.tensor([[0.9, 0.7, 0.5, -1]])
    moved = boxes.clone()
    moved[0, 0, 0] += 0.1
    assert share_found([moved, labels, scores], [boxes, labels, scores]) == pytest.approx(2 / 3)
    assert share_found([boxes, 3 - labels, scores], [boxes, labels, scores]) == 0
    # A box that only the export gives counts, too, and where one gives none the other must not either.
    more = torch.where(scores < 0, 0.4, scores)
    assert share_found([boxes, labels, more], [boxes, labels, scores]) == pytest.approx(3 / 4)
    none = torch.full_like(scores, -1)
    assert share_found([boxes, labels, scores], [boxes, labels, none]) == 0
    assert share_found([boxes, labels, none], [boxes, labels, none]) == 1


def test_weights_in_int8(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(edge, "_CHANGE", 0.3)  # drawn weights have no answers that could be sure
    exact = export(classifier, tmp_path / "exact")
    small = export(classifier, tmp_path / "small", quantize="int8-weights")
    assert small["bytes"] < 0.6 * exact["bytes"]
    assert 0 < small["verified"]["largest_change_of_a_probability"] < 0.3


def test_int8_from_pictures(classifier, tmp_path, monkeypatch):
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number}.png")
    monkeypatch.setattr(edge, "_CHANGE", 1.0)  # of drawn weights nothing better can be asked
    export(classifier, tmp_path / "out", quantize="int8", calibrate=tmp_path / "pictures")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    # What multiplies in eight bits is told by the weights that it takes.
    eight = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kept = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    names = " ".join(sorted(eight.get(name, name) for name in kept if name in eight))
    assert all(f"level{level}" in names for level in (3, 4, 5))
    assert "level1" not in names
    assert "level2" not in names


def test_an_export_that_is_wrong_is_not_kept(classifier, tmp_path, monkeypatch):
    def zeros(model):
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
        return model

    monkeypatch.setattr(quantize, "quantize_weights", zeros)
    with pytest.raises(ValueError, match=r"not kept: a probability differs from PyTorch's by 0\.\d+, above 0.05"):
        export(classifier, tmp_path / "out", quantize="int8-weights")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SMALL)
def test_executorch(name, shallow, tmp_path):
    pytest.importorskip("executorch")
    with shallow():
        predictor = calibrated(name, (96, 96))
    export(predictor, tmp_path / "out", format="executorch")


def test_what_executorch_cannot_run_is_told_and_not_kept(shallow, tmp_path):
    pytest.importorskip("executorch")
    with shallow():
        predictor = calibrated("espnetv2_050_ssd_voc", (64, 64))  # whose coarsest map is one pixel
    with pytest.raises(ValueError, match=r"format='executorch': its runtime cannot run this graph \(.*0x10\)"):
        export(predictor, tmp_path / "out", format="executorch")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_not_finite_is_refused_whoever_gives_it():
    whole, broken = [torch.ones(2)], [torch.tensor([1.0, math.nan])]
    for made, wanted, whose in (
        (broken, whole, "the export"),
        (whole, broken, "PyTorch"),
        (broken, broken, "PyTorch"),
    ):
        with pytest.raises(ValueError, match=f"{whose} answers with numbers that are not finite"):
            largest_difference(made, wanted)


def test_numbers_that_are_none_are_never_verified(detector, tmp_path):
    """A detector whose scores are none finds nothing, in both, which is no agreement."""
    broken = copy.copy(detector)
    broken.model = copy.deepcopy(detector.model)
    with torch.no_grad():
        next(broken.model.get_classifier().parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not kept: PyTorch answers with numbers that are not finite"):
        export(broken, tmp_path / "deep" / "out", nms=True)
    assert list(tmp_path.iterdir()) == []  # nor the folders above


def test_models_that_no_picture_fits_and_names_that_are_no_lines_are_refused(shallow, classifier, tmp_path):
    grey = copy.copy(classifier)
    with shallow():
        grey.model = create_model("espnetv2_050", in_channels=1, num_classes=6)
    with pytest.raises(ValueError, match="its model has in_channels=1, and pictures have 3"):
        export(grey, tmp_path / "out")
    for name in ("a\nb", " c", ""):
        names = (name, *classifier.dataset.categories[1:])
        other = copy.copy(classifier)
        other.dataset = replace(classifier.dataset, categories=names)
        with pytest.raises(ValueError, match="must be one line without spaces around it"):
            export(other, tmp_path / "out")


def test_pt2(classifier, tmp_path):
    record = export(classifier, tmp_path / "out", format="pt2", batch="dynamic")
    assert record["verified"]["largest_difference"] < 1e-4


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("classifier", {"size": (16, 16)}, r"size=\(16, 16\): must be a height and a width of at least 32"),
        ("detector", {"size": "dynamic"}, "size='dynamic': the priors of a detector belong to one size"),
        ("classifier", {"size": "dynamic", "format": "executorch"}, "size='dynamic': format='executorch' plans"),
        ("classifier", {"size": (64.0, 64)}, r"size=\(64.0, 64\): must be a height and a width"),
        ("classifier", {"size": 64}, "size=64: must be a height and a width"),
        ("classifier", {"size": (10**30, 64)}, "must be at most 67,108,864 pixels in all"),
        ("classifier", {"batch": 0}, "batch=0: must be a whole number, 1 to 65,536, or 'dynamic'"),
        ("classifier", {"batch": "dynamic", "format": "executorch"}, "batch='dynamic': format='executorch' plans"),
        ("detector", {"nms": True, "format": "pt2"}, "nms=True: format='pt2' has no such operator"),
        ("classifier", {"quantize": "int8", "calibrate": "nowhere"}, "nowhere: no such file"),
        ("classifier", {"nms": True}, "nms=True: only a detector has boxes"),
        ("detector", {"nms": True, "format": "executorch"}, "nms=True: format='executorch' has no such operator"),
        ("classifier", {"quantize": "int8"}, "quantize='int8': needs calibrate"),
        ("classifier", {"calibrate": "pictures"}, "calibrate='pictures': only quantize='int8' takes ranges"),
        ("classifier", {"quantize": "int4"}, "quantize='int4': must be one of none, int8-weights, int8"),
    ],
)
def test_bad_options(kind, options, message, tmp_path, request):
    with pytest.raises(ValueError, match=message):
        export(request.getfixturevalue(kind), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []

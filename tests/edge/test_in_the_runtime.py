"""What is exported, read by the runtime without PyTorch, answers as the model itself does."""

import numpy as np
import pytest
from PIL import Image

import vision
from eru.lm.edge import export as export_language_model
from eru.lm.generation import generate
from eru.lm.run import open_run
from vision.edge import export as export_vision_model

pytest.importorskip("onnxruntime")
eru_runtime = pytest.importorskip("eru_runtime")


@pytest.mark.parametrize("graph", ["step", "sequence"])
def test_a_language_model_writes_the_same(graph, deep_run, tmp_path):
    export_language_model(deep_run, tmp_path / "out", graph=graph)
    exported, model = eru_runtime.load(tmp_path / "out"), open_run(deep_run)
    for prompt in ("", "7 8 9", "7 8\n9 nothing-known 11"):
        wanted = generate(model, prompt, tokens=12, temperature=0)
        assert exported.generate(prompt, tokens=12, temperature=0) == wanted


@pytest.mark.parametrize("options", [{}, {"multi_label": True}], ids=["one label", "several"])
def test_a_classifier_says_the_same(options, shallow, tmp_path):
    with shallow():
        predictor = vision.load_predictor("espnetv2_050", None, num_classes=4, size=(64, 80), **options)
    predictor.threshold = 0.0
    head = predictor.model.get_classifier()
    head.weight.data.mul_(20)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)).save(picture)
    export_vision_model(predictor, tmp_path / "out")
    found, wanted = eru_runtime.load(tmp_path / "out")(picture), predictor(vision.pictures.open_picture(picture))
    known = dict(zip(wanted.labels, wanted.probabilities, strict=True))
    assert found.labels
    for label, probability in zip(found.labels, found.probabilities, strict=True):
        assert known[label] == pytest.approx(probability, abs=0.01)

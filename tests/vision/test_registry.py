"""Tests made from the registry: every name keeps the same promises."""

import numpy as np
import pytest
import torch

import vision
from vision import registry
from vision.backbone import WIDTHS
from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC

NAMES = vision.list_models()
SMALL = vision.list_models("*_050*")

# Published: segmenters by width (21 classes; 11 fewer for 20), detectors of s = 2.0.
SEGMENTERS = {"050": 80_353, "100": 234_021, "150": 468_373, "200": 789_253}
DETECTORS = {"espnetv2_200_ssd_voc": 4_750_878, "espnetv2_200_ssd_coco": 5_812_878}


def count(model):
    return sum(p.numel() for p in model.parameters())


def logits(model, x):
    """One tensor of whatever a model answers before any selection."""
    if isinstance(model, vision.Detector):
        return model.raw(x)[0]
    out = model(x)
    return out["out"] if isinstance(out, dict) else out


def test_every_head_comes_in_every_width():
    suffixes = ("", "_seg_voc", "_seg_city", "_ssd_voc", "_ssd_coco")
    assert sorted(f"espnetv2_{round(100 * w):03d}{suffix}" for w in WIDTHS for suffix in suffixes) == NAMES
    assert vision.list_models("*_200_seg_*") == ["espnetv2_200_seg_city", "espnetv2_200_seg_voc"]
    assert vision.list_models("resnet*") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_without_numbers_on_meta(name):
    model = vision.create_model(name, device="meta", dtype=torch.float64)
    kinds = {(t.device.type, t.dtype) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    assert kinds == {("meta", torch.float64)}
    assert model.dataset in (IMAGENET, VOC, CITYSCAPES, COCO)
    assert model.num_classes == len(model.dataset.categories)
    assert model.weights_record is None
    if "seg" in name and name[9:12] in SEGMENTERS:
        assert count(model) == SEGMENTERS[name[9:12]] - (11 if name.endswith("city") else 0)
    assert count(model) == DETECTORS.get(name, count(model))


@pytest.mark.parametrize("name", SMALL)
def test_forward_backward_and_reset(name):
    torch.manual_seed(0)
    model = vision.create_model(name, num_classes=5)
    x = torch.randn(2, 3, 40, 56)
    out = logits(model, x)
    assert 5 in out.shape
    out.square().mean().backward()
    # Locations have no part in the confidences.
    used = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("loc_layers")}
    assert [n for n, p in used.items() if p.grad is None] == []
    kept = {n: t.clone() for n, t in model.state_dict().items()}
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert 3 in logits(model, x).shape
    changed = {n for n, t in model.state_dict().items() if t.shape != kept[n].shape}
    assert changed
    assert {n.split(".")[0] for n in changed} <= {"classifier", "pyramids", "cls_layers"}


@pytest.mark.parametrize("name", SMALL)
def test_states_pass_through_a_file(name, tmp_path):
    torch.manual_seed(0)
    model = vision.create_model(name).eval()
    path = tmp_path / "model.safetensors"
    vision.save_weights(model, path)
    other = vision.create_model(name, weights=path).eval()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0)
    x = torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(logits(other, x), logits(model, x), rtol=0, atol=0)
    assert other.weights_record is None


@pytest.mark.parametrize("name", SMALL)
def test_features_only_gives_the_whole_models_maps(name, tmp_path):
    torch.manual_seed(0)
    model = vision.create_model(name).eval()
    path = tmp_path / "model.safetensors"
    vision.save_weights(model, path)
    x = torch.randn(1, 3, 48, 70)
    depth = len(model.feature_info)
    whole = model.backbone.forward_levels(x, depth)
    maps = vision.create_model(name, features_only=True, weights=path).eval()(x)
    assert len(maps) == depth
    for made, expected in zip(maps, whole, strict=True):
        torch.testing.assert_close(made, expected)
    part = vision.create_model(name, features_only=True, out_indices=(2, 0), weights=path).eval()
    assert part.depth == 3
    assert part.out_indices == (2, 0)
    for made, expected in zip(part(x), (whole[2], whole[0]), strict=True):
        torch.testing.assert_close(made, expected)


def test_other_channels_classes_and_options_reach_the_model():
    model = vision.create_model("espnetv2_050", num_classes=7, in_channels=5, multi_label=True, dropout=0.5)
    assert model(torch.randn(2, 5, 32, 32)).shape == (2, 7)
    assert model.multi_label
    assert model.dropout == 0.5
    assert model.dataset is None
    assert vision.create_model("espnetv2_050", width=0.25, device="meta").backbone.width == 0.25


def test_multi_label_probabilities_are_independent():
    logits = torch.tensor([[2.0, 2.0, -2.0]])
    single, several = (vision.Classifier(0.5, 3, multi_label=flag, device="meta") for flag in (False, True))
    torch.testing.assert_close(single.probabilities(logits).sum(), torch.tensor(1.0))
    torch.testing.assert_close(several.probabilities(logits), 1 / (1 + (-logits).exp()))


def test_a_classifier_without_classes_gives_features():
    model = vision.create_model("espnetv2_050", num_classes=0).eval()
    x = torch.randn(2, 3, 40, 40)
    features = model(x)
    assert features.shape == (2, 1024)
    torch.testing.assert_close(features, model.forward_features(x).mean((2, 3)))
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), features)


@pytest.mark.parametrize("classes", [1, 2, 3, 21, 40])
def test_segmenters_have_any_number_of_classes(classes):
    model = vision.create_model("espnetv2_050_seg_voc", num_classes=classes).eval()
    assert model(torch.randn(1, 3, 33, 47))["out"].shape == (1, classes, 33, 47)
    assert model.pyramids[0].project[0].out_channels == {1: 10, 2: 10, 3: 10, 21: 10, 40: 16}[classes]


def test_a_reset_where_the_model_is():
    model = vision.create_model("espnetv2_050", dtype=torch.float64)
    model.reset_classifier(3)
    assert model.get_classifier().weight.dtype == torch.float64
    segmenter = vision.create_model("espnetv2_050_seg_voc", dtype=torch.float64)
    segmenter.reset_classifier(3)
    assert segmenter.get_classifier().weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("espnetv2_20", {}, r"name='espnetv2_20': no such model; did you mean espnetv2_2"),
        (None, {}, r"name=None: no such model; there are espnetv2_050, .*espnetv2_200.*, and each of them with "),
        ("yolo", {}, r"and each of them with _seg_voc, _seg_city, _ssd_voc, _ssd_coco$"),
        ("espnetv2_050", {"num_classes": 2.5}, r"num_classes=2\.5: must be a whole number"),
        ("espnetv2_050", {"features_only": True, "num_classes": 3}, "num_classes=3: with features_only=True"),
        (
            "espnetv2_050_seg_voc",
            {"multi_label": True},
            "multi_label=True: .*_seg_voc has no such option .* pyramid_width",
        ),
        ("espnetv2_050_ssd_voc", {"size": 512}, "size=512: must be height and width"),
        ("espnetv2_050", {"num_classes": -1}, "num_classes=-1: must be a whole number, from 0 to 1,000,000"),
        ("espnetv2_050_seg_voc", {"num_classes": 0}, "num_classes=0: must be a whole number, from 1 to 1,000,000"),
        ("espnetv2_050_ssd_voc", {"num_classes": 1}, "num_classes=1: must be a whole number, from 2 to 1,000,000"),
        ("espnetv2_050", {"features_only": True, "image_levels": (2,)}, r"image_levels=\(2,\): .* no such option"),
        ("espnetv2_050", {"features_only": True, "dropout": 0.1}, "dropout=0.1: .* it has width, in_channels, conv"),
        ("espnetv2_050", {"in_chans": 1}, "in_chans=1: .* no such option here; in_channels is meant; it has width"),
        ("espnetv2_050", {"drop_rate": 0.1}, "drop_rate=0.1: .* dropout is meant"),
        ("espnetv2_050_seg_voc", {"drop_rate": 0.1}, "drop_rate=0.1: .* no such option here; it has width"),
        ("espnetv2_050_seg_voc", {"pretrained": True}, "pretrained=True: .* weights='DEFAULT' is meant"),
        ("espnetv2_050", {"features_only": True, "pretrained": True}, "weights='DEFAULT' is meant"),
        ("espnetv2_050_ssd_voc", {"pretrained_backbone": True}, "weights_backbone='DEFAULT' is meant"),
        ("espnetv2_050_ssd_voc", {"img_size": 64}, "size is meant"),
        ("espnetv2_050", {"multilabel": True}, "multi_label is meant"),
        ("espnetv2_050", {"colour": "red"}, "colour='red': espnetv2_050 has no such option here; it has width"),
        ("espnetv2_050", {"out_indices": (1,)}, r"out_indices=\(1,\): needs features_only=True"),
        ("espnetv2_050_seg_voc", {"features_only": True, "out_indices": (4,)}, "must name maps, 0 to 3"),
        ("espnetv2_300", {"weights": "DEFAULT"}, "there are no published weights of espnetv2_300"),
        ("espnetv2_050", {"weights": "x", "weights_backbone": "y"}, "name one of them"),
    ],
)
def test_wrong_wishes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        vision.create_model(name, **options)


COUNTS = {"num_classes": 5, "in_channels": 2, "pyramid_width": 3, "top_k": 4}


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("few_layers")
def test_every_kind_of_whole_number_counts(name, kind, tmp_path):
    usual = vision.create_model(name, device="meta")
    counts = {option: value for option, value in COUNTS.items() if option in {"num_classes", *usual.architecture()}}
    model = vision.create_model(name, **{option: kind(value) for option, value in counts.items()})
    found = {option: getattr(model, option, model.backbone.in_channels) for option in counts}
    assert found == counts
    assert {type(value) for value in found.values()} == {int}
    vision.save_weights(model, tmp_path / "model.safetensors")  # which writes the options as JSON
    model.reset_classifier(kind(3))
    assert type(model.num_classes) is int
    for option, value in counts.items():
        for wrong in (float(value), -value, True, str(value), None if option == "num_classes" else 0):
            if wrong is not None:
                with pytest.raises(ValueError, match=f"{option}={wrong!r}: must be a whole number, (at least|from)"):
                    vision.create_model(name, device="meta", **{option: wrong})


@pytest.mark.parametrize("name", SMALL)
def test_every_model_gives_its_features(name):
    model = vision.create_model(name, device="meta").eval()
    last = model.feature_info[-1]
    side = 64 // last["reduction"]
    features = model.forward_features(torch.empty(2, 3, 64, 64, device="meta"))
    assert features.shape == (2, model.num_features, side, side)
    assert model.num_features == last["num_chs"]


def test_a_constructors_own_mistake_is_not_told_as_a_wrong_option(monkeypatch):
    class Broken(vision.Classifier):
        def __init__(self, width=1.0, num_classes=1000, *, device=None, dtype=None):
            raise TypeError("a mistake inside")

    monkeypatch.setitem(registry._NETWORKS, "classification", Broken)
    with pytest.raises(TypeError, match="a mistake inside"):
        vision.create_model("espnetv2_050")


@pytest.mark.parametrize("name", NAMES)
def test_a_models_preprocessing_is_known(name):
    model = vision.create_model(name, device="meta")
    assert model.preprocessing.size == getattr(model, "size", model.preprocessing.size)
    assert (model.preprocessing.crop is None) == (not isinstance(model, vision.Classifier))


def test_a_detectors_own_size_is_its_preprocessings(tmp_path):
    model = vision.create_model("espnetv2_050_ssd_voc", size=(64, 96))
    assert model.preprocessing.size == (64, 96)
    vision.save_weights(model, tmp_path / "model.safetensors")
    again = vision.create_model("espnetv2_050_ssd_voc", weights=tmp_path / "model.safetensors")
    assert again.preprocessing.size == (64, 96)
    assert vision.create_model("espnetv2_050_ssd_voc").preprocessing.size == (300, 300)

"""Every network against arrays computed with the authors' own: their weights, or weights drawn by a rule."""

import re

import numpy as np
import pytest
import torch
from golden_rules import GOLDEN, published_entries, sine_image

import vision
from vision.weights import WEIGHTS, from_published

CLOSE = {"rtol": 0, "atol": 1e-3}
PUBLISHED = (
    "espnetv2_s_0.5_pascal_256x256",
    "espnetv2_s_1.0_city_512x256",
    "espnetv2_s_1.0_pascal_384x384",
    "espnetv2_s_2.0_pascal_384x384",
)


def check_map(made, shape, mean, std, largest=None):
    assert list(made.shape) == list(shape)
    assert made.mean().item() == pytest.approx(mean, abs=1e-3)
    assert made.std(correction=0).item() == pytest.approx(std, abs=1e-3)
    assert largest is None or made.abs().max().item() == pytest.approx(largest, abs=1e-3)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_classifier_with_weights_by_rule(width):
    golden = np.load(GOLDEN / f"cls_s{width}.npz")
    model = vision.Classifier(width).eval()
    model.load_state_dict(from_published(published_entries("keys_cls_s1.0.json", model.state_dict())))
    with torch.no_grad():
        maps = model.backbone.forward_levels(sine_image(224, 224), 5)
        logits = model.forward_head(maps[-1])[0]
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits_B"]), **CLOSE)
    ends = ("level1", "level2_0", "level3.2", "level4.6", "level5.4")
    for made, row in zip(maps, map(list(golden["stage_names_B"]).index, ends), strict=True):
        check_map(made, golden["stage_shapes_B"][row], *golden["stage_stats_B"][row])


def test_detector_with_weights_by_rule():
    golden = np.load(GOLDEN / "ssd300_voc.npz")
    model = vision.Detector(2.0, 21).eval()
    model.load_state_dict(from_published(published_entries("keys_ssd300_voc.json", model.state_dict())))
    with torch.no_grad():
        outputs = model.raw(sine_image(300, 300))
    for name, made in zip(("conf", "loc"), outputs, strict=True):
        check_map(made, golden[f"{name}_shape_B"], golden[f"{name}_mean_B"], golden[f"{name}_std_B"])
        flat = made.flatten().numpy()
        np.testing.assert_allclose(flat[:64], golden[f"{name}_first64_B"], **CLOSE)
        np.testing.assert_allclose(flat[-64:], golden[f"{name}_last64_B"], **CLOSE)
        np.testing.assert_allclose(flat[golden[f"{name}_sub256_idx"]], golden[f"{name}_sub256_B"], **CLOSE)


@pytest.mark.parametrize("file", PUBLISHED)
def test_segmenter_with_the_authors_weights(reference, file):
    golden = np.load(reference / "golden" / f"seg_{file}.npz")
    width, dataset, wide, high = re.fullmatch(r".*_s_([\d.]+)_(\w+)_(\d+)x(\d+)", file).groups()
    name = f"espnetv2_{round(100 * float(width)):03d}_seg_{'voc' if dataset == 'pascal' else 'city'}"
    model = vision.create_model(name, weights=reference / "weights" / f"{file}.pth").eval()
    assert model.weights_record is WEIGHTS[f"{name}.{high}x{wide}"]
    maps = {}
    parts = {
        **{f"bu_dec_l{i + 1}": part for i, part in enumerate(model.pyramids)},
        **{f"merge_enc_dec_l{i + 2}": part for i, part in enumerate(model.skips)},
        **{f"bu_br_l{i + 2}": part for i, part in enumerate(model.merges)},
        **{f"base_net.level{i}_0": getattr(model.backbone, f"level{i}").down for i in (2, 3, 4)},
        **{
            f"base_net.level{i}.{j}": unit
            for i in (3, 4)
            for j, unit in enumerate(getattr(model.backbone, f"level{i}").units)
        },
        "base_net.level1": model.backbone.level1,
    }
    for stage, part in parts.items():
        part.register_forward_hook(lambda _, __, out, stage=stage: maps.update({stage: out}))
    with torch.no_grad():
        out = model(sine_image(int(high), int(wide)))["out"]
    assert sorted(maps) == sorted(golden["stage_names"])
    for stage, stats, shape in zip(golden["stage_names"], golden["stage_stats"], golden["stage_shapes"], strict=True):
        check_map(maps[stage], shape, *stats)
    check_map(out, golden["shape"], golden["mean"], golden["std"], golden["absmax"])
    grid = out[0][:, golden["grid_rows"]][:, :, golden["grid_cols"]].numpy()
    np.testing.assert_allclose(grid, golden["grid"], **CLOSE)
    found = np.bincount(out.argmax(1).flatten(), minlength=out.shape[1])
    # A pixel whose two best classes are equally likely may fall either way.
    assert np.abs(found - golden["argmax_hist"]).max() <= 2


@pytest.mark.parametrize(
    ("picture", "category", "share"), [("astronaut", 15, 41.8), ("chelsea", 8, 78.7), ("coffee", 11, 100)]
)
def test_segmenter_sees_what_the_authors_network_sees_in_real_pictures(reference, picture, category, share):
    data = pytest.importorskip("skimage.data", reason="needs scikit-image's pictures")
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    golden = np.load(reference / "golden" / "real_pictures.npz")
    weights = reference / "weights" / "espnetv2_s_2.0_pascal_384x384.pth"
    model = vision.create_model("espnetv2_200_seg_voc", weights=weights).eval()
    x = model.weights_record.preprocessing(image.fromarray(getattr(data, picture)()))[None]
    key = f"pascal_s2.0_384/{picture}"
    mean, std, _ = golden[f"{key}/input_stats"]
    assert x.mean().item() == pytest.approx(mean, abs=1e-5)
    assert x.std(correction=0).item() == pytest.approx(std, abs=1e-5)
    with torch.no_grad():
        out = model(x)["out"][0]
    np.testing.assert_allclose(out.mean((1, 2)).numpy(), golden[f"{key}/class_mean"], **CLOSE)
    grid = np.load(reference / "golden" / f"seg_{PUBLISHED[-1]}.npz")
    np.testing.assert_allclose(
        out[:, grid["grid_rows"]][:, :, grid["grid_cols"]].numpy(), golden[f"{key}/grid"], **CLOSE
    )
    assert (out.argmax(0) == category).double().mean().item() * 100 == pytest.approx(share, abs=0.5)

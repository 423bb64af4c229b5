import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eru.complexity import stages
from vision.boxes import encode, iou, match, to_centres
from vision.detection import Detector
from vision.multibox import multibox_loss
from vision.preprocessing import Preprocessing

SIZES = [(300, 300), (300, 480), (65, 97), (32, 32)]


class Raw(nn.Module):
    """The network without its last step, whose results have no fixed number."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.raw(x)


def small(num_classes=4, seed=0, **options):
    torch.manual_seed(seed)
    return Detector(0.5, num_classes, **options)


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def target(*rows, labels=None):
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels or [1] * len(rows), dtype=torch.int64)}


def answer(model, monkeypatch, confidences, locations):
    """Let the network give these outputs, whatever it sees."""
    monkeypatch.setattr(model, "raw", lambda x: (confidences, locations))


# --- the network


@pytest.mark.parametrize(
    ("classes", "parameters", "millions"),
    [
        pytest.param(21, 4_750_878, {300: 913.44, 512: 2520.07}, id="voc"),
        pytest.param(81, 5_812_878, {300: 1164.62, 512: 3217.58}, id="coco"),
    ],
)
def test_counts_of_the_published_detectors(classes, parameters, millions):
    model = Detector(2.0, classes, device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters
    for side, expected in millions.items():
        counted = stages(Raw(model), [(1, 3, side, side)], depth=1)
        assert sum(stage.multiply_adds for stage in counted) / 1e6 == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (300, [(256, 38), (512, 19), (1280, 10), (512, 5), (256, 3), (128, 1)]),
        (512, [(256, 64), (512, 32), (1280, 16), (512, 8), (256, 4), (128, 1)]),
    ],
)
def test_maps_of_the_published_detector(side, expected):
    maps = Detector(2.0, device="meta").eval().forward_maps(torch.empty(1, 3, side, side, device="meta"))
    assert [tuple(x.shape[1:]) for x in maps] == [(channels, side, side) for channels, side in expected]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("width", [0.5, 3.0])
def test_every_prior_gets_an_answer_at_every_size_and_width(width, size):
    model = Detector(width, 7, 2, device="meta").eval()
    confidences, locations = model.raw(torch.empty(2, 2, *size, device="meta"))
    count = len(model.priors(size))
    assert confidences.shape == (2, count, 7)
    assert locations.shape == (2, count, 4)


def test_answers_are_in_the_order_of_the_priors():
    model = small().eval()
    x = image(2, 3, 65, 97)
    with torch.no_grad():
        maps = model.forward_maps(x)
        outputs = model.raw(x)
    for heads, output in zip((model.cls_layers, model.loc_layers), outputs, strict=True):
        width, first = output.shape[2], 0
        for head, features in zip(heads, maps, strict=True):
            rows, columns = features.shape[2:]
            i, j, box = rows // 2, columns - 1, 4
            expected = torch.einsum("oc,nc->no", head.weight.flatten(1), features[:, :, i, j]) + head.bias
            found = output[:, first + 6 * (i * columns + j) + box]
            torch.testing.assert_close(found, expected[:, box * width : (box + 1) * width], rtol=1e-4, atol=1e-4)
            first += 6 * rows * columns
        assert first == output.shape[1]


def test_every_part_learns():
    model = small()
    box, category = model(image(2, 3, 64, 64), [target((4, 4, 30, 40)), target()]).values()
    (box + category).backward()
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in learning.items() if grad is None or not grad.isfinite().all()] == []


def test_new_classes():
    model = small(4).eval()
    before = model.raw(image(1, 3, 64, 64))
    model.reset_classifier(9)
    after = model.raw(image(1, 3, 64, 64))
    assert after[0].shape[2] == model.num_classes == 9
    assert torch.equal(before[1], after[1])
    assert all(head.out_channels == 54 for head in model.get_classifier())


def test_first_logits_are_small():
    """What kaiming's fan out would give the heads saturates the first loss."""
    with torch.no_grad():
        confidences, locations = small(21).eval().raw(image(1, 3, 96, 96))
    assert confidences.std() < 3
    assert locations.std() < 3


# --- detections


def naive_detections(confidences, corners, model, size):
    """Of one picture: (score, label, box), the best first, by loops over lists."""
    height, width = size
    found = []
    probabilities = confidences.double().softmax(-1)
    for label in range(1, probabilities.shape[1]):
        scores = probabilities[:, label].tolist()
        ranked = sorted(range(len(scores)), key=lambda p: -scores[p])[: model.top_k]
        kept = []
        for p in ranked:
            box = corners[p].clamp(0, 1)
            if scores[p] <= model.score_threshold or (box[2:] <= box[:2]).any():
                continue
            if not kept or iou(box[None], torch.stack([row[2] for row in kept])).max() <= model.nms_threshold:
                kept.append((scores[p], label, box))
        found += kept
    found.sort(key=lambda row: -row[0])
    return [(s, label, box * torch.tensor([width, height] * 2)) for s, label, box in found[: model.top_k]]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"score_threshold": 0.3, "nms_threshold": 0.1}, id="strict"),
        pytest.param({"top_k": 7}, id="few"),
        pytest.param({"top_k": 5000, "nms_threshold": 0.8, "score_threshold": 0.0}, id="all"),
    ],
)
def test_detections_equal_the_loops(monkeypatch, options):
    model = small(3, **options).eval()
    priors = model.priors((32, 36))
    confidences, offsets = 2 * image(2, len(priors), 3, seed=1), 2 * image(2, len(priors), 4, seed=2)
    answer(model, monkeypatch, confidences, offsets)
    results = model(torch.zeros(2, 3, 32, 36))
    assert len(results) == 2
    centres = priors[:, :2] + 0.1 * offsets[..., :2] * priors[:, 2:]
    halves = priors[:, 2:] * (0.2 * offsets[..., 2:]).exp() / 2
    corners = torch.cat([centres - halves, centres + halves], dim=-1)
    for i, result in enumerate(results):
        scores, labels, boxes = zip(*naive_detections(confidences[i], corners[i], model, (32, 36)), strict=True)
        assert result["labels"].tolist() == list(labels)
        assert result["scores"].tolist() == pytest.approx(scores, abs=1e-5)
        torch.testing.assert_close(result["boxes"], torch.stack(boxes), rtol=1e-4, atol=1e-3)


def point_out(model, size, rows, labels):
    """Outputs by which one prior each, of the last map but one, names an object given in relative corners."""
    priors = model.priors(size)
    confidences, locations = torch.zeros(1, len(priors), model.num_classes), torch.zeros(1, len(priors), 4)
    confidences[..., 0] = 30
    for p, (row, label) in enumerate(zip(rows, labels, strict=True), start=len(priors) - 12):
        confidences[0, p, label] = 40 + p
        locations[0, p] = encode(to_centres(torch.tensor(row)), priors[p])
    return confidences, locations


def test_boxes_are_in_pixels_of_each_image_given(monkeypatch):
    model = small(4, size=(64, 80)).eval()
    rows = [(0.25, 0.5, 0.75, 1.0), (0.1, 0.1, 0.3, 0.2)]
    confidences, locations = point_out(model, (64, 80), rows, [2, 3])
    answer(model, monkeypatch, confidences.expand(2, -1, -1), locations.expand(2, -1, -1))
    results = model([torch.zeros(3, 100, 200), torch.zeros(3, 30, 50)])
    for (height, width), result in zip([(100, 200), (30, 50)], results, strict=True):
        assert result["labels"].tolist() == [3, 2]
        expected = torch.tensor(rows[::-1]) * torch.tensor([width, height, width, height])
        torch.testing.assert_close(result["boxes"], expected, rtol=0, atol=1e-3)


def test_a_list_of_images_of_the_models_size_is_a_batch():
    model = small(size=(64, 48)).eval()
    x = image(2, 3, 64, 48)
    with torch.no_grad():
        for one, other in zip(model(x), model(list(x)), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("boxes", "labels", "scores"))


def test_an_images_answer_depends_on_no_other_in_its_list():
    model = small(size=(64, 64)).eval()
    first, second = image(1, 3, 50, 90)[0], image(1, 3, 70, 64)[0]
    with torch.no_grad():
        alone, together = model([first])[0], model([first, second])[0]
    assert alone["labels"].tolist() == together["labels"].tolist()
    torch.testing.assert_close(alone["boxes"], together["boxes"], rtol=1e-3, atol=1e-2)
    half = small(size=(64, 64), dtype=torch.bfloat16).eval()
    with torch.no_grad():
        assert half([first.bfloat16()])[0]["boxes"].dtype == torch.float32


def test_unlike_images_are_resized_to_the_models_size(monkeypatch):
    model = small(size=(64, 80)).eval()
    seen = []
    outputs = point_out(model, (64, 80), [], [])
    monkeypatch.setattr(model, "raw", lambda x: seen.append(x) or tuple(y.expand(2, -1, -1) for y in outputs))
    stripes = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(80).expand(3, 128, 320)
    assert [len(result["boxes"]) for result in model([stripes, torch.ones(3, 64, 80)])] == [0, 0]
    assert seen[0].shape == (2, 3, 64, 80)
    assert torch.equal(seen[0][1], torch.ones(3, 64, 80))
    # As Pillow reduces: every pixel is seen, so that fine stripes become grey.
    torch.testing.assert_close(seen[0][0, :, :, 2:-2], torch.full((3, 64, 76), 0.25))


def test_boxes_that_overflow_or_vanish_are_no_boxes(monkeypatch):
    model = small(2).eval()
    confidences = torch.zeros(1, len(model.priors((64, 64))), 2)
    locations = 1e30 * image(*confidences.shape[:2], 4)
    locations[0, :5] = math.nan
    answer(model, monkeypatch, confidences, locations)
    boxes = model(torch.zeros(1, 3, 64, 64))[0]["boxes"]
    assert boxes.isfinite().all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 64


def test_no_images_give_no_detections():
    assert small().eval()(torch.zeros(0, 3, 64, 64)) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_results_are_single_precision_whatever_the_networks(dtype):
    model = small(dtype=dtype).eval()
    with torch.no_grad():
        result = model(image(1, 3, 64, 64).to(dtype))[0]
    assert result["boxes"].dtype == result["scores"].dtype == torch.float32
    assert result["labels"].dtype == torch.int64


def test_autocast_trains_and_detects():
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(image(2, 3, 64, 64), [target((4, 4, 30, 40))] * 2)
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        assert model.eval()(image(1, 3, 64, 64))[0]["scores"].dtype == torch.float32


# --- training


def test_losses_are_those_of_the_matched_priors():
    model = small(negatives=2, match_threshold=0.3)
    x = image(2, 3, 64, 96)
    targets = [target((10, 5, 50, 60), (60, 30, 96, 64), labels=[3, 1]), target()]
    losses = model(x, targets)
    priors = model.priors((64, 96))
    relative = targets[0]["boxes"] / torch.tensor([96.0, 64.0, 96.0, 64.0])
    labels, offsets = match(relative, targets[0]["labels"], priors, 0.3)
    box, category = multibox_loss(
        *model.raw(x),
        torch.stack([labels, torch.zeros_like(labels)]),
        torch.stack([offsets, torch.zeros_like(offsets)]),
        negatives=2,
    )
    torch.testing.assert_close(losses, {"bbox_regression": box, "classification": category})


def test_targets_of_unlike_images_are_in_their_own_pixels(monkeypatch):
    model = small(size=(64, 64))
    priors = model.priors((64, 64))
    answer(model, monkeypatch, torch.zeros(2, len(priors), 4), torch.zeros(2, len(priors), 4))
    images = [torch.zeros(3, 100, 200), torch.zeros(3, 50, 400)]
    alike = model(images, [target((50, 25, 150, 75)), target((100, 12.5, 300, 37.5))])
    once = model(torch.zeros(2, 3, 64, 64), [target((16, 16, 48, 48))] * 2)
    torch.testing.assert_close(alike, once)


def test_a_few_steps_learn_one_picture():
    model = small(3)
    x, wanted = image(1, 3, 64, 64).expand(2, -1, -1, -1), target((8, 16, 56, 48), labels=[2])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(8):
        loss = sum(model(x, [wanted, wanted]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]


# --- compilers


def test_export_gives_the_same_detections():
    model = small().eval()
    exported = torch.export.export(model, (image(2, 3, 64, 96),))
    assert sum(node.target is torch.ops.eru.nms_mask.default for node in exported.graph.nodes) == 1
    x = image(2, 3, 64, 96, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_export_of_the_network_takes_any_number_of_images():
    model = small().eval()
    exported = torch.export.export(
        Raw(model).eval(), (image(2, 3, 64, 64),), dynamic_shapes={"x": {0: torch.export.Dim("N")}}
    )
    x = image(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model.raw(x), rtol=1e-4, atol=1e-4)


def test_compiled_detections_are_the_same(monkeypatch):
    """The network is left out: the exports compile it, and its many layers would take long."""
    model = small().eval()
    outputs = (image(2, len(model.priors((64, 64))), 4), image(2, len(model.priors((64, 64))), 4))
    answer(model, monkeypatch, *outputs)
    x = image(2, 3, 64, 64)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"width": -1}, "width=-1"),
        ({"size": (31, 64)}, r"size=\(31, 64\)"),
        ({"size": (64,)}, r"size=\(64,\)"),
        ({"score_threshold": -0.1}, "score_threshold=-0.1"),
        ({"nms_threshold": 1.5}, "nms_threshold=1.5"),
        ({"match_threshold": math.nan}, "match_threshold=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"negatives": -1}, "negatives=-1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Detector(**{"width": 0.5, "device": "meta"} | options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"shape \(3, 64, 64\): expected \(N, 3"),
        (torch.zeros(1, 4, 64, 64), r"\(1, 4, 64, 64\)"),
        (torch.zeros(1, 3, 31, 64), "at least 32"),
        ([], "empty list"),
        ([torch.zeros(3, 64, 64), torch.zeros(1, 64, 64)], r"images\[1\] of shape \(1, 64, 64\)"),
        ([torch.zeros(1, 3, 64, 64)], r"images\[0\] of shape"),
        ([torch.zeros(3, 0, 64)], r"images\[0\] of shape"),
    ],
)
def test_images_that_do_not_fit(images, message):
    with pytest.raises(ValueError, match=message):
        small().eval()(images)


GOOD = target((4, 4, 30, 40))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "targets=None"),
        ([GOOD], "targets=1 of them: .* 2 images"),
        ([GOOD, {"boxes": GOOD["boxes"]}], r"targets\[1\] holds no tensor labels, only \['boxes'\]"),
        ([GOOD, {}], "no tensor boxes and no tensor labels"),
        ([GOOD, GOOD | {"boxes": torch.zeros(1, 5)}], r'targets\[1\]\["boxes"\] of shape \(1, 5\)'),
        ([GOOD, GOOD | {"boxes": torch.zeros(4)}], r"of shape \(4,\)"),
        (
            [GOOD, GOOD | {"labels": torch.ones(2, dtype=torch.int64)}],
            r'\["labels"\] of shape \(2,\): expected \(1,\)',
        ),
        ([GOOD, GOOD | {"labels": torch.ones(1)}], "float32: must be integers"),
        ([GOOD, GOOD | {"labels": torch.tensor([0])}], r'\["labels"\] has 0: must be 1 to 3'),
        ([GOOD, GOOD | {"labels": torch.tensor([4])}], "has 4: must be 1 to 3"),
        ([GOOD, target((4, 4, 4, 40))], r"has \[4.0, 4.0, 4.0, 40.0\]"),
        ([GOOD, target((4, 40, 30, 4))], "0 <= y1 < y2 <= 64"),
        ([GOOD, target((4, 4, 30, 40), (-1, 4, 30, 40))], r"has \[-1.0, 4.0"),
        ([GOOD, target((4, 4, 97, 40))], "x2 <= 96"),
        ([GOOD, target((4, 4, 30, 65))], "y2 <= 64"),
        ([GOOD, target((4, math.nan, 30, 40))], "nan"),
        ([GOOD, target((4, 4, math.inf, 40))], "inf"),
    ],
)
def test_targets_that_do_not_fit(targets, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(2, 3, 64, 96), targets)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            [GOOD, {"boxes": [[4, 4, 30, 40]], "labels": GOOD["labels"]}],
            r'targets\[1\]\["boxes"\] of type list: must be a tensor \(n, 4\)',
        ),
        (
            [{"boxes": GOOD["boxes"].numpy(), "labels": GOOD["labels"]}, GOOD],
            r'\["boxes"\] of type ndarray: must be a',
        ),
        ([GOOD, GOOD | {"labels": [1]}], r'targets\[1\]\["labels"\] of type list: must be a tensor \(n,\)'),
        ([GOOD, [GOOD]], r"targets\[1\] of type list: must be a dictionary"),
        ([GOOD, None], r"targets\[1\] of type NoneType"),
        (GOOD, "targets of type dict: must be a list"),
    ],
)
def test_targets_that_are_no_tensors(targets, message):
    with pytest.raises(TypeError, match=message):
        small()(torch.zeros(2, 3, 64, 96), targets)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [torch.zeros(3, 64, 64), np.zeros((3, 64, 64))],
            r"images\[1\] of type ndarray: expected a tensor \(3, H, W\)",
        ),
        ([[[0.0]]], r"images\[0\] of type list"),
        ([None], r"images\[0\] of type NoneType"),
        ([Image.new("RGB", (64, 64))], r"images\[0\] of type Image"),
        (np.zeros((1, 3, 64, 64)), "images of type ndarray: expected a tensor, or a list of tensors"),
        (None, "images of type NoneType"),
        ([torch.zeros(3, 64, 64, dtype=torch.uint8)], "torch.uint8: expected a tensor of floating-point numbers"),
    ],
)
def test_images_that_are_no_tensors(images, message):
    with pytest.raises(TypeError, match=message):
        small().eval()(images)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_results_are_single_precision_whatever_the_default(dtype, double_by_default):
    model = small(dtype=dtype).eval()
    like = model.cls_layers[0].weight
    with torch.no_grad():
        result = model(torch.zeros(1, 3, 64, 64, dtype=like.dtype))[0]
    assert result["boxes"].dtype == result["scores"].dtype == model.priors((64, 64)).dtype == torch.float32
    assert Preprocessing((32, 32))(Image.new("RGB", (40, 40))).dtype == torch.float32


def test_integer_and_edge_boxes_are_targets():
    edge = {"boxes": torch.tensor([[0, 0, 96, 64]]), "labels": torch.tensor([1], dtype=torch.int32)}
    rounded = target((-1e-5, 0, 96 + 1e-5, 64))
    assert all(loss.isfinite() for loss in small()(torch.zeros(2, 3, 64, 96), [edge, rounded]).values())
